package translate

import (
	"context"
	"encoding/hex"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/telemetry"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/ingest/sends"
)

// delivered builds the event of a receipt. With own the send is that of the receipt's attempt; otherwise only what
// belongs to the request is taken of it.
func delivered(r *receipt, s *sends.Send, own bool) *znsv1.Delivered {
	state := r.state
	d := &znsv1.Delivered{
		EventId:         state.GetEventId(),
		EventTime:       timestamppb.New(time.UnixMilli(state.GetCallbackMs())),
		OaId:            state.GetOaId(),
		Attempt:         state.GetAttempt(),
		TrackingId:      state.GetTrackingId(),
		MsgId:           state.GetMsgId(),
		CallbackTime:    timestamppb.New(time.UnixMilli(state.GetCallbackMs())),
		ReceiptSource:   znsv1.ReceiptSource_RECEIPT_SOURCE_CALLBACK,
		ZaloRecipientId: state.GetZaloRecipientId(),
	}
	if !r.key.foreign {
		d.NotificationId = r.key.id.String()
	}
	if ms := state.GetDeliveryMs(); ms != 0 {
		d.DeliveryTime = timestamppb.New(time.UnixMilli(ms))
	}
	if sc := trace.SpanContextFromContext(telemetry.WithParent(context.Background(), state.GetTraceparent(), state.GetTracestate())); sc.HasTraceID() && !r.key.foreign {
		id := sc.TraceID()
		d.TraceId = hex.EncodeToString(id[:])
	}
	if s == nil {
		return d
	}
	e := s.Event
	d.IdempotencyKey = e.GetIdempotencyKey()
	d.Source = e.GetSource()
	d.OaId = e.GetOaId()
	d.TemplateId = e.GetTemplateId()
	d.Category = e.GetCategory()
	d.Channel = e.GetChannel()
	d.Recipient = e.GetRecipient()
	d.Reference = e.GetReference()
	d.CustomerId = e.GetCustomerId()
	d.CampaignId = e.GetCampaignId()
	d.Labels = e.GetLabels()
	d.RequestedTime = e.GetRequestedTime()
	d.AcceptedTime = e.GetAcceptedTime()
	d.Mode = e.GetMode()
	if e.GetTraceId() != "" {
		d.TraceId = e.GetTraceId()
	}
	if own {
		d.SentTime = s.SentTime
		if s.Attempt > d.Attempt {
			d.Attempt = s.Attempt // a tracking_id tells late attempts no more exactly
		}
		if s.DeliverBy != nil && d.DeliveryTime != nil {
			d.Billable = new(!d.GetDeliveryTime().AsTime().After(s.DeliverBy.AsTime()))
		}
	}
	return d
}

// record encodes the event under a producer span. The span leaves the process when end is called; it must not be
// called unless the record was committed.
func (t *Translator) record(r *receipt, d *znsv1.Delivered) (kafka.Record, func()) {
	subject := r.key.String()
	if !r.key.foreign {
		subject = r.key.id.String()
	}
	ctx := telemetry.WithParent(context.Background(), r.state.GetTraceparent(), r.state.GetTracestate())
	ctx, span := t.cfg.Tracer.StartSend(ctx, t.cfg.Topic, d.GetEventId())
	traceparent, tracestate := telemetry.TraceParent(ctx)
	record, err := kafka.NewRecord(t.cfg.Topic, []byte(subject), kafka.Event{
		ID:      d.GetEventId(),
		Source:  t.cfg.Source,
		Subject: d.GetNotificationId(),
		Time:    d.GetEventTime().AsTime(),
		Data:    d,
	}, traceparent, tracestate)
	if err != nil {
		panic(err) // every field that NewRecord asks for is set, and every string was cleaned
	}
	return record, func() { span.End() }
}
