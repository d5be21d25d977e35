package stream_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/stream"
)

// Requests whose ledger entry is too large for the ledger are found among many others by bisection: each is handed
// back and becomes a dead letter, everything else goes through.
func TestPoisonInput(t *testing.T) {
	t.Parallel()
	server := kafkatest.Real(t, "the broker's limits")
	w := newWorld(t, server, 2)
	w.cfg.Ledger = server.Topic(t, "small", 2, append(ledgerSettings, "max.message.bytes=60000")...)
	good := ids("a", 3000)
	bad := map[string]bool{"bad-100": true, "bad-101": true, "bad-1777": true}
	var rs []*kgo.Record
	for i, id := range good {
		rs = append(rs, &kgo.Record{Topic: w.cfg.Input, Partition: int32(i % 2), Key: []byte(id), Value: []byte("x")})
		if bad := fmt.Sprintf("bad-%d", i); i == 100 || i == 101 || i == 1777 {
			rs = append(rs, &kgo.Record{Topic: w.cfg.Input, Partition: int32(i % 2), Key: []byte(bad), Value: incompressible(70_000)})
		}
	}
	w.write(rs...)
	m := w.start("one")
	w.finished(good, 60*time.Second)
	w.caughtUp(10 * time.Second)
	m.stop()
	w.check(good, 0)
	letters := map[string]int{}
	for _, r := range w.read(w.cfg.DLQ) {
		letters[string(r.Key)]++
	}
	if len(letters) != len(bad) {
		t.Errorf("%d dead letters, want %d: %v", len(letters), len(bad), letters)
	}
	for id, n := range letters {
		if !bad[id] || n != 1 {
			t.Errorf("%d dead letters of %s", n, id)
		}
	}
	for id := range bad {
		if w.provider.calls(id) != 0 {
			t.Errorf("%s was called", id)
		}
	}
}

// A record above the client's own limit (1 MB for a batch) is refused before it leaves, and found all the same.
func TestPoisonTooLargeForTheClient(t *testing.T) {
	t.Parallel()
	server := kafkatest.Real(t, "the broker's limits")
	w := newWorld(t, server, 1)
	w.cfg.Input = server.Topic(t, "wide", 1, "max.message.bytes=3000000")
	big := w.server.Client(t, kgo.ProducerBatchMaxBytes(3_000_000), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := big.ProduceSync(t.Context(), &kgo.Record{Topic: w.cfg.Input, Key: []byte("bad-0"), Value: incompressible(1_500_000)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	good := ids("a", 100)
	w.publish(good...)
	m := w.start("one")
	w.finished(good, 30*time.Second)
	m.stop()
	w.check(good, 0)
	if n := m.count("dead letter"); n != 1 {
		t.Errorf("%d dead letters, want 1", n)
	}
}

// The culprit may be what Work writes: input that flows meanwhile must not hide it.
func TestPoisonWork(t *testing.T) {
	t.Parallel()
	server := kafkatest.Real(t, "the broker's limits")
	w := newWorld(t, server, 2)
	w.cfg.Sent = server.Topic(t, "small", 2, "max.message.bytes=20000")
	w.cfg.BigResultOf = "a-33"
	good := ids("a", 2000)
	w.publish(good...)
	m := w.start("one")
	w.finished(good, 60*time.Second)
	m.stop()
	w.check(good, 0)
	if n := m.count("small result"); n != 1 {
		t.Errorf("%d results were made smaller, want 1", n)
	}
}

// When what is written in place of a refused record is refused too, the partition stops and says so; nothing of it is
// lost, and the others work on.
func TestPoisonTwice(t *testing.T) {
	t.Parallel()
	server := kafkatest.Real(t, "the broker's limits")
	w := newWorld(t, server, 2)
	w.cfg.Ledger = server.Topic(t, "small", 2, append(ledgerSettings, "max.message.bytes=60000")...)
	w.cfg.Stubborn = true
	w.write(&kgo.Record{Topic: w.cfg.Input, Partition: 0, Key: []byte("bad-0"), Value: incompressible(70_000)})
	m := w.run("one")
	mentions(t, m.stopped(t, 0), "MESSAGE_TOO_LARGE", "@0", "in its place")
	good := []string{"a-1", "a-3", "a-5"}
	w.publish(good...)
	w.finished(good, 20*time.Second)
	if err := m.stop(t); err != nil {
		t.Fatal(err)
	}
	w.check(good, 0)
	// A program that knows better takes it up where it stood.
	w.cfg.Stubborn = false
	w.run("two")
	eventually(t, 20*time.Second, "the dead letter is written", func() bool { return len(w.read(w.cfg.DLQ)) == 1 })
}

// incompressible makes n bytes that no codec makes smaller.
func incompressible(n int) []byte {
	b := make([]byte, n)
	x := uint64(88172645463325252)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[x>>40&63]
	}
	return b
}

// Two living processes with one InstanceID: one of them ends and says why, the other goes on.
func TestTwins(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "fencing"), 4)
	w.provider.slow(5 * time.Millisecond)
	a, b := w.start("twin"), w.start("twin")
	var want []string
	ended := func(m *member) bool {
		select {
		case <-m.done:
			return true
		default:
			return false
		}
	}
	for i := 0; !ended(a) && !ended(b); i++ {
		if i > 600 {
			t.Fatal("both still live")
		}
		more := ids(fmt.Sprintf("%c%c", 'a'+i/26, 'a'+i%26), 8)
		want = append(want, more...)
		w.publish(more...)
		time.Sleep(100 * time.Millisecond)
	}
	loser, winner := a, b
	if ended(b) {
		loser, winner = b, a
	}
	said := ""
	for _, e := range loser.events() {
		if e.Event == "failed" {
			said = e.Text
		}
	}
	if !strings.Contains(said, `INSTANCE_ID "twin"`) {
		t.Errorf("the loser said %q", said)
	}
	w.finished(want, 40*time.Second)
	winner.stop()
	w.check(want, len(want))
}

