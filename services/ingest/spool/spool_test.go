package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func open(tb testing.TB, dir string, change ...func(*Config)) (*Spool, *[]Damage) {
	tb.Helper()
	var told []Damage
	cfg := Config{Dir: dir, Log: slog.New(slog.DiscardHandler), OnDamage: func(d Damage) { told = append(told, d) }}
	for _, f := range change {
		f(&cfg)
	}
	s, err := Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s, &told
}

func put(tb testing.TB, s *Spool, payloads ...string) {
	tb.Helper()
	for _, p := range payloads {
		if err := s.Append(tb.Context(), []byte(p)); err != nil {
			tb.Fatalf("append %.20q: %v", p, err)
		}
	}
}

// drain hands on everything, at most n records at a time.
func drain(tb testing.TB, s *Spool, n int) []string {
	tb.Helper()
	var got []string
	for !s.Empty() {
		b := next(tb, s, n)
		for _, r := range b.Records {
			got = append(got, string(r))
		}
		if err := s.Done(b); err != nil {
			tb.Fatal(err)
		}
	}
	return got
}

func next(tb testing.TB, s *Spool, n int) Batch {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	b, err := s.Next(ctx, n, 1<<20)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func numbered(from, to int) []string {
	var all []string
	for i := from; i < to; i++ {
		all = append(all, fmt.Sprintf("record %06d", i))
	}
	return all
}

func segmentFiles(tb testing.TB, dir string) []string {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil {
		tb.Fatal(err)
	}
	return files
}

// waitFor waits for what the writer goroutine does by itself.
func waitFor(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("not in 5 s: %s", what)
		}
	}
}

func TestOrderOverSegments(t *testing.T) {
	dir := t.TempDir()
	s, told := open(t, dir, func(c *Config) { c.SegmentBytes = 300 })
	want := numbered(0, 200)
	put(t, s, want...)
	if n := len(segmentFiles(t, dir)); n < 10 {
		t.Fatalf("%d segments; the test wants many", n)
	}
	if got := drain(t, s, 7); !slices.Equal(got, want) {
		t.Fatalf("handed out:\n%s", cmp.Diff(want, got))
	}
	waitFor(t, "finished segments are removed", func() bool { return len(segmentFiles(t, dir)) == 0 })
	if st := s.Stats(); st != (Stats{}) {
		t.Errorf("stats of an empty spool: %+v", st)
	}
	if len(*told) > 0 {
		t.Errorf("damage: %+v", *told)
	}
}

func TestReopen(t *testing.T) {
	for _, n := range []int{1, 5, 64, 99, 100} { // handed on before the restart
		dir := t.TempDir()
		s, _ := open(t, dir, func(c *Config) { c.SegmentBytes = 500 })
		want := numbered(0, 100)
		put(t, s, want...)
		for done := 0; done < n; {
			b := next(t, s, min(4, n-done))
			if err := s.Done(b); err != nil {
				t.Fatal(err)
			}
			done += len(b.Records)
		}
		if n < len(want) {
			_ = next(t, s, 3) // not done: must come again
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s, _ = open(t, dir)
		if got := s.Stats().Records; got != int64(100-n) {
			t.Errorf("after %d: %d records counted", n, got)
		}
		put(t, s, "new")
		if got, want := drain(t, s, 10), append(want[n:], "new"); !slices.Equal(got, want) {
			t.Errorf("after %d:\n%s", n, cmp.Diff(want, got))
		}
		s.Close()
	}
}

// A number that was used is not used again, also when no file is left to tell of it: the position would hide records.
func TestSegmentNumbersGrow(t *testing.T) {
	dir := t.TempDir()
	for i := range 5 {
		s, _ := open(t, dir)
		put(t, s, fmt.Sprint(i))
		if got := drain(t, s, 1); !slices.Equal(got, []string{fmt.Sprint(i)}) {
			t.Fatalf("round %d: %q", i, got)
		}
		s.Close()
	}
}

func TestOneOwner(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	if _, err := Open(Config{Dir: dir}); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: %v", err)
	}
	s.Close()
	open(t, dir)
}

