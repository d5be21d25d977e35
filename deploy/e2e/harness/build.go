package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// The programs of the system, as ./services/cmd names them.
const (
	Sender  = "sender"
	Ingest  = "webhook-ingest"
	ZaloSim = "zalo-sim"
	ZNS     = "zns"
)

// Build compiles the programs of ./services/cmd into dir, which is created. Without names it builds all of them. Flags
// for go build come from GOFLAGS, as usual.
func Build(ctx context.Context, dir string, names ...string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the folder of the programs: %w", err)
	}
	packages := []string{"./services/cmd/..."}
	if len(names) > 0 {
		packages = nil
		for _, name := range names {
			packages = append(packages, "./services/cmd/"+name)
		}
	}
	return BuildPackage(ctx, dir, packages...)
}

// BuildPackage compiles main packages of the repository, such as ./deploy/e2e/hooked-sender, into dir.
func BuildPackage(ctx context.Context, dir string, packages ...string) error {
	root, err := repository()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-o", dir + string(filepath.Separator)}, packages...)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %v: %w\n%s", packages, err, out)
	}
	return nil
}

// repository finds the folder with go.work from where this file was compiled: tests and commands of this module run
// from a checkout.
func repository() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	for dir := filepath.Dir(file); ok && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
	}
	// Built with -trimpath: the working directory is the next best.
	dir, err := os.Getwd()
	for ; err == nil && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, statErr := os.Stat(filepath.Join(dir, "go.work")); statErr == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no go.work above %s: run this from a checkout", file)
}