// A transaction of another program that holds up the ledger is reported, never fenced.
func TestForeignTransactionIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "DescribeProducers"), 1)
	foreign := w.server.Client(t, kgo.TransactionalID(kafkatest.Name("foreign")), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := foreign.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := foreign.ProduceSync(t.Context(), &kgo.Record{Topic: w.cfg.Ledger, Key: []byte("x"), Value: []byte(`{"id":"x","state":"SENT"}`)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	m := w.run("one", func(_ *appConfig, sc *stream.Config) { stream.HeldUpFor(sc, 2*time.Second) })
	eventually(t, 10*time.Second, "it is reported", func() bool {
		return strings.Contains(m.log.String(), "a transaction of another program holds up a partition")
	})
	m.heldUp(t, "an open transaction on ledger topic")
	time.Sleep(time.Second)
	if strings.Contains(m.log.String(), string(stream.StepTakeover)) {
		t.Error("it was ended")
	}
	if m.Status().Partitions[0].Ready {
		t.Error("the partition works though its ledger was not read to the high watermark")
	}
	if err := foreign.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Errorf("the foreign program was fenced: %v", err)
	}
	m.ready(t, 1)
	m.Do(func() {
		if m.app.parts[0].entries["x"] == nil {
			t.Error("what the transaction wrote was not restored")
		}
	})
}

// heldUp waits until the only partition is told to be not restored for the reason why, in Status and once in the log.
func (l *inProcess) heldUp(t *testing.T, why string) {
	t.Helper()
	eventually(t, 15*time.Second, "Status tells why it is not restored", func() bool {
		ps := l.Status().Partitions
		return len(ps) == 1 && ps[0].Err != nil && strings.Contains(ps[0].Err.Error(), why)
	})
	eventually(t, 5*time.Second, "the log tells", func() bool {
		return strings.Count(l.log.String(), "a partition cannot be restored") == 1
	})
}

// While the group's offsets are not stable nothing is restored; that is told, and passes.
func TestUnstableOffsetsAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "transactional offsets"), 1)
	txnID := kafkatest.Name("foreign")
	foreign := w.server.Client(t, kgo.TransactionalID(txnID), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := foreign.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := foreign.ProduceSync(t.Context(), &kgo.Record{Topic: w.cfg.DLQ, Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	id, epoch, err := foreign.ProducerID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch, req.Generation = txnID, w.cfg.Group, id, epoch, -1
	req.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: w.cfg.Input, Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{{LeaderEpoch: -1}}}}
	resp, err := req.RequestWith(t.Context(), foreign)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
	}
	if err != nil {
		t.Fatal(err)
	}
	m := w.run("one", func(_ *appConfig, sc *stream.Config) { stream.HeldUpFor(sc, 2*time.Second) })
	m.heldUp(t, "the group's offsets are not stable")
	if err := foreign.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Errorf("the foreign program was fenced: %v", err)
	}
	m.ready(t, 1)
	if err := m.Status().Partitions[0].Err; err != nil {
		t.Errorf("restored, and yet: %v", err)
	}
}
