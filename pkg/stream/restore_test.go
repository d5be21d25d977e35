package stream_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/stream"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
)

// A restore ends whatever stands at the ledger's end, and takes nothing that was aborted.
func TestRestoreEndsOnEveryTail(t *testing.T) {
	t.Parallel()
	server := kafkatest.Real(t, "control records")
	for _, c := range []struct {
		name string
		make func(w *world)
		want []string
	}{
		{"empty", func(*world) {}, nil},
		{"record", func(w *world) { w.write(w.entry("a")) }, []string{"a"}},
		{"commit marker", func(w *world) { w.transaction(kgo.TryCommit, w.entry("a")) }, []string{"a"}},
		{"abort marker", func(w *world) {
			w.write(w.entry("a"))
			w.transaction(kgo.TryAbort, w.entry("b"))
		}, []string{"a"}},
		{"nothing but aborted", func(w *world) { w.transaction(kgo.TryAbort, w.entry("b"), w.entry("c")) }, nil},
		{"everything deleted", func(w *world) {
			w.transaction(kgo.TryCommit, w.entry("a"), w.entry("b"))
			w.settings("cleanup.policy=delete")
			var o kadm.Offsets
			o.Add(kadm.Offset{Topic: w.cfg.Ledger, At: -1})
			// The setting reaches the log a moment later.
			eventually(w.t, 10*time.Second, "the records are deleted", func() bool {
				deleted, err := w.adm.DeleteRecords(w.t.Context(), o)
				d, _ := deleted.Lookup(w.cfg.Ledger, 0)
				return err == nil && d.Err == nil
			})
			w.settings("cleanup.policy=compact")
		}, nil},
		{"compacted", func(w *world) {
			// Batches that compaction has emptied stand before the active segment.
			w.settings("segment.ms=100", "min.cleanable.dirty.ratio=0.01", "delete.retention.ms=0")
			for range 20 {
				w.transaction(kgo.TryCommit, w.entry("a"), w.entry("b"))
				time.Sleep(20 * time.Millisecond)
			}
			time.Sleep(200 * time.Millisecond)
			w.transaction(kgo.TryAbort, w.entry("c"))
			eventually(w.t, 60*time.Second, "the ledger is compacted", func() bool { return len(w.read(w.cfg.Ledger)) <= 6 })
			w.settings("segment.ms=3600000", "min.cleanable.dirty.ratio=0.1")
		}, []string{"a", "b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, server, 1)
			c.make(w)
			m := w.run("one")
			m.ready(t, 1)
			var got []string
			m.Do(func() {
				for id := range m.app.parts[0].entries {
					got = append(got, id)
				}
			})
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("restored %v, want %v", got, c.want)
			}
		})
	}
}

func (w *world) entry(id string) *kgo.Record {
	return &kgo.Record{Topic: w.cfg.Ledger, Key: []byte(id), Value: []byte(`{"id":"` + id + `","state":"SENT"}`)}
}

// transaction writes records in one transaction and ends it.
func (w *world) transaction(how kgo.TransactionEndTry, rs ...*kgo.Record) {
	w.t.Helper()
	cl := w.server.Client(w.t, kgo.TransactionalID(kafkatest.Name("tail")), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MetadataMinAge(10*time.Millisecond))
	if err := cl.BeginTransaction(); err != nil {
		w.t.Fatal(err)
	}
	if err := cl.ProduceSync(w.t.Context(), rs...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
	if err := cl.EndTransaction(w.t.Context(), how); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) settings(kvs ...string) {
	w.t.Helper()
	var changes []kadm.AlterConfig
	for _, kv := range kvs {
		k, v, _ := strings.Cut(kv, "=")
		changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: k, Value: &v})
	}
	rs, err := w.adm.AlterTopicConfigs(w.t.Context(), changes, w.cfg.Ledger)
	if err == nil {
		_, err = rs.On(w.cfg.Ledger, nil)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	// The broker takes note a moment after the controller.
	eventually(w.t, 10*time.Second, "the settings are in force", func() bool {
		rs, err := w.adm.DescribeTopicConfigs(w.t.Context(), w.cfg.Ledger)
		if err != nil || len(rs) != 1 {
			return false
		}
		for _, kv := range kvs {
			k, v, _ := strings.Cut(kv, "=")
			if !slices.ContainsFunc(rs[0].Configs, func(c kadm.Config) bool { return c.Key == k && c.Value != nil && *c.Value == v }) {
				return false
			}
		}
		return true
	})
}

// counter counts what it is restored, and takes its time for it.
type counter struct {
	*app
	seen  atomic.Int64
	pause time.Duration
}

func (c *counter) Restore(_ int32, r kafka.Record) error {
	c.seen.Add(1)
	time.Sleep(c.pause)
	return nil
}

