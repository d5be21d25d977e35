package translate

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/stream"
	"github.com/znshub/znshub/pkg/trackingid"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/ingest/sends"
)

func TestMain(m *testing.M) { os.Exit(m.Run()) }

// fakeSends says what a test tells it.
type fakeSends struct {
	mu       sync.Mutex
	known    map[uuid.UUID]*sends.Send
	watched  map[uuid.UUID]bool
	found    []*sends.Send
	caughtUp time.Time
}

func (f *fakeSends) Assign(int32) {}
func (f *fakeSends) Drop(int32)   {}

func (f *fakeSends) Find(_ int32, id uuid.UUID) []*sends.Send {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.known[id]; s != nil {
		return []*sends.Send{s}
	}
	return nil
}

func (f *fakeSends) Watch(_ int32, id uuid.UUID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watched == nil {
		f.watched = map[uuid.UUID]bool{}
	}
	f.watched[id] = true
}

func (f *fakeSends) Unwatch(_ int32, id uuid.UUID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watched, id)
}

func (f *fakeSends) Take(p int32) (taken []*sends.Send) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var left []*sends.Send
	for _, s := range f.found {
		if kafka.Murmur2Partition([]byte(s.Notification.String()), partitions) == p {
			taken = append(taken, s)
		} else {
			left = append(left, s)
		}
	}
	f.found = left
	return taken
}

func (f *fakeSends) CaughtUp(int32) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.caughtUp
}

func (f *fakeSends) isWatched(id uuid.UUID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.watched[id]
}

// rig is a Translator under an engine on a broker, with side inputs that the test controls.
type rig struct {
	t       *testing.T
	server  *kafkatest.Server
	writer  *kafka.Writer
	sends   *fakeSends
	cfg     Config
	input   string
	ledger  string
	group   string
	engine  *stream.Engine
	stop    func()
	mu      sync.Mutex
	results map[Result]int
}

const partitions = 2

func newRig(t *testing.T, change ...func(*rig)) *rig {
	t.Helper()
	server := kafkatest.Broker(t)
	r := &rig{t: t, server: server, sends: &fakeSends{known: map[uuid.UUID]*sends.Send{}}, results: map[Result]int{}}
	// The broker would set the time of a callback; here the test does.
	r.input, r.group = server.Topic(t, "callback", partitions), kafkatest.Name("translate")
	r.ledger = kafkatest.Name("ledger")
	spec, _ := topic.Find(topic.CallbackLedger)
	spec.Name = r.ledger
	admin, err := kafka.NewAdmin(r.client()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	if _, err := admin.Ensure(t.Context(), []topic.Spec{spec}, partitions, 1); err != nil {
		t.Fatal(err)
	}
	if r.writer, err = kafka.NewWriter(r.client()...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.writer.Close)
	r.cfg = Config{
		Cluster: "test", Source: "/znshub/test/ingest", Topic: server.Topic(t, "delivered", partitions, "max.message.bytes=20000"),
		JoinWait: time.Hour, DedupeWindow: 7 * 24 * time.Hour, Sends: r.sends, Log: slog.New(slog.DiscardHandler),
		Counted: func(_ string, res Result) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.results[res]++
		},
	}
	for _, f := range change {
		f(r)
	}
	r.start()
	return r
}

func (r *rig) client() []kgo.Opt { return []kgo.Opt{kgo.SeedBrokers(r.server.Brokers()...)} }

func (r *rig) start() {
	r.t.Helper()
	var err error
	r.engine, err = stream.New(stream.Config{
		Client: r.client(), Group: r.group, Input: r.input, Ledger: r.ledger, InstanceID: kafkatest.Name("i"), Handler: New(r.cfg),
		Log: slog.New(slog.NewTextHandler(r.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.engine.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("engine: %v", err)
		}
	})
	r.t.Cleanup(r.stop)
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("not in 30 s: %s; results %v", what, r.results)
		}
	}
}

func (r *rig) counted(want Result, n int) {
	r.t.Helper()
	r.eventually(fmt.Sprintf("%d %s", n, want), func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.results[want] == n
	})
}

