package service

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

type settings struct {
	Limit  int    `env:"SENDER_LIMIT" envDefault:"7" help:"how many"`
	Secret string `env:"ZALO_APP_SECRET" secret:"true" help:"the app's secret"`
}

// TestMain turns the test binary into a program when it is started as one.
func TestMain(m *testing.M) {
	if os.Getenv("SERVICE_TEST_PROGRAM") == "" {
		os.Exit(m.Run())
	}
	var cfg settings
	os.Exit(Main(Program{Name: "probe", Help: "Probe is a program under test.", Settings: []any{&cfg}, Run: func(ctx context.Context, s *Service) error {
		s.Defer("first", func(context.Context) error { s.Log.Info("cleanup", "step", "first"); return nil })
		s.Defer("second", func(context.Context) error { s.Log.Info("cleanup", "step", "second"); return nil })
		s.Log.Info("working", "limit", cfg.Limit)
		<-ctx.Done()
		s.Log.Info("draining")
		switch os.Getenv("SERVICE_TEST_PROGRAM") {
		case "hang":
			select {}
		case "fail":
			return errors.Join(errors.New("drain: three calls are lost"), ctx.Err())
		case "wrapped":
			return fmt.Errorf("poll: %w", ctx.Err())
		}
		return nil
	}}))
}

// program starts the test binary as a program and returns it with its log.
func program(t *testing.T, how string, env ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // else a program that does not stop hangs the test
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), append(env, "SERVICE_TEST_PROGRAM="+how, "ADMIN_ADDR=127.0.0.1:0")...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd, bufio.NewScanner(stderr)
}

// await reads the log up to a message and returns that line.
func await(t *testing.T, log *bufio.Scanner, message string) map[string]any {
	t.Helper()
	for log.Scan() {
		var line map[string]any
		if err := json.Unmarshal(log.Bytes(), &line); err != nil {
			t.Fatalf("not JSON: %s", log.Text())
		}
		if line["msg"] == message {
			return line
		}
	}
	t.Fatalf("the program ended without logging %q", message)
	return nil
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestLife(t *testing.T) {
	cmd, log := program(t, "drain", "INSTANCE_ID=probe-0", "SENDER_LIMIT=9", "SENDER_LIMITS=1")
	if line := await(t, log, "unknown setting"); !strings.Contains(line["problem"].(string), "did you mean SENDER_LIMIT?") {
		t.Errorf("warning %v", line)
	}
	admin := "http://" + await(t, log, "admin server listens")["addr"].(string)
	if line := await(t, log, "working"); line["limit"] != 9.0 || line["service"] != "probe" || line["instance"] != "probe-0" {
		t.Errorf("line %v", line)
	}
	for path, want := range map[string]string{"/livez": "live\n", "/readyz": "ready\n"} {
		if status, body := get(t, admin+path); status != 200 || body != want {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	if _, body := get(t, admin+"/metrics"); !strings.Contains(body, `znshub_build_info{service="probe"`) || !strings.Contains(body, "go_goroutines") {
		t.Errorf("metrics:\n%s", body)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await(t, log, "draining")
	if line := await(t, log, "stopped"); !strings.Contains(line["cause"].(string), "terminated") {
		t.Errorf("cause %v", line["cause"])
	}
	for _, step := range []string{"second", "first"} {
		if line := await(t, log, "cleanup"); line["step"] != step {
			t.Errorf("cleanup %v, want %s", line["step"], step)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("exit: %v", err)
	}
}

func TestNotReadyWhileDraining(t *testing.T) {
	cmd, log := program(t, "hang")
	admin := "http://" + await(t, log, "admin server listens")["addr"].(string)
	await(t, log, "working")
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	await(t, log, "draining")
	for deadline := time.Now().Add(5 * time.Second); ; {
		status, body := get(t, admin+"/readyz")
		if status == 503 && body == "service: stopping\n" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("/readyz: %d %q", status, body)
		}
	}
	if status, _ := get(t, admin+"/livez"); status != 200 {
		t.Errorf("/livez: %d", status)
	}

	// The second signal kills.
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("exit: %v, want the second signal", err)
	}
}

func TestExitCode(t *testing.T) {
	for how, want := range map[string]int{"wrapped": 0, "fail": 1} {
		cmd, log := program(t, how)
		await(t, log, "working")
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		line := await(t, log, "stopped")
		if how == "fail" && !strings.Contains(fmt.Sprint(line["error"]), "three calls are lost") {
			t.Errorf("%s: %v", how, line)
		}
		for log.Scan() {
		}
		_ = cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("%s: exit code %d, want %d", how, got, want)
		}
	}
}

func TestCommandLineAndSettings(t *testing.T) {
	out, err := os.Create(t.TempDir() + "/stderr")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	ran := false
	var cfg settings
	p := Program{Name: "probe", Help: "Probe is a program under test.", Settings: []any{&cfg}, Run: func(context.Context, *Service) error {
		ran = true
		return nil
	}}
	for name, tc := range map[string]struct {
		args, env []string
		exit      int
		runs      bool
		says      []string
	}{
		"help":              {[]string{"--help"}, []string{"ZALO_APP_SECRET=hush"}, 0, false, []string{"Probe is a program under test.", "SENDER_LIMIT", "how many", "ADMIN_ADDR", "(secret)"}},
		"version":           {[]string{"--version"}, nil, 0, false, []string{"probe "}},
		"unknown argument":  {[]string{"--port=1"}, nil, 2, false, []string{`unknown argument "--port=1"`, "--help"}},
		"bad settings":      {nil, []string{"SENDER_LIMIT=x", "LOG_LEVEL=loud", "LOG_FORMAT=xml", "ZALO_APP_SECRET=hush"}, 2, false, []string{"cannot start", "SENDER_LIMIT", "SENDER_LIMIT=7", "LOG_LEVEL", "LOG_FORMAT: \"xml\" is not valid: not one of auto, json, text"}},
		"bad admin address": {nil, []string{"ADMIN_ADDR=127.0.0.1:99999"}, 1, false, []string{"ADMIN_ADDR", "ADMIN_ADDR=off"}},
		"no admin server":   {nil, []string{"ADMIN_ADDR=off"}, 0, true, []string{`"msg":"stopped"`, `"cause":"done"`}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := errors.Join(out.Truncate(0), seek(out)); err != nil {
				t.Fatal(err)
			}
			ran = false
			var stdout bytes.Buffer
			exit := run(p, tc.args, tc.env, &stdout, out)
			stderr, err := os.ReadFile(out.Name())
			if err != nil {
				t.Fatal(err)
			}
			if exit != tc.exit || ran != tc.runs {
				t.Errorf("exit code %d, ran %t; want %d, %t", exit, ran, tc.exit, tc.runs)
			}
			all := stdout.String() + string(stderr)
			for _, want := range tc.says {
				if !strings.Contains(all, want) {
					t.Errorf("got\n%s\nwant %q in it", all, want)
				}
			}
			if strings.Contains(all, "hush") {
				t.Errorf("tells a secret:\n%s", all)
			}
		})
	}
}

func seek(f *os.File) error {
	_, err := f.Seek(0, io.SeekStart)
	return err
}

func TestChecks(t *testing.T) {
	s := New("probe", "", "test", nil, nil)
	if other := New("probe", "", "test", nil, nil); s.Instance == "" || s.Instance == other.Instance {
		t.Errorf("instances %q and %q", s.Instance, other.Instance)
	}
	var broker, dead error
	s.Ready("kafka", func() error { return broker })
	s.Ready("clock", func() error { return errors.New("38 s ahead of the broker\nsecond line") })
	s.Live("loop", func() error { return dead })
	server := httptest.NewServer(s.Handler())
	defer server.Close()

	expect := func(path string, wantStatus int, want string) {
		t.Helper()
		if status, body := get(t, server.URL+path); status != wantStatus || body != want {
			t.Errorf("%s: %d %q, want %d %q", path, status, body, wantStatus, want)
		}
	}
	expect("/readyz", 503, "clock: 38 s ahead of the broker; second line\n")
	broker = errors.New("no broker answers")
	expect("/readyz", 503, "kafka: no broker answers\nclock: 38 s ahead of the broker; second line\n")
	expect("/livez", 200, "live\n")
	dead = errors.New("no tick for 5 minutes")
	expect("/livez", 503, "loop: no tick for 5 minutes\n")

	s.Registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "probe_total", Help: "Of the test."}))
	if _, body := get(t, server.URL+"/metrics"); !strings.Contains(body, "probe_total 0") {
		t.Errorf("metrics:\n%s", body)
	}
}

