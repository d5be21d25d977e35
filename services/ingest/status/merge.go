package status

import (
	"cmp"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// Merge returns the status that holds everything that a and b hold; either may be nil. It is commutative, associative
// and idempotent, so that the status of a set of events does not depend on their order or on how often each was seen.
// The result shares parts with a and b, which must not be changed afterwards; its revision and event_id are not set.
//
// A status has three parts, each named by the event that it is from; of two events that speak of the same part one wins:
//
//	outcome   what the sender told. zns.sent over all others; else the later attempt, and of one attempt zns.failed
//	          over zns.unresolved
//	receipt   zns.delivered, the first of several
//	overdue   zns.overdue
//
// What belongs to the request is taken from the outcome, else from the receipt. What belongs to an attempt is taken
// from zns.sent, else from the receipt, for that is the message on the phone.
func Merge(a, b *znsv1.Status) *znsv1.Status {
	outcome := pick(a, b, hasOutcome, compareOutcomes)
	receipt := pick(a, b, hasReceipt, compareReceipts)
	overdue := pick(a, b, hasOverdue, compareOverdue)
	m := &znsv1.Status{}
	copyRequest(m, cmp.Or(outcome, receipt, overdue))
	if sent := outcome.GetOutcomeState() == znsv1.NotificationState_NOTIFICATION_STATE_SENT; sent {
		copyAttempt(m, outcome)
	} else {
		copyAttempt(m, cmp.Or(receipt, outcome, overdue))
	}
	copyOutcome(m, outcome)
	copyReceipt(m, receipt)
	m.OverdueEventId, m.OverdueTime = overdue.GetOverdueEventId(), overdue.GetOverdueTime()
	switch {
	case receipt != nil:
		m.State = znsv1.NotificationState_NOTIFICATION_STATE_DELIVERED
	case overdue != nil:
		m.State = znsv1.NotificationState_NOTIFICATION_STATE_SENT // only what was sent is overdue
	default:
		m.State = outcome.GetOutcomeState()
	}
	m.EventTime = latest(m.GetOutcomeTime(), m.GetCallbackTime(), m.GetOverdueTime())
	return m
}

// Same reports whether a and b are made of the same events.
func Same(a, b *znsv1.Status) bool {
	return a.GetOutcomeEventId() == b.GetOutcomeEventId() && a.GetDeliveredEventId() == b.GetDeliveredEventId() &&
		a.GetOverdueEventId() == b.GetOverdueEventId()
}

func hasOutcome(s *znsv1.Status) bool { return s.GetOutcomeEventId() != "" }
func hasReceipt(s *znsv1.Status) bool { return s.GetDeliveredEventId() != "" }
func hasOverdue(s *znsv1.Status) bool { return s.GetOverdueEventId() != "" }

// pick returns the one of a and b whose part wins; nil when neither has that part.
func pick(a, b *znsv1.Status, has func(*znsv1.Status) bool, compare func(a, b *znsv1.Status) int) *znsv1.Status {
	switch {
	case !has(a) && !has(b):
		return nil
	case !has(a):
		return b
	case !has(b) || compare(a, b) >= 0:
		return a
	}
	return b
}

// compareOutcomes is positive when a wins.
func compareOutcomes(a, b *znsv1.Status) int {
	return cmp.Or(
		cmp.Compare(bit(a, znsv1.NotificationState_NOTIFICATION_STATE_SENT), bit(b, znsv1.NotificationState_NOTIFICATION_STATE_SENT)),
		cmp.Compare(a.GetOutcomeAttempt(), b.GetOutcomeAttempt()),
		cmp.Compare(bit(a, znsv1.NotificationState_NOTIFICATION_STATE_FAILED), bit(b, znsv1.NotificationState_NOTIFICATION_STATE_FAILED)),
		compareTimes(a.GetOutcomeTime(), b.GetOutcomeTime()),
		cmp.Compare(a.GetOutcomeEventId(), b.GetOutcomeEventId()),
	)
}

func bit(s *znsv1.Status, state znsv1.NotificationState) int {
	if s.GetOutcomeState() == state {
		return 1
	}
	return 0
}

func compareReceipts(a, b *znsv1.Status) int {
	return cmp.Or(
		compareTimes(b.GetCallbackTime(), a.GetCallbackTime()),
		cmp.Compare(b.GetDeliveredEventId(), a.GetDeliveredEventId()),
	)
}

func compareOverdue(a, b *znsv1.Status) int {
	return cmp.Or(
		compareTimes(b.GetOverdueTime(), a.GetOverdueTime()),
		cmp.Compare(b.GetOverdueEventId(), a.GetOverdueEventId()),
	)
}

func compareTimes(a, b *timestamppb.Timestamp) int { return asTime(a).Compare(asTime(b)) }

func asTime(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func latest(times ...*timestamppb.Timestamp) *timestamppb.Timestamp {
	var last *timestamppb.Timestamp
	for _, t := range times {
		if t != nil && (last == nil || compareTimes(t, last) > 0) {
			last = t
		}
	}
	return last
}

// copyRequest copies what every event about a notification tells alike.
func copyRequest(to, from *znsv1.Status) {
	to.NotificationId = from.GetNotificationId()
	to.IdempotencyKey = from.GetIdempotencyKey()
	to.Source = from.GetSource()
	to.OaId = from.GetOaId()
	to.TemplateId = from.GetTemplateId()
	to.Category = from.GetCategory()
	to.Recipient = from.GetRecipient()
	to.Reference = from.GetReference()
	to.CustomerId = from.GetCustomerId()
	to.CampaignId = from.GetCampaignId()
	to.Labels = from.GetLabels()
	to.RequestedTime = from.GetRequestedTime()
	to.AcceptedTime = from.GetAcceptedTime()
	to.TraceId = from.GetTraceId()
	to.Mode = from.GetMode()
}

// copyAttempt copies what belongs to one attempt.
func copyAttempt(to, from *znsv1.Status) {
	to.Channel = from.GetChannel()
	to.Attempt = from.GetAttempt()
	to.TrackingId = from.GetTrackingId()
	to.MsgId = from.GetMsgId()
	to.SentTime = from.GetSentTime()
}

func copyOutcome(to, from *znsv1.Status) {
	if from == nil {
		return
	}
	to.OutcomeState, to.OutcomeEventId, to.OutcomeTime, to.OutcomeAttempt = from.OutcomeState, from.OutcomeEventId, from.OutcomeTime, from.OutcomeAttempt
	to.OutcomeSource, to.Corrects, to.PriceVnd = from.OutcomeSource, from.Corrects, from.PriceVnd
	to.DeliverBy, to.ReceiptDueTime = from.DeliverBy, from.ReceiptDueTime
	to.FailedTime, to.Reason, to.ErrorClass, to.ProviderCode = from.FailedTime, from.Reason, from.ErrorClass, from.ProviderCode
	to.ProviderMessage, to.Advice, to.PossiblySent = from.ProviderMessage, from.Advice, from.PossiblySent
	to.UnknownSince, to.Cause, to.DecideBy, to.Policy = from.UnknownSince, from.Cause, from.DecideBy, from.Policy
}

func copyReceipt(to, from *znsv1.Status) {
	if from == nil {
		return
	}
	to.DeliveredEventId, to.DeliveryTime, to.CallbackTime = from.DeliveredEventId, from.DeliveryTime, from.CallbackTime
	to.ReceiptSource, to.Billable = from.ReceiptSource, from.Billable
}
