package status_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/stream"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/ingest/sends"
	"github.com/znshub/znshub/services/ingest/status"
	"github.com/znshub/znshub/services/ingest/translate"
)

// noSends knows no outcomes: nothing here is about receipts.
type noSends struct{}

func (noSends) Assign(int32)                        {}
func (noSends) Drop(int32)                          {}
func (noSends) Find(int32, uuid.UUID) []*sends.Send { return nil }
func (noSends) Watch(int32, uuid.UUID)              {}
func (noSends) Unwatch(int32, uuid.UUID)            {}
func (noSends) Take(int32) []*sends.Send            { return nil }
func (noSends) CaughtUp(int32) time.Time            { return time.Time{} }

// rig is a broker, and processes that fold.
type rig struct {
	t      *testing.T
	fake   *kfake.Cluster
	client []kgo.Opt
	admin  *kafka.Admin
	writer *kafka.Writer
	topics status.Topics

	mu              sync.Mutex
	counts          map[status.Result]int
	indexed, cached int // the most that a process that ended had
}

func newRig(t *testing.T, partitions int32) *rig {
	t.Helper()
	r := &rig{t: t, counts: map[status.Result]int{}, topics: status.Topics{
		Unresolved: topic.Unresolved, Failed: topic.Failed, Sent: topic.Sent, Delivered: topic.Delivered, Overdue: topic.Overdue, Status: topic.Status,
	}}
	var err error
	if r.fake, err = kfake.NewCluster(kafkatest.FakeOptions()...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.fake.Close)
	r.client = []kgo.Opt{kgo.SeedBrokers(r.fake.ListenAddrs()...)}
	if r.admin, err = kafka.NewAdmin(r.client...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.admin.Close)
	if _, err := r.admin.Ensure(t.Context(), topic.Table(), partitions, 1); err != nil {
		t.Fatal(err)
	}
	if r.writer, err = kafka.NewWriter(r.client...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.writer.Close)
	return r
}

// start runs a process, which keeps nothing but the newest snapshot in memory; it ends with stop.
func (r *rig) start() (folder *status.Folder, stop func()) {
	r.t.Helper()
	var engine *stream.Engine
	folder = status.New(status.Config{
		Client: r.client, Topics: r.topics, Source: "/s", BatchEvents: 10, CacheBytes: 1,
		Partitions: func() int32 { return engine.LedgerPartitions() }, Wake: func() { engine.Wake() }, Log: slog.New(slog.DiscardHandler),
		Counted: func(result status.Result, n int) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.counts[result] += n
		},
	})
	engine, err := stream.New(stream.Config{
		Client: r.client, Group: "g", Input: topic.Callback, Ledger: topic.CallbackLedger, InstanceID: "i", Log: slog.New(slog.DiscardHandler),
		Handler: translate.New(translate.Config{Cluster: "test", Source: "/s", Topic: topic.Delivered, Sends: noSends{}, Status: folder, Log: slog.New(slog.DiscardHandler)}),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	var running sync.WaitGroup
	running.Go(func() { folder.Run(ctx) })
	running.Go(func() {
		if err := engine.Run(ctx); err != nil {
			r.t.Error(err)
		}
	})
	return folder, sync.OnceFunc(func() {
		st := folder.Stats()
		r.indexed, r.cached = max(r.indexed, st.Indexed), max(r.cached, st.CachedBytes)
		cancel()
		running.Wait()
	})
}

// publish writes an event about each id.
func (r *rig) publish(name string, ids []string, event func(id string) proto.Message) {
	r.t.Helper()
	records := make([]kafka.Record, len(ids))
	for i, id := range ids {
		var err error
		if records[i], err = kafka.NewRecord(name, []byte(id), kafka.Event{ID: id, Source: "/s", Time: time.Now(), Data: event(id)}, "", ""); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := r.writer.Write(r.t.Context(), records...); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) foldedNow() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[status.Folded]
}

func (r *rig) folded(want int) {
	r.t.Helper()
	r.eventually(fmt.Sprintf("%d events are folded", want), func() bool { return r.foldedNow() == want })
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("not within a minute: %s; %d are folded", what, r.foldedNow())
		}
	}
}