func body(id uuid.UUID, msgID string) []byte {
	return fmt.Appendf(nil, `{"event_name":"user_received_message","sender":{"id":"9"},"recipient":{"id":"84123456789"},"message":{"delivery_time":"1787209817000","msg_id":%q,"tracking_id":%q},"timestamp":"1"}`,
		msgID, trackingid.Encode("test", id, trace.TraceID(id), false, 1))
}

// callback writes a raw callback; partition -1 is its home.
func (r *rig) callback(id uuid.UUID, partition int32, at time.Time) {
	r.t.Helper()
	rec := kafka.Record{Topic: r.input, Partition: partition, Key: []byte(id.String()), Value: body(id, "m-"+id.String()[:8]), Time: at}
	r.write(rec)
}

func (r *rig) write(rec kafka.Record) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	if err := r.writer.Write(ctx, rec); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) read(name string) []kafka.Record {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	var all []kafka.Record
	if err := kafka.ReadToEnd(ctx, kafka.ReaderConfig{Client: r.client(), Topic: name}, func(rec kafka.Record) error {
		all = append(all, rec)
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
	return all
}

func (r *rig) delivered(n int) []*znsv1.Delivered {
	r.t.Helper()
	records := r.read(r.cfg.Topic)
	if len(records) != n {
		r.t.Fatalf("%d events, want %d", len(records), n)
	}
	var all []*znsv1.Delivered
	for _, rec := range records {
		d := &znsv1.Delivered{}
		if err := kafka.Decode(rec, d); err != nil {
			r.t.Fatal(err)
		}
		all = append(all, d)
	}
	return all
}

func send(id uuid.UUID, labels map[string]string) *sends.Send {
	return &sends.Send{Notification: id, Attempt: 1, Event: &znsv1.Sent{NotificationId: id.String(), TemplateId: "t", Labels: labels}, SentTime: timestamppb.Now()}
}

// A receipt whose time is up is not published before the side inputs are known to hold nothing for it.
func TestWaitsForTheSideInputs(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.JoinWait = 300 * time.Millisecond })
	id := uuid.New()
	r.callback(id, -1, time.Now())
	r.counted(Waiting, 1)
	r.eventually("watched", func() bool { return r.sends.isWatched(id) })
	time.Sleep(1500 * time.Millisecond)
	r.delivered(0)
	r.sends.mu.Lock()
	r.sends.caughtUp = time.Now()
	r.sends.mu.Unlock()
	r.counted(Unjoined, 1)
	r.delivered(1)
	r.eventually("no longer watched", func() bool { return !r.sends.isWatched(id) })
}

// An outcome that was found at the last moment is taken although the receipt's time is up.
func TestFoundAtTheLastMoment(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.JoinWait = 300 * time.Millisecond })
	id := uuid.New()
	r.callback(id, -1, time.Now())
	r.counted(Waiting, 1)
	time.Sleep(500 * time.Millisecond)
	r.sends.mu.Lock()
	r.sends.found, r.sends.caughtUp = []*sends.Send{send(id, nil)}, time.Now()
	r.sends.mu.Unlock()
	r.engine.Wake()
	r.counted(Joined, 1)
	if d := r.delivered(1)[0]; d.GetTemplateId() != "t" {
		t.Errorf("event %v", d)
	}
}

// A callback that another partitioner put elsewhere is moved home once, and translated there.
func TestMovesMisplacedCallbacks(t *testing.T) {
	r := newRig(t)
	for range 5 {
		id := uuid.New()
		r.sends.mu.Lock()
		r.sends.known[id] = send(id, nil)
		r.sends.mu.Unlock()
		home := kafka.Murmur2Partition([]byte(id.String()), partitions)
		r.callback(id, home, time.Now())
		r.callback(id, 1-home, time.Now()) // a repetition in the wrong place
	}
	r.counted(Moved, 5)
	r.counted(Duplicate, 5)
	r.counted(Joined, 5)
	r.delivered(5)
	n := 0
	for _, rec := range r.read(r.input) {
		if from, ok := rec.Header("zns-moved"); ok {
			n++
			if !strings.HasPrefix(string(from), fmt.Sprintf("%d@", 1-rec.Partition)) || rec.Partition != kafka.Murmur2Partition(rec.Key, partitions) {
				t.Errorf("moved from %s to %d", from, rec.Partition)
			}
		}
	}
	if n != 5 {
		t.Errorf("%d records moved", n)
	}
}

