// Package find looks for the notifications of a phone, a customer, a reference or a campaign: in zns.status, which knows
// every notification of which something became, and in the sender's ledger, which knows those that still wait.
//
// A phone is compared by its hash: in zns.status, and of the requests that the ledger keeps while they wait. Neither a
// phone nor its hash is in anything that this package returns.
package find

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/cli/explain"
	"github.com/znshub/znshub/services/ingest/status"
)

// Query says what is looked for: one of Phone, PhoneSHA256, Reference, Customer and Campaign, and more to narrow it.
type Query struct {
	Phone       string // E.164, "+84987654321"
	PhoneSHA256 string // of "84987654321", lower-case hexadecimal; set from Phone when empty
	Reference   string
	Customer    string
	Campaign    string
	Template    string    // narrows
	Since       time.Time // only what changed since then; zero: everything
	Input       string    // the sender's input topic
	Read        func(records int64)
}

// Found is one notification.
type Found struct {
	ID             string     `json:"notification_id"`
	IdempotencyKey string     `json:"idempotency_key,omitempty"`
	Source         string     `json:"source,omitempty"`
	State          string     `json:"state"`
	Reason         string     `json:"reason,omitempty"` // why it failed or waits
	Until          *time.Time `json:"until,omitempty"`  // until when it waits at most
	Code           int32      `json:"provider_code,omitempty"`
	Time           time.Time  `json:"time"` // of the latest event
	Requested      *time.Time `json:"requested_time,omitempty"`
	Sent           *time.Time `json:"sent_time,omitempty"`
	Delivered      *time.Time `json:"delivery_time,omitempty"`
	Overdue        bool       `json:"overdue,omitempty"`
	Template       string     `json:"template_id,omitempty"`
	Reference      string     `json:"reference,omitempty"`
	Customer       string     `json:"customer_id,omitempty"`
	Campaign       string     `json:"campaign_id,omitempty"`
	MsgID          string     `json:"msg_id,omitempty"`
	TraceID        string     `json:"trace_id,omitempty"`
	Revision       int64      `json:"revision,omitempty"`
}

// Result is what Search has found, the newest first.
type Result struct {
	Found    []Found
	Searched []explain.Range
}

// Search reads zns.status and the ledger. Of each it decodes only records that hold the text that is looked
// for, but for the ledger when only a hash is known.
func Search(ctx context.Context, log explain.Log, q Query) (Result, error) {
	if q.Phone != "" {
		q.PhoneSHA256 = status.HashPhone(q.Phone)
	}
	if q.Read == nil {
		q.Read = func(int64) {}
	}
	s := search{query: q, latest: map[uuid.UUID]*znsv1.Status{}, live: map[uuid.UUID]*ledgerv1.Entry{}}
	if sum, err := hex.DecodeString(q.PhoneSHA256); err != nil || q.PhoneSHA256 != "" && len(sum) != 32 {
		return Result{}, fmt.Errorf("the hash of a phone has 64 hexadecimal digits")
	}
	start := kafka.FromStart()
	if !q.Since.IsZero() {
		start = kafka.FromTime(q.Since)
	}
	needle := []byte(cmp.Or(q.PhoneSHA256, q.Reference, q.Customer, q.Campaign))
	ranges, err := log.Read(ctx, topic.Status, nil, start, func(r kafka.Record) {
		s.read++
		q.Read(s.read)
		s.snapshot(r, needle)
	})
	s.result.Searched = ranges
	if err != nil {
		return s.result, err
	}
	// The ledger's entries are as old as what waits, whatever Since says.
	needles := [][]byte{needle}
	switch {
	case q.Phone != "":
		needles = append(needles, []byte(q.Phone))
	case q.PhoneSHA256 != "":
		needles = [][]byte{nil} // every entry: their phones are in clear
	}
	ranges, err = log.Read(ctx, topic.LedgerOf(q.Input), nil, kafka.FromStart(), func(r kafka.Record) {
		s.read++
		q.Read(s.read)
		s.entry(r, needles)
	})
	s.result.Searched = append(s.result.Searched, ranges...)
	s.finish()
	return s.result, err
}

type search struct {
	query  Query
	read   int64
	latest map[uuid.UUID]*znsv1.Status
	live   map[uuid.UUID]*ledgerv1.Entry
	result Result
}

// snapshot takes a record of zns.status.
func (s *search) snapshot(r kafka.Record, needle []byte) {
	id, err := uuid.ParseBytes(r.Key)
	if err != nil {
		return
	}
	if !bytes.Contains(r.Value, needle) {
		delete(s.latest, id) // a newer snapshot without it
		return
	}
	m := &znsv1.Status{}
	if kafka.Decode(r, m) != nil || !s.fits(m.GetRecipient().GetPhoneSha256(), m.GetReference(), m.GetCustomerId(), m.GetCampaignId(), m.GetTemplateId()) {
		delete(s.latest, id)
		return
	}
	s.latest[id] = m
}

