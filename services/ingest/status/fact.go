package status

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/ingest/sends"
)

// Kind is the topic that a fact comes from.
type Kind uint8

// The kinds, in the order in which their events usually come.
const (
	KindUnresolved Kind = iota
	KindFailed
	KindSent
	KindDelivered
	KindOverdue
	kinds
)

// Kinds lists all of them.
var Kinds = []Kind{KindUnresolved, KindFailed, KindSent, KindDelivered, KindOverdue}

// Topics are the names of the topics.
type Topics struct {
	Unresolved, Failed, Sent, Delivered, Overdue, Status string
}

// Of is the topic of a kind of facts.
func (t Topics) Of(k Kind) string {
	return [kinds]string{t.Unresolved, t.Failed, t.Sent, t.Delivered, t.Overdue}[k]
}

// Fact is one event about one notification.
type Fact struct {
	ID     uuid.UUID
	Kind   Kind
	Offset int64
	Time   time.Time     // of the record
	Status *znsv1.Status // of a notification about which nothing else is known, without revision

	topic                   [16]byte // id of the topic
	traceparent, tracestate string
	bytes                   int
}

// errNoNotification says that an event is about no notification: a receipt of a message that another program sent.
var errNoNotification = errors.New("it names no notification")

// Decode reads a record of the topic of kind. The record's key must be the notification's id.
func Decode(kind Kind, r kafka.Record) (*Fact, error) {
	s, err := decode(kind, r)
	if err != nil {
		return nil, fmt.Errorf("event at %s/%d@%d: %w", r.Topic, r.Partition, r.Offset, err)
	}
	id, err := uuid.Parse(s.GetNotificationId())
	switch {
	case s.GetNotificationId() == "":
		return nil, fmt.Errorf("event at %s/%d@%d: %w", r.Topic, r.Partition, r.Offset, errNoNotification)
	case err != nil || string(r.Key) != s.GetNotificationId():
		return nil, fmt.Errorf("event at %s/%d@%d: its key is not its notification_id", r.Topic, r.Partition, r.Offset)
	}
	f := &Fact{ID: id, Kind: kind, Offset: r.Offset, Time: r.Time, Status: s, bytes: 2*len(r.Value) + 600}
	traceparent, _ := r.Header(kafka.HeaderTraceparent)
	tracestate, _ := r.Header(kafka.HeaderTracestate)
	f.traceparent, f.tracestate = string(traceparent), string(tracestate)
	return f, nil
}

