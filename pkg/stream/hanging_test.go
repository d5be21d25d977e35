package stream_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
	"github.com/znshub/znshub/pkg/stream"
	"github.com/znshub/znshub/proto/topic"
)

// droppingWorld is a world whose ledger, results and group are on a broker that can be away while transactions end.
func droppingWorld(t *testing.T) (*kafkatest.DroppedMarkers, *world) {
	t.Helper()
	d := kafkatest.NewDroppedMarkers(t)
	w := newWorld(t, d.Server(), 1)
	w.cfg.Group, w.cfg.Input, w.cfg.Ledger = d.Group, topic.Requested, topic.LedgerOf(topic.Requested)
	w.cfg.Sent = topic.DLQOf(topic.Requested)
	return d, w
}

const healed = "ended it as its coordinator had decided"

// Transactions of dead owners hang on the ledger and on the group's offsets: the heir ends each as it was decided.
func TestHeirEndsHangingTransactions(t *testing.T) {
	t.Parallel()
	d, w := droppingWorld(t)
	for i, id := range []string{"committed", "aborted"} {
		d.Begin(t, id, w.cfg.Ledger, fmt.Sprintf(`{"id":%q,"state":"SENT"}`, id))
		d.Offset(t, id, int64(i))
	}
	d.Drop(t, map[string]kgo.TransactionEndTry{"committed": kgo.TryCommit, "aborted": kgo.TryAbort})
	heir := w.run("heir")
	heir.ready(t, 1)
	if log := heir.log.String(); strings.Count(log, healed) != 4 || strings.Count(log, "decision=commit") != 2 {
		t.Error("four were to be ended, two of them committed")
	}
	heir.Do(func() {
		if s := heir.app.parts[0]; len(s.entries) != 1 || s.entries["committed"] == nil {
			t.Errorf("restored: %v", s.entries)
		}
	})
}

// A transaction of an earlier life of the producer hangs on a topic that nobody restores from. The next transaction there
// does not take it along.
func TestNextTransactionTakesNothingAlong(t *testing.T) {
	t.Parallel()
	d, w := droppingWorld(t)
	d.Begin(t, d.Group+"-a", w.cfg.Sent, "ghost")
	d.Drop(t, map[string]kgo.TransactionEndTry{d.Group + "-a": kgo.TryAbort})
	a := w.run("a")
	a.ready(t, 1)
	want := ids("x", 40)
	w.publish(want...)
	eventually(t, time.Minute, "every result to be there", func() bool { return len(d.Read(t, w.cfg.Sent)) >= len(want) })
	if got := d.Read(t, w.cfg.Sent); len(got) != len(want) || slices.Contains(got, "ghost") {
		t.Errorf("%d results, want %d; one of an aborted transaction among them: %v", len(got), len(want), slices.Contains(got, "ghost"))
	}
	if log := a.log.String(); strings.Count(log, healed) != 1 || !strings.Contains(log, "decision=abort") {
		t.Error("it was not ended as decided")
	}
}

// Offsets that were aborted do not become those of the group when the same producer commits others: what lies below them
// would be skipped. They stand for another group's here, in the same partition of the brokers' topic.
func TestNextTransactionTakesNoOffsetsAlong(t *testing.T) {
	t.Parallel()
	d, w := droppingWorld(t)
	offsets, err := w.adm.ListTopicsWithInternal(t.Context(), kafka.ConsumerOffsets)
	n := int32(len(offsets[kafka.ConsumerOffsets].Partitions))
	if err != nil || n == 0 {
		t.Fatalf("%d partitions, %v", n, err)
	}
	own, id := d.Group, d.Group+"-a"
	for i := 0; d.Group == own || kafka.GroupPartition(d.Group, n) != kafka.GroupPartition(own, n); i++ {
		d.Group = fmt.Sprint("other", i)
	}
	d.Begin(t, id, kafkatest.Near, "ghost")
	d.Offset(t, id, 7)
	d.Drop(t, map[string]kgo.TransactionEndTry{id: kgo.TryAbort})
	a := w.run("a")
	a.ready(t, 1)
	want := ids("x", 40)
	w.publish(want...)
	eventually(t, time.Minute, "every result to be there", func() bool { return len(d.Read(t, w.cfg.Sent)) >= len(want) })
	if at := d.Committed(t); at == 7 {
		t.Error("offsets of an aborted transaction were committed")
	}
	if log := a.log.String(); strings.Count(log, healed) != 1 {
		t.Error("it was not ended as decided")
	}
}

// requests counts those of one kind.
type requests struct {
	key int16
	n   atomic.Int64
}

func (c *requests) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, _ error) {
	if key == c.key {
		c.n.Add(1)
	}
}

// The brokers are asked about open transactions where there is a reason, and not at every tick.
func TestLooksForHangingTransactions(t *testing.T) {
	t.Parallel()
	server := kafkatest.Own(t, local.Options{Controller: true})
	w := newWorld(t, server, 1)
	looks := &requests{key: 61} // DescribeProducers
	m := w.run("a", func(_ *appConfig, sc *stream.Config) { sc.Client = append(sc.Client, kgo.WithHooks(looks)) })
	m.ready(t, 1)
	w.publish(ids("x", 500)...)
	w.finished(ids("x", 500), time.Minute)
	atStart, ticks := looks.n.Load(), m.Status().Commits
	// Two producers, each with the ledger and the results.
	if atStart > 8 || ticks < 30 {
		t.Errorf("%d looks in %d ticks", atStart, ticks)
	}
	server.Kill(t)
	server.Restart(t)
	w.publish(ids("y", 100)...)
	w.finished(append(ids("x", 500), ids("y", 100)...), time.Minute)
	if again := looks.n.Load(); again <= atStart {
		t.Errorf("%d looks before the broker was killed, %d after", atStart, again)
	}
}
