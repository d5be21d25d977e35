package ingest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/pkg/telemetry"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/ingest/raw"
)

// The whole way of one receipt: every field of the event, its headers, and its place in the trace.
func TestJoined(t *testing.T) {
	w := newWorld(t, kafkatest.Broker(t), 4)
	spans := tracetest.NewSpanRecorder()
	r := w.start(w.config(), func(s *service.Service) {
		s.Tracer = telemetry.NewTracer(telemetry.NewProvider(sdktrace.WithSpanProcessor(spans)))
	})
	m := newMessage()
	w.sent(m)
	before := time.Now()
	w.mustPost(r.url, m.callback())
	got := w.deliveries(1, time.Minute)[m.id.String()]
	want := &znsv1.Delivered{
		EventId: m.msgID + "/delivered/" + raw.Hash(m.callback()), NotificationId: m.id.String(), Source: "order-service", OaId: testOA,
		TemplateId: "7895417", Category: znsv1.Category_CATEGORY_TRANSACTION, Channel: znsv1.Channel_CHANNEL_PHONE,
		Recipient: &znsv1.Recipient{Phone: "+84123456789"}, Attempt: 1, TrackingId: m.trackingID(), MsgId: m.msgID,
		Reference: "INV-1", CustomerId: "C-9", CampaignId: "tet", Labels: map[string]string{"shop": "hcm"},
		SentTime: timestamppb.New(time.UnixMilli(1787209810000)), DeliveryTime: timestamppb.New(time.UnixMilli(1787209817000)),
		TraceId: trace.TraceID(m.id).String(), Mode: znsv1.Mode_MODE_LIVE,
		ReceiptSource: znsv1.ReceiptSource_RECEIPT_SOURCE_CALLBACK, Billable: new(true),
	}
	if diff := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreFields(&znsv1.Delivered{}, "event_time", "callback_time")); diff != "" {
		t.Errorf("event:\n%s", diff)
	}
	if at := got.GetCallbackTime().AsTime(); at.Before(before.Add(-time.Second)) || at.After(time.Now()) {
		t.Errorf("callback_time %v", at)
	}
	rec := w.read(w.topics.Delivered)[0]
	h := kafka.DecodeHeaders(rec)
	if h.ID != want.GetEventId() || h.Source != "/znshub/test/ingest" || h.Type != "zns.v1.Delivered" || h.Subject != m.id.String() || string(rec.Key) != m.id.String() {
		t.Errorf("headers %+v, key %s", h, rec.Key)
	}
	if rec.Partition != kafka.Murmur2Partition([]byte(m.id.String()), 4) {
		t.Errorf("partition %d", rec.Partition)
	}

	// POST of the sender ← callback ← send zns.delivered.
	eventually(t, "two spans", func() bool { return len(spans.Ended()) == 2 })
	callback, send := spans.Ended()[0], spans.Ended()[1]
	if callback.Name() != "POST /webhooks/zalo" || callback.Parent().SpanID() != telemetry.SendSpanID(m.id, 1) || callback.SpanContext().TraceID() != trace.TraceID(m.id) {
		t.Errorf("callback span %s below %s", callback.Name(), callback.Parent().SpanID())
	}
	if send.Name() != "send "+w.topics.Delivered || send.Parent().SpanID() != callback.SpanContext().SpanID() {
		t.Errorf("send span %s below %s", send.Name(), send.Parent().SpanID())
	}
	if !strings.Contains(h.Traceparent, send.SpanContext().SpanID().String()) {
		t.Errorf("traceparent %s is not the send span's", h.Traceparent)
	}
}