// A large ledger is restored within seconds.
func TestRestoreLargeLedger(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "the speed of a broker"), 2)
	const n = 300_000
	filler := w.server.Client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(n))
	value := incompressible(200)
	for i := range n {
		filler.Produce(t.Context(), &kgo.Record{Topic: w.cfg.Ledger, Partition: int32(i % 2), Key: fmt.Appendf(nil, "id-%d", i), Value: value}, nil)
	}
	if err := filler.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := &counter{}
	began := time.Now()
	m := w.run("one", func(_ *appConfig, sc *stream.Config) {
		c.app = sc.Handler.(*app)
		sc.Handler = c
	})
	m.ready(t, 2)
	took := time.Since(began)
	if c.seen.Load() != n {
		t.Errorf("restored %d entries, want %d", c.seen.Load(), n)
	}
	t.Logf("joined and restored %d entries of 200 bytes in %v: %.0f a second", n, took.Round(time.Millisecond), n/took.Seconds())
	if took > 30*time.Second {
		t.Errorf("took %v", took)
	}
}

// A restore that takes longer than the session keeps the membership.
func TestRestoreBlocksNoHeartbeat(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "sessions"), 1)
	var rs []*kgo.Record
	for i := range 100 {
		rs = append(rs, w.entry(fmt.Sprint("id-", i)))
	}
	w.write(rs...)
	c := &counter{pause: 90 * time.Millisecond} // 9 s in all
	m := w.run("one", func(_ *appConfig, sc *stream.Config) {
		c.app = sc.Handler.(*app)
		sc.Handler = c
	})
	m.ready(t, 1)
	if n := strings.Count(m.log.String(), "partitions lost"); n != 0 {
		t.Errorf("the membership was lost %d times", n)
	}
	if n := c.seen.Load(); n != 100 {
		t.Errorf("%d entries were restored, want each once: 100", n)
	}
}

// The ledger knows by itself how far the input is contained in it: group offsets that are deleted, or reset to the
// beginning, repeat nothing.
func TestGroupOffsetsGone(t *testing.T) {
	t.Parallel()
	server := kafkatest.Real(t, "group offsets")
	for _, c := range []struct {
		name string
		do   func(w *world) error
	}{
		{"group deleted", func(w *world) error {
			_, err := w.adm.DeleteGroup(w.t.Context(), w.cfg.Group)
			return err
		}},
		{"reset to the earliest", func(w *world) error {
			var o kadm.Offsets
			for p := range int32(4) {
				o.Add(kadm.Offset{Topic: w.cfg.Input, Partition: p, LeaderEpoch: -1})
			}
			return w.adm.CommitAllOffsets(w.t.Context(), w.cfg.Group, o)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, server, 4)
			want := ids("a", 400)
			w.publish(want...)
			m := w.start("one")
			w.finished(want, 30*time.Second)
			w.caughtUp(10 * time.Second)
			m.stop()
			eventually(t, 20*time.Second, c.name, func() bool { return c.do(w) == nil })
			m = w.start("two")
			more := ids("b", 100)
			w.publish(more...)
			w.finished(more, 30*time.Second)
			w.caughtUp(10 * time.Second)
			m.stop()
			if n := m.count("duplicate"); n != 0 {
				t.Errorf("%d records were accepted again; the ledger's position should have told", n)
			}
			w.check(append(want, more...), 0)
		})
	}
}

// An input topic that was made anew starts at its beginning: the ledger's position does not belong to it.
func TestInputMadeAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "topic ids"), 1)
	b, _ := proto.Marshal(&ledgerv1.Position{MinReader: 1, NextOffset: 50, InputTopicId: []byte("another topic id")})
	w.write(&kgo.Record{Topic: w.cfg.Ledger, Key: []byte(stream.PositionKey), Value: b})
	want := ids("a", 20)
	w.publish(want...)
	m := w.start("one")
	w.finished(want, 20*time.Second)
	m.stop()
	w.check(want, 0)
}

// rebuilder notes what was called when, and lets Rebuild wait.
type rebuilder struct {
	*app
	calls chan string
	end   chan struct{}
}

func (b *rebuilder) Restore(int32, kafka.Record) error {
	b.calls <- "restore"
	return nil
}

func (b *rebuilder) Rebuild(int32) {
	b.calls <- "rebuild"
	<-b.end
}

func (b *rebuilder) Restored(int32) { b.calls <- "restored" }

// Rebuild comes between Restore and Restored, and whoever needs the tick lock does not wait for it.
func TestRebuild(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "a ledger"), 1)
	w.write(w.entry("a"), w.entry("b"))
	b := &rebuilder{calls: make(chan string, 10), end: make(chan struct{})}
	m := w.run("one", func(_ *appConfig, sc *stream.Config) {
		b.app = sc.Handler.(*app)
		sc.Handler = b
	})
	for _, want := range []string{"restore", "restore", "rebuild"} {
		if got := <-b.calls; got != want {
			t.Fatalf("%s was called, want %s", got, want)
		}
	}
	locked := make(chan struct{})
	go m.Do(func() { close(locked) })
	select {
	case <-locked:
	case <-time.After(patience * 2 * time.Second):
		t.Error("the tick lock is held while Rebuild runs")
	}
	if len(b.calls) > 0 || m.Status().Partitions[0].Ready {
		t.Error("the partition takes part in ticks before Rebuild has returned")
	}
	close(b.end)
	m.ready(t, 1)
	if got := <-b.calls; got != "restored" {
		t.Errorf("%s was called, want restored", got)
	}
}
