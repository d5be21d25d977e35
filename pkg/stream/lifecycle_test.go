package stream_test

import (
	"bytes"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/stream"
)

// Run leaves no goroutine behind. Not parallel: it counts those of the whole process.
func TestRunLeavesNothingBehind(t *testing.T) {
	w := newWorld(t, kafkatest.Real(t, "the engine"), 4)
	want := ids("a", 100)
	w.publish(want...)
	// One goroutine of each client looks after its metadata; the test's own clients are there before and after.
	count := func(of string) int {
		var b bytes.Buffer
		pprof.Lookup("goroutine").WriteTo(&b, 2)
		return strings.Count(b.String(), of)
	}
	clients := count("kgo.(*Client).updateMetadataLoop(")
	w.finishedBy(t, want)
	for _, left := range []struct {
		of   string
		want int
	}{{"pkg/stream.(*", 0}, {"kgo.(*Client).updateMetadataLoop(", clients}} {
		n := 0
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			if n = count(left.of); n == left.want {
				break
			}
		}
		if n != left.want {
			t.Errorf("%d goroutines in %s after Run, want %d", n, left.of, left.want)
		}
	}
}

// finishedBy runs a member until ids have ended.
func (w *world) finishedBy(t *testing.T, ids []string) {
	t.Helper()
	m := w.run("one")
	w.finished(ids, 30*time.Second)
	if err := m.stop(t); err != nil {
		t.Fatalf("Run: %v", err)
	}
	if s := m.Status(); len(s.Partitions) != 0 {
		t.Errorf("it still owns %v", s.Partitions)
	}
	m.app.client.CloseIdleConnections()
}

// The embedded broker for development takes the same path.
func TestOnTheFake(t *testing.T) {
	t.Parallel()
	fake, err := kfake.NewCluster(kafkatest.FakeOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	w := newWorld(t, &kafkatest.Server{Addr: strings.Join(fake.ListenAddrs(), ",")}, 4)
	want := ids("a", 300)
	w.publish(want...)
	w.finishedBy(t, want)
	more := ids("b", 100)
	w.publish(append(more, want...)...)
	w.finishedBy(t, more)
	w.check(append(want, more...), 0)
}

// Repeated requests write nothing, and yet their offsets are committed before long: with a position of their own.
func TestOffsetsOfWhatWritesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "the engine"), 1)
	want := ids("a", 10)
	w.publish(want...)
	m := w.start("one")
	w.finished(want, 20*time.Second)
	w.publish(want...)
	w.caughtUp(10 * time.Second)
	m.stop()
	if n := m.count("duplicate"); n != len(want) {
		t.Errorf("%d duplicates, want %d", n, len(want))
	}
	w.check(want, 0)
}

// A caller's transaction that stays open on the input is told in Status, with the time since when.
func TestInputHeldBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "the last stable offset"), 1)
	hung := w.server.Client(t, kgo.TransactionalID(kafkatest.Name("caller")), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	m := w.run("one", func(_ *appConfig, sc *stream.Config) { stream.WatchInput(sc, 200*time.Millisecond, time.Second) })
	m.ready(t, 1)
	if err := hung.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := hung.ProduceSync(t.Context(), &kgo.Record{Topic: w.cfg.Input, Key: []byte("a-0"), Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	held := func() bool { return !m.Status().Partitions[0].HeldBack.IsZero() }
	eventually(t, 20*time.Second, "Status tells", held)
	eventually(t, 10*time.Second, "the log tells", func() bool {
		return strings.Contains(m.log.String(), "an open transaction holds back the input")
	})
	if err := hung.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	w.finished([]string{"a-0"}, 20*time.Second)
	eventually(t, 20*time.Second, "Status tells no more", func() bool { return !held() })
}
