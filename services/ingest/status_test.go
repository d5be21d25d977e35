package ingest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/ingest/status"
)

func (w *world) statusTopics() status.Topics {
	return status.Topics{
		Unresolved: w.topics.Unresolved, Failed: w.topics.Failed, Sent: w.topics.Sent, Delivered: w.topics.Delivered,
		Overdue: w.topics.Overdue, Status: w.topics.Status,
	}
}

// verify rebuilds zns.status from the events and compares.
func (w *world) verify(wait time.Duration) (status.Report, []status.Difference) {
	w.tb.Helper()
	ctx, cancel := context.WithTimeout(w.tb.Context(), wait+time.Minute)
	defer cancel()
	var found []status.Difference
	report, err := status.Verify(ctx, status.VerifyConfig{
		Client: w.client(), Topics: w.statusTopics(), Wait: wait,
		Found: func(d status.Difference) error { found = append(found, d); return nil },
	})
	if err != nil {
		w.tb.Fatal(err)
	}
	return report, found
}

// rebuilt demands that zns.status is what the events say of n notifications.
func (w *world) rebuilt(n int) status.Report {
	w.tb.Helper()
	report, found := w.verify(30 * time.Second)
	for i, d := range found {
		if i < 5 {
			w.tb.Errorf("%+v", d)
		}
	}
	if len(found) > 0 || report.Notifications != int64(n) {
		w.tb.Errorf("%d differences, %d notifications, want %d: %+v", len(found), report.Notifications, n, report)
	}
	return report
}

// snapshots returns the latest ones.
func (w *world) snapshots() map[string]*znsv1.Status {
	w.tb.Helper()
	latest := map[string]*znsv1.Status{}
	for _, r := range w.read(w.topics.Status) {
		s := &znsv1.Status{}
		if err := kafka.Decode(r, s); err != nil {
			w.tb.Fatal(err)
		}
		latest[string(r.Key)] = s
	}
	return latest
}

// history publishes what a sender tells of m, one of several kinds of lives, in a drawn order.
func (w *world) history(m message, r *rand.Rand) []kafka.Record {
	id := m.id.String()
	sent := sentEvent(m)
	sent.EventTime = timestamppb.Now()
	unresolved := &znsv1.Unresolved{EventId: id + "/unresolved/1", EventTime: timestamppb.Now(), NotificationId: id, Attempt: 1, TemplateId: "7895417", TrackingId: m.trackingID()}
	failed := &znsv1.Failed{
		EventId: id + "/failed/1", EventTime: timestamppb.Now(), NotificationId: id, Attempt: 1, TemplateId: "7895417",
		Reason: znsv1.FailureReason_FAILURE_REASON_UNRESOLVED, Recipient: &znsv1.Recipient{Phone: "+84123456789"},
	}
	var events []kafka.Record
	add := func(name string, e proto.Message) { events = append(events, w.record(name, m, e)) }
	switch life := r.IntN(6); life {
	case 0, 1:
		add(w.topics.Sent, sent)
	case 2:
		add(w.topics.Failed, failed)
	case 3:
		add(w.topics.Unresolved, unresolved)
		add(w.topics.Sent, sent)
	default:
		sent.Corrects = true
		add(w.topics.Unresolved, unresolved)
		add(w.topics.Failed, failed)
		add(w.topics.Sent, sent)
	}
	r.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	if r.IntN(10) == 0 {
		events = append(events, events[0]) // a producer that writes twice
	}
	return events
}

