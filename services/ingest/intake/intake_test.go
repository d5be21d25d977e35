package intake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/services/ingest/spool"
)

// fakeKafka takes records unless it is away, hangs, or a record is poisonous.
type fakeKafka struct {
	mu      sync.Mutex
	state   string // "", "away", "hung"
	records []kafka.Record
	writes  int
}

var (
	errAway     = errors.New("away")
	errTooLarge = errors.New("too large")
)

func (k *fakeKafka) set(state string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state = state
}

func (k *fakeKafka) Write(ctx context.Context, records ...kafka.Record) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.writes++
	switch k.state {
	case "away":
		return errAway
	case "hung":
		k.mu.Unlock()
		<-ctx.Done()
		k.mu.Lock()
		return context.Cause(ctx)
	}
	for _, r := range records {
		if string(r.Value) == "poison" {
			return errTooLarge
		}
	}
	k.records = append(k.records, records...)
	return nil
}

func (k *fakeKafka) values() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []string
	for _, r := range k.records {
		all = append(all, string(r.Value))
	}
	return all
}

type rig struct {
	*Intake
	kafka    *fakeKafka
	dir      string
	refusals int
}

func newRig(t *testing.T, size int64) *rig {
	t.Helper()
	r := &rig{kafka: &fakeKafka{}, dir: t.TempDir()}
	s, err := spool.Open(spool.Config{Dir: r.dir, MaxBytes: size, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r.Intake = New(Config{
		Writer: r.kafka, Spool: s, Topic: "zalo.callback", Budget: 50 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
		Refused:  func(err error) bool { return errors.Is(err, errTooLarge) },
		OnRefuse: func() { r.refusals++ },
	})
	return r
}

func (r *rig) replayToEmpty(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	err := r.Drain(ctx)
	cancel()
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
}

func record(value string) kafka.Record {
	return kafka.Record{Topic: "zalo.callback", Partition: -1, Key: []byte("k"), Value: []byte(value), Headers: []kafka.Header{{Key: "a", Value: []byte("1")}, {Key: "a", Value: nil}}}
}

func (r *rig) mustAppend(t *testing.T, value string, want Route) {
	t.Helper()
	if route, err := r.Append(t.Context(), record(value)); err != nil || route != want {
		t.Fatalf("append %s: %s, %v; want %s", value, route, err, want)
	}
}

// A record comes out of the spool as it went in: above all with its partition left to its key.
func TestCodec(t *testing.T) {
	want := record("v")
	b, err := encode(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decode(b)
	if err != nil {
		t.Fatal(err)
	}
	got.Topic = want.Topic
	got.Headers[1].Value = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// While anything is on the disk nothing goes past it.
func TestOrder(t *testing.T) {
	for _, state := range []string{"away", "hung"} {
		r := newRig(t, 1<<20)
		r.mustAppend(t, "1", Direct)
		r.kafka.set(state)
		r.mustAppend(t, "2", Spooled)
		writes := r.kafka.writes
		r.mustAppend(t, "3", Spooled)
		if r.kafka.writes != writes {
			t.Errorf("%s: tried Kafka although the disk holds older records", state)
		}
		// Replays that fail hand nothing on and lose nothing.
		ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
		r.Run(ctx)
		cancel()
		if r.kafka.writes == writes || r.cfg.Spool.Stats().Records != 2 {
			t.Errorf("%s: %d writes, %d records on the disk", state, r.kafka.writes-writes, r.cfg.Spool.Stats().Records)
		}
		r.kafka.set("")
		r.mustAppend(t, "4", Spooled)
		r.replayToEmpty(t)
		r.mustAppend(t, "5", Direct)
		if got := r.kafka.values(); !slices.Equal(got, []string{"1", "2", "3", "4", "5"}) {
			t.Errorf("%s: %q", state, got)
		}
	}
}

// Appends of many callers while a reader empties the disk: what one caller sees answered first arrives first.
func TestOrderPerCaller(t *testing.T) {
	r := newRig(t, 64<<20)
	ctx, cancel := context.WithCancel(t.Context())
	var wg, runs sync.WaitGroup
	runs.Go(func() { r.Run(ctx) })
	runs.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			r.kafka.set([]string{"", "away", "", "hung"}[i%4])
			time.Sleep(15 * time.Millisecond)
		}
		r.kafka.set("")
	})
	for c := range 8 {
		wg.Go(func() {
			for i := range 60 {
				if _, err := r.Append(ctx, record(fmt.Sprintf("%d %03d", c, i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	cancel()
	runs.Wait()
	r.replayToEmpty(t)
	seen, last := map[string]bool{}, map[byte]string{}
	for _, v := range r.kafka.values() {
		if seen[v] {
			continue
		}
		seen[v] = true
		if v <= last[v[0]] {
			t.Fatalf("%s after %s", v, last[v[0]])
		}
		last[v[0]] = v
	}
	if len(seen) != 480 {
		t.Errorf("%d of 480 arrived", len(seen))
	}
}

// No room on the disk: an error while Kafka is away, and Kafka itself when it is there.
func TestFull(t *testing.T) {
	r := newRig(t, 400)
	r.kafka.set("away")
	n := 0
	for {
		_, err := r.Append(t.Context(), record("x"))
		if errors.Is(err, spool.ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	r.kafka.set("")
	r.mustAppend(t, "direct", Direct)
	r.replayToEmpty(t)
	if got := len(r.kafka.values()); got != n+1 || n == 0 {
		t.Errorf("%d in Kafka, want %d", got, n+1)
	}
}

// A disk that does not work any more: Kafka takes the callback although older ones wait.
func TestBrokenSpool(t *testing.T) {
	r := newRig(t, 1<<20)
	r.kafka.set("away")
	r.mustAppend(t, "1", Spooled)
	if err := r.cfg.Spool.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Append(t.Context(), record("2")); !errors.Is(err, spool.ErrClosed) {
		t.Fatalf("append with neither: %v", err)
	}
	r.kafka.set("")
	r.mustAppend(t, "3", Direct)
}

// A record that Kafka refuses for its own sake is kept apart and holds up nobody.
func TestRefused(t *testing.T) {
	r := newRig(t, 1<<20)
	r.kafka.set("away")
	for _, v := range []string{"1", "2", "poison", "3", "poison", "4", "5"} {
		r.mustAppend(t, v, Spooled)
	}
	r.kafka.set("")
	r.replayToEmpty(t)
	got := slices.Compact(r.kafka.values())
	if !slices.Equal(got, []string{"1", "2", "3", "4", "5"}) || r.refusals != 2 {
		t.Errorf("%q, %d refused", got, r.refusals)
	}
	if files, _ := filepath.Glob(filepath.Join(r.dir, "refused", "*.bin")); len(files) != 1 { // equal bytes are kept once
		t.Errorf("kept %q", files)
	}
	// And one that comes while nothing waits.
	r.mustAppend(t, "poison", Spooled)
	r.replayToEmpty(t)
	if r.refusals != 3 {
		t.Errorf("%d refused", r.refusals)
	}
}

func FuzzDecode(f *testing.F) {
	b, _ := encode(record("v"))
	f.Add(b)
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = decode(b)
	})
}
