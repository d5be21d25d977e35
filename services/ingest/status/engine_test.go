package status_test

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
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/stream"
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

// TestReadAgain: a snapshot that is not in memory any more is read again, and not taken for one that never was.
func TestReadAgain(t *testing.T) {
	fake, err := kfake.NewCluster(kafkatest.FakeOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	client := []kgo.Opt{kgo.SeedBrokers(fake.ListenAddrs()...)}
	admin, err := kafka.NewAdmin(client...)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := admin.Ensure(t.Context(), topic.Table(), 2, 1); err != nil {
		t.Fatal(err)
	}
	writer, err := kafka.NewWriter(client...)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()

	topics := status.Topics{
		Unresolved: topic.Unresolved, Failed: topic.Failed, Sent: topic.Sent, Delivered: topic.Delivered, Overdue: topic.Overdue, Status: topic.Status,
	}
	var mu sync.Mutex
	counts := map[status.Result]int{}
	var indexed, cached int
	// start runs a process; it ends with stop.
	start := func() (stop func()) {
		var engine *stream.Engine
		folder := status.New(status.Config{
			Client: client, Topics: topics, Source: "/s", BatchEvents: 10, CacheBytes: 1, // nothing but the newest snapshot
			Partitions: func() int32 { return engine.LedgerPartitions() }, Wake: func() { engine.Wake() }, Log: slog.New(slog.DiscardHandler),
			Counted: func(r status.Result, n int) {
				mu.Lock()
				defer mu.Unlock()
				counts[r] += n
			},
		})
		var err error
		engine, err = stream.New(stream.Config{
			Client: client, Group: "g", Input: topic.Callback, Ledger: topic.CallbackLedger, InstanceID: "i", Log: slog.New(slog.DiscardHandler),
			Handler: translate.New(translate.Config{Cluster: "test", Source: "/s", Topic: topic.Delivered, Sends: noSends{}, Status: folder, Log: slog.New(slog.DiscardHandler)}),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { folder.Run(ctx) })
		running.Go(func() {
			if err := engine.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		return sync.OnceFunc(func() {
			st := folder.Stats()
			indexed, cached = max(indexed, st.Indexed), max(cached, st.CachedBytes)
			cancel()
			running.Wait()
		})
	}

	// A snapshot of an owner whose clock was far ahead: revisions grow all the same.
	ahead := uuid.NewString()
	seed := &znsv1.Status{NotificationId: ahead, Revision: 1 << 60}
	r, err := kafka.NewRecord(topic.Status, []byte(ahead), kafka.Event{ID: "x", Source: "/s", Time: time.Now(), Data: seed}, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Write(t.Context(), r); err != nil {
		t.Fatal(err)
	}

	const n = 300
	ids := make([]string, n)
	for i := range ids {
		ids[i] = uuid.NewString()
	}
	ids[0] = ahead
	publish := func(name string, event func(id string) proto.Message) {
		t.Helper()
		records := make([]kafka.Record, n)
		for i, id := range ids {
			if records[i], err = kafka.NewRecord(name, []byte(id), kafka.Event{ID: id, Source: "/s", Time: time.Now(), Data: event(id)}, "", ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := writer.Write(t.Context(), records...); err != nil {
			t.Fatal(err)
		}
	}
	foldedNow := func() int {
		mu.Lock()
		defer mu.Unlock()
		return counts[status.Folded]
	}
	folded := func(want int) {
		t.Helper()
		for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			got := foldedNow()
			if got == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d events folded, want %d", got, want)
			}
		}
	}
	stop := start()
	publish(topic.Sent, func(id string) proto.Message {
		return &znsv1.Sent{EventId: id + "/sent/1", EventTime: timestamppb.Now(), NotificationId: id, TemplateId: "300100", Attempt: 1, MsgId: "m"}
	})
	folded(n)
	publish(topic.Delivered, func(id string) proto.Message {
		return &znsv1.Delivered{EventId: id + "/delivered", EventTime: timestamppb.Now(), NotificationId: id, Attempt: 1, MsgId: "m", DeliveryTime: timestamppb.Now()}
	})
	// Owners come and go in the middle of it.
	for range 4 {
		before := foldedNow()
		for deadline := time.Now().Add(30 * time.Second); foldedNow() == before && foldedNow() < 2*n && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		stop()
		stop = start()
	}
	folded(2 * n)
	stop()
	if cached > 5000 || indexed != n {
		t.Errorf("in memory: %d snapshots are found, %d bytes cached", indexed, cached)
	}
	report, err := status.Verify(t.Context(), status.VerifyConfig{Client: client, Topics: topics, Found: func(d status.Difference) error { return fmt.Errorf("%+v", d) }})
	if err != nil || report.Notifications != n || report.Snapshots != 2*n+1 {
		t.Errorf("%+v, %v", report, err)
	}
}
