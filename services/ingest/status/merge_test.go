package status

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/znshub/znshub/pkg/kafka"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

var (
	testID = uuid.MustParse("93c1a1a0-6f8b-4d3e-8b6e-0c9a2f7d4e11")
	start  = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
)

func at(seconds int) *timestamppb.Timestamp {
	return timestamppb.New(start.Add(time.Duration(seconds) * time.Second))
}

// fact encodes an event as its publisher does and decodes it as Facts does.
func fact(tb interface{ Fatal(...any) }, kind Kind, m proto.Message) *Fact {
	r, err := kafka.NewRecord("t", []byte(testID.String()), kafka.Event{ID: "header", Source: "/s", Time: start, Data: m}, "", "")
	if err != nil {
		tb.Fatal(err)
	}
	f, err := Decode(kind, r)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

func sent(attempt int32, seconds int, change ...func(*znsv1.Sent)) *znsv1.Sent {
	m := &znsv1.Sent{
		EventId: fmt.Sprintf("%s/sent/%d", testID, attempt), EventTime: at(seconds), NotificationId: testID.String(), IdempotencyKey: "order-1/shipped",
		Source: "order-service", OaId: "9", TemplateId: "300100", Category: znsv1.Category_CATEGORY_OTP, Channel: znsv1.Channel_CHANNEL_PHONE,
		Recipient: &znsv1.Recipient{Phone: "+84987654321"}, Attempt: attempt, TrackingId: fmt.Sprintf("t%d", attempt), MsgId: fmt.Sprintf("m%d", attempt),
		Reference: "INV-1", CustomerId: "C-9", CampaignId: "tet", Labels: map[string]string{"shop": "hcm"}, RequestedTime: at(0), AcceptedTime: at(1),
		TraceId: "0af7651916cd43dd8448eb211c80319c", Mode: znsv1.Mode_MODE_LIVE, SentTime: at(seconds), OutcomeSource: znsv1.OutcomeSource_OUTCOME_SOURCE_RESPONSE,
		DeliverBy: at(seconds + 15),
	}
	for _, f := range change {
		f(m)
	}
	return m
}

func failed(attempt int32, seconds int, reason znsv1.FailureReason) *znsv1.Failed {
	return &znsv1.Failed{
		EventId: fmt.Sprintf("%s/failed/%d", testID, attempt), EventTime: at(seconds), NotificationId: testID.String(), Source: "order-service", TemplateId: "300100",
		Attempt: attempt, TrackingId: fmt.Sprintf("t%d", attempt), Reason: reason, ProviderCode: -118, PossiblySent: true, Advice: znsv1.Advice_ADVICE_TRY_OTHER_CHANNEL,
		Fallback: map[string]string{"sms_text": "secret"},
	}
}

func unresolved(attempt int32, seconds int) *znsv1.Unresolved {
	return &znsv1.Unresolved{
		EventId: fmt.Sprintf("%s/unresolved/%d", testID, attempt), EventTime: at(seconds), NotificationId: testID.String(), Source: "order-service", TemplateId: "300100",
		Attempt: attempt, TrackingId: fmt.Sprintf("t%d", attempt), Cause: znsv1.UnknownCause_UNKNOWN_CAUSE_TIMEOUT, UnknownSince: at(seconds - 10), DecideBy: at(seconds + 60),
		Policy: znsv1.UnknownPolicy_UNKNOWN_POLICY_FAIL,
	}
}

func delivered(attempt int32, seconds int, joined bool) *znsv1.Delivered {
	m := &znsv1.Delivered{
		EventId: fmt.Sprintf("m%d/delivered/%d", attempt, seconds), EventTime: at(seconds), NotificationId: testID.String(), OaId: "9", Attempt: attempt,
		TrackingId: fmt.Sprintf("t%d", attempt), MsgId: fmt.Sprintf("m%d", attempt), DeliveryTime: at(seconds - 1), CallbackTime: at(seconds),
		ReceiptSource: znsv1.ReceiptSource_RECEIPT_SOURCE_CALLBACK,
	}
	if joined {
		m.Source, m.TemplateId, m.SentTime, m.Billable = "order-service", "300100", at(seconds-2), new(true)
		m.Recipient = &znsv1.Recipient{Phone: "+84987654321", UserId: "u1"}
	}
	return m
}

func overdue(seconds int) *znsv1.Overdue {
	return &znsv1.Overdue{
		EventId: fmt.Sprintf("%s/overdue/1", testID), EventTime: at(seconds), NotificationId: testID.String(), Source: "order-service", Attempt: 1, DueTime: at(seconds),
	}
}

func fold(facts ...*Fact) *znsv1.Status {
	var s *znsv1.Status
	for _, f := range facts {
		s = Merge(s, f.Status)
	}
	return s
}

// What each history ends in.
func TestMerge(t *testing.T) {
	corrects := func(m *znsv1.Sent) { m.Corrects = true }
	for name, tt := range map[string]struct {
		facts []*Fact
		want  string // state, attempt, msg_id
	}{
		"sent":                     {[]*Fact{fact(t, KindSent, sent(1, 10))}, "SENT 1 m1"},
		"delivered":                {[]*Fact{fact(t, KindSent, sent(1, 10)), fact(t, KindDelivered, delivered(1, 12, true))}, "DELIVERED 1 m1"},
		"delivered before sent":    {[]*Fact{fact(t, KindDelivered, delivered(1, 12, false)), fact(t, KindSent, sent(1, 10))}, "DELIVERED 1 m1"},
		"receipt alone":            {[]*Fact{fact(t, KindDelivered, delivered(2, 12, false))}, "DELIVERED 2 m2"},
		"late unresolved":          {[]*Fact{fact(t, KindSent, sent(1, 10)), fact(t, KindUnresolved, unresolved(1, 20))}, "SENT 1 m1"},
		"unresolved, then failed":  {[]*Fact{fact(t, KindUnresolved, unresolved(1, 20)), fact(t, KindFailed, failed(1, 90, znsv1.FailureReason_FAILURE_REASON_UNRESOLVED))}, "FAILED 1 "},
		"corrected":                {[]*Fact{fact(t, KindFailed, failed(1, 90, znsv1.FailureReason_FAILURE_REASON_UNRESOLVED)), fact(t, KindSent, sent(1, 100, corrects))}, "SENT 1 m1"},
		"failed, then its receipt": {[]*Fact{fact(t, KindFailed, failed(1, 90, znsv1.FailureReason_FAILURE_REASON_UNRESOLVED)), fact(t, KindDelivered, delivered(1, 95, true))}, "DELIVERED 1 m1"},
		"redriven, failed again":   {[]*Fact{fact(t, KindFailed, failed(1, 90, znsv1.FailureReason_FAILURE_REASON_REJECTED)), fact(t, KindFailed, failed(2, 80, znsv1.FailureReason_FAILURE_REASON_EXPIRED))}, "FAILED 2 "},
		"redriven, unresolved":     {[]*Fact{fact(t, KindFailed, failed(1, 90, znsv1.FailureReason_FAILURE_REASON_REJECTED)), fact(t, KindUnresolved, unresolved(2, 80))}, "UNRESOLVED 2 "},
		"overdue":                  {[]*Fact{fact(t, KindSent, sent(1, 10)), fact(t, KindOverdue, overdue(40))}, "SENT 1 m1"},
		"overdue, then received":   {[]*Fact{fact(t, KindSent, sent(1, 10)), fact(t, KindOverdue, overdue(40)), fact(t, KindDelivered, delivered(1, 50, true))}, "DELIVERED 1 m1"},
		"two messages":             {[]*Fact{fact(t, KindSent, sent(2, 10)), fact(t, KindDelivered, delivered(2, 20, true)), fact(t, KindDelivered, delivered(1, 15, false))}, "DELIVERED 2 m2"},
	} {
		t.Run(name, func(t *testing.T) {
			s := fold(tt.facts...)
			state := s.GetState().String()[len("NOTIFICATION_STATE_"):]
			if got := fmt.Sprintf("%s %d %s", state, s.GetAttempt(), s.GetMsgId()); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// Every field of a notification that was sent, overdue and then received.
func TestFields(t *testing.T) {
	got := fold(fact(t, KindSent, sent(1, 10, func(m *znsv1.Sent) { m.ReceiptDueTime = at(40) })), fact(t, KindOverdue, overdue(40)), fact(t, KindDelivered, delivered(1, 50, true)))
	want := &znsv1.Status{
		EventTime: at(50), NotificationId: testID.String(), IdempotencyKey: "order-1/shipped", Source: "order-service", OaId: "9", TemplateId: "300100",
		Category: znsv1.Category_CATEGORY_OTP, Channel: znsv1.Channel_CHANNEL_PHONE,
		Recipient: &znsv1.Recipient{PhoneSha256: HashPhone("84987654321")},
		Attempt:   1, TrackingId: "t1", MsgId: "m1", Reference: "INV-1", CustomerId: "C-9", CampaignId: "tet", Labels: map[string]string{"shop": "hcm"},
		RequestedTime: at(0), AcceptedTime: at(1), TraceId: "0af7651916cd43dd8448eb211c80319c", Mode: znsv1.Mode_MODE_LIVE,
		State: znsv1.NotificationState_NOTIFICATION_STATE_DELIVERED, SentTime: at(10), DeliveryTime: at(49), Billable: new(true),
		OutcomeState: znsv1.NotificationState_NOTIFICATION_STATE_SENT, OutcomeEventId: testID.String() + "/sent/1", OutcomeTime: at(10), OutcomeAttempt: 1,
		DeliveredEventId: "m1/delivered/50", CallbackTime: at(50), ReceiptSource: znsv1.ReceiptSource_RECEIPT_SOURCE_CALLBACK,
		OverdueEventId: testID.String() + "/overdue/1", OverdueTime: at(40), OutcomeSource: znsv1.OutcomeSource_OUTCOME_SOURCE_RESPONSE,
		DeliverBy: at(25), ReceiptDueTime: at(40),
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

// drawFacts draws a history with everything that may happen to one notification, and more: several attempts, redrives,
// receipts of each, corrections, in any combination. No two of them have the same name.
func drawFacts(t *rapid.T) []*Fact {
	var facts []*Fact
	seconds := rapid.IntRange(1, 30)
	for attempt := range int32(4) {
		if rapid.Bool().Draw(t, "sent") {
			facts = append(facts, fact(t, KindSent, sent(attempt, seconds.Draw(t, "at"), func(m *znsv1.Sent) { m.Corrects = rapid.Bool().Draw(t, "corrects") })))
		}
		if rapid.Bool().Draw(t, "failed") {
			reason := znsv1.FailureReason(rapid.Int32Range(1, 8).Draw(t, "reason"))
			facts = append(facts, fact(t, KindFailed, failed(attempt, seconds.Draw(t, "at"), reason)))
		}
		if rapid.Bool().Draw(t, "unresolved") {
			facts = append(facts, fact(t, KindUnresolved, unresolved(attempt, seconds.Draw(t, "at"))))
		}
		for n := range rapid.IntRange(0, 2).Draw(t, "receipts") {
			d := delivered(attempt, seconds.Draw(t, "at"), rapid.Bool().Draw(t, "joined"))
			d.EventId = fmt.Sprintf("m%d/delivered/%d", attempt, n)
			facts = append(facts, fact(t, KindDelivered, d))
		}
	}
	if rapid.Bool().Draw(t, "overdue") {
		facts = append(facts, fact(t, KindOverdue, overdue(seconds.Draw(t, "at"))))
	}
	return facts
}

// rank orders states by how much is known. FAILED and UNRESOLVED may take turns when an operator sends again.
func rank(s znsv1.NotificationState) int {
	switch s {
	case znsv1.NotificationState_NOTIFICATION_STATE_DELIVERED:
		return 3
	case znsv1.NotificationState_NOTIFICATION_STATE_SENT:
		return 2
	case znsv1.NotificationState_NOTIFICATION_STATE_UNSPECIFIED:
		return 0
	}
	return 1
}

// TestMergeProperties: the order of events and how often each is seen make no difference, nor do snapshots of parts of
// them that are merged; and no order takes a state back.
func TestMergeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		facts := drawFacts(t)
		want := fold(facts...)
		shuffled := slices.Clone(facts)
		for _, f := range facts {
			for range rapid.IntRange(0, 2).Draw(t, "copies") {
				shuffled = append(shuffled, f)
			}
		}
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		var got *znsv1.Status
		for _, f := range shuffled {
			before := got
			got = Merge(got, f.Status)
			if rank(got.GetState()) < rank(before.GetState()) {
				t.Fatalf("%v became %v by %v", before, got, f.Status)
			}
			if same := Same(before, got); same != proto.Equal(before, got) && before != nil {
				t.Fatalf("Same is %v for\n%v\n%v", same, before, got)
			}
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Fatalf("in another order (-first +second):\n%s", diff)
		}
		cut := rapid.IntRange(0, len(shuffled)).Draw(t, "cut")
		if diff := cmp.Diff(want, Merge(fold(shuffled[cut:]...), fold(shuffled[:cut]...)), protocmp.Transform()); diff != "" && len(facts) > 0 {
			t.Fatalf("of two parts (-want +got):\n%s", diff)
		}
	})
}

// No phone in clear, no fallback, whatever the events hold.
func TestNoPersonalData(t *testing.T) {
	for _, f := range []*Fact{fact(t, KindSent, sent(1, 10)), fact(t, KindFailed, failed(1, 9, 1)), fact(t, KindDelivered, delivered(1, 12, true))} {
		if text := f.Status.String(); len(text) == 0 || strings.Contains(text, "987654321") || strings.Contains(text, "secret") {
			t.Errorf("status of kind %d: %s", f.Kind, text)
		}
	}
	if f := fact(t, KindDelivered, delivered(1, 12, true)); f.Status.GetRecipient().GetUserId() != "u1" {
		t.Error("the user id is gone too")
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, r := range map[string]kafka.Record{
		"no protobuf":      {Key: []byte(testID.String()), Value: []byte("{}")},
		"another key":      {Key: []byte("x"), Value: marshal(t, sent(1, 1))},
		"no notification":  {Key: []byte(testID.String()), Value: marshal(t, &znsv1.Sent{EventId: "x"})},
		"not a UUID":       {Key: []byte("x"), Value: marshal(t, &znsv1.Sent{NotificationId: "x"})},
		"a tombstone":      {Key: []byte(testID.String())},
		"of another topic": {Key: []byte(testID.String()), Value: []byte{0xff}},
	} {
		if f, err := Decode(KindSent, r); err == nil {
			t.Errorf("%s: %v", name, f)
		}
	}
}

func marshal(t *testing.T, m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
