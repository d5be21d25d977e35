//go:build unix

package spool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary play the process that is killed.
func TestMain(m *testing.M) {
	switch os.Getenv("SPOOL_TEST_ROLE") {
	case "writer":
		writerProcess(os.Getenv("SPOOL_TEST_DIR"))
	case "limited":
		limitedProcess(os.Getenv("SPOOL_TEST_DIR"))
	default:
		os.Exit(m.Run())
	}
}

func process(tb testing.TB, role, dir string) (*exec.Cmd, *bufio.Scanner) {
	tb.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SPOOL_TEST_ROLE="+role, "SPOOL_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// writerProcess appends and hands on until it is killed; it tells every acknowledged append and every Done.
func writerProcess(dir string) {
	s, err := Open(Config{Dir: dir, SegmentBytes: 20_000, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	ctx := context.Background()
	var mu sync.Mutex // a line is written in one piece
	run := rand.Uint32()
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				r := fmt.Sprintf("%08x-%d %06d", run, w, i)
				if err := s.Append(ctx, append([]byte(r+" "), make([]byte, rand.IntN(3000))...)); err != nil {
					continue
				}
				mu.Lock()
				fmt.Println("stored", r)
				mu.Unlock()
			}
		}()
	}
	for {
		b, err := s.Next(ctx, 3, 1<<20)
		if err != nil {
			return
		}
		// Told before Done: what was handed on may come again, what was not handed on must.
		for _, r := range b.Records {
			mu.Lock()
			fmt.Println("handed", string(r[:17]))
			mu.Unlock()
		}
		if err := s.Done(b); err != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// limitedProcess appends under a limit on the size of a file until twenty appends were refused.
func limitedProcess(dir string) {
	signal.Ignore(syscall.SIGXFSZ)
	limit := syscall.Rlimit{Cur: 50_000, Max: 50_000}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	s, err := Open(Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	stored, full := 0, 0
	for refused := 0; refused < 20; {
		switch err := s.Append(context.Background(), make([]byte, 999)); {
		case err == nil:
			stored++
		case errors.Is(err, ErrFull):
			full++
			fallthrough
		default:
			refused++
		}
	}
	fmt.Println("full", stored, full)
	os.Exit(0)
}

// What was acknowledged before a kill -9 is handed out before or after it, in order, at every one of many kills.
func TestKilledWriter(t *testing.T) {
	dir := t.TempDir()
	stored, handed := map[string]bool{}, map[string]bool{}
	kills := 15
	if testing.Short() {
		kills = 4
	}
	for range kills {
		cmd, lines := process(t, "writer", dir)
		timer := time.AfterFunc(time.Duration(50+rand.IntN(250))*time.Millisecond, func() { cmd.Process.Kill() })
		for lines.Scan() {
			verb, what, _ := strings.Cut(lines.Text(), " ")
			switch verb {
			case "stored":
				stored[what] = true
			case "handed":
				handed[what] = true
			default:
				t.Error(lines.Text())
			}
		}
		timer.Stop()
		_ = cmd.Wait()
	}
	s, _ := open(t, dir)
	last := map[string]string{}
	for !s.Empty() {
		b := next(t, s, 100)
		for _, r := range b.Records {
			what := string(r[:17])
			who, n, _ := strings.Cut(what, " ")
			if n <= last[who] {
				t.Fatalf("%s after %s", what, last[who])
			}
			last[who] = n
			handed[what] = true
		}
		if err := s.Done(b); err != nil {
			t.Fatal(err)
		}
	}
	lost := 0
	for what := range stored {
		if !handed[what] {
			lost++
		}
	}
	t.Logf("%d kills, %d acknowledged, %d lost", kills, len(stored), lost)
	if lost > 0 || len(stored) < 100 {
		t.Fatalf("%d of %d acknowledged records are lost", lost, len(stored))
	}
}

// powerCut stands for the disk: it remembers what an fsync made durable.
type powerCut struct {
	mu    sync.Mutex
	sizes map[string]int64    // by file name: synced length
	names map[string]struct{} // files whose name is durable
	dir   string
	fail  func(name string) error
}

func (p *powerCut) fsync(f *os.File) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := filepath.Base(f.Name())
	if p.fail != nil {
		if err := p.fail(name); err != nil {
			return err
		}
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.IsDir() {
		p.sizes[name] = info.Size()
		return nil
	}
	entries, err := os.ReadDir(f.Name())
	for _, e := range entries {
		p.names[e.Name()] = struct{}{}
	}
	return err
}

// image is what the disk holds after the power came back.
func (p *powerCut) image(tb testing.TB) string {
	tb.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	to := tb.TempDir()
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		if _, ok := p.names[e.Name()]; !ok || e.IsDir() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(p.dir, e.Name()))
		if err != nil {
			tb.Fatal(err)
		}
		b = b[:min(int64(len(b)), p.sizes[e.Name()])]
		if err := os.WriteFile(filepath.Join(to, e.Name()), b, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return to
}

// What was acknowledged is there after a power cut that leaves nothing but what was synced.
func TestPowerCut(t *testing.T) {
	p := &powerCut{dir: t.TempDir(), sizes: map[string]int64{}, names: map[string]struct{}{}}
	s, err := openWith(Config{Dir: p.dir, SegmentBytes: 200, Log: slog.New(slog.DiscardHandler)}, p.fsync)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	records := numbered(0, 30)
	for i, r := range records {
		put(t, s, r)
		after, told := open(t, p.image(t))
		if got := drain(t, after, 100); len(got) != i+1 || got[i] != r {
			t.Fatalf("after append %d the disk holds %d records", i, len(got))
		}
		if len(*told) > 0 {
			t.Fatalf("after append %d: %+v", i, *told)
		}
		after.Close()
	}
	// And what was handed on does not come back, except for what the last Done did not cover.
	for i := range records {
		if err := s.Done(next(t, s, 1)); err != nil {
			t.Fatal(err)
		}
		after, _ := open(t, p.image(t))
		if got := drain(t, after, 100); len(got) != len(records)-i-1 {
			t.Fatalf("after %d done the disk holds %d records", i+1, len(got))
		}
		after.Close()
	}
}

// A failed fsync is an error to the caller; the segment is left, later appends go on and are durable.
func TestFailedSync(t *testing.T) {
	p := &powerCut{dir: t.TempDir(), sizes: map[string]int64{}, names: map[string]struct{}{}}
	s, err := openWith(Config{Dir: p.dir, Log: slog.New(slog.DiscardHandler)}, p.fsync)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put(t, s, "one")
	broken := errors.New("input/output error")
	p.mu.Lock()
	p.fail = func(name string) error {
		if strings.HasSuffix(name, ".seg") {
			return broken
		}
		return nil
	}
	p.mu.Unlock()
	if err := s.Append(t.Context(), []byte("lost")); !errors.Is(err, broken) {
		t.Fatalf("append: %v", err)
	}
	p.mu.Lock()
	p.fail = nil
	p.mu.Unlock()
	put(t, s, "two")
	if n := len(segmentFiles(t, p.dir)); n != 2 {
		t.Errorf("%d segments: a segment whose sync failed must not be written again", n)
	}
	if got := drain(t, s, 10); len(got) != 2 || got[0] != "one" || got[1] != "two" {
		t.Fatalf("%q", got)
	}
}

// A failed sync of the position is an error, and the records come again.
func TestFailedDone(t *testing.T) {
	p := &powerCut{dir: t.TempDir(), sizes: map[string]int64{}, names: map[string]struct{}{}}
	s, err := openWith(Config{Dir: p.dir, Log: slog.New(slog.DiscardHandler)}, p.fsync)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put(t, s, "one")
	p.fail = func(name string) error {
		if name == "position" {
			return errors.New("input/output error")
		}
		return nil
	}
	if err := s.Done(next(t, s, 1)); err == nil {
		t.Fatal("Done told success")
	}
	p.fail = nil
	if s.Empty() || len(segmentFiles(t, p.dir)) != 1 {
		t.Fatal("a segment went before its position was durable")
	}
	if got := drain(t, s, 1); len(got) != 1 {
		t.Fatalf("%q", got)
	}
}

// A full disk refuses appends with ErrFull, keeps what was stored, and can be emptied.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	cmd, lines := process(t, "limited", dir)
	var last []string
	for lines.Scan() {
		last = strings.Fields(lines.Text())
	}
	if err := cmd.Wait(); err != nil || len(last) != 3 || last[0] != "full" {
		t.Fatalf("%v %q", err, last)
	}
	stored, _ := strconv.Atoi(last[1])
	if refused, _ := strconv.Atoi(last[2]); refused != 20 {
		t.Errorf("%s refused appends were ErrFull, want 20", last[2])
	}
	s, told := open(t, dir)
	if len(*told) > 0 {
		t.Errorf("a refused append left bytes: %+v", *told)
	}
	if got := len(drain(t, s, 7)); got != stored || stored == 0 {
		t.Fatalf("%d acknowledged, %d handed out", stored, got)
	}
}