func TestProfiles(t *testing.T) {
	for _, on := range []bool{false, true} {
		s := New("probe", "i", "test", nil, nil)
		s.pprof = on
		server := httptest.NewServer(s.Handler())
		want := 404
		if on {
			want = 200
		}
		if status, _ := get(t, server.URL+"/debug/pprof/heap"); status != want {
			t.Errorf("ADMIN_PPROF=%t: %d, want %d", on, status, want)
		}
		server.Close()
	}
}

func TestClose(t *testing.T) {
	s := New("probe", "i", "test", nil, nil)
	var order []string
	for _, name := range []string{"client", "spool", "server"} {
		s.Defer(name, func(ctx context.Context) error {
			order = append(order, name)
			if name == "server" {
				return nil
			}
			<-ctx.Done() // a cleanup that takes up the deadline must not keep the others from running
			return ctx.Err()
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := s.Close(ctx)
	if diff := cmp.Diff([]string{"server", "spool", "client"}, order); diff != "" {
		t.Error(diff)
	}
	if want := "spool: context deadline exceeded\nclient: context deadline exceeded"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := s.Close(t.Context()); err != nil || len(order) != 3 {
		t.Errorf("the second Close ran something: %v, %v", err, order)
	}
}

func TestLogger(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	NewLogger(f, "auto", slog.LevelInfo).Info("hello", "n", 1)
	NewLogger(f, "text", slog.LevelWarn).Info("not logged")
	NewLogger(f, "text", slog.LevelWarn).Warn("careful", "n", 1)
	content, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	if len(lines) != 2 || !json.Valid([]byte(lines[0])) || !strings.HasSuffix(lines[1], "WRN careful n=1") {
		t.Errorf("got %q", lines)
	}
}
