package operate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/notification"
	controlv1 "github.com/znshub/znshub/proto/control/v1"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/cli/explain"
	"github.com/znshub/znshub/services/sender"
	"github.com/znshub/znshub/services/sender/control"
)

var now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// topics are records by topic, of one partition each.
type topics map[string][]kafka.Record

func (l topics) add(name string, r kafka.Record) int64 {
	r.Topic, r.Offset = name, int64(len(l[name]))
	if r.Time.IsZero() {
		r.Time = now
	}
	l[name] = append(l[name], r)
	return r.Offset
}

func (l topics) Partitions(context.Context, string) (int32, error) { return 1, nil }

// Read returns everything, from wherever: who calls it must choose by itself.
func (l topics) Read(_ context.Context, name string, _ []int32, _ kafka.Start, f func(kafka.Record)) ([]explain.Range, error) {
	for _, r := range l[name] {
		f(r)
	}
	return nil, nil
}

func (l topics) entry(t *testing.T, e *ledgerv1.Entry) {
	t.Helper()
	value, err := proto.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	id := uuid.UUID(e.NotificationId)
	l.add(topic.RequestedLedger, kafka.Record{Key: []byte(id.String()), Value: value})
}

// request puts a request into the input and returns the entry of its failure.
func (l topics) request(t *testing.T, change ...func(*notificationv1.NotificationRequested)) *ledgerv1.Entry {
	t.Helper()
	req := &notificationv1.NotificationRequested{
		NotificationId: uuid.NewString(), Source: "shop", TemplateId: "300200", CampaignId: "tet", Recipient: &notificationv1.Recipient{Phone: "0987654321"},
	}
	for _, f := range change {
		f(req)
	}
	value, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	offset := l.add(topic.Requested, kafka.Record{Key: []byte(req.NotificationId), Value: value, Headers: []kafka.Header{{Key: "traceparent", Value: []byte("tp")}, {Key: "zns-moved", Value: []byte("1@2")}}})
	id, hash := uuid.MustParse(req.NotificationId), notification.PayloadHash(req)
	return &ledgerv1.Entry{
		NotificationId: id[:], State: ledgerv1.State_STATE_FAILED, FailureReason: int32(znsv1.FailureReason_FAILURE_REASON_REJECTED),
		ProviderCode: -1122, InputOffset: offset, PayloadHash: hash[:], Attempt: 2, OaId: "1", TemplateId: "300200", CampaignId: "tet", FinishedMs: now.UnixMilli(),
	}
}

func everything(*Item) bool { return true }