// TestStatus: a notification's snapshots follow its events, and none of them holds its phone.
func TestStatus(t *testing.T) {
	w := newWorld(t, kafkatest.Broker(t), 2)
	r := w.start(w.config())
	m := newMessage()
	w.sent(m)
	eventually(t, "SENT", func() bool {
		return w.snapshots()[m.id.String()].GetState() == znsv1.NotificationState_NOTIFICATION_STATE_SENT
	})
	first := w.snapshots()[m.id.String()]
	if first.GetRevision() < time.Now().Add(-time.Minute).UnixMilli() || first.GetEventId() != fmt.Sprintf("%s/status/%d", m.id, first.GetRevision()) {
		t.Errorf("revision %d, event_id %s", first.GetRevision(), first.GetEventId())
	}
	w.mustPost(r.url, m.callback())
	eventually(t, "DELIVERED", func() bool {
		return w.snapshots()[m.id.String()].GetState() == znsv1.NotificationState_NOTIFICATION_STATE_DELIVERED
	})
	got := w.snapshots()[m.id.String()]
	if got.GetRevision() <= first.GetRevision() || got.GetTemplateId() != "7895417" || got.GetReference() != "INV-1" || !got.GetBillable() {
		t.Errorf("snapshot %v after %v", got, first)
	}
	if rec := got.GetRecipient(); rec.GetPhone() != "" || rec.GetPhoneSha256() != status.HashPhone("84123456789") {
		t.Errorf("recipient %v", rec)
	}
	for _, rec := range w.read(w.topics.Status) {
		if h := kafka.DecodeHeaders(rec); h.Type != "zns.v1.Status" || h.Subject != m.id.String() || h.Source != "/znshub/test/ingest" {
			t.Errorf("headers %+v", h)
		}
	}
	w.rebuilt(1)
	// An unresolved that comes late changes nothing, nor does the same again.
	before := len(w.read(w.topics.Status))
	w.publish(w.topics.Unresolved, m, &znsv1.Unresolved{NotificationId: m.id.String(), Attempt: 1})
	w.sent(m)
	eventually(t, "two events that change nothing", func() bool { return r.count("status_events_total", "unchanged") == 2 })
	if now := len(w.read(w.topics.Status)); now != before {
		t.Errorf("%d snapshots became %d", before, now)
	}
}

// TestStatusRebuilt: webhook-ingest is killed again and again while it folds, two processes take partitions from each
// other, and in the end zns.status is what the events say, each snapshot newer than the one before it.
func TestStatusRebuilt(t *testing.T) {
	w := newWorld(t, kafkatest.Real(t, "a process that is killed inside a transaction"), 4)
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	first, second := w.config(), w.config()
	a, b := w.process(first), w.process(second)

	const n = 1500
	var messages []message
	var mu sync.Mutex
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for i := range n {
			m := newMessage()
			w.write(w.history(m, r)...)
			mu.Lock()
			messages = append(messages, m)
			mu.Unlock()
			if i%100 == 0 {
				time.Sleep(100 * time.Millisecond)
			}
		}
	})
	// Receipts of half of them, to whichever process lives.
	stop := make(chan struct{})
	var posting sync.WaitGroup
	var urls [2]string
	urls[0], urls[1] = a.url, b.url
	posting.Go(func() {
		for i := 0; ; {
			mu.Lock()
			done := i >= len(messages)
			var m message
			if !done {
				m = messages[i]
			}
			url := urls[i%2]
			mu.Unlock()
			select {
			case <-stop:
				return
			default:
			}
			if done {
				time.Sleep(20 * time.Millisecond)
				continue
			}
			if i%2 == 0 {
				post(url, m.callback(), testSecret) // one that dies loses it: Zalo would send again
			}
			i++
		}
	})
	kills := 0
	for kills < 4 {
		time.Sleep(2 * time.Second)
		if kills%2 == 0 {
			a.kill()
			a = w.process(first)
		} else {
			b.kill()
			b = w.process(second)
		}
		mu.Lock()
		urls[0], urls[1] = a.url, b.url
		mu.Unlock()
		kills++
	}
	publishing.Wait()
	time.Sleep(time.Second)
	close(stop)
	posting.Wait()
	eventually(t, "every notification has a snapshot", func() bool { return len(w.snapshots()) == n })
	report := w.rebuilt(n)
	states := map[string]int{}
	for _, s := range w.snapshots() {
		states[s.GetState().String()]++
	}
	t.Logf("%d kills; %+v; %v", kills, report, states)
	if states["NOTIFICATION_STATE_DELIVERED"] == 0 || states["NOTIFICATION_STATE_SENT"] == 0 || states["NOTIFICATION_STATE_FAILED"] == 0 {
		t.Error("the test met not every state")
	}
}

