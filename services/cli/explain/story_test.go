package explain

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	controlv1 "github.com/znshub/znshub/proto/control/v1"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/cli/event"
	"github.com/znshub/znshub/services/cli/render"
	"github.com/znshub/znshub/services/sender/control"
)

var update = flag.Bool("update", false, "write the golden files")

const (
	id    = "93c1a1a0-6f8b-5d3e-8b6e-0c9a2f7d4e11"
	phone = "0987654321"
)

// at is the story's clock: ms after 11:00 Vietnam time.
func at(ms int64) time.Time {
	return time.Date(2026, 11, 22, 4, 0, 0, 0, time.UTC).Add(time.Duration(ms) * time.Millisecond)
}

func record(t *testing.T, topicName string, partition int32, offset, ms int64, m proto.Message, headers ...kafka.Header) event.Event {
	t.Helper()
	value, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return event.Decode(kafka.Record{Topic: topicName, Partition: partition, Offset: offset, Time: at(ms), Key: []byte(id), Value: value, Headers: headers})
}

func step(ms int64, kind ledgerv1.StepKind, change ...func(*ledgerv1.Step)) *ledgerv1.Step {
	s := &ledgerv1.Step{TimeMs: at(ms).UnixMilli(), Kind: kind}
	for _, f := range change {
		f(s)
	}
	return s
}

// answerLost is the story of a request whose answer was lost and whose callback settled it.
func answerLost(t *testing.T) Facts {
	request := notificationv1.NotificationRequested{
		IdempotencyKey: "order-1043/shipped", Source: "order-service", TemplateId: "643118",
		Recipient: &notificationv1.Recipient{Phone: phone}, TemplateData: map[string]string{"customer_name": "Secret Name"},
	}
	first := func(s *ledgerv1.Step) { s.Attempt = 1 }
	history := []*ledgerv1.Step{
		step(4, ledgerv1.StepKind_STEP_KIND_ACCEPTED),
		step(6, ledgerv1.StepKind_STEP_KIND_INTENT, first, func(s *ledgerv1.Step) { s.Owner = "sender-1" }),
		step(1507, ledgerv1.StepKind_STEP_KIND_UNKNOWN, first, func(s *ledgerv1.Step) {
			s.DurationMs, s.Cause, s.UntilMs = 1500, int32(znsv1.UnknownCause_UNKNOWN_CAUSE_TIMEOUT), at(86_400_004).UnixMilli()
		}),
		step(2110, ledgerv1.StepKind_STEP_KIND_CALLBACK, first),
	}
	version := func(offset, ms int64, state ledgerv1.State, attempt int32, steps int) Version {
		return Version{topic.RequestedLedger, 7, offset, at(ms), &ledgerv1.Entry{
			State: state, Attempt: attempt, ExpireMs: at(86_400_000).UnixMilli(), History: history[:steps],
			Category: notificationv1.Category_CATEGORY_TRANSACTION, Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		}}
	}
	last := version(105, 2111, ledgerv1.State_STATE_SENT, 1, 4)
	last.Entry.MsgId = "a4d0243feee163bd3af2"
	last.Entry.AttemptResults = []*ledgerv1.AttemptResult{{Number: 1, TrackingId: "1f3kQ9"}}
	callback := event.Decode(kafka.Record{
		Topic: topic.Callback, Partition: 3, Offset: 5, Time: at(2100), Headers: []kafka.Header{
			{Key: "ce_subject", Value: []byte(id)}, {Key: "zns-signature", Value: []byte("valid")},
			{Key: "zns-received", Value: []byte(at(2090).Format(time.RFC3339Nano))},
		},
		Value: []byte(`{"event_name":"user_received_message","recipient":{"id":"84987654321"},"message":{"msg_id":"a4d0243feee163bd3af2","tracking_id":"1f3kQ9"}}`),
	})
	return Facts{
		ID:       id,
		Requests: []event.Event{record(t, topic.Requested, 2, 4, 0, &request), record(t, topic.Requested, 7, 17, 0, &request, kafka.Header{Key: "zns-moved", Value: []byte("2@4")})},
		Ledger: []Version{
			version(102, 5, ledgerv1.State_STATE_ACCEPTED, 0, 1), version(103, 6, ledgerv1.State_STATE_SENDING, 1, 2),
			version(104, 1508, ledgerv1.State_STATE_UNKNOWN, 1, 3), last,
		},
		Callbacks: []event.Event{callback},
		Events: []event.Event{
			record(t, topic.Sent, 3, 9, 2111, &znsv1.Sent{
				NotificationId: id, IdempotencyKey: "order-1043/shipped", Source: "order-service", Attempt: 1, MsgId: "a4d0243feee163bd3af2",
				OutcomeSource: znsv1.OutcomeSource_OUTCOME_SOURCE_CALLBACK, Recipient: &znsv1.Recipient{Phone: "+84987654321"},
				RequestedTime: timestamppb.New(at(0)), EventTime: timestamppb.New(at(2110)),
			}),
			record(t, topic.Delivered, 3, 4, 2130, &znsv1.Delivered{
				NotificationId: id, RequestedTime: timestamppb.New(at(0)), EventTime: timestamppb.New(at(2125)), Billable: new(true),
			}),
		},
		Searched: []Range{
			{Topic: topic.Requested, Partition: 7, To: 1204, Records: 1204},
			{Topic: topic.RequestedLedger, Partition: 7, From: 40, To: 106, Records: 66},
			{Topic: topic.Sent, Partition: 3, To: 10, Records: 10},
		},
	}
}

