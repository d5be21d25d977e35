package sender

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// event is what every event about e has in common.
type event struct {
	e          *entry
	req        *notificationv1.NotificationRequested
	id         string // ce_id
	at         time.Time
	number     int32
	trackingID string
}

// event prepares an event of the given kind about an attempt. Its id is the same whenever the same fact is published.
func (h *handler) event(u unit, e *entry, kind string, number int32, trackingID string) event {
	return event{
		e: e, req: e.request(), id: fmt.Sprintf("%s/%s/%d", e.id, kind, number), at: u.Now(), number: number, trackingID: trackingID,
	}
}

func (h *handler) publishSent(u unit, e *entry, f sentFacts) {
	ev := h.event(u, e, "sent", f.attempt.number, f.attempt.trackingID)
	m := &znsv1.Sent{
		EventId: ev.id, EventTime: timestamppb.New(ev.at), NotificationId: e.id.String(), IdempotencyKey: ev.req.GetIdempotencyKey(),
		Source: ev.req.GetSource(), OaId: ev.req.GetOaId(), TemplateId: ev.req.GetTemplateId(), Category: znsv1.Category(e.category),
		Channel: znsv1.Channel_CHANNEL_PHONE, Recipient: h.recipient(ev.req), Attempt: ev.number, TrackingId: ev.trackingID,
		MsgId: f.msgID, Reference: ev.req.GetReference(), CustomerId: ev.req.GetCustomerId(), CampaignId: ev.req.GetCampaignId(),
		Labels: labels(u, ev.req.GetLabels()), RequestedTime: timestamp(e.requested), AcceptedTime: timestamp(e.accepted),
		TraceId: traceID(e.traceparent), Mode: h.mode(ev.req),
		OutcomeSource: f.source, Corrects: f.corrects,
	}
	if !f.at.IsZero() {
		m.SentTime = timestamppb.New(f.at)
	}
	if f.quota != nil {
		m.DailyQuota, m.RemainingQuota = f.quota.Daily, f.quota.Remaining
	}
	if h.settings.mode == modeSimulate {
		m.ChannelReason = "SENDER_MODE=simulate: nothing was sent"
	}
	if within := ev.req.GetDeliverWithin(); within != nil {
		m.ReceiptDueTime = timestamppb.New(ev.at.Add(within.AsDuration()))
		h.publish(u, topic.Sent, ev, m, kafka.Header{
			Key: topic.HeaderRequest, Value: fmt.Appendf(nil, "%s/%d@%d", h.settings.inputTopic, e.p.id, e.offset),
		})
		return
	}
	h.publish(u, topic.Sent, ev, m)
}

func (h *handler) publishFailed(u unit, e *entry, f failure) {
	number, trackingID := e.attempt, ""
	if n := len(e.results); n > 0 {
		number, trackingID = e.results[n-1].number, e.results[n-1].trackingID
	}
	ev := h.event(u, e, "failed", number, trackingID)
	m := &znsv1.Failed{
		EventId: ev.id, EventTime: timestamppb.New(ev.at), NotificationId: e.id.String(), IdempotencyKey: ev.req.GetIdempotencyKey(),
		Source: ev.req.GetSource(), OaId: ev.req.GetOaId(), TemplateId: ev.req.GetTemplateId(), Category: znsv1.Category(e.category),
		Channel: znsv1.Channel_CHANNEL_PHONE, Recipient: h.recipient(ev.req), Attempt: ev.number, TrackingId: ev.trackingID,
		Reference: ev.req.GetReference(), CustomerId: ev.req.GetCustomerId(), CampaignId: ev.req.GetCampaignId(),
		Labels: labels(u, ev.req.GetLabels()), RequestedTime: timestamp(e.requested), AcceptedTime: timestamp(e.accepted),
		TraceId: traceID(e.traceparent), Mode: h.mode(ev.req),
		Reason: f.reason, ErrorClass: f.class, ProviderCode: f.code, ProviderMessage: f.message, Violations: f.violations,
		PossiblySent: len(e.open) > 0, Advice: f.advice, Fallback: labels(u, ev.req.GetFallback()), Attempts: attempts(e),
	}
	h.publish(u, topic.Failed, ev, m)
}

