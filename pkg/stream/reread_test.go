package stream_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/stream"
)

// scribe writes ledger records on demand and notes where they went.
type scribe struct {
	*app
	todo    map[int32][]string         // keys to write in one transaction; under the tick lock
	places  map[int32]map[int64]string // what stands at which offset: "key=value"
	writes  int
	written chan struct{}
}

func (s *scribe) Work(tx *stream.Tx) time.Time {
	if len(s.todo) == 0 || len(tx.Partitions()) == 0 {
		return time.Time{}
	}
	var last *stream.Unit
	for p, keys := range s.todo {
		for _, key := range keys {
			s.writes++
			last = tx.Unit(p, key)
			value := fmt.Sprintf(`{"state":"SENT","body":"%d"}`, s.writes)
			w := last.Ledger(key, []byte(value))
			last.OnCommit(func() { s.places[p][w.Offset()] = key + "=" + value })
		}
	}
	last.OnCommit(func() {
		s.todo = nil
		s.written <- struct{}{}
	})
	return time.Time{}
}

// write has the keys written in one transaction and waits for its confirmation.
func (s *scribe) write(t *testing.T, p int32, keys ...string) {
	t.Helper()
	s.engine.Do(func() { s.todo = map[int32][]string{p: keys} })
	s.engine.Wake()
	select {
	case <-s.written:
	case <-time.After(patience * 20 * time.Second):
		t.Fatal("nothing was written")
	}
}

// fetches counts the fetch requests of a client.
type fetches struct{ n atomic.Int64 }

func (f *fetches) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, _ error) {
	if key == 1 {
		f.n.Add(1)
	}
}

var _ kgo.HookBrokerWrite = (*fetches)(nil)

func newScribe(t *testing.T, w *world, count *fetches) (*scribe, *inProcess) {
	s := &scribe{places: map[int32]map[int64]string{}, written: make(chan struct{}, 1)}
	n := w.partitions(w.cfg.Ledger)
	for p := range n {
		s.places[p] = map[int64]string{}
	}
	m := w.run("one", func(_ *appConfig, sc *stream.Config) {
		s.app = sc.Handler.(*app)
		sc.Handler = s
		sc.Client = append(sc.Client, kgo.WithHooks(count))
	})
	m.ready(t, int(n))
	return s, m
}

// reread asks for offsets and compares what comes with what was written there.
func (s *scribe) reread(t *testing.T, m *inProcess, p int32, offsets []int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience*20*time.Second)
	defer cancel()
	got, err := m.ReadLedger(ctx, p, offsets)
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Sorted(slices.Values(offsets))
	if len(got) != len(want) {
		t.Fatalf("%d records came, %d were asked for", len(got), len(want))
	}
	for i, r := range got {
		if r.Offset != want[i] {
			t.Fatalf("record %d has offset %d, want %d", i, r.Offset, want[i])
		}
		if have := string(r.Key) + "=" + string(r.Value); have != s.places[p][r.Offset] || r.Partition != p {
			t.Fatalf("at offset %d of partition %d stands %s, want %s", r.Offset, r.Partition, have, s.places[p][r.Offset])
		}
	}
}

// What was written is read again by its offset: at once, near and far, across markers and aborted transactions; what
// was aborted is not there.
func TestReadLedger(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "offsets and markers"), 2)
	count := new(fetches)
	s, m := newScribe(t, w, count)
	for i, n := range []int{1, 1, 300, 2, 700, 1, 1, 1500, 40} {
		keys := ids(fmt.Sprint("k", i), n)
		p := int32(i % 2)
		s.write(t, p, keys...)
		s.reread(t, m, p, []int64{slices.Max(slices.Collect(maps.Keys(s.places[p])))}) // its marker may still be on its way
		if i%3 == 0 {
			w.transaction(kgo.TryAbort, &kgo.Record{Topic: w.cfg.Ledger, Partition: p, Key: []byte("x"), Value: []byte("aborted")})
		}
	}
	for p, places := range s.places {
		all := slices.Sorted(maps.Keys(places))
		before := count.n.Load()
		s.reread(t, m, p, all)
		// The group's own fetching goes on beside it.
		if n := count.n.Load() - before; n > 12 {
			t.Errorf("%d neighbours took %d fetches", len(all), n)
		}
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		s.reread(t, m, p, all[:len(all)/20])
		var far []int64
		for i := 0; i < len(all); i += 600 {
			far = append(far, slices.Sorted(slices.Values(all))[i])
		}
		s.reread(t, m, p, far)
		s.reread(t, m, p, nil)
	}
	var between []int64 // markers, positions and what was aborted
	for o := range slices.Max(slices.Collect(maps.Keys(s.places[0]))) {
		if _, ours := s.places[0][o]; !ours {
			between = append(between, o)
		}
	}
	got, err := m.ReadLedger(t.Context(), 0, between)
	if err != nil {
		t.Fatal(err)
	}
	positions := 0
	for _, r := range got {
		if string(r.Value) == "aborted" {
			t.Errorf("an aborted record was read at offset %d", r.Offset)
		}
		if string(r.Key) == stream.PositionKey {
			positions++
		}
	}
	if positions != len(got) || len(got) == len(between) {
		t.Errorf("of %d offsets between the records %d are positions and %d records", len(between), positions, len(got))
	}
	if _, err := m.ReadLedger(t.Context(), 0, []int64{1 << 40}); !errors.Is(err, kerr.OffsetOutOfRange) {
		t.Errorf("an offset that does not exist: %v", err)
	}
	if _, err := m.ReadLedger(t.Context(), 2, []int64{0}); err == nil {
		t.Error("a partition that does not exist was read")
	}
}