// fits compares with everything that the query names.
func (s *search) fits(hash, reference, customer, campaign, template string) bool {
	q := &s.query
	for _, pair := range [][2]string{{q.PhoneSHA256, hash}, {q.Reference, reference}, {q.Customer, customer}, {q.Campaign, campaign}, {q.Template, template}} {
		if pair[0] != "" && pair[0] != pair[1] {
			return false
		}
	}
	return true
}

// entry takes a record of the ledger. Entries keep their request until they are done.
func (s *search) entry(r kafka.Record, needles [][]byte) {
	id, err := uuid.ParseBytes(r.Key)
	if err != nil {
		return // the engine's own records
	}
	if !slices.ContainsFunc(needles, func(n []byte) bool { return bytes.Contains(r.Value, n) }) {
		delete(s.live, id)
		return
	}
	e := &ledgerv1.Entry{}
	if proto.Unmarshal(r.Value, e) != nil || terminal(e.GetState()) {
		delete(s.live, id)
		return
	}
	req := e.GetRequest()
	hash := req.GetRecipient().GetPhoneSha256()
	if phone := req.GetRecipient().GetPhone(); phone != "" {
		hash = status.HashPhone(phone)
	}
	if !s.fits(hash, req.GetReference(), req.GetCustomerId(), req.GetCampaignId(), req.GetTemplateId()) {
		delete(s.live, id)
		return
	}
	s.live[id] = e
}

func terminal(state ledgerv1.State) bool {
	return state == ledgerv1.State_STATE_SENT || state == ledgerv1.State_STATE_FAILED
}

// finish joins what both know: the ledger says where a notification that is not done stands now.
func (s *search) finish() {
	for id, m := range s.latest {
		f := fromStatus(m)
		if e := s.live[id]; e != nil && m.GetDeliveredEventId() == "" {
			f.wait(e)
		}
		delete(s.live, id)
		s.result.Found = append(s.result.Found, f)
	}
	for id, e := range s.live {
		req := e.GetRequest()
		f := Found{
			ID: id.String(), IdempotencyKey: req.GetIdempotencyKey(), Source: req.GetSource(), Time: time.UnixMilli(e.GetAcceptedMs()),
			Requested: at(e.GetRequestedMs()), Template: req.GetTemplateId(), Reference: req.GetReference(), Customer: req.GetCustomerId(), Campaign: req.GetCampaignId(),
		}
		if steps := e.GetHistory(); len(steps) > 0 {
			f.Time = time.UnixMilli(steps[len(steps)-1].GetTimeMs())
		}
		if parts := strings.Split(e.GetTraceparent(), "-"); len(parts) == 4 {
			f.TraceID = parts[1]
		}
		f.wait(e)
		s.result.Found = append(s.result.Found, f)
	}
	slices.SortFunc(s.result.Found, func(a, b Found) int { return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.ID, b.ID)) })
}

// wait says where an entry that is not done stands.
func (f *Found) wait(e *ledgerv1.Entry) {
	f.State, f.Reason, f.Until = strings.TrimPrefix(e.GetState().String(), "STATE_"), "", nil
	switch e.GetState() {
	case ledgerv1.State_STATE_HELD:
		f.Reason, f.Until = strings.TrimPrefix(e.GetHoldReason().String(), "HOLD_REASON_"), at(e.GetHoldUntilMs())
	case ledgerv1.State_STATE_UNKNOWN:
		f.Reason, f.Until = strings.TrimPrefix(znsv1.UnknownCause(e.GetUnknownCause()).String(), "UNKNOWN_CAUSE_"), at(e.GetDecideByMs())
	}
}

func at(ms int64) *time.Time {
	if ms == 0 {
		return nil
	}
	return new(time.UnixMilli(ms))
}

func fromStatus(m *znsv1.Status) Found {
	f := Found{
		ID: m.GetNotificationId(), IdempotencyKey: m.GetIdempotencyKey(), Source: m.GetSource(), Time: m.GetEventTime().AsTime(),
		State: strings.TrimPrefix(m.GetState().String(), "NOTIFICATION_STATE_"), Code: m.GetProviderCode(), Template: m.GetTemplateId(),
		Reference: m.GetReference(), Customer: m.GetCustomerId(), Campaign: m.GetCampaignId(), MsgID: m.GetMsgId(), TraceID: m.GetTraceId(),
		Overdue: m.GetOverdueEventId() != "" && m.GetDeliveredEventId() == "", Revision: m.GetRevision(),
	}
	switch m.GetState() {
	case znsv1.NotificationState_NOTIFICATION_STATE_FAILED:
		f.Reason = strings.TrimPrefix(m.GetReason().String(), "FAILURE_REASON_")
	case znsv1.NotificationState_NOTIFICATION_STATE_UNRESOLVED:
		f.Reason = strings.TrimPrefix(m.GetCause().String(), "UNKNOWN_CAUSE_")
		if m.GetDecideBy() != nil {
			f.Until = new(m.GetDecideBy().AsTime())
		}
	}
	for to, from := range map[**time.Time]interface {
		IsValid() bool
		AsTime() time.Time
	}{&f.Requested: m.GetRequestedTime(), &f.Sent: m.GetSentTime(), &f.Delivered: m.GetDeliveryTime()} {
		if from.IsValid() {
			*to = new(from.AsTime())
		}
	}
	return f
}
