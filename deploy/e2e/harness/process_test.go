package harness

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func shell(t *testing.T, script string) *Process {
	t.Helper()
	p := &Process{Name: "shell", Path: "/bin/sh", Args: []string{"-c", script}, LogFile: filepath.Join(t.TempDir(), "shell.log")}
	t.Cleanup(func() { _ = p.Kill() })
	return p
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestProcessLivesAndLogsOverRestarts(t *testing.T) {
	p := shell(t, `echo "secret=$SECRET"; trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done`)
	p.Env = []string{"SECRET=42"}
	t.Setenv("KAFKA_BROKERS", "must-not-be-inherited:9092")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err == nil {
		t.Error("a running program was started again")
	}
	waitFor(t, "the first line", func() bool { return strings.Contains(p.Log(), "secret=42") })
	first := p.Pid()
	if err := p.Kill(); err != nil || p.Running() || p.Pid() != 0 {
		t.Fatalf("after Kill: err %v, running %t", err, p.Running())
	}
	if err := p.Restart(within(t, 5*time.Second)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the second life", func() bool { return strings.Count(p.Log(), "secret=42") == 2 })
	if p.Pid() == first {
		t.Error("the same pid after a restart")
	}
	if err := p.Terminate(within(t, 5*time.Second)); err != nil {
		t.Errorf("Terminate: %v", err)
	}
	if !strings.Contains(p.Log(), "bye") {
		t.Error("SIGTERM did not reach the program")
	}
	if crashes := p.Crashes(); len(crashes) > 0 {
		t.Errorf("asked for ends were taken for crashes: %v", crashes)
	}
}

func TestProcessTellsWhatWentWrong(t *testing.T) {
	t.Run("ends by itself", func(t *testing.T) {
		p := shell(t, "echo the reason; exit 3")
		p.ReadyURL = "http://127.0.0.1:1/readyz"
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		err := p.Ready(within(t, 10*time.Second))
		if err == nil || !strings.Contains(err.Error(), "the reason") {
			t.Errorf("Ready says %v, want the end of the log", err)
		}
		waitFor(t, "the crash to be noted", func() bool { return len(p.Crashes()) == 1 })
	})
	t.Run("does not stop", func(t *testing.T) {
		p := shell(t, "trap '' TERM; echo up; while :; do sleep 0.05; done")
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the trap", func() bool { return strings.Contains(p.Log(), "up") })
		if err := p.Terminate(within(t, 200*time.Millisecond)); err == nil {
			t.Error("Terminate says that a deaf program stopped")
		}
		if p.Running() {
			t.Error("it still runs")
		}
	})
	t.Run("stops with an error", func(t *testing.T) {
		p := shell(t, "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done")
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the trap", func() bool { return strings.Contains(p.Log(), "up") })
		if err := p.Terminate(within(t, 5*time.Second)); err == nil || !strings.Contains(err.Error(), "7") {
			t.Errorf("Terminate says %v, want the exit status", err)
		}
	})
}

func TestProcessPausesAndResumes(t *testing.T) {
	p := shell(t, "while :; do echo tick; sleep 0.02; done")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	ticks := func() int { return strings.Count(p.Log(), "tick") }
	waitFor(t, "ticks", func() bool { return ticks() > 2 })
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	before := ticks()
	time.Sleep(200 * time.Millisecond)
	if ticks() != before {
		t.Error("a paused program goes on")
	}
	if err := p.Resume(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "ticks after Resume", func() bool { return ticks() > before })
}

func TestReadyWaitsForTheAnswer200(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if time.Since(begin) < 300*time.Millisecond {
			http.Error(w, "restoring", http.StatusServiceUnavailable)
		}
	})}
	go server.Serve(listener)
	defer server.Close()
	p := shell(t, "sleep 30")
	p.ReadyURL = "http://" + listener.Addr().String()
	if err := p.Restart(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	if time.Since(begin) < 300*time.Millisecond {
		t.Error("ready before the answer was 200")
	}
}
