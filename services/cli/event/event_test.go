package event

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/cli/render"
)

var update = flag.Bool("update", false, "write the golden files")

const id = "93c1a1a0-6f8b-5d3e-8b6e-0c9a2f7d4e11"

var start = time.Date(2026, 11, 22, 4, 0, 0, 0, time.UTC)

func at(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(start.Add(d)) }

func encode(t *testing.T, m proto.Message) []byte {
	t.Helper()
	value, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func records(t *testing.T) []kafka.Record {
	to := &znsv1.Recipient{Phone: "+84987654321"}
	list := []kafka.Record{
		{Topic: topic.Requested, Value: []byte(`{"source":"shop","idempotency_key":"order-1/shipped","recipient":{"phone":"0987 654 321"},"template_id":"643118","template_data":{"otp":"483920"},"not_before":"2026-11-22T23:00:00Z"}`)},
		{Topic: topic.Requested, Value: encode(t, &notificationv1.NotificationRequested{NotificationId: id, Recipient: &notificationv1.Recipient{UserId: "2512523625412515"}}), Headers: []kafka.Header{{Key: "zns-moved", Value: []byte("2@4")}}},
		{Topic: topic.Requested, Value: []byte("\x0a\xff")},
		{Topic: topic.Sent, Value: encode(t, &znsv1.Sent{NotificationId: id, IdempotencyKey: "order-1/shipped", Recipient: to, Attempt: 1, MsgId: "a4d0243feee163bd3af2", RequestedTime: at(0), EventTime: at(61 * time.Millisecond), OutcomeSource: znsv1.OutcomeSource_OUTCOME_SOURCE_RESPONSE})},
		{Topic: topic.Unresolved, Value: encode(t, &znsv1.Unresolved{NotificationId: id, Cause: znsv1.UnknownCause_UNKNOWN_CAUSE_TIMEOUT, Policy: znsv1.UnknownPolicy_UNKNOWN_POLICY_HOLD, DecideBy: at(time.Hour)})},
		{Topic: topic.Failed, Value: encode(t, &znsv1.Failed{NotificationId: id, Recipient: to, Reason: znsv1.FailureReason_FAILURE_REASON_REJECTED, ProviderCode: -118, ProviderMessage: "Zalo account not existed", Advice: znsv1.Advice_ADVICE_TRY_OTHER_CHANNEL, Fallback: map[string]string{"sms_text": "Nguyen Van A"}})},
		{Topic: topic.Failed, Value: encode(t, &znsv1.Failed{NotificationId: id, Reason: znsv1.FailureReason_FAILURE_REASON_INVALID, Violations: []*znsv1.Violation{{Field: "recipient.phone", Rule: "phone", Message: "not a phone number"}}})},
		{Topic: topic.Failed, Value: encode(t, &znsv1.Failed{NotificationId: id, Reason: znsv1.FailureReason_FAILURE_REASON_INVALID, Violations: []*znsv1.Violation{{Message: "broken JSON"}}})},
		{Topic: topic.Delivered, Value: encode(t, &znsv1.Delivered{NotificationId: id, Recipient: to, RequestedTime: at(0), EventTime: at(400 * time.Millisecond), Billable: new(true)})},
		{Topic: topic.Callback, Headers: []kafka.Header{{Key: "ce_subject", Value: []byte(id)}}, Value: []byte(`{"event_name":"user_received_message","recipient":{"id":"84987654321"},"message":{"msg_id":"m1","tracking_id":"t1"}}`)},
		{Topic: topic.Callback, Value: []byte("<html>\x1b[2J")},
		{Topic: topic.RequestedDLQ, Value: []byte("garbage 0987654321"), Headers: []kafka.Header{{Key: "zns-dlq-reason", Value: []byte("MALFORMED")}, {Key: "zns-dlq-message", Value: []byte("no field starts at byte 0 of 18")},
			{Key: "zns-dlq-topic", Value: []byte(topic.Requested)}, {Key: "zns-dlq-partition", Value: []byte("4")}, {Key: "zns-dlq-offset", Value: []byte("71")}}},
	}
	for i := range list {
		list[i].Partition, list[i].Offset, list[i].Time = 3, int64(i), start.Add(time.Duration(i)*time.Second)
	}
	return list
}

func TestLinesAndJSON(t *testing.T) {
	local := time.Local
	time.Local = time.UTC
	defer func() { time.Local = local }()
	var lines, docs strings.Builder
	for _, r := range records(t) {
		e := Decode(r)
		lines.WriteString(e.Line(render.Style{}, start) + "\n")
		doc, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		docs.WriteString(string(doc) + "\n")
	}
	golden(t, "lines.txt", lines.String())
	golden(t, "events.jsonl", docs.String())
	for _, secret := range []string{"987654", "987 654", "483920", "Nguyen", "2512523625412515", "\x1b"} {
		if strings.Contains(lines.String()+docs.String(), secret) {
			t.Errorf("the output tells %q", secret)
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(topic.Requested, []byte(`{"recipient":{"phone":"0987654321"}}`))
	f.Add(topic.Sent, []byte{0x1a, 0x01, 'x'})
	f.Add(topic.Callback, []byte(`{"event_name":"\u001b[2J"}`))
	f.Fuzz(func(t *testing.T, topicName string, value []byte) {
		e := Decode(kafka.Record{Topic: topicName, Value: value})
		line := e.Line(render.Style{}, start)
		if strings.ContainsAny(line, "\n\r\x1b") {
			t.Errorf("the line of %q leaves its line: %q", value, line)
		}
		if _, err := json.Marshal(e); err != nil {
			t.Errorf("JSON of %q: %v", value, err)
		}
	})
}