// read calls f for each record that stands in a topic.
func (r *rig) read(name string, f func(kafka.Record)) {
	r.t.Helper()
	err := kafka.ReadToEnd(r.t.Context(), kafka.ReaderConfig{Client: r.client, Topic: name}, func(rec kafka.Record) error {
		f(rec)
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

func uuids(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = uuid.NewString()
	}
	return ids
}

func sentEvent(id string) proto.Message {
	return &znsv1.Sent{EventId: id + "/sent/1", EventTime: timestamppb.Now(), NotificationId: id, TemplateId: "300100", Attempt: 1, MsgId: "m"}
}

func deliveredEvent(id string) proto.Message {
	return &znsv1.Delivered{EventId: id + "/delivered", EventTime: timestamppb.Now(), NotificationId: id, Attempt: 1, MsgId: "m", DeliveryTime: timestamppb.Now()}
}

// TestReadAgain: a snapshot that is not in memory any more is read again, and not taken for one that never was.
func TestReadAgain(t *testing.T) {
	const n = 300
	r := newRig(t, 2)
	ids := uuids(n)
	// A snapshot of an owner whose clock was far ahead: revisions grow all the same.
	r.publish(topic.Status, ids[:1], func(id string) proto.Message { return &znsv1.Status{NotificationId: id, Revision: 1 << 60} })
	_, stop := r.start()
	r.publish(topic.Sent, ids, sentEvent)
	r.folded(n)
	r.publish(topic.Delivered, ids, deliveredEvent)
	// Owners come and go in the middle of it.
	for range 4 {
		before := r.foldedNow()
		for deadline := time.Now().Add(30 * time.Second); r.foldedNow() == before && r.foldedNow() < 2*n && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		stop()
		_, stop = r.start()
	}
	r.folded(2 * n)
	stop()
	if r.cached > 5000 || r.indexed != n {
		t.Errorf("in memory: %d snapshots are found, %d bytes cached", r.indexed, r.cached)
	}
	report, err := status.Verify(t.Context(), status.VerifyConfig{Client: r.client, Topics: r.topics, Found: func(d status.Difference) error { return fmt.Errorf("%+v", d) }})
	if err != nil || report.Notifications != n || report.Snapshots != 2*n+1 {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestPositionWaits: while a snapshot cannot be read again, the position in the ledger does not pass the event that
// waits for it, though those behind it could be folded; and whoever comes next folds them all.
func TestPositionWaits(t *testing.T) {
	const n = 20
	r := newRig(t, 1)
	old, fresh := uuids(n), uuids(n)
	_, stop := r.start()
	r.publish(topic.Sent, old, sentEvent)
	r.folded(n)
	stop()

	folder, stop := r.start()
	r.eventually("the snapshots are loaded", func() bool { st := folder.Stats(); return st.Indexed == n && st.Loading == 0 })
	topics, err := r.admin.Topics(t.Context(), topic.Status)
	if err != nil {
		t.Fatal(err)
	}
	var away atomic.Bool
	away.Store(true)
	r.fake.ControlKey(int16(kmsg.Fetch), func(request kmsg.Request) (kmsg.Response, error, bool) {
		r.fake.KeepControl()
		mine := slices.ContainsFunc(request.(*kmsg.FetchRequest).Topics, func(t kmsg.FetchRequestTopic) bool { return t.TopicID == topics[topic.Status].ID })
		return nil, errors.New("away"), mine && away.Load()
	})
	// The first can be folded, the second not, and so on. The newest snapshot, which is in memory, is not among them.
	var events []string
	for i := range n - 1 {
		events = append(events, fresh[i], old[i])
	}
	r.publish(topic.Delivered, events, deliveredEvent)
	r.eventually("the first is folded", func() bool { return r.foldedNow() > n })
	r.eventually("the others wait", func() bool { return folder.Stats().Queued > 0 })
	for range 20 { // ticks that would fold more than they may
		stopped := r.foldedNow()
		time.Sleep(20 * time.Millisecond)
		if stopped > n+1 {
			t.Errorf("%d were folded, the second waits for its snapshot", stopped-n)
			break
		}
	}
	stop()
	away.Store(false)

	delivered := map[string]bool{}
	r.read(topic.Status, func(rec kafka.Record) {
		s := &znsv1.Status{}
		if err := kafka.Decode(rec, s); err != nil {
			t.Fatal(err)
		}
		delivered[s.GetNotificationId()] = s.GetDeliveryTime() != nil
	})
	var next int64
	r.read(topic.CallbackLedger, func(rec kafka.Record) {
		if string(rec.Key) != status.LedgerKey {
			return
		}
		m := &ledgerv1.StatusPosition{}
		if err := proto.Unmarshal(rec.Value, m); err != nil {
			t.Fatal(err)
		}
		for _, e := range m.GetEvents() {
			if e.GetTopic() == topic.Delivered {
				next = e.GetNextOffset()
			}
		}
	})
	if next == 0 {
		t.Fatal("the ledger has no position: the test does not test")
	}
	r.read(topic.Delivered, func(rec kafka.Record) {
		if rec.Offset < next && !delivered[string(rec.Key)] {
			t.Errorf("the position is %d, and the event at %d was not folded", next, rec.Offset)
		}
	})

	_, stop = r.start()
	r.folded(n + len(events))
	stop()
	report, err := status.Verify(t.Context(), status.VerifyConfig{Client: r.client, Topics: r.topics, Found: func(d status.Difference) error { return fmt.Errorf("%+v", d) }})
	if err != nil || report.Notifications != 2*n-1 {
		t.Errorf("%+v, %v", report, err)
	}
}