func TestStory(t *testing.T) {
	local := time.Local
	time.Local = time.FixedZone("+07", 7*3600)
	defer func() { time.Local = local }()

	held := Facts{ID: id, Ledger: []Version{{topic.RequestedLedger, 1, 8, at(2), &ledgerv1.Entry{
		State: ledgerv1.State_STATE_HELD, HoldReason: ledgerv1.HoldReason_HOLD_REASON_NOT_BEFORE, HoldUntilMs: at(68_400_000).UnixMilli(),
		ExpireMs: at(154_800_000).UnixMilli(),
		History: []*ledgerv1.Step{
			step(1, ledgerv1.StepKind_STEP_KIND_ACCEPTED),
			step(1, ledgerv1.StepKind_STEP_KIND_HELD, func(s *ledgerv1.Step) {
				s.HoldReason, s.UntilMs = ledgerv1.HoldReason_HOLD_REASON_NOT_BEFORE, at(68_400_000).UnixMilli()
			}),
		},
	}}}}
	// At night an operator's hold stands beside the hours. The rules were read while another topic was.
	atNight := Facts{ID: id, Ledger: []Version{{topic.RequestedLedger, 1, 8, at(2), &ledgerv1.Entry{
		State: ledgerv1.State_STATE_HELD, HoldReason: ledgerv1.HoldReason_HOLD_REASON_HOURS, HoldUntilMs: at(68_400_000).UnixMilli(),
		Category: notificationv1.Category_CATEGORY_PROMOTION, Request: &notificationv1.NotificationRequested{CampaignId: "tet"},
		History: []*ledgerv1.Step{step(1, ledgerv1.StepKind_STEP_KIND_ACCEPTED)},
	}}}, Rules: []*control.Command{{Action: controlv1.Action_ACTION_HOLD, Scope: control.Campaign("tet"), At: at(500), Reason: "wrong price"}}, Searched: []Range{
		{Topic: topic.Control, To: 1, Records: 1}, {Topic: topic.Status, Partition: 1}, {Topic: topic.Control, Partition: 1, To: 2, Records: 2},
		{Topic: topic.Sent, Partition: 1}, {Topic: topic.Status, Partition: 1, To: 4},
	}}
	// Cancelled before its first call, and redriven.
	redriven := Facts{ID: id, Ledger: []Version{{topic.RequestedLedger, 1, 8, at(2), &ledgerv1.Entry{
		State: ledgerv1.State_STATE_SENDING, Attempt: 2, OpenAttempts: []*ledgerv1.Attempt{{Number: 2, TrackingId: "4WaxRH2bwD2xPHUT7sWVo2oIzLXt9yvXuQ5dODwqzKbjuN8k"}},
		History: []*ledgerv1.Step{step(1, ledgerv1.StepKind_STEP_KIND_INTENT, func(s *ledgerv1.Step) { s.Attempt = 2 })},
	}}}}
	// A request that names an OA which the hub has no token of, perhaps by a slip.
	noToken := Facts{ID: id, Ledger: []Version{{topic.RequestedLedger, 1, 8, at(2), &ledgerv1.Entry{
		State: ledgerv1.State_STATE_HELD, HoldReason: ledgerv1.HoldReason_HOLD_REASON_TOKEN, Request: &notificationv1.NotificationRequested{OaId: "2893352839501541174"},
		History: []*ledgerv1.Step{step(1, ledgerv1.StepKind_STEP_KIND_ACCEPTED)},
	}}}}
	rejected := Facts{ID: id, Ledger: []Version{{topic.RequestedLedger, 1, 9, at(90), &ledgerv1.Entry{
		State: ledgerv1.State_STATE_FAILED, Attempt: 2, FailureReason: int32(znsv1.FailureReason_FAILURE_REASON_REJECTED), ProviderCode: -118,
		History: []*ledgerv1.Step{
			step(1, ledgerv1.StepKind_STEP_KIND_ACCEPTED),
			step(2, ledgerv1.StepKind_STEP_KIND_INTENT, func(s *ledgerv1.Step) { s.Attempt = 1 }),
			step(10, ledgerv1.StepKind_STEP_KIND_NOT_SENT, func(s *ledgerv1.Step) { s.Attempt, s.DurationMs = 1, 8 }),
			step(10, ledgerv1.StepKind_STEP_KIND_HELD, func(s *ledgerv1.Step) { s.HoldReason = ledgerv1.HoldReason_HOLD_REASON_RETRY }),
			step(60, ledgerv1.StepKind_STEP_KIND_INTENT, func(s *ledgerv1.Step) { s.Attempt = 2 }),
			step(90, ledgerv1.StepKind_STEP_KIND_REJECTED, func(s *ledgerv1.Step) { s.Attempt, s.DurationMs, s.Code = 2, 30, -118 }),
			step(90, ledgerv1.StepKind_STEP_KIND_FAILED),
		},
	}}}}
	unknown := Facts{ID: id, Ledger: []Version{{topic.RequestedLedger, 1, 9, at(1600), &ledgerv1.Entry{
		State: ledgerv1.State_STATE_UNKNOWN, Attempt: 1, UnknownCause: 1, DecideByMs: at(15_000).UnixMilli(),
		Request: &notificationv1.NotificationRequested{CampaignId: "tet", TemplateId: "643118"},
		History: []*ledgerv1.Step{
			step(1, ledgerv1.StepKind_STEP_KIND_ACCEPTED),
			step(1, ledgerv1.StepKind_STEP_KIND_OPERATOR, func(s *ledgerv1.Step) { s.Code, s.Owner = 4, "018f3c5e-7b1a-7c3e-9c39-5c1f1b9f2a10" }),
			step(1, ledgerv1.StepKind_STEP_KIND_INTENT, func(s *ledgerv1.Step) { s.Attempt = 1 }),
			step(1501, ledgerv1.StepKind_STEP_KIND_UNKNOWN, func(s *ledgerv1.Step) { s.Attempt, s.DurationMs, s.Cause = 1, 1500, 1 }),
		},
	}}}, Events: []event.Event{record(t, topic.Unresolved, 3, 1, 1600, &znsv1.Unresolved{
		NotificationId: id, Cause: znsv1.UnknownCause_UNKNOWN_CAUSE_TIMEOUT, Policy: znsv1.UnknownPolicy_UNKNOWN_POLICY_FAIL, EventTime: timestamppb.New(at(1600)),
	})}, Rules: []*control.Command{
		{Action: controlv1.Action_ACTION_HOLD, Scope: control.Campaign("tet"), At: at(500), Actor: "lan", Reason: "wrong price"},
		{Action: controlv1.Action_ACTION_HOLD, Scope: control.Template("another"), At: at(500)},
		{Action: controlv1.Action_ACTION_HOLD, Scope: control.All(), At: at(500), Expires: at(2900)},
	}}
	// What the other topics have forgotten after their retention.
	old := Facts{ID: id, Status: &Snapshot{3, 77, at(2000), &znsv1.Status{
		NotificationId: id, IdempotencyKey: "order-1043/shipped", Source: "order-service", TemplateId: "643118", MsgId: "a4d0243feee163bd3af2", Revision: 1795338002000,
		State: znsv1.NotificationState_NOTIFICATION_STATE_DELIVERED,
	}}}
	// Compaction may remove what stood before the tombstone, or not yet.
	forgotten := Facts{ID: id, Ledger: []Version{{topic.RequestedLedger, 1, 9, at(90), nil}}}
	notYetGone := Facts{ID: id, Ledger: append(slices.Clone(rejected.Ledger), Version{topic.RequestedLedger, 1, 12, at(2000), nil})}

	for name, facts := range map[string]Facts{"answer_lost": answerLost(t), "held": held, "at_night": atNight, "no_token": noToken, "redriven": redriven, "rejected": rejected, "forgotten": forgotten, "not_yet_gone": notYetGone, "unknown": unknown, "old": old} {
		t.Run(name, func(t *testing.T) {
			story := Tell(facts, at(3000))
			got := story.Text(render.Style{}, at(3000), "http://jaeger:16686/trace/{trace_id}")
			golden := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("story (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStoryHoldsNoPersonalData(t *testing.T) {
	story := Tell(answerLost(t), at(3000))
	body, err := json.Marshal(story)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(body), story.Text(render.Coloured(), at(3000), "")} {
		for _, secret := range []string{"987654", "Secret Name"} {
			if strings.Contains(text, secret) {
				t.Errorf("the story tells %q:\n%s", secret, text)
			}
		}
		if !strings.Contains(text, "84*****321") {
			t.Errorf("the story does not tell whom, masked:\n%s", text)
		}
	}
}

// A wait whose end has come is not told as one that ends in less than no time.
func TestStateOfAWaitThatIsOver(t *testing.T) {
	at := time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
	entry := &ledgerv1.Entry{State: ledgerv1.State_STATE_HELD, HoldReason: ledgerv1.HoldReason_HOLD_REASON_NOT_BEFORE, HoldUntilMs: at.UnixMilli()}
	for now, want := range map[time.Time]string{
		at.Add(-time.Hour): "HELD: NOT_BEFORE, until 2026-11-23 13:00:00 VN, in 1 h",
		at.Add(time.Hour):  "HELD: NOT_BEFORE, until 2026-11-23 13:00:00 VN, which has passed",
	} {
		if got := state(Facts{}, entry, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
