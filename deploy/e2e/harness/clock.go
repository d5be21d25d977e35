package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// BuildWithClock compiles one package of the repository, such as ./deploy/e2e/hooked-sender, into dir, with a wall clock
// that SetClock sets while the program runs. It does so with a changed copy of the standard library's package time: the
// program's own code is what it always is, every reading of the wall clock in it and its libraries is off by the same,
// the monotonic clock goes on, and timers are not disturbed. That is what setting a machine's clock does.
func BuildWithClock(ctx context.Context, dir, pkg string) error {
	root, err := repository()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the folder of the programs: %w", err)
	}
	work, err := os.MkdirTemp("", "znshub-clock-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	overlay, err := clockOverlay(ctx, work)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "-o", dir+string(filepath.Separator), pkg)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s with a clock that can be set: %w\n%s", pkg, err, out)
	}
	return nil
}

// clockVariable names the file that holds how far the wall clock is off.
const clockVariable = "ZNS_TEST_CLOCK"

// nowInTime is the line of package time that this replaces, and by what.
const (
	nowInTime   = "\tsec, nsec, mono := runtimeNow()\n"
	nowWithSkew = nowInTime + `	if skew := skewForTests.Load(); skew != 0 {
		whole := int64(nsec) + skew
		sec += whole / 1e9
		if whole %= 1e9; whole < 0 {
			whole += 1e9
			sec--
		}
		nsec = int32(whole)
	}
`
	skewSource = `package time

import (
	"sync/atomic"
	"syscall"
)

// skewForTests is how far the wall clock is off, in nanoseconds.
var skewForTests atomic.Int64

func init() {
	if name, ok := syscall.Getenv("` + clockVariable + `"); ok {
		readSkew(name)
		go func() {
			for {
				Sleep(20 * Millisecond)
				readSkew(name)
			}
		}()
	}
}

func readSkew(name string) {
	fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer syscall.Close(fd)
	b := make([]byte, 64)
	n, err := syscall.Read(fd, b)
	if err != nil || n <= 0 {
		return
	}
	if d, err := ParseDuration(string(b[:n])); err == nil {
		skewForTests.Store(int64(d))
	}
}
`
)

// clockOverlay writes what go build -overlay wants into dir and returns the file to name there.
func clockOverlay(ctx context.Context, dir string) (string, error) {
	goroot, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("find the standard library: %w", err)
	}
	std := filepath.Join(strings.TrimSpace(string(goroot)), "src", "time")
	source, err := os.ReadFile(filepath.Join(std, "time.go"))
	if err != nil {
		return "", err
	}
	if bytes.Count(source, []byte(nowInTime)) != 1 {
		return "", errors.New("package time of " + runtime.Version() + " is not as known: the clock cannot be set with it")
	}
	source = bytes.Replace(source, []byte(nowInTime), []byte(nowWithSkew), 1)
	replace := map[string]string{}
	for name, text := range map[string][]byte{"time.go": source, "skew_for_tests.go": []byte(skewSource)} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(std, name)] = file
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, text, 0o600)
}

// SetClock sets the wall clock of a program that BuildWithClock made, also of its later lives: off is the distance from
// the right time. It takes effect within 50 ms.
func (p *Process) SetClock(off time.Duration) error {
	file := p.clockFile()
	next := file + ".next"
	if err := os.WriteFile(next, []byte(off.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(next, file)
}

func (p *Process) clockFile() string { return strings.TrimSuffix(p.LogFile, ".log") + ".clock" }
