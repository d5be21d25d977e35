package notification

import (
	"encoding/binary"
	"errors"
	"flag"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

var update = flag.Bool("update", false, "rewrite the golden vectors")

var recordTime = time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC)

// valid returns a request with every field set that this version takes.
func valid() *notificationv1.NotificationRequested {
	return &notificationv1.NotificationRequested{
		IdempotencyKey: "order-1042/shipped",
		Source:         "order-service",
		OaId:           "2893352839501541173",
		Recipient:      &notificationv1.Recipient{Phone: "+84987654321", UserId: "5564713928451273901"},
		TemplateId:     "643118",
		TemplateData:   map[string]string{"order_code": "DH-1042", "amount": "125000"},
		Text:           "Đơn hàng DH-1042 đã giao",
		Channels:       []notificationv1.Channel{notificationv1.Channel_CHANNEL_PHONE},
		Category:       notificationv1.Category_CATEGORY_CUSTOMER_CARE,
		NotBefore:      timestamppb.New(recordTime.Add(time.Hour)),
		ExpireTime:     timestamppb.New(recordTime.Add(48 * time.Hour)),
		Ttl:            durationpb.New(36 * time.Hour),
		DeliverWithin:  durationpb.New(90 * time.Second),
		OnUnknown:      notificationv1.OnUnknown_ON_UNKNOWN_HOLD,
		OrderingKey:    "order-1042",
		CollapseKey:    "order-1042/state",
		JourneyKey:     "journey-7",
		CampaignId:     "tet-2026",
		Reference:      "DH-1042",
		CustomerId:     "KH-77",
		Labels:         map[string]string{"team": "logistics"},
		Fallback:       map[string]string{"sms_text": "Don hang DH-1042 da giao"},
		Mode:           notificationv1.Mode_MODE_LIVE,

		IgnoreSuppression: true,
	}
}

func record(value []byte) kafka.Record {
	return kafka.Record{Topic: "notification.requested", Time: recordTime, Value: value}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// framed puts a schema-registry frame with the given message index before b.
func framed(b []byte, index ...int64) []byte {
	frame := []byte{0, 0, 0, 0, 7}
	if len(index) == 1 && index[0] == 0 {
		return append(append(frame, 0), b...)
	}
	frame = binary.AppendVarint(frame, int64(len(index)))
	for _, i := range index {
		frame = binary.AppendVarint(frame, i)
	}
	return append(frame, b...)
}

func decodeError(t *testing.T, r kafka.Record) *Error {
	t.Helper()
	req, err := Decode(r)
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("Decode returned %v, %v; want an *Error", req, err)
	}
	if req != nil {
		t.Errorf("Decode returned a request with the error %v", err)
	}
	if (e.Reason == Invalid) != (len(e.Violations) > 0) {
		t.Errorf("reason %v with %d violations", e.Reason, len(e.Violations))
	}
	return e
}

func contains(t *testing.T, got string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
}
