package sender

import (
	"context"
	"crypto/rand"
	"net/url"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/telemetry"
	"github.com/znshub/znshub/pkg/zalo"
)

// tracer makes the sender's spans: process, POST once for each attempt, and send. A span that belongs to a transaction
// ends when that is committed; of one that is undone nothing is exported.
type tracer struct {
	t     *telemetry.Tracer
	group string
	url   *url.URL
}

// offSpan stands for every span while nothing is recorded, so that tracing costs nothing then.
var offSpan = trace.SpanFromContext(context.Background())

// span ends when what it is about is committed.
type span struct {
	trace.Span
	traceparent, tracestate string
}

func notificationID(e *entry) attribute.KeyValue {
	return attribute.String("znshub.notification_id", e.id.String())
}

// accept begins the process span of a new request and gives its context to e. A request without a trace begins one,
// whether it is recorded or not: the tracking_id and every event carry its id.
func (t *tracer) accept(r kafka.Record, e *entry) span {
	ctx, s := telemetry.Extract(context.Background(), &r), offSpan
	if t.t.Enabled() {
		ceID, _ := r.Header(kafka.HeaderID)
		ctx, s = t.t.StartProcess(ctx, &r, t.group, string(ceID), notificationID(e))
	}
	if !trace.SpanContextFromContext(ctx).IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, randomSpanContext())
	}
	e.traceparent, e.tracestate = telemetry.TraceParent(ctx)
	return span{Span: s}
}

// call begins the POST span of an attempt. webhook-ingest derives its id again from the callback's tracking_id.
func (t *tracer) call(c *call) (context.Context, trace.Span) {
	if !t.t.Enabled() {
		return context.Background(), offSpan
	}
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), c.parent)
	return t.t.StartCall(ctx, c.e.id, c.attempt, t.url, notificationID(c.e))
}

// endCall ends the POST span by how the call ended.
func endCall(s trace.Span, r *zalo.Result) {
	if !s.IsRecording() {
		s.End()
		return
	}
	errorType := ""
	switch {
	case r.Outcome == zalo.Accepted:
	case r.Code != 0:
		errorType = strconv.Itoa(r.Code)
	case r.Cause != zalo.CauseNone:
		errorType = r.Cause.String()
	default:
		errorType = r.Outcome.String()
	}
	s.SetAttributes(attribute.String("znshub.outcome", r.Outcome.String()))
	telemetry.EndCall(s, r.HTTPStatus, errorType)
}

// publish begins the span of an event's publication: below the POST when the event speaks of an attempt.
func (t *tracer) publish(to string, ev event) span {
	if !t.t.Enabled() {
		return span{offSpan, ev.e.traceparent, ev.e.tracestate}
	}
	parent := spanContext(ev.e.traceparent, ev.e.tracestate)
	if ev.trackingID != "" {
		parent = parent.WithSpanID(telemetry.SendSpanID(ev.e.id, ev.number))
	}
	ctx, s := t.t.StartSend(trace.ContextWithRemoteSpanContext(context.Background(), parent), to, ev.id, notificationID(ev.e))
	out := span{Span: s}
	out.traceparent, out.tracestate = telemetry.TraceParent(ctx)
	return out
}

// spanContext reads what the ledger keeps of a trace.
func spanContext(traceparent, tracestate string) trace.SpanContext {
	return trace.SpanContextFromContext(telemetry.WithParent(context.Background(), traceparent, tracestate))
}

func randomSpanContext() trace.SpanContext {
	var id [24]byte
	_, _ = rand.Read(id[:]) // never fails
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID(id[:16]), SpanID: trace.SpanID(id[16:])})
}
