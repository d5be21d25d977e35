package status

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/proto/topic"
)

var testTopics = Topics{
	Unresolved: topic.Unresolved, Failed: topic.Failed, Sent: topic.Sent, Delivered: topic.Delivered, Overdue: topic.Overdue, Status: topic.Status,
}

// cluster is a fake Kafka with the hub's topics of two partitions.
type cluster struct {
	t      *testing.T
	client []kgo.Opt
	writer *kafka.Writer
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	fake, err := kfake.NewCluster(kafkatest.FakeOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	c := &cluster{t: t, client: []kgo.Opt{kgo.SeedBrokers(fake.ListenAddrs()...)}}
	admin, err := kafka.NewAdmin(c.client...)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := admin.Ensure(t.Context(), topic.Table(), 2, 1); err != nil {
		t.Fatal(err)
	}
	if c.writer, err = kafka.NewWriter(c.client...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.writer.Close)
	return c
}

// idIn returns a new id whose home is partition p.
func idIn(p int32) uuid.UUID {
	for {
		if id := uuid.New(); kafka.Murmur2Partition([]byte(id.String()), 2) == p {
			return id
		}
	}
}

// sent writes zns.sent of the ids.
func (c *cluster) sent(ids ...uuid.UUID) {
	c.t.Helper()
	records := make([]kafka.Record, len(ids))
	for i, id := range ids {
		m := sent(1, 10)
		m.EventId, m.NotificationId = id.String()+"/sent/1", id.String()
		var err error
		if records[i], err = kafka.NewRecord(topic.Sent, []byte(id.String()), kafka.Event{ID: m.EventId, Source: "/s", Time: time.Now(), Data: m}, "", ""); err != nil {
			c.t.Fatal(err)
		}
	}
	if err := c.writer.Write(c.t.Context(), records...); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) facts(most int) *facts {
	f := newFacts(c.client, testTopics, most, func() int32 { return 2 }, func() {}, func(Result) {}, slog.New(slog.DiscardHandler))
	f.stuckAfter = time.Second
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { f.run(ctx) })
	c.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return f
}

// taken takes n facts of a partition, in order, and returns their offsets.
func taken(t *testing.T, f *facts, p int32, n int) []int64 {
	t.Helper()
	var offsets []int64
	for deadline := time.Now().Add(30 * time.Second); len(offsets) < n; {
		queue, _ := f.peek(p, 7)
		for _, fact := range queue {
			offsets = append(offsets, fact.Offset)
		}
		f.done(p, len(queue))
		if len(queue) == 0 {
			if time.Now().After(deadline) {
				t.Fatalf("partition %d: %d of %d facts", p, len(offsets), n)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return offsets
}

func inOrder(offsets []int64) error {
	for i, at := range offsets {
		if at != int64(i) {
			return fmt.Errorf("fact %d has offset %d", i, at)
		}
	}
	return nil
}

// TestStuckPartition: a partition whose facts nobody takes fills the queues and holds up the other one for a moment only;
// when somebody takes them again, none is missing.
func TestStuckPartition(t *testing.T) {
	c := newCluster(t)
	const n = 60
	write := func(facts int) {
		for range facts {
			c.sent(idIn(0), idIn(1))
		}
	}
	write(n / 3)
	f := c.facts(20_000)
	f.assign(0, unread())
	f.assign(1, unread())
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, bytes := f.queued(); bytes > 20_000 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the queues do not fill")
		}
	}
	write(n - n/3) // there is no room for these
	if err := inOrder(taken(t, f, 1, n)); err != nil {
		t.Errorf("the partition that works: %v", err)
	}
	f.mu.Lock()
	left := f.parts[0].left
	f.mu.Unlock()
	if !left {
		t.Error("the test met no stuck partition")
	}
	if err := inOrder(taken(t, f, 0, n)); err != nil {
		t.Errorf("the partition that was stuck: %v", err)
	}
	if _, bytes := f.queued(); bytes != 0 {
		t.Errorf("%d bytes are counted in empty queues", bytes)
	}
}

// TestLeftOutMeanwhile: a partition whose queue is given up between looking at it and the end of the transaction is read
// again from there.
func TestLeftOutMeanwhile(t *testing.T) {
	c := newCluster(t)
	const n = 20
	for range n {
		c.sent(idIn(0))
	}
	f := c.facts(1 << 20)
	f.assign(0, unread())
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if queue, more := f.peek(0, n/2); len(queue) == n/2 && more {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the queue does not fill")
		}
	}
	f.mu.Lock()
	f.stuckAfter = 0
	f.leaveOut()
	f.mu.Unlock()
	f.done(0, n/2)
	if err := inOrder(taken(t, f, 0, n)); err != nil {
		t.Error(err)
	}
}

// TestQueuesAreBounded: reading waits while the queues are full, and goes on when they are not.
func TestQueuesAreBounded(t *testing.T) {
	c := newCluster(t)
	const n = 300
	write := func(facts int) {
		for range facts {
			c.sent(idIn(0), idIn(1))
		}
	}
	write(n / 3)
	f := c.facts(50_000)
	stuckAfter := func(d time.Duration) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.stuckAfter = d
	}
	stuckAfter(time.Hour)
	f.assign(0, unread())
	f.assign(1, unread())
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, bytes := f.queued(); bytes >= 50_000 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the queues do not fill")
		}
	}
	write(n - n/3)
	time.Sleep(2 * time.Second)
	if queued, bytes := f.queued(); queued > n { // what was there, and one fetch more at most
		t.Errorf("%d facts of %d bytes are queued", queued, bytes)
	}
	stuckAfter(time.Second) // or the one that is read later would hold up the other
	for p := range int32(2) {
		if err := inOrder(taken(t, f, p, n)); err != nil {
			t.Errorf("partition %d: %v", p, err)
		}
	}
}

// TestReassign: a partition that goes and comes back is read on from where its new owner says.
func TestReassign(t *testing.T) {
	c := newCluster(t)
	ids := make([]uuid.UUID, 40)
	for i := range ids {
		ids[i] = idIn(0)
	}
	c.sent(ids...)
	f := c.facts(1 << 20)
	f.assign(0, unread())
	if err := inOrder(taken(t, f, 0, 40)); err != nil {
		t.Fatal(err)
	}
	f.drop(0)
	at := unread()
	at.next[KindSent] = 25
	f.assign(0, at)
	if offsets := taken(t, f, 0, 15); offsets[0] != 25 || offsets[14] != 39 {
		t.Errorf("offsets %v", offsets)
	}
	// A position in a topic that is not there any more is worth nothing.
	f.drop(0)
	at.ids[KindSent] = [16]byte{1}
	f.assign(0, at)
	if err := inOrder(taken(t, f, 0, 40)); err != nil {
		t.Error(err)
	}
}
