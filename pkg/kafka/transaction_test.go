package kafka_test

import (
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/proto/topic"
)

func TestOpenTransactions(t *testing.T) {
	s := kafkatest.Broker(t)
	a := newAdmin(t, s.Brokers()...)
	input := ensured(t, s, a, 2)[0].Name
	id := kafkatest.Name("txn")
	producer, err := kgo.NewClient(kgo.SeedBrokers(s.Brokers()...), kgo.TransactionalID(id), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	if err := producer.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := producer.ProduceSync(t.Context(), &kgo.Record{Topic: input, Partition: 1, Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	stable, err := a.StableOffsets(t.Context(), input)
	if err != nil || stable[1] != 0 {
		t.Errorf("stable offsets %v, %v; want 0 in partition 1", stable, err)
	}
	open, err := a.OpenTransactions(t.Context(), input, 0, 1)
	if err != nil || len(open) != 1 || open[0].ID != id || open[0].Partition != 1 || open[0].Start != 0 || time.Since(open[0].LastWrite) > time.Minute {
		t.Fatalf("open: %+v, %v", open, err)
	}
	if err := a.EndTransaction(t.Context(), open[0], kafka.Decision{ID: id}); err == nil {
		t.Error("a transaction that is under way was ended")
	}
	if err := producer.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) { // the markers are written afterwards
		open, err = a.OpenTransactions(t.Context(), input, 0, 1)
		if err == nil && len(open) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("open after the commit: %+v, %v", open, err)
		}
	}
	if latest, err := a.LatestTime(t.Context(), input); err != nil || time.Since(latest).Abs() > time.Minute {
		t.Errorf("latest time %s, %v", latest, err)
	}
	if latest, err := a.LatestTime(t.Context(), topic.DLQOf(input)); err != nil || !latest.IsZero() {
		t.Errorf("latest time of an empty topic %s, %v", latest, err)
	}
}

// A transaction that was to be committed, and one that was to be aborted, end so on a partition that had no leader when
// their coordinator wrote the markers: Kafka 4.3.1 takes such a partition for deleted.
func TestEndHangingTransactions(t *testing.T) {
	d := kafkatest.NewDroppedMarkers(t)
	a := newAdmin(t, d.Addr)
	for i, id := range []string{"committed", "aborted"} {
		d.Begin(t, id, topic.Requested, id)
		d.Offset(t, id, int64(i+1))
	}
	d.Drop(t, map[string]kgo.TransactionEndTry{"committed": kgo.TryCommit, "aborted": kgo.TryAbort})

	where := map[string]int{topic.Requested: 2, kafka.ConsumerOffsets: 2}
	for name, n := range where {
		open, err := a.HeldBack(t.Context(), name, d.Group)
		if err != nil || len(open) != n {
			t.Fatalf("held back on %s: %+v, %v; want %d", name, open, err, n)
		}
		for _, tx := range open {
			if !tx.Hangs() {
				t.Fatalf("%s waits for %s, which is over", tx, tx.ID)
			}
		}
		decided, err := a.Decisions(t.Context(), open)
		if err != nil {
			t.Fatal(err)
		}
		for i, tx := range open {
			want := map[string]string{"committed": "commit", "aborted": "abort"}
			if decided[i] == nil || want[decided[i].ID] != decided[i].String() {
				t.Fatalf("%s: decision %+v", tx, decided[i])
			}
			if err := a.EndTransaction(t.Context(), tx, *decided[i]); err != nil {
				t.Fatal(err)
			}
		}
		if open, err := a.HeldBack(t.Context(), name, d.Group); err != nil || len(open) > 0 {
			t.Errorf("still held back on %s: %+v, %v", name, open, err)
		}
	}
	if got := d.Read(t, topic.Requested); !slices.Equal(got, []string{"committed"}) {
		t.Errorf("read-committed readers see %q", got)
	}
	if at := d.Committed(t); at != 1 {
		t.Errorf("the group's offset is %d, want 1, which the committed one committed", at)
	}
}

// A producer whose transaction hangs, and who has begun the next, is not about to end the one that hangs.
func TestHangsBesideTheNextTransaction(t *testing.T) {
	d := kafkatest.NewDroppedMarkers(t)
	a := newAdmin(t, d.Addr)
	d.Begin(t, "a", topic.Requested, "1")
	d.Drop(t, map[string]kgo.TransactionEndTry{"a": kgo.TryCommit})
	d.Begin(t, "a", kafkatest.Near, "2")
	open, err := a.HeldBack(t.Context(), topic.Requested)
	if err != nil || len(open) != 1 || !open[0].Hangs() {
		t.Errorf("%+v, %v: want one that hangs", open, err)
	}
}