func TestMaxBytes(t *testing.T) {
	s, _ := open(t, t.TempDir(), func(c *Config) { c.MaxBytes = 1000; c.SegmentBytes = 200 })
	record := strings.Repeat("x", 88) // 100 bytes as a frame
	for range 10 {
		put(t, s, record)
	}
	if err := s.Append(t.Context(), []byte(record)); !errors.Is(err, ErrFull) {
		t.Fatalf("append to a full spool: %v", err)
	}
	if err := s.Done(next(t, s, 2)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "room after a segment was handed on", func() bool { return s.Append(t.Context(), []byte(record)) == nil })
	if got := len(drain(t, s, 3)); got != 9 {
		t.Errorf("%d records left, want 9", got)
	}
}

func TestTooLarge(t *testing.T) {
	s, _ := open(t, t.TempDir())
	if err := s.Append(t.Context(), make([]byte, MaxRecord+1)); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
	put(t, s, strings.Repeat("x", MaxRecord), "after")
	if b := next(t, s, 10); len(b.Records) != 1 || len(b.Records[0]) != MaxRecord {
		t.Fatalf("a record above the batch's bytes must come alone; got %d", len(b.Records))
	}
}

// Each appender's records keep their order while a reader empties the spool again and again.
func TestConcurrentAppendAndReplay(t *testing.T) {
	s, _ := open(t, t.TempDir(), func(c *Config) { c.SegmentBytes = 2000 })
	const appenders, each = 16, 100
	var wg sync.WaitGroup
	for a := range appenders {
		wg.Go(func() {
			for i := range each {
				if err := s.Append(t.Context(), fmt.Appendf(nil, "%02d %04d", a, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	last := map[string]string{}
	for seen := 0; seen < appenders*each; {
		b := next(t, s, 50)
		for _, r := range b.Records {
			who, n, _ := strings.Cut(string(r), " ")
			if n <= last[who] {
				t.Fatalf("appender %s: %s after %s", who, n, last[who])
			}
			last[who] = n
			seen++
		}
		if err := s.Done(b); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if !s.Empty() {
		t.Error("more records than were appended")
	}
}

func TestCloseFinishesAppends(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	var wg sync.WaitGroup
	var mu sync.Mutex
	stored := map[string]bool{}
	for a := range 32 {
		wg.Go(func() {
			for i := 0; ; i++ {
				r := fmt.Sprintf("%d/%d", a, i)
				err := s.Append(t.Context(), []byte(r))
				if errors.Is(err, ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				stored[r] = true
				mu.Unlock()
			}
		})
	}
	time.Sleep(20 * time.Millisecond)
	s.Close()
	wg.Wait()
	s, _ = open(t, dir)
	got := drain(t, s, 1000)
	if len(got) != len(stored) || len(got) == 0 {
		t.Fatalf("%d records on disk, %d acknowledged", len(got), len(stored))
	}
}

func TestNextWaits(t *testing.T) {
	s, _ := open(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.Next(ctx, 1, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("next of an empty spool: %v", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Append(t.Context(), []byte("late")); err != nil {
			t.Error(err)
		}
	})
	if b := next(t, s, 1); string(b.Records[0]) != "late" {
		t.Fatalf("%q", b.Records)
	}
	wg.Wait()
}

func TestRefuse(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	name, err := s.Refuse([]byte("what nobody takes"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != "what nobody takes" {
		t.Fatalf("%q %v", b, err)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s, _ := open(b, b.TempDir(), func(c *Config) { c.MaxBytes = 1 << 40 })
			record := make([]byte, 800)
			b.SetBytes(int64(len(record)))
			todo := make(chan struct{})
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for range todo {
						if err := s.Append(b.Context(), record); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for b.Loop() {
				todo <- struct{}{}
			}
			close(todo)
			wg.Wait()
		})
	}
}