// TestStatusReplay: events that are read again from their beginning, by a webhook-ingest that knows nothing of the one
// before, change nothing; and a topic zns.status that was lost is written again.
func TestStatusReplay(t *testing.T) {
	w := newWorld(t, kafkatest.Broker(t), 2)
	r := w.start(w.config())
	random := rand.New(rand.NewPCG(1, 2))
	const n = 60
	for i := range n {
		m := newMessage()
		w.write(w.history(m, random)...)
		if i%3 == 0 {
			w.mustPost(r.url, m.callback())
		}
	}
	eventually(t, "every notification has a snapshot", func() bool { return len(w.snapshots()) == n })
	w.rebuilt(n)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	before := len(w.read(w.topics.Status))

	fresh := newWorld(t, w.server, 2)
	w.topics.Ledger, w.group = fresh.topics.Ledger, fresh.group
	r = w.start(w.config())
	eventually(t, "everything was read again", func() bool { return r.count("status_events_total", "unchanged") >= float64(w.rebuilt(n).Events) })
	if now := len(w.read(w.topics.Status)); now != before || r.count("status_events_total", "folded") != 0 {
		t.Errorf("%d snapshots became %d", before, now)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}

	admin, err := kafka.NewAdmin(w.client()...)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if err := admin.Delete(t.Context(), w.topics.Status); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the topic is gone", func() bool {
		found, err := admin.Topics(t.Context(), w.topics.Status)
		return err == nil && len(found) == 0
	})
	if _, err := admin.Ensure(t.Context(), (&Ingest{cfg: Config{Topics: w.topics}}).specs(), 2, 1); err != nil {
		t.Fatal(err)
	}
	w.start(w.config())
	eventually(t, "zns.status is there again", func() bool { return len(w.snapshots()) == n })
	w.rebuilt(n)
}

// watched publishes a zns.sent whose receipt is due after d, with its request.
func (w *world) watched(m message, d time.Duration) {
	w.tb.Helper()
	req := &notificationv1.NotificationRequested{
		NotificationId: m.id.String(), Source: "order-service", OaId: testOA, TemplateId: "7895417", Recipient: &notificationv1.Recipient{Phone: "+84123456789"},
		Fallback: map[string]string{"sms_text": "Ma xac thuc " + m.msgID}, DeliverWithin: durationpb.New(time.Minute),
	}
	r := w.record(w.requests, m, req)
	w.write(r)
	var place string
	for _, got := range w.read(w.requests) {
		if string(got.Key) == m.id.String() {
			place = fmt.Sprintf("%s/%d@%d", w.requests, got.Partition, got.Offset)
		}
	}
	sent := sentEvent(m)
	sent.EventTime, sent.ReceiptDueTime = timestamppb.Now(), timestamppb.New(time.Now().Add(d))
	r = w.record(w.topics.Sent, m, sent)
	r.Headers = append(r.Headers, kafka.Header{Key: topic.HeaderRequest, Value: []byte(place)})
	w.write(r)
}

func (w *world) overdue() map[string][]*znsv1.Overdue {
	w.tb.Helper()
	all := map[string][]*znsv1.Overdue{}
	for _, r := range w.read(w.topics.Overdue) {
		e := &znsv1.Overdue{}
		if err := kafka.Decode(r, e); err != nil {
			w.tb.Fatal(err)
		}
		all[string(r.Key)] = append(all[string(r.Key)], e)
	}
	return all
}