// Zalo repeats, two replicas take the repetitions, some at the same moment: one event.
func TestDuplicates(t *testing.T) {
	w := newWorld(t, kafkatest.Broker(t), 4)
	a, b := w.start(w.config()), w.start(w.config())
	var messages []message
	for range 20 {
		m := newMessage()
		w.sent(m)
		messages = append(messages, m)
	}
	var wg sync.WaitGroup
	for _, url := range []string{a.url, b.url, a.url} {
		wg.Go(func() {
			for _, m := range messages {
				if code := post(url, m.callback(), testSecret); code != 200 {
					t.Errorf("answered %d", code)
				}
			}
		})
	}
	wg.Wait()
	if n := len(w.read(w.topics.Callback)); n != 60 {
		t.Fatalf("%d raw callbacks, want 60", n)
	}
	w.deliveries(20, time.Minute)
	eventually(t, "40 duplicates counted", func() bool {
		return a.count("translated_total", "duplicate")+b.count("translated_total", "duplicate") == 40
	})
	w.deliveries(20, 0)
	// Nor after a restart, by a process that has the ledger only.
	for _, r := range []*replica{a, b} {
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
	}
	c := w.start(w.config())
	for _, m := range messages {
		w.mustPost(c.url, m.callback())
	}
	eventually(t, "20 more duplicates counted", func() bool { return c.count("translated_total", "duplicate") >= 20 })
	w.deliveries(20, 0)
}

// A receipt that comes before the outcome of its send waits for it, and no longer.
func TestEarlyCallback(t *testing.T) {
	w := newWorld(t, kafkatest.Broker(t), 2)
	r := w.start(w.config())
	m := newMessage()
	w.mustPost(r.url, m.callback())
	eventually(t, "the receipt waits", func() bool { return r.count("receipts_waiting") == 1 })
	time.Sleep(500 * time.Millisecond)
	w.deliveries(0, 0)
	w.sent(m)
	start := time.Now()
	got := w.deliveries(1, time.Minute)[m.id.String()]
	if got.GetTemplateId() != "7895417" || got.GetSentTime() == nil {
		t.Errorf("not joined: %v", got)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("published %v after the outcome", took)
	}
	if r.count("receipts_waiting") != 0 {
		t.Error("it still waits")
	}
}

// After the wait, and not before it, a receipt is published with the callback's own fields.
func TestWaitEnds(t *testing.T) {
	w := newWorld(t, kafkatest.Broker(t), 2)
	cfg := w.config()
	cfg.JoinWait = 2 * time.Second
	r := w.start(cfg)
	m := newMessage()
	w.mustPost(r.url, m.callback())
	eventually(t, "the receipt waits", func() bool { return r.count("receipts_waiting") == 1 })
	start := time.Now()
	got := w.deliveries(1, time.Minute)[m.id.String()]
	if took := time.Since(start); took < 1500*time.Millisecond || took > 6*time.Second {
		t.Errorf("published after %v, want about 2 s", took)
	}
	if got.GetTemplateId() != "" || got.GetSentTime() != nil || got.GetMsgId() != m.msgID || got.GetAttempt() != 1 || got.GetOaId() != testOA || got.GetDeliveryTime() == nil {
		t.Errorf("event %v", got)
	}
	// The outcome that comes too late changes nothing.
	w.sent(m)
	time.Sleep(300 * time.Millisecond)
	w.deliveries(1, 0)
}

// A restart keeps what waits, and the time at which it gives up.
func TestRestartWhileWaiting(t *testing.T) {
	w := newWorld(t, kafkatest.Broker(t), 1)
	cfg := w.config()
	r := w.start(cfg)
	joined, alone := newMessage(), newMessage()
	// pass commits the input behind what waits: nothing but the ledger can bring that back.
	passed := 0
	pass := func() {
		t.Helper()
		m := newMessage()
		w.sent(m)
		w.mustPost(r.url, m.callback())
		passed++
		w.deliveries(passed, time.Minute)
	}
	w.mustPost(r.url, joined.callback())
	eventually(t, "the receipt waits", func() bool { return r.count("receipts_waiting") == 1 })
	pass()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	cfg.JoinWait = 5 * time.Second
	r = w.start(cfg)
	w.mustPost(r.url, alone.callback())
	eventually(t, "both wait", func() bool { return r.count("receipts_waiting") == 2 })
	pass()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	w.sent(joined)
	w.start(cfg)
	got := w.deliveries(passed+2, 30*time.Second)
	if got[joined.id.String()].GetTemplateId() == "" {
		t.Error("the outcome that came while nobody ran was not joined")
	}
	if got[alone.id.String()].GetTemplateId() != "" {
		t.Error("joined with nothing")
	}
}