func (h *handler) publishUnresolved(u unit, e *entry) {
	open := e.open[len(e.open)-1]
	ev := h.event(u, e, "unresolved", open.number, open.trackingID)
	m := &znsv1.Unresolved{
		EventId: ev.id, EventTime: timestamppb.New(ev.at), NotificationId: e.id.String(), IdempotencyKey: ev.req.GetIdempotencyKey(),
		Source: ev.req.GetSource(), OaId: ev.req.GetOaId(), TemplateId: ev.req.GetTemplateId(), Category: znsv1.Category(e.category),
		Channel: znsv1.Channel_CHANNEL_PHONE, Recipient: h.recipient(ev.req), Attempt: ev.number, TrackingId: ev.trackingID,
		Reference: ev.req.GetReference(), CustomerId: ev.req.GetCustomerId(), CampaignId: ev.req.GetCampaignId(),
		Labels: labels(u, ev.req.GetLabels()), RequestedTime: timestamp(e.requested), AcceptedTime: timestamp(e.accepted),
		TraceId: traceID(e.traceparent), Mode: h.mode(ev.req),
		Cause: e.cause, UnknownSince: timestamp(e.unknownSince), DecideBy: timestamp(e.decideBy), Policy: e.policy,
		Fallback: labels(u, ev.req.GetFallback()),
	}
	h.publish(u, topic.Unresolved, ev, m)
}

// publish writes the event, with a span of its own when that is sampled.
func (h *handler) publish(u unit, to string, ev event, m proto.Message, headers ...kafka.Header) {
	id := ev.e.id.String()
	span := h.tracer.publish(to, ev)
	r, err := kafka.NewRecord(to, []byte(id), kafka.Event{ID: ev.id, Source: h.settings.ceSource, Subject: id, Time: ev.at, Data: m},
		span.traceparent, span.tracestate)
	if err != nil {
		// Only text that is not UTF-8 cannot be encoded, and none gets past the decoder.
		h.log.Error("an event cannot be encoded", "topic", to, "notification_id", ev.e.id, "err", err)
		return
	}
	r.Headers = append(r.Headers, headers...)
	u.Publish(r)
	u.OnCommit(func() { span.End() })
}

// labels are echoed unless the broker refused the event with them.
func labels(u unit, m map[string]string) map[string]string {
	if u.Poison() != nil {
		return nil
	}
	return m
}

func (h *handler) mode(req *notificationv1.NotificationRequested) znsv1.Mode {
	if h.settings.mode == modeDevelopment || req.GetMode() == notificationv1.Mode_MODE_DEVELOPMENT {
		return znsv1.Mode_MODE_DEVELOPMENT
	}
	return znsv1.Mode_MODE_LIVE
}

// recipient is how the person stands in events, by ZNS_RESULT_PHONE.
func (h *handler) recipient(req *notificationv1.NotificationRequested) *znsv1.Recipient {
	r := req.GetRecipient()
	if r == nil {
		return nil
	}
	out := &znsv1.Recipient{UserId: r.GetUserId()}
	if h.settings.resultPhone == phoneNone {
		return out
	}
	out.PhoneSha256 = r.GetPhoneSha256()
	if phone := r.GetPhone(); phone != "" {
		sum := sha256.Sum256([]byte(strings.TrimPrefix(phone, "+")))
		out.PhoneSha256 = hex.EncodeToString(sum[:])
		if h.settings.resultPhone == phoneFull {
			out.Phone = phone
		}
	}
	return out
}

func attempts(e *entry) []*znsv1.Attempt {
	out := make([]*znsv1.Attempt, 0, len(e.results))
	for _, r := range e.results {
		out = append(out, &znsv1.Attempt{
			Attempt: r.number, TrackingId: r.trackingID, StartTime: timestamp(r.intent), DurationMs: r.duration,
			Outcome: r.outcome, ProviderCode: r.code, Cause: r.cause,
		})
	}
	return out
}

func timestamp(v int64) *timestamppb.Timestamp {
	if v == 0 {
		return nil
	}
	return timestamppb.New(fromMs(v))
}

// traceID is the trace id in a traceparent, "00-<trace id>-<span id>-<flags>".
func traceID(traceparent string) string {
	if len(traceparent) != 55 {
		return ""
	}
	return traceparent[3:35]
}