// TestOverdue: once, not before its time, with what the request gave for it; not when the receipt came, were it only
// into zalo.callback while nobody translated; and the watch outlives the process.
func TestOverdue(t *testing.T) {
	w := newWorld(t, kafkatest.Broker(t), 2)
	w.requests = w.server.Topic(t, "requested", 2)
	cfg := w.config()
	r := w.start(cfg)
	late, inTime, unread, later := newMessage(), newMessage(), newMessage(), newMessage()
	w.watched(late, 3*time.Second)
	w.watched(inTime, 3*time.Second)
	w.mustPost(r.url, inTime.callback())
	start := time.Now()
	eventually(t, "zns.overdue", func() bool { return len(w.overdue()) > 0 })
	if took := time.Since(start); took < 2*time.Second {
		t.Errorf("published after %v, due after 3 s", took)
	}
	got := w.overdue()[late.id.String()]
	if len(got) != 1 {
		t.Fatalf("zns.overdue: %v", w.overdue())
	}
	e := got[0]
	if e.GetFallback()["sms_text"] != "Ma xac thuc "+late.msgID || e.GetRecipient().GetPhone() != "+84123456789" || e.GetReference() != "INV-1" ||
		e.GetEventId() != late.id.String()+"/overdue/1" || e.GetDueTime() == nil {
		t.Errorf("zns.overdue: %v", e)
	}
	eventually(t, "the snapshot tells it", func() bool { return w.snapshots()[late.id.String()].GetOverdueTime() != nil })
	if s := w.snapshots()[late.id.String()]; s.GetState() != znsv1.NotificationState_NOTIFICATION_STATE_SENT {
		t.Errorf("overdue is not terminal: %v", s)
	}

	// Over a restart; a receipt that stands in zalo.callback meanwhile is not overdue.
	w.watched(unread, 6*time.Second)
	w.watched(later, 6*time.Second)
	eventually(t, "both are watched", func() bool { return r.count("receipts_awaited") == 2 })
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	w.write(kafka.Record{Topic: w.topics.Callback, Partition: -1, Key: []byte(unread.id.String()), Value: unread.callback()})
	time.Sleep(5 * time.Second)
	r = w.start(cfg)
	eventually(t, "the one without receipt is overdue", func() bool { return len(w.overdue()[later.id.String()]) == 1 })
	w.mustPost(r.url, late.callback())
	eventually(t, "a receipt still comes", func() bool {
		return w.snapshots()[late.id.String()].GetState() == znsv1.NotificationState_NOTIFICATION_STATE_DELIVERED
	})
	time.Sleep(2 * time.Second)
	if all := w.overdue(); len(all) != 2 || len(all[late.id.String()]) != 1 || len(all[later.id.String()]) != 1 {
		t.Errorf("zns.overdue: %v", all)
	}
	w.rebuilt(4)
}

// TestOverdueWhileTheClockIsAhead: what is due by the brokers' clock only later is not overdue because this machine's
// clock is ahead.
func TestOverdueWhileTheClockIsAhead(t *testing.T) {
	w := newWorld(t, kafkatest.Broker(t), 2)
	w.requests = w.server.Topic(t, "requested", 2)
	var ahead atomic.Int64
	ahead.Store(int64(time.Hour))
	r := w.startWith(Extras{ControllerTime: func(context.Context) (time.Time, error) {
		return time.Now().Add(-time.Duration(ahead.Load())), nil
	}})
	m := newMessage()
	w.watched(m, time.Second)
	eventually(t, "it is watched", func() bool { return r.count("receipts_awaited") == 1 })
	time.Sleep(5 * time.Second)
	if all := w.overdue(); len(all) != 0 {
		t.Errorf("an hour early: %v", all)
	}
	ahead.Store(0)
	eventually(t, "zns.overdue", func() bool { return len(w.overdue()) == 1 })
}