// Partitions that were added to the topic have no ledger: a callback on one of them is moved home, also when it claims
// that it was moved there.
func TestMovesFromBeyondTheLedger(t *testing.T) {
	r := newRig(t, func(r *rig) { r.input = r.server.Topic(t, "wider", partitions+1) })
	id := uuid.New()
	r.write(kafka.Record{
		Topic: r.input, Partition: partitions, Key: []byte(id.String()), Value: body(id, "m"), Time: time.Now(),
		Headers: []kafka.Header{{Key: headerMoved, Value: []byte("0@0")}},
	})
	r.counted(Moved, 1)
	r.counted(Waiting, 1)
}

// A callback that is older than the dedupe window stays raw: nothing remembers whether it was published.
func TestOldCallbacks(t *testing.T) {
	r := newRig(t)
	id := uuid.New()
	r.callback(id, -1, time.Now().Add(-r.cfg.DedupeWindow-time.Minute))
	r.counted(Old, 1)
	r.delivered(0)
}

// An event that the broker refuses because of what the send brings into it is published without that.
func TestEventTooLarge(t *testing.T) {
	r := newRig(t)
	id, after := uuid.New(), uuid.New()
	r.sends.mu.Lock()
	// Random text: nothing that compression takes away.
	noise := map[string]string{}
	for i := range 800 {
		noise[fmt.Sprint(i)] = uuid.NewString()
	}
	r.sends.known[id], r.sends.known[after] = send(id, noise), send(after, nil)
	r.sends.mu.Unlock()
	r.callback(id, -1, time.Now())
	r.callback(after, -1, time.Now())
	r.counted(Joined, 1)
	r.counted(Unjoined, 1)
	for _, d := range r.delivered(2) {
		if (d.GetTemplateId() == "") != (d.GetNotificationId() == id.String()) {
			t.Errorf("event %v", d)
		}
	}
}

// The ledger forgets what nothing can repeat any more, and only that.
func TestTombstones(t *testing.T) {
	old, young := newKey(uuid.New(), "x"), newKey(uuid.New(), "y")
	r := newRig(t, func(r *rig) {
		for k, age := range map[key]time.Duration{old: 9 * 24 * time.Hour, young: 6 * 24 * time.Hour} {
			r.write(kafka.Record{Topic: r.ledger, Partition: kafka.Murmur2Partition([]byte(k.id.String()), partitions), Key: []byte(k.String()), Value: marshal(published(&ledgerv1.Receipt{
				StoredMs: time.Now().Add(-age).UnixMilli(), NotificationId: k.id[:],
			}))})
		}
	})
	values := func() map[string][]byte {
		last := map[string][]byte{}
		for _, rec := range r.read(r.ledger) {
			last[string(rec.Key)] = rec.Value
		}
		return last
	}
	r.eventually("the tombstone", func() bool { v, ok := values()[old.String()]; return ok && v == nil })
	if v := values()[young.String()]; v == nil {
		t.Error("a receipt inside the window was forgotten")
	}
}

// Input pauses while too many receipts wait, and goes on when they are fewer.
func TestFullPausesInput(t *testing.T) {
	r := newRig(t, func(r *rig) { r.cfg.MaxWaiting = 10 })
	var ids []uuid.UUID
	for range 100 {
		id := uuid.New()
		ids = append(ids, id)
		r.callback(id, -1, time.Now())
	}
	r.eventually("both partitions full", func() bool {
		full := 0
		for _, p := range r.engine.Status().Partitions {
			if p.Full {
				full++
			}
		}
		return full == partitions
	})
	r.mu.Lock()
	waiting := r.results[Waiting]
	r.mu.Unlock()
	if waiting == 100 {
		t.Error("everything was taken in")
	}
	r.sends.mu.Lock()
	for _, id := range ids {
		r.sends.known[id] = send(id, nil)
		r.sends.found = append(r.sends.found, send(id, nil)) // for those that wait already
	}
	r.sends.mu.Unlock()
	r.engine.Wake()
	r.counted(Joined, 100)
	r.delivered(100)
}