func TestScan(t *testing.T) {
	l := topics{}
	id := func(n byte) []byte { x := uuid.UUID{15: n}; return x[:] }
	live := func(n byte, state ledgerv1.State, change ...func(*ledgerv1.Entry)) {
		e := &ledgerv1.Entry{
			NotificationId: id(n), State: state, InputOffset: int64(n),
			Request: &notificationv1.NotificationRequested{OaId: "1", TemplateId: "300200", CampaignId: "tet"},
		}
		for _, f := range change {
			f(e)
		}
		l.entry(t, e)
	}
	live(1, ledgerv1.State_STATE_ACCEPTED)
	live(1, ledgerv1.State_STATE_SENDING)
	live(2, ledgerv1.State_STATE_ACCEPTED)
	l.entry(t, &ledgerv1.Entry{NotificationId: id(2), State: ledgerv1.State_STATE_SENT, InputOffset: 2}) // an older version's: without its campaign
	live(3, ledgerv1.State_STATE_HELD)
	l.add(topic.RequestedLedger, kafka.Record{Key: []byte(uuid.UUID(id(3)).String())}) // forgotten
	live(4, ledgerv1.State_STATE_UNKNOWN)
	live(5, ledgerv1.State_STATE_HELD, func(e *ledgerv1.Entry) {
		e.HoldReason, e.Attempt, e.Retries = ledgerv1.HoldReason_HOLD_REASON_OPERATOR, 2, 1
		e.OpenAttempts = []*ledgerv1.Attempt{{Number: 1, IntentMs: now.Add(-time.Hour).UnixMilli()}, {Number: 2, IntentMs: now.UnixMilli()}}
	})
	l.entry(t, &ledgerv1.Entry{NotificationId: id(6), State: ledgerv1.State_STATE_FAILED, InputOffset: 6, CampaignId: "tet"})
	live(7, ledgerv1.State_STATE_HELD, func(e *ledgerv1.Entry) { // by a rule for its id, while it was to be sent again
		e.HoldReason, e.Attempt, e.OpenAttempts = ledgerv1.HoldReason_HOLD_REASON_OPERATOR, 1, []*ledgerv1.Attempt{{Number: 1}}
	})
	live(8, ledgerv1.State_STATE_ACCEPTED, func(e *ledgerv1.Entry) { e.Request.CampaignId = "other" })
	l.add(topic.RequestedLedger, kafka.Record{Key: []byte(control.AckKey), Value: []byte("not an entry")})
	l.add(topic.RequestedLedger, kafka.Record{Key: []byte("\x00position"), Value: []byte("not an entry")})

	items, err := Scan(t.Context(), l, topic.Requested, func(i *Item) bool { return i.Campaign == "tet" })
	if err != nil {
		t.Fatal(err)
	}
	if got, want := Count(items), (Counts{Waiting: 1, InFlight: 1, Unknown: 2, Sent: 1, Failed: 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, i := range items {
		if i.ID[15] == 5 && (!i.Unlisted || i.Cause != znsv1.UnknownCause_UNKNOWN_CAUSE_AMBIGUOUS_CODE || !i.Since.Equal(now)) {
			t.Errorf("a code in no table: %+v", i)
		}
	}
	if !slices.IsSortedFunc(items, func(a, b *Item) int { return int(a.InputOffset - b.InputOffset) }) {
		t.Error("not in order")
	}
}

func TestScanDoesNotTakeAnOldEndForTheEnd(t *testing.T) {
	if _, err := Scan(t.Context(), stuck{}, topic.Requested, everything); err == nil || !strings.Contains(err.Error(), "open") {
		t.Errorf("behind an open transaction: %v", err)
	}
}

type stuck struct{ topics }

func (stuck) Read(context.Context, string, []int32, kafka.Start, func(kafka.Record)) ([]explain.Range, error) {
	return []explain.Range{{Topic: "t", Incomplete: "a transaction that is still open holds back what comes after"}}, nil
}

func TestFailures(t *testing.T) {
	l := topics{}
	cases := map[string]func(e *ledgerv1.Entry){
		"":                           func(*ledgerv1.Entry) {},
		"perhaps sent":               func(e *ledgerv1.Entry) { e.FailureReason = int32(znsv1.FailureReason_FAILURE_REASON_UNRESOLVED) },
		"no longer in":               func(e *ledgerv1.Entry) { e.InputOffset = 1 << 40 },
		"another request stands":     func(e *ledgerv1.Entry) { e.PayloadHash = make([]byte, 16) },
		"perhaps sent: nobody knows": func(e *ledgerv1.Entry) { e.OpenAttempts = []*ledgerv1.Attempt{{Number: 1}} },
	}
	want := map[string]string{}
	for refusal, change := range cases {
		e := l.request(t)
		change(e)
		l.entry(t, e)
		want[uuid.UUID(e.NotificationId).String()] = refusal
	}
	expired := l.request(t, func(r *notificationv1.NotificationRequested) {
		r.ExpireTime = timestamppb.New(now.Add(-time.Second))
	})
	l.entry(t, expired)
	want[uuid.UUID(expired.NotificationId).String()] = "it expired at"

	items, err := Scan(t.Context(), l, topic.Requested, everything)
	if err != nil {
		t.Fatal(err)
	}
	redrive := uuid.New()
	got, err := Failures(t.Context(), l, topic.Requested, items, redrive, now)
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d candidates, %v", len(got), err)
	}
	for _, c := range got {
		refusal := want[c.ID]
		if refusal == "" != (c.Refused == "") || !strings.Contains(c.Refused, refusal) {
			t.Errorf("refused because %q, want %q", c.Refused, refusal)
		}
		if c.Refused != "" {
			continue
		}
		value, _ := c.record.Header(sender.HeaderRedrive)
		r, err := sender.ParseRedrive(string(value))
		if err != nil || r.ID != redrive || r.Offset != c.item.InputOffset || r.Attempt != 2 {
			t.Errorf("header %q: %v", value, err)
		}
		if _, moved := c.record.Header("zns-moved"); moved || c.record.Topic != topic.Requested || c.record.Partition != -1 || !c.record.Time.IsZero() {
			t.Errorf("published as %+v", c.record)
		}
	}
}

func TestDeadLetters(t *testing.T) {
	l := topics{}
	letter := func(reason, source string, offset int64, value []byte, more ...kafka.Header) {
		if value == nil && len(more) == 0 {
			value, _ = proto.Marshal(&notificationv1.NotificationRequested{NotificationId: uuid.NewString(), Source: source})
		}
		l.add(topic.RequestedDLQ, kafka.Record{Value: value, Headers: append([]kafka.Header{
			{Key: dlqReason, Value: []byte(reason)}, {Key: dlqTopic, Value: []byte(topic.Requested)}, {Key: dlqPartition, Value: []byte("0")},
			{Key: dlqOffset, Value: fmt.Append(nil, offset)},
		}, more...)})
	}
	at := l.add(topic.Requested, kafka.Record{Value: []byte("large")})
	letter("INVALID", "shop", 17, nil)
	letter("INVALID", "bank", 18, nil)
	letter("MALFORMED", "", 19, []byte("garbage"))
	letter("REFUSED_BY_BROKER", "", at, nil, kafka.Header{Key: dlqSize, Value: []byte("5")})
	letter("REFUSED_BY_BROKER", "", 1<<40, nil, kafka.Header{Key: dlqSize, Value: []byte("5")})
	l.add(topic.RequestedDLQ, kafka.Record{Value: []byte("x")}) // somebody else's

	find := func(keep func(Letter) bool) []*Candidate {
		t.Helper()
		got, err := DeadLetters(t.Context(), l, topic.Requested, time.Time{}, keep, uuid.New())
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := find(func(l Letter) bool { return l.Source == "shop" }); len(got) != 1 || got[0].Refused != "" || got[0].ID == "" {
		t.Errorf("of one service: %+v", got)
	}
	if got := find(func(l Letter) bool { return l.Reason == "MALFORMED" }); len(got) != 1 || string(got[0].record.Value) != "garbage" || len(got[0].record.Headers) != 1 {
		t.Errorf("of one reason: %+v", got)
	}
	large := find(func(l Letter) bool { return l.Reason == "REFUSED_BY_BROKER" })
	slices.SortFunc(large, func(a, b *Candidate) int { return len(a.Refused) - len(b.Refused) })
	if len(large) != 2 || string(large[0].record.Value) != "large" || !strings.Contains(large[1].Refused, "is gone") {
		t.Errorf("whose value was not kept: %+v", large)
	}
	if got := find(func(l Letter) bool { return l.Reason == "" }); len(got) != 1 || !strings.Contains(got[0].Refused, "where it came from") {
		t.Errorf("without provenance: %+v", got)
	}
}

func TestAnswer(t *testing.T) {
	cancel := &controlv1.Command{CommandId: uuid.NewString(), Action: controlv1.Action_ACTION_CANCEL}
	ack := func(next int64, results ...control.Result) []byte {
		return control.Ack{Position: control.Position{TopicID: [16]byte{1}, Next: []int64{0, next}}, Results: results}.Encode()
	}
	id := uuid.MustParse(cancel.CommandId)
	w := wait{commands: []*controlv1.Command{cancel}, ends: map[int32]int64{1: 5}, waiting: map[int32]bool{0: true, 1: true, 2: true, 3: true}, acks: map[int32]control.Ack{}}
	for p, value := range map[int32][]byte{
		0: ack(5, control.Result{Command: id, Changed: 3, TooLate: 1}), 1: ack(4), 2: ack(6), // 2 did not understand it, 3 says nothing
	} {
		if err := w.take(&kafka.Record{Partition: p, Key: []byte(control.AckKey), Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	_ = w.take(&kafka.Record{Partition: 3, Key: []byte(uuid.NewString()), Value: ack(9)})
	a := w.answer(time.Second)
	if a.Partitions != 4 || !slices.Equal(a.Missing, []int32{1, 3}) || !slices.Equal(a.Skipped, []int32{2}) || a.Changed != 3 || a.TooLate != 1 {
		t.Errorf("%+v", a)
	}
}