func decode(kind Kind, r kafka.Record) (*znsv1.Status, error) {
	// Whatever wrote the event, each has a name: zns.status must be the same when it is folded again.
	name := func(e interface{ GetEventId() string }) string {
		id, _ := r.Header(kafka.HeaderID)
		return cmp.Or(e.GetEventId(), string(id), fmt.Sprintf("%s/%d@%d", r.Topic, r.Partition, r.Offset))
	}
	when := func(t *timestamppb.Timestamp) *timestamppb.Timestamp {
		if t == nil {
			return timestamppb.New(r.Time)
		}
		return t
	}
	switch kind {
	case KindSent:
		e := &znsv1.Sent{}
		if err := proto.Unmarshal(r.Value, e); err != nil {
			return nil, err
		}
		s := common(e)
		s.OutcomeState, s.OutcomeEventId, s.OutcomeTime = znsv1.NotificationState_NOTIFICATION_STATE_SENT, name(e), when(e.GetEventTime())
		s.OutcomeAttempt, s.SentTime, s.OutcomeSource, s.Corrects = e.GetAttempt(), e.GetSentTime(), e.GetOutcomeSource(), e.GetCorrects()
		s.PriceVnd, s.DeliverBy, s.ReceiptDueTime = e.PriceVnd, e.GetDeliverBy(), e.GetReceiptDueTime()
		return Merge(s, nil), nil
	case KindFailed:
		e := &znsv1.Failed{}
		if err := proto.Unmarshal(r.Value, e); err != nil {
			return nil, err
		}
		s := common(e)
		s.OutcomeState, s.OutcomeEventId, s.OutcomeTime = znsv1.NotificationState_NOTIFICATION_STATE_FAILED, name(e), when(e.GetEventTime())
		s.OutcomeAttempt, s.FailedTime, s.Reason, s.ErrorClass = e.GetAttempt(), s.OutcomeTime, e.GetReason(), e.GetErrorClass()
		s.ProviderCode, s.ProviderMessage, s.Advice, s.PossiblySent = e.GetProviderCode(), e.GetProviderMessage(), e.GetAdvice(), e.GetPossiblySent()
		return Merge(s, nil), nil
	case KindUnresolved:
		e := &znsv1.Unresolved{}
		if err := proto.Unmarshal(r.Value, e); err != nil {
			return nil, err
		}
		s := common(e)
		s.OutcomeState, s.OutcomeEventId, s.OutcomeTime = znsv1.NotificationState_NOTIFICATION_STATE_UNRESOLVED, name(e), when(e.GetEventTime())
		s.OutcomeAttempt, s.UnknownSince, s.Cause, s.DecideBy, s.Policy = e.GetAttempt(), e.GetUnknownSince(), e.GetCause(), e.GetDecideBy(), e.GetPolicy()
		s.PossiblySent = true
		return Merge(s, nil), nil
	case KindDelivered:
		e := &znsv1.Delivered{}
		if err := proto.Unmarshal(r.Value, e); err != nil {
			return nil, err
		}
		s := common(e)
		s.DeliveredEventId, s.SentTime, s.DeliveryTime, s.CallbackTime = name(e), e.GetSentTime(), e.GetDeliveryTime(), when(cmp.Or(e.GetCallbackTime(), e.GetEventTime()))
		s.ReceiptSource, s.Billable = e.GetReceiptSource(), e.Billable
		return Merge(s, nil), nil
	case KindOverdue:
		e := &znsv1.Overdue{}
		if err := proto.Unmarshal(r.Value, e); err != nil {
			return nil, err
		}
		s := common(e)
		s.OverdueEventId, s.SentTime, s.OverdueTime = name(e), e.GetSentTime(), when(cmp.Or(e.GetDueTime(), e.GetEventTime()))
		return Merge(s, nil), nil
	}
	return nil, fmt.Errorf("there is no kind %d", kind)
}

// event is what all events about a notification have in common.
type event interface {
	sends.Event
	GetTrackingId() string
}

func common(e event) *znsv1.Status {
	return &znsv1.Status{
		NotificationId: e.GetNotificationId(), IdempotencyKey: e.GetIdempotencyKey(), Source: e.GetSource(), OaId: e.GetOaId(),
		TemplateId: e.GetTemplateId(), Category: e.GetCategory(), Channel: e.GetChannel(), Recipient: hashed(e.GetRecipient()),
		Attempt: e.GetAttempt(), TrackingId: e.GetTrackingId(), MsgId: e.GetMsgId(), Reference: e.GetReference(),
		CustomerId: e.GetCustomerId(), CampaignId: e.GetCampaignId(), Labels: e.GetLabels(), RequestedTime: e.GetRequestedTime(),
		AcceptedTime: e.GetAcceptedTime(), TraceId: e.GetTraceId(), Mode: e.GetMode(),
	}
}

// hashed is the recipient without the phone in clear.
func hashed(r *znsv1.Recipient) *znsv1.Recipient {
	if r == nil || r.GetPhone() == "" {
		return r
	}
	return &znsv1.Recipient{PhoneSha256: cmp.Or(r.GetPhoneSha256(), HashPhone(r.GetPhone())), UserId: r.GetUserId()}
}

// HashPhone is how a phone, "+84…" or "84…", stands in zns.status: the lower-case hexadecimal SHA-256 of "84…".
func HashPhone(phone string) string {
	sum := sha256.Sum256([]byte(strings.TrimPrefix(phone, "+")))
	return hex.EncodeToString(sum[:])
}