// What compaction has removed is left out, wherever it stood.
func TestReadLedgerCompacted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "compaction"), 1)
	s, m := newScribe(t, w, new(fetches))
	w.settings("segment.ms=100", "min.cleanable.dirty.ratio=0.01", "delete.retention.ms=0")
	for i := range 12 {
		s.write(t, 0, append(ids("same", 400), ids(fmt.Sprint("own", i), 3)...)...)
		time.Sleep(120 * time.Millisecond)
	}
	s.write(t, 0, "tail")
	all := slices.Sorted(maps.Keys(s.places[0]))
	left := func() map[int64]bool {
		out := map[int64]bool{}
		for _, r := range w.read(w.cfg.Ledger) {
			if string(r.Key) != stream.PositionKey {
				out[r.Offset] = true
			}
		}
		return out
	}
	eventually(t, 60*time.Second, "the ledger is compacted", func() bool { return len(left()) < len(all)/3 })
	w.settings("segment.ms=3600000", "min.cleanable.dirty.ratio=0.1")
	time.Sleep(time.Second) // a cleaning that was under way
	want := left()
	for _, asked := range [][]int64{all, all[:500], {all[0]}, {all[0], all[len(all)-1]}} {
		got, err := m.ReadLedger(t.Context(), 0, asked)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, o := range asked {
			if want[o] {
				n++
			}
		}
		if len(got) != n {
			t.Errorf("%d of %d offsets came, %d are left of them", len(got), len(asked), n)
		}
		for _, r := range got {
			if string(r.Key)+"="+string(r.Value) != s.places[0][r.Offset] {
				t.Errorf("offset %d: %s=%s", r.Offset, r.Key, r.Value)
			}
		}
	}
}

// A record behind somebody's open transaction is waited for until the deadline.
func TestReadLedgerWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "open transactions"), 1)
	s, m := newScribe(t, w, new(fetches))
	s.write(t, 0, "before")
	open := w.server.Client(t, kgo.TransactionalID(kafkatest.Name("foreign")), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := open.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := open.ProduceSync(t.Context(), w.entry("foreign")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	s.write(t, 0, "behind")
	at := slices.Sorted(maps.Keys(s.places[0]))
	s.reread(t, m, 0, at[:1])
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := m.ReadLedger(ctx, 0, at); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("behind an open transaction: %v", err)
	}
	if took := time.Since(began); took > patience*2*time.Second {
		t.Errorf("the deadline of 300 ms was kept after %v", took)
	}
	if err := open.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	s.reread(t, m, 0, at)
}

// Connections that are cut are replaced.
func TestReadLedgerOverCutConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "connections"), 1)
	conns := make(cutter, 1000)
	s := &scribe{places: map[int32]map[int64]string{0: {}}, written: make(chan struct{}, 1)}
	m := w.run("one", func(_ *appConfig, sc *stream.Config) {
		s.app = sc.Handler.(*app)
		sc.Handler = s
		sc.Client = append(sc.Client, kgo.Dialer(conns.dial))
	})
	m.ready(t, 1)
	s.write(t, 0, ids("a", 500)...)
	all := slices.Collect(maps.Keys(s.places[0]))
	s.reread(t, m, 0, all)
	conns.cut()
	s.reread(t, m, 0, all)
}

// cutter holds connections that can be cut all at once.
type cutter chan net.Conn

func (c cutter) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err == nil {
		c <- conn
	}
	return conn, err
}

func (c cutter) cut() {
	for len(c) > 0 {
		(<-c).Close()
	}
}

// Every key but the engine's own is the application's: also one that begins like it comes back through Restore.
func TestReservedKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "a ledger"), 1)
	s, m := newScribe(t, w, new(fetches))
	s.write(t, 0, "\x00control", "a", "")
	if err := m.stop(t); err != nil {
		t.Fatal(err)
	}
	heir := w.run("two")
	heir.ready(t, 1)
	var keys []string
	heir.Do(func() { keys = slices.Sorted(maps.Keys(heir.app.parts[0].entries)) })
	if want := []string{"", "\x00control", "a"}; !slices.Equal(keys, want) {
		t.Errorf("restored %q, want %q", keys, want)
	}
}