// Only the outcome of the receipt's own attempt gives its times; another one of the same notification gives what
// belongs to the request, and does not end the wait.
func TestOtherAttempt(t *testing.T) {
	w := newWorld(t, kafkatest.Broker(t), 2)
	cfg := w.config()
	cfg.JoinWait = 3 * time.Second
	r := w.start(cfg)
	first := newMessage()
	second := first
	second.attempt, second.msgID = 2, "aaaaaaaaaaaaaaaaaaaa"
	w.sent(second)
	start := time.Now()
	w.mustPost(r.url, first.callback())
	got := w.deliveries(1, time.Minute)[first.id.String()]
	if took := time.Since(start); took < 2*time.Second {
		t.Errorf("published after %v: the other attempt ended the wait", took)
	}
	if got.GetTemplateId() != "7895417" || got.GetSentTime() != nil || got.GetAttempt() != 1 || got.GetMsgId() != first.msgID || got.Billable != nil {
		t.Errorf("event %v", got)
	}
	// The receipt of the second attempt is another fact.
	w.mustPost(r.url, second.callback())
	eventually(t, "the second receipt", func() bool { return len(w.read(w.topics.Delivered)) == 2 })
	if n := r.count("translated_total", "joined"); n != 1 {
		t.Errorf("%v joined", n)
	}
}

// zns.unresolved does not end the wait: the callback is what settles it, and zns.sent follows.
func TestUnresolvedThenSent(t *testing.T) {
	w := newWorld(t, kafkatest.Broker(t), 2)
	r := w.start(w.config())
	m := newMessage()
	w.publish(w.topics.Unresolved, m, &znsv1.Unresolved{NotificationId: m.id.String(), Attempt: 1, TemplateId: "7895417"})
	w.mustPost(r.url, m.callback())
	eventually(t, "the receipt waits", func() bool { return r.count("receipts_waiting") == 1 })
	time.Sleep(500 * time.Millisecond)
	w.deliveries(0, 0)
	w.sent(m)
	if got := w.deliveries(1, time.Minute)[m.id.String()]; got.GetSentTime() == nil {
		t.Errorf("not joined with zns.sent: %v", got)
	}
}

// What other programs sent is counted, and published only when asked for; other events stay raw.
func TestForeignAndOther(t *testing.T) {
	for _, publish := range []string{"count", "publish"} {
		t.Run(publish, func(t *testing.T) {
			w := newWorld(t, kafkatest.Broker(t), 2)
			cfg := w.config()
			cfg.Foreign = publish
			r := w.start(cfg)
			foreign := strings.Replace(string(newMessage().callback()), `"tracking_id":"`, `"tracking_id":"x`, 1)
			w.mustPost(r.url, []byte(foreign))
			w.mustPost(r.url, []byte(foreign))
			other := fmt.Sprintf(`{"event_name":"user_send_text","sender":{"id":"1"},"recipient":{"id":%q},"message":{"text":"hi","msg_id":"1"},"timestamp":"1787209817225"}`, testOA)
			w.mustPost(r.url, []byte(other))
			w.mustPost(r.url, []byte(`{"event_name":"never_seen","oa_id":"1","timestamp":"1787209817225"}`))
			eventually(t, "all translated", func() bool { return r.count("translated_total") == 4 })
			if r.count("translated_total", "user_send_text", "raw") != 1 || r.count("translated_total", "other", "raw") != 1 {
				t.Error("other events are not counted by name")
			}
			if publish == "count" {
				if n := r.count("translated_total", "foreign"); n != 2 {
					t.Errorf("%v foreign receipts counted, want 2", n)
				}
				w.deliveries(0, 0)
				return
			}
			for _, d := range w.deliveries(1, time.Minute) {
				if d.GetNotificationId() != "" || d.GetMsgId() == "" {
					t.Errorf("event %v", d)
				}
			}
		})
	}
}
