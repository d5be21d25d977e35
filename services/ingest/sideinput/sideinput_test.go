package sideinput_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/services/ingest/sideinput"
)

// user keeps what Follow takes.
type user struct {
	t     *testing.T
	b     *kafkatest.Server
	topic string
	room  func(context.Context) bool

	mu       sync.Mutex
	at       map[int32]sideinput.Position
	changed  chan struct{}
	sessions int
	asked    int
	took     []string
	caughtUp time.Time
}

func newUser(t *testing.T, partitions int32) *user {
	t.Helper()
	b := kafkatest.Broker(t)
	return &user{t: t, b: b, topic: b.Topic(t, "side", partitions), at: map[int32]sideinput.Position{}, changed: make(chan struct{})}
}

// follow runs Follow until the test ends.
func (u *user) follow() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	u.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	cfg := sideinput.Config{
		Client: []kgo.Opt{kgo.SeedBrokers(u.b.Brokers()...)}, Topic: u.topic, Since: time.Hour, Log: slog.New(slog.NewTextHandler(u.t.Output(), nil)),
	}
	running.Go(func() { sideinput.Follow(ctx, cfg, u.session) })
}

func (u *user) session() sideinput.Session {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sessions++
	return sideinput.Session{
		From: maps.Clone(u.at), Changed: u.changed, Room: u.room,
		Take: func(records []kafka.Record, at map[int32]sideinput.Position) {
			u.mu.Lock()
			defer u.mu.Unlock()
			for _, r := range records {
				u.took = append(u.took, string(r.Value))
			}
			for p := range at {
				if _, ok := u.at[p]; ok {
					u.at[p] = at[p]
				}
			}
		},
		Awaited: func() bool {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.asked++
			return true
		},
		CaughtUp: func(at time.Time) {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.caughtUp = at
		},
	}
}

// assign changes the assignment.
func (u *user) assign(change func(at map[int32]sideinput.Position)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	change(u.at)
	close(u.changed)
	u.changed = make(chan struct{})
}

// write appends to a partition, in the transaction of tx when there is one.
func (u *user) write(tx *kgo.Client, p int32, values ...string) {
	u.t.Helper()
	if tx == nil {
		tx = u.b.Client(u.t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	}
	ctx, cancel := context.WithTimeout(u.t.Context(), 30*time.Second)
	defer cancel()
	for _, v := range values {
		if err := tx.ProduceSync(ctx, &kgo.Record{Topic: u.topic, Partition: p, Value: []byte(v)}).FirstErr(); err != nil {
			u.t.Fatal(err)
		}
	}
}

// eventually waits until ok, which is called with mu held.
func (u *user) eventually(what string, ok func() bool) {
	u.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		u.mu.Lock()
		done := ok()
		state := fmt.Sprintf("took %q up to %v, caught up at %v, %d sessions", u.took, u.at, u.caughtUp, u.sessions)
		u.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(deadline) {
			u.t.Fatalf("not in 20 s: %s; %s", what, state)
		}
	}
}

// has reports whether exactly these values were taken, in whatever order of partitions. mu is held.
func (u *user) has(values ...string) func() bool {
	return func() bool {
		return slices.Equal(slices.Sorted(slices.Values(u.took)), values)
	}
}

func TestFollow(t *testing.T) {
	u := newUser(t, 3)
	u.write(nil, 0, "0a", "0b")
	u.write(nil, 1, "1a", "1b")
	u.write(nil, 2, "2a", "2b")
	u.follow()
	u.assign(func(at map[int32]sideinput.Position) {
		at[0], at[1] = sideinput.Position{Next: -1}, sideinput.Position{Next: 1}
	})
	u.eventually("partition 0 from the window's start, 1 from where it was left", u.has("0a", "0b", "1b"))
	u.assign(func(at map[int32]sideinput.Position) {
		delete(at, 0)
		at[2] = sideinput.Position{Next: -1}
	})
	u.eventually("partition 2, which came", u.has("0a", "0b", "1b", "2a", "2b"))
	u.write(nil, 0, "0c")
	u.write(nil, 1, "1c")
	written := time.Now()
	u.eventually("a later moment", func() bool { return u.caughtUp.After(written) })
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.has("0a", "0b", "1b", "1c", "2a", "2b")() {
		t.Errorf("caught up having taken %q", u.took)
	}
}

// A position of an earlier topic is worth nothing.
func TestPositionOfAnEarlierTopic(t *testing.T) {
	u := newUser(t, 2)
	u.write(nil, 0, "0a", "0b")
	u.write(nil, 1, "1a", "1b")
	u.follow()
	u.assign(func(at map[int32]sideinput.Position) {
		at[0], at[1] = sideinput.Position{Next: 2, Topic: [16]byte{1}}, sideinput.Position{Next: 1}
	})
	u.eventually("partition 0 from its start", u.has("0a", "0b", "1b"))
}

// TestMadeAnewWhileAwaited: an end of the log that is waited for, of a topic that goes away, does not hold CaughtUp back
// for ever.
func TestMadeAnewWhileAwaited(t *testing.T) {
	u := newUser(t, 1)
	u.write(nil, 0, "a")
	tx := u.b.Client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID(kafkatest.Name("tx")))
	if err := tx.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	u.write(tx, 0, "b") // and so the log's end is not reached
	polled := make(chan struct{}, 1)
	polled <- struct{}{}
	madeAnew := make(chan struct{})
	u.room = func(ctx context.Context) bool { // nobody reads while there is no topic: that would end the session
		select {
		case <-polled:
			return true
		case <-madeAnew:
			return true
		case <-ctx.Done():
			return false
		}
	}
	u.at[0] = sideinput.Position{Next: -1}
	u.follow()
	u.eventually("the first record", func() bool { return len(u.took) == 1 && u.asked > 0 })
	time.Sleep(500 * time.Millisecond) // the end of the log is asked for
	u.b.DeleteTopic(t, u.topic)
	u.b.CreateTopic(t, u.topic, 1)
	u.write(nil, 0, "c", "d", "e")
	written := time.Now()
	close(madeAnew)
	u.eventually("caught up with the new topic", func() bool { return u.caughtUp.After(written) })
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.has("a", "c", "d", "e")() {
		t.Errorf("took %q", u.took)
	}
	if u.sessions != 1 {
		t.Errorf("%d sessions: the test wants the one that waited", u.sessions)
	}
}
