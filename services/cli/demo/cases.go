package demo

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/notification"
	"github.com/znshub/znshub/proto/topic"
)

// noAccount is Zalo's code for a number without a Zalo account.
const noAccount = -118

// vietnam is Zalo's time zone; it has no daylight saving time, and not every machine has the zone's file.
var vietnam = time.FixedZone("Asia/Ho_Chi_Minh", 7*60*60)

// behaviour is what the simulator does to a case's phone.
type behaviour int

const (
	plain behaviour = iota
	answerLost
	hangs // the answer comes so late that the sender is killed before
	noZalo
)

// scenario is one case of the demo.
type scenario struct {
	name  string
	key   string // idempotency_key
	phone string
	zalo  behaviour
	want  state
	twice bool
	late  bool // published after the others are done, because its sender is killed
	body  map[string]any
	tell  func(*Outcome) (what, wrong string)
}

// Templates of the simulator.
const (
	otpTemplate       = "300100"
	orderTemplate     = "300200"
	promotionTemplate = "300300"
)

// scenarios lists the cases. now decides until when the promotion waits; run, four digits, makes the phone numbers
// those of this run alone. They are Vietnamese mobile numbers only in form.
func scenarios(now time.Time, run string) []scenario {
	phone := func(n string) string { return "091" + run + n }
	order := func(n string) map[string]any {
		return map[string]any{"template_id": orderTemplate, "template_data": map[string]string{"order_code": "DH-" + n, "customer_name": "Nguyen Van A"}}
	}
	with := func(body map[string]any, name string, value any) map[string]any {
		body[name] = value
		return body
	}
	return []scenario{
		{
			name: "otp-771", phone: phone("771"), want: sent, tell: tellSent,
			body: map[string]any{"template_id": otpTemplate, "template_data": map[string]string{"otp": "483920"}, "category": "OTP", "ttl": "300s"},
		},
		{name: "order-1042, twice", key: "order-1042", phone: phone("142"), want: sent, twice: true, tell: tellTwice, body: order("1042")},
		{name: "order-1043, answer lost", key: "order-1043", phone: phone("143"), zalo: answerLost, want: sent, tell: tellAnswerLost, body: order("1043")},
		{name: "order-1044, kill -9", key: "order-1044", phone: phone("144"), zalo: hangs, want: sent, late: true, tell: tellKilled, body: order("1044")},
		{
			name: "order-1045, no Zalo", key: "order-1045", phone: phone("145"), zalo: noZalo, want: failed, tell: tellRefused,
			body: with(order("1045"), "fallback", map[string]string{"sms_text": "Don hang DH-1045 da giao"}),
		},
		{
			name: "promo-9", phone: phone("009"), want: held, tell: tellHeld(now),
			body: map[string]any{
				"template_id": promotionTemplate, "template_data": map[string]string{"customer_name": "Nguyen Van A", "voucher": "T11"},
				"category": "PROMOTION", "not_before": nextMorning(now).Format(time.RFC3339),
			},
		},
		{name: `bad phone "09x"`, key: "bad-phone", phone: "09x", want: failed, tell: tellInvalid, body: order("1046")},
	}
}

// nextMorning is the next 06:00 in Vietnam that is at least an hour away.
func nextMorning(now time.Time) time.Time {
	t := now.In(vietnam)
	morning := time.Date(t.Year(), t.Month(), t.Day(), 6, 0, 0, 0, vietnam)
	if morning.Sub(now) < time.Hour {
		morning = morning.AddDate(0, 0, 1)
	}
	return morning
}

// naturalKey is the scenario's idempotency_key.
func (s *scenario) naturalKey() string {
	if s.key != "" {
		return s.key
	}
	return s.name
}

// id is the notification's id in a run whose requests come from source.
func (s *scenario) id(source string) uuid.UUID { return notification.DeriveID(source, s.naturalKey()) }

// records are the requests as any publisher would write them: JSON, no headers.
func (s *scenario) records(source string) ([]kafka.Record, error) {
	body := map[string]any{"source": source, "idempotency_key": s.naturalKey(), "recipient": map[string]string{"phone": s.phone}}
	maps.Copy(body, s.body)
	value, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", s.name, err)
	}
	r := kafka.Record{Topic: topic.Requested, Partition: -1, Key: []byte(s.id(source).String()), Value: value}
	if s.twice {
		return []kafka.Record{r, r}, nil
	}
	return []kafka.Record{r}, nil
}
