package control

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	controlv1 "github.com/znshub/znshub/proto/control/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

// rig is Rules on a topic of its own, and a foreign client that writes to it.
type rig struct {
	t       *testing.T
	topic   string
	client  *kgo.Client
	opts    []kgo.Opt
	wakes   atomic.Int64
	invalid atomic.Int64
}

func newRig(t *testing.T) *rig {
	broker := kafkatest.Broker(t)
	w := &rig{t: t, opts: []kgo.Opt{kgo.SeedBrokers(broker.Brokers()...)}}
	w.topic = broker.Topic(t, "control", 3, "cleanup.policy=compact", "message.timestamp.type=LogAppendTime")
	var err error
	if w.client, err = kgo.NewClient(append(w.opts, kgo.DefaultProduceTopic(w.topic))...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.client.Close)
	return w
}

// run starts Rules and stops them with the test.
func (w *rig) run() *Rules {
	r := New(Config{Client: w.opts, Topic: w.topic, Wake: func() { w.wakes.Add(1) }, Invalid: func() { w.invalid.Add(1) }, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	w.t.Cleanup(func() { cancel(); <-done })
	return r
}

func (w *rig) produce(key string, value []byte) {
	w.t.Helper()
	if err := w.client.ProduceSync(w.t.Context(), &kgo.Record{Key: []byte(key), Value: value}).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *rig) give(c *controlv1.Command) {
	w.t.Helper()
	js, err := protojson.Marshal(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.produce(Key(c), js)
}

func (w *rig) eventually(what string, within time.Duration, ok func() bool) {
	w.t.Helper()
	for began := time.Now(); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > within {
			w.t.Fatalf("not within %s: %s", within, what)
		}
	}
}

func TestFollow(t *testing.T) {
	w := newRig(t)
	w.give(command(holdIt, Campaign("tet")))
	w.produce("campaign/garbage", []byte("hold it!"))
	w.produce("campaign/garbage", nil)

	r := w.run()
	w.eventually("known", 20*time.Second, func() bool { return r.View().Known() })
	if err := r.Ready(time.Now()); err != nil {
		t.Errorf("known, but not ready: %v", err)
	}
	if _, closed := r.Closed(time.Now(), flow); !closed {
		t.Error("a rule that was there before the start is not obeyed")
	}
	if n := w.invalid.Load(); n != 1 {
		t.Errorf("%d records were skipped, want 1", n)
	}

	// Within a second, garbage or not.
	w.produce("all", []byte(`{"action":"ACTION_HOLD"}`))
	wakes := w.wakes.Load()
	w.give(command(holdIt, OA("1")))
	w.eventually("a new rule", time.Second, func() bool {
		_, closed := r.Closed(time.Now(), limit.Flow{OA: "1"})
		return closed
	})
	if w.wakes.Load() == wakes {
		t.Error("nobody was woken")
	}
	if _, closed := r.Closed(time.Now(), limit.Flow{OA: "2"}); closed {
		t.Error("garbage holds everything")
	}
	w.give(command(release, Campaign("tet")))
	w.eventually("a release", time.Second, func() bool { _, closed := r.Closed(time.Now(), flow); return !closed })

	// One that starts now knows the same.
	second := w.run()
	w.eventually("known to a second", 20*time.Second, func() bool { return second.View().Known() })
	if a, b := commandIDs(r.View().Rules()), commandIDs(second.View().Rules()); len(b) != 1 || a[0] != b[0] {
		t.Errorf("one has %v, the other %v", a, b)
	}
	if !r.View().Position().Equal(second.View().Position()) {
		t.Errorf("positions %+v and %+v", r.View().Position(), second.View().Position())
	}
}

func TestFollowATopicMadeAnew(t *testing.T) {
	w := newRig(t)
	w.give(command(holdIt, Campaign("tet")))
	r := w.run()
	w.eventually("known", 20*time.Second, func() bool { return r.View().Known() })
	first := r.View().Position()

	admin := kadm.NewClient(w.client)
	if _, err := admin.DeleteTopics(t.Context(), w.topic); err != nil {
		t.Fatal(err)
	}
	w.eventually("created again", 20*time.Second, func() bool {
		compact := "compact"
		resp, err := admin.CreateTopic(t.Context(), 3, 1, map[string]*string{"cleanup.policy": &compact}, w.topic)
		return err == nil && resp.Err == nil
	})
	w.eventually("the new topic is known", 60*time.Second, func() bool {
		return r.View().Known() && r.View().Position().TopicID != first.TopicID
	})
	if _, closed := r.Closed(time.Now(), flow); closed {
		t.Error("a rule of the old topic is obeyed still, and would not be after a restart")
	}
}

// held is a reader whose end is not reached: a transaction is open, or the broker is away.
type held struct {
	records []kafka.Record
	passed  atomic.Bool
}

func (h *held) Poll(ctx context.Context) ([]kafka.Record, error) {
	if records := h.records; records != nil {
		h.records = nil
		return records, nil
	}
	<-ctx.Done()
	return nil, ctx.Err()
}
func (h *held) TopicID() [16]byte          { return [16]byte{1} }
func (h *held) Positions() map[int32]int64 { return map[int32]int64{0: 1} }
func (h *held) Mark(context.Context) error { return nil }
func (h *held) Passed() bool               { return h.passed.Load() }

func TestNothingIsKnownBeforeTheEndIsReached(t *testing.T) {
	src := &held{records: []kafka.Record{record(t, command(holdIt, OA("579")), 0, noon)}}
	r := New(Config{Wake: func() {}, Invalid: func() {}, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.follow(ctx, src) }()
	defer func() { cancel(); <-done }()
	for len(r.View().Position().Next) == 0 {
		time.Sleep(time.Millisecond)
	}
	if _, closed := r.Closed(time.Now(), limit.Flow{OA: "other"}); !closed || r.Ready(time.Now()) == nil {
		t.Error("flows are open before everything was read")
	}
	src.passed.Store(true)
	for !r.View().Known() {
		time.Sleep(time.Millisecond)
	}
	if _, closed := r.Closed(time.Now(), limit.Flow{OA: "other"}); closed || r.Ready(time.Now()) != nil {
		t.Error("not open after everything was read")
	}
	if err := r.Ready(time.Now().Add(time.Minute)); err == nil {
		t.Error("ready although nothing could be read for a minute")
	}
}
