package stream_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/stream"
)

// inProcess is a member inside the test's own process.
type inProcess struct {
	*stream.Engine
	app *app
	log *lockedBuffer
	end context.CancelFunc
	err chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// run starts a member in this process.
func (w *world) run(name string, change ...func(*appConfig, *stream.Config)) *inProcess {
	w.t.Helper()
	cfg := w.cfg
	cfg.Name = name
	l := &inProcess{log: new(lockedBuffer), err: make(chan error, 1)}
	l.app = newApp(cfg, l.log)
	sc := l.app.streamConfig(slog.New(slog.NewTextHandler(l.log, nil)))
	for _, f := range change {
		f(&l.app.cfg, &sc)
	}
	e, err := stream.New(sc)
	if err != nil {
		w.t.Fatal(err)
	}
	l.Engine, l.app.engine = e, e
	ctx, cancel := context.WithCancel(context.Background())
	l.end = cancel
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.err <- e.Run(ctx)
	}()
	w.t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience * 60 * time.Second):
			w.t.Errorf("%s did not end", name)
		}
		if w.t.Failed() {
			lines := strings.Split(l.log.String(), "\n")
			w.t.Logf("end of the log of %s:\n%s", name, strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
	})
	return l
}

// stop ends the member and returns what Run returned.
func (l *inProcess) stop(t *testing.T) error {
	t.Helper()
	l.end()
	return l.wait(t, patience*40*time.Second)
}

func (l *inProcess) wait(t *testing.T, within time.Duration) error {
	t.Helper()
	select {
	case err := <-l.err:
		return err
	case <-time.After(within):
		t.Fatalf("Run did not return within %v", within)
		return nil
	}
}

// refused waits for Run to refuse to work, and compares what it says.
func (l *inProcess) refused(t *testing.T, words ...string) {
	t.Helper()
	err := l.wait(t, patience*30*time.Second)
	if err == nil {
		t.Fatal("Run returned nil")
	}
	mentions(t, err, words...)
}

func mentions(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, word := range words {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not mention %q: %v", word, err)
		}
	}
}

// stopped waits until partition p is stopped and returns why.
func (l *inProcess) stopped(t *testing.T, p int32) error {
	t.Helper()
	var err error
	eventually(t, 20*time.Second, "the partition is stopped", func() bool {
		for _, s := range l.Status().Partitions {
			if s.Partition == p {
				err = s.Err
			}
		}
		return err != nil
	})
	return err
}

// ready waits until n partitions take part in ticks.
func (l *inProcess) ready(t *testing.T, n int) {
	t.Helper()
	eventually(t, 30*time.Second, "the partitions are restored", func() bool {
		select {
		case err := <-l.err:
			t.Fatalf("Run ended: %v", err)
		default:
		}
		got := 0
		for _, p := range l.Status().Partitions {
			if p.Ready {
				got++
			}
		}
		return got == n
	})
}
