package main

import (
	"context"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/proto/topic"
)

//go:embed parallel-consumer/pom.xml parallel-consumer/Consume.java
var parallelSource embed.FS

// parallelConsumer is the arm in Java, compiled.
type parallelConsumer struct{ classPath string }

// parallelArm prepares the arm in Java where the chosen cases have it, and takes it out of them where it cannot run here.
func (b *runner) parallelArm(ctx context.Context, all []kase, out *report) ([]kase, error) {
	isParallel := func(c kase) bool { return filepath.Base(c.name) == subjectParallel }
	if !slices.ContainsFunc(all, isParallel) {
		return all, nil
	}
	reason, err := b.compileParallel(ctx)
	if reason == "" {
		return all, err
	}
	out.Skipped = append(out.Skipped, "Parallel Consumer: "+reason)
	fmt.Fprintln(os.Stderr, "SKIPPED Parallel Consumer:", reason)
	return slices.DeleteFunc(all, isParallel), nil
}

// compileParallel fetches the jars with Maven and compiles Consume.java. reason says why that is not possible here.
func (b *runner) compileParallel(ctx context.Context) (reason string, err error) {
	for _, name := range []string{"java", "javac", "mvn"} {
		if _, err := exec.LookPath(name); err != nil {
			return "no " + name + " in PATH", nil
		}
	}
	dir := filepath.Join(b.dir, "parallel-consumer")
	jars, classes := filepath.Join(dir, "jars"), filepath.Join(dir, "classes")
	if err := os.CopyFS(b.dir, parallelSource); err != nil {
		return "", fmt.Errorf("write the source of the arm in Java: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"mvn", "--quiet", "--batch-mode", "--file", filepath.Join(dir, "pom.xml"),
			"org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies", "-DoutputDirectory=" + jars},
		{"javac", "-cp", jars + "/*", "-d", classes, filepath.Join(dir, "Consume.java")},
	} {
		if text, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Sprintf("%s: %v: %s", args[0], err, text[:min(len(text), 500)]), nil
		}
	}
	b.java = &parallelConsumer{classPath: classes + string(os.PathListSeparator) + filepath.Join(jars, "*")}
	return "", nil
}

func (j *parallelConsumer) process(d *bed, s spec) *harness.Process {
	java, _ := exec.LookPath("java") // it compiled
	return &harness.Process{
		Name: subjectParallel, Path: java, LogFile: filepath.Join(d.dir, d.input, "parallel-consumer.log"),
		Args: []string{"-cp", j.classPath, "Consume", d.brokers, d.input, d.input, d.system.SimURL, strconv.Itoa(s.InFlight), harness.AccessToken, topic.Sent},
	}
}
