package find

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/cli/explain"
	"github.com/znshub/znshub/services/ingest/status"
)

// memory is a Log of one partition.
type memory struct {
	t       *testing.T
	records map[string][]kafka.Record
}

func (m *memory) Partitions(context.Context, string) (int32, error) { return 1, nil }

func (m *memory) Read(_ context.Context, name string, _ []int32, _ kafka.Start, f func(kafka.Record)) ([]explain.Range, error) {
	for _, r := range m.records[name] {
		f(r)
	}
	n := int64(len(m.records[name]))
	return []explain.Range{{Topic: name, To: n, Records: n}}, nil
}

func (m *memory) add(name string, id uuid.UUID, value proto.Message) {
	var b []byte
	if value != nil {
		var err error
		if b, err = proto.Marshal(value); err != nil {
			m.t.Fatal(err)
		}
	}
	m.records[name] = append(m.records[name], kafka.Record{Topic: name, Key: []byte(id.String()), Value: b})
}

const phone = "+84987654321"

func snapshot(id uuid.UUID, minute int, state znsv1.NotificationState, change ...func(*znsv1.Status)) *znsv1.Status {
	s := &znsv1.Status{
		NotificationId: id.String(), EventTime: timestamppb.New(time.Date(2026, 11, 22, 9, minute, 0, 0, time.UTC)), State: state,
		Recipient: &znsv1.Recipient{PhoneSha256: status.HashPhone(phone)}, TemplateId: "300100", Reference: "INV-1", CustomerId: "C-9", CampaignId: "tet",
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func waiting(state ledgerv1.State, change ...func(*ledgerv1.Entry)) *ledgerv1.Entry {
	e := &ledgerv1.Entry{
		State: state, AcceptedMs: time.Date(2026, 11, 22, 9, 30, 0, 0, time.UTC).UnixMilli(),
		Request: &notificationv1.NotificationRequested{
			Recipient: &notificationv1.Recipient{Phone: phone}, TemplateId: "300100", Reference: "INV-2", CustomerId: "C-9", CampaignId: "tet",
			TemplateData: map[string]string{"otp": "123456"},
		},
	}
	for _, f := range change {
		f(e)
	}
	return e
}

func TestSearch(t *testing.T) {
	m := &memory{t: t, records: map[string][]kafka.Record{}}
	ids := make([]uuid.UUID, 9)
	for i := range ids {
		ids[i] = uuid.MustParse(fmt.Sprintf("93c1a1a0-6f8b-4d3e-8b6e-00000000000%d", i))
	}
	until := time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
	// 0: sent, then delivered. 1: failed. 2: another's phone. 3: waits. 4: unresolved and UNKNOWN. 5: forgotten.
	// 6: waited, and is done now. 7: failed, and was sent again by an operator. 8: by hash only.
	m.add(topic.Status, ids[0], snapshot(ids[0], 1, znsv1.NotificationState_NOTIFICATION_STATE_SENT))
	m.add(topic.Status, ids[1], snapshot(ids[1], 2, znsv1.NotificationState_NOTIFICATION_STATE_FAILED, func(s *znsv1.Status) {
		s.Reason, s.ProviderCode = znsv1.FailureReason_FAILURE_REASON_REJECTED, -118
	}))
	m.add(topic.Status, ids[2], snapshot(ids[2], 3, znsv1.NotificationState_NOTIFICATION_STATE_SENT, func(s *znsv1.Status) {
		s.Recipient.PhoneSha256 = status.HashPhone("+84912345678")
		s.Reference = status.HashPhone(phone) // holds the text, but elsewhere
	}))
	m.add(topic.Status, ids[0], snapshot(ids[0], 4, znsv1.NotificationState_NOTIFICATION_STATE_DELIVERED, func(s *znsv1.Status) { s.DeliveredEventId = "x" }))
	m.add(topic.Status, ids[4], snapshot(ids[4], 5, znsv1.NotificationState_NOTIFICATION_STATE_UNRESOLVED))
	m.add(topic.Status, ids[5], snapshot(ids[5], 6, znsv1.NotificationState_NOTIFICATION_STATE_SENT))
	m.add(topic.Status, ids[5], nil)
	m.add(topic.Status, ids[7], snapshot(ids[7], 7, znsv1.NotificationState_NOTIFICATION_STATE_FAILED))
	held := func(e *ledgerv1.Entry) {
		e.HoldReason, e.HoldUntilMs = ledgerv1.HoldReason_HOLD_REASON_HOURS, until.UnixMilli()
	}
	m.add(topic.RequestedLedger, ids[3], waiting(ledgerv1.State_STATE_HELD, held))
	m.add(topic.RequestedLedger, ids[4], waiting(ledgerv1.State_STATE_UNKNOWN, func(e *ledgerv1.Entry) { e.UnknownCause, e.DecideByMs = 1, until.UnixMilli() }))
	m.add(topic.RequestedLedger, ids[6], waiting(ledgerv1.State_STATE_HELD, held))
	m.add(topic.RequestedLedger, ids[6], &ledgerv1.Entry{State: ledgerv1.State_STATE_SENT})
	m.add(topic.RequestedLedger, ids[7], waiting(ledgerv1.State_STATE_SENDING))
	m.add(topic.RequestedLedger, ids[8], waiting(ledgerv1.State_STATE_ACCEPTED, func(e *ledgerv1.Entry) {
		e.Request.Recipient = &notificationv1.Recipient{PhoneSha256: status.HashPhone(phone)}
	}))
	m.records[topic.RequestedLedger] = append(m.records[topic.RequestedLedger], kafka.Record{Key: []byte("\x00position"), Value: []byte(phone)})

	for name, tt := range map[string]struct {
		query Query
		want  []string
	}{
		"phone": {Query{Phone: phone}, []string{
			"0 DELIVERED", "1 FAILED REJECTED", "3 HELD HOURS", "4 UNKNOWN TIMEOUT", "7 SENDING", "8 ACCEPTED",
		}},
		"hash": {Query{PhoneSHA256: status.HashPhone(phone)}, []string{
			"0 DELIVERED", "1 FAILED REJECTED", "3 HELD HOURS", "4 UNKNOWN TIMEOUT", "7 SENDING", "8 ACCEPTED",
		}},
		"template": {Query{Phone: phone, Template: "other"}, nil},
		"reference": {Query{Reference: "INV-2"}, []string{
			"3 HELD HOURS", "4 UNKNOWN TIMEOUT", "7 SENDING", "8 ACCEPTED",
		}},
		"customer": {Query{Customer: "C-9", Template: "300100"}, []string{
			"0 DELIVERED", "1 FAILED REJECTED", "2 SENT", "3 HELD HOURS", "4 UNKNOWN TIMEOUT", "7 SENDING", "8 ACCEPTED",
		}},
		"part of a campaign's name": {Query{Campaign: "te"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			tt.query.Input = topic.Requested
			result, err := Search(t.Context(), m, tt.query)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range result.Found {
				line := f.ID[len(f.ID)-1:] + " " + f.State
				if f.Reason != "" && f.Reason != "UNSPECIFIED" {
					line += " " + f.Reason
				}
				got = append(got, line)
				if f.State == "HELD" && !f.Until.Equal(until) {
					t.Errorf("held until %v", f.Until)
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("found (-want +got):\n%s", diff)
			}
			text, err := json.Marshal(result)
			if err != nil {
				t.Fatal(err)
			}
			for _, secret := range []string{"987654", "123456", status.HashPhone(phone)} {
				if strings.Contains(strings.ReplaceAll(string(text), `"reference":"`+status.HashPhone(phone), ""), secret) {
					t.Errorf("the result tells %s: %s", secret, text)
				}
			}
			if !slices.IsSortedFunc(result.Found, func(a, b Found) int { return b.Time.Compare(a.Time) }) {
				t.Error("not the newest first")
			}
		})
	}
	if _, err := Search(t.Context(), m, Query{PhoneSHA256: "abc"}); err == nil {
		t.Error("half a hash was taken")
	}
}
