package cli

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/notification"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
)

// printed writes the sample of a language into a folder of its own and returns the file.
func printed(t *testing.T, language string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), samples[language].File)
	if err := os.WriteFile(path, []byte(run(t, nil, "", "sample", language).want(t, 0).out), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// publishes runs a publisher, given as a command to which PHONE and ORDER are appended, and checks what it wrote: one
// valid request, under the id that it printed, on the partition where the hub would put it itself.
func publishes(t *testing.T, dir string, command ...string) {
	t.Helper()
	broker := kafkatest.Broker(t)
	hub(t)
	order := kafkatest.Name("order")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], append(command[1:], "0987654321", order)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "KAFKA_BROKERS="+broker.Addr)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, said.String())
	}
	want := notification.DeriveID("order-service", order+"/shipped").String()
	if got := strings.TrimSpace(string(out)); got != want {
		t.Errorf("it printed %q, the hub's id is %s", got, want)
	}

	opts, err := kafka.Config{Brokers: broker.Brokers()}.Options()
	if err != nil {
		t.Fatal(err)
	}
	admin, err := kafka.NewAdmin(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	found, err := admin.Topics(ctx, topic.Requested)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = kafka.ReadToEnd(ctx, kafka.ReaderConfig{Client: opts, Topic: topic.Requested}, func(r kafka.Record) error {
		// Records of other tests, which may be broken on purpose, have no such reference.
		if req, _ := notification.Decode(r); req.GetReference() == order {
			n++
			check(t, r, req, want, found[topic.Requested].Partitions)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n != 1 {
		t.Errorf("%d records of %s in %s, want 1", n, order, topic.Requested)
	}
}

func check(t *testing.T, r kafka.Record, req *notificationv1.NotificationRequested, id string, partitions int32) {
	t.Helper()
	if violations := notification.Validate(req, r.Time); len(violations) > 0 {
		t.Errorf("the request breaks rules: %v", violations)
	}
	if got, ok := notification.ID(req); !ok || got.String() != id {
		t.Errorf("its id is %s, want %s", got, id)
	}
	if string(r.Key) != id {
		t.Errorf("its key is %q, want the id", r.Key)
	}
	if want := kafka.Murmur2Partition([]byte(id), partitions); r.Partition != want {
		t.Errorf("it is on partition %d, the hub would move it to %d", r.Partition, want)
	}
	if req.GetFallback()["sms_text"] == "" || req.GetTtl().AsDuration() != time.Hour || req.GetRecipient().GetPhone() != "0987654321" {
		t.Error("what it asks for did not arrive")
	}
}

// needs skips the test when a tool is missing.
func needs(t *testing.T, tool, what string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		t.Skipf("%s needs %s, which is not here", what, tool)
	}
	return path
}

func TestSampleGo(t *testing.T) {
	goTool := needs(t, "go", "the Go publisher")
	// As a user's own module: outside of this one, from the printed text.
	path := printed(t, "go")
	dir := filepath.Dir(path)
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	sum, err := os.ReadFile("../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	// The versions that this module was tested with, so that nothing new is looked up.
	var needed []string
	for line := range strings.Lines(string(mod)) {
		for _, module := range []string{"segmentio/kafka-go ", "google/uuid ", "klauspost/compress ", "pierrec/lz4/v4 "} {
			if strings.Contains(line, module) {
				needed = append(needed, line)
			}
		}
	}
	text := "module publisher\n\ngo 1.26\n\nrequire (\n" + strings.Join(needed, "") + ")\n"
	for name, content := range map[string][]byte{"go.mod": []byte(text), "go.sum": sum} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("GOWORK", "off")
	t.Setenv("GOFLAGS", "-mod=mod")
	build := exec.CommandContext(t.Context(), goTool, "build", "-o", "publisher", ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	publishes(t, dir, filepath.Join(dir, "publisher"))
}

func TestSamplePython(t *testing.T) {
	python := needs(t, "python3", "the Python publisher")
	path := printed(t, "python")
	publishes(t, filepath.Dir(path), virtualenv(t, python), path)
}

// virtualenv is a Python with confluent-kafka, kept from one test run to the next.
func virtualenv(t *testing.T, python string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skipf("the Python publisher needs a cache folder: %v", err)
	}
	venv := filepath.Join(cache, "znshub", "python-confluent-kafka-2")
	in := filepath.Join(venv, "bin", "python")
	works := func() bool {
		return exec.CommandContext(t.Context(), in, "-c", "import confluent_kafka").Run() == nil
	}
	if works() {
		return in
	}
	if out, err := exec.CommandContext(t.Context(), python, "-m", "venv", venv).CombinedOutput(); err != nil {
		t.Skipf("the Python publisher needs venv: %v: %s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), in, "-m", "pip", "install", "-q", "confluent-kafka<3").CombinedOutput(); err != nil {
		t.Skipf("the Python publisher needs confluent-kafka from PyPI: %v: %s", err, lastLine(out))
	}
	if !works() {
		t.Skip("the Python publisher needs confluent-kafka, which was installed and cannot be imported")
	}
	return in
}

func TestSampleJava(t *testing.T) {
	java := needs(t, "java", "the Java publisher")
	maven := needs(t, "mvn", "the Java publisher")
	path := printed(t, "java")
	publishes(t, filepath.Dir(path), java, "-cp", filepath.Join(kafkaClients(t, maven), "*"), path)
}

// kafkaClients is a folder with kafka-clients and what it needs, kept from one test run to the next.
func kafkaClients(t *testing.T, maven string) string {
	t.Helper()
	const version = "4.3.1"
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skipf("the Java publisher needs a cache folder: %v", err)
	}
	dir := filepath.Join(cache, "znshub", "kafka-clients-"+version)
	if jars, _ := filepath.Glob(filepath.Join(dir, "kafka-clients-*.jar")); len(jars) > 0 {
		return dir
	}
	pom := filepath.Join(t.TempDir(), "pom.xml")
	text := `<project><modelVersion>4.0.0</modelVersion><groupId>x</groupId><artifactId>x</artifactId><version>1</version>
<dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-clients</artifactId><version>` + version + `</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version></dependency>
</dependencies></project>`
	if err := os.WriteFile(pom, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), maven, "-q", "-B", "-f", pom, "dependency:copy-dependencies", "-DoutputDirectory="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("the Java publisher needs kafka-clients from Maven Central: %v: %s", err, lastLine(out))
	}
	return dir
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

func TestSamplesAsJSON(t *testing.T) {
	for language, s := range samples {
		var v struct{ Language, File, Program string }
		if err := json.Unmarshal([]byte(run(t, nil, "", "sample", language, "--json").want(t, 0).out), &v); err != nil {
			t.Fatal(err)
		}
		if v.Language != language || v.File != s.File || v.Program != s.Text {
			t.Errorf("sample %s --json: language %q, file %q, %d bytes", language, v.Language, v.File, len(v.Program))
		}
	}
}
