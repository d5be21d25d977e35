package telemetry

import (
	"context"
	"net/url"
	"strconv"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/znshub/znshub/pkg/kafka"
)

// scope names the instrumentation in spans.
const scope = "github.com/znshub/znshub/pkg/telemetry"

// Tracer starts the hub's spans. A nil *Tracer is one that is switched off: its spans record nothing and pass on their
// parent's span context.
type Tracer struct{ tracer trace.Tracer }

// NewTracer returns a tracer of the provider. For derived ids it must be one of NewProvider.
func NewTracer(provider trace.TracerProvider) *Tracer {
	return &Tracer{provider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL))}
}

// Enabled reports whether spans are recorded at all.
func (t *Tracer) Enabled() bool { return t != nil }

// StartProcess starts the span "process TOPIC" around the handling of a record. Its parent is the context's span, else
// the one in the record's headers; without either it begins a trace. The id is the message's, ce_id or notification_id;
// empty: unknown.
func (t *Tracer) StartProcess(ctx context.Context, r *kafka.Record, group, id string, attrs ...attribute.KeyValue) (context.Context, trace.Span) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		ctx = Extract(ctx, r)
	}
	if t == nil {
		return off(ctx)
	}
	all := append(make([]attribute.KeyValue, 0, 8+len(attrs)),
		semconv.MessagingSystemKafka,
		semconv.MessagingDestinationName(r.Topic),
		semconv.MessagingOperationName("process"),
		semconv.MessagingOperationTypeProcess,
		semconv.MessagingDestinationPartitionID(strconv.Itoa(int(r.Partition))),
		semconv.MessagingKafkaOffset(int(r.Offset)),
		semconv.MessagingConsumerGroupName(group),
	)
	if id != "" {
		all = append(all, semconv.MessagingMessageID(id))
	}
	return t.tracer.Start(ctx, "process "+r.Topic, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(append(all, attrs...)...))
}

// StartSend starts the span "send TOPIC" around the publication of a record; its context belongs in the record's headers.
func (t *Tracer) StartSend(ctx context.Context, topic, id string, attrs ...attribute.KeyValue) (context.Context, trace.Span) {
	if t == nil {
		return off(ctx)
	}
	all := append(make([]attribute.KeyValue, 0, 5+len(attrs)),
		semconv.MessagingSystemKafka,
		semconv.MessagingDestinationName(topic),
		semconv.MessagingOperationName("send"),
		semconv.MessagingOperationTypeSend,
	)
	if id != "" {
		all = append(all, semconv.MessagingMessageID(id))
	}
	return t.tracer.Start(ctx, "send "+topic, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(append(all, attrs...)...))
}

// StartCall starts the span "POST" around the attempt (from 1) of a notification, under the id of SendSpanID. Of the URL
// the query is left out. End it with EndCall.
func (t *Tracer) StartCall(ctx context.Context, notification uuid.UUID, attempt int32, to *url.URL, attrs ...attribute.KeyValue) (context.Context, trace.Span) {
	if t == nil {
		return off(ctx)
	}
	all := append(make([]attribute.KeyValue, 0, 6+len(attrs)),
		semconv.HTTPRequestMethodPost,
		semconv.ServerAddress(to.Hostname()),
		semconv.URLFull(to.Scheme+"://"+to.Host+to.EscapedPath()),
	)
	if port, err := strconv.Atoi(to.Port()); err == nil {
		all = append(all, semconv.ServerPort(port))
	}
	if attempt > 1 {
		all = append(all, semconv.HTTPRequestResendCount(int(attempt)-1))
	}
	_, span := t.tracer.Start(context.WithValue(ctx, spanIDKey{}, SendSpanID(notification, attempt)), "POST",
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(append(all, attrs...)...))
	return trace.ContextWithSpan(ctx, span), span // without the id, which would be that of every child too
}

// EndCall ends the span of a call. The status is 0 when no answer came. The errorType, empty for success, is a short
// name from a fixed set ("timeout", "502", "-124"); no text from outside.
func EndCall(span trace.Span, status int, errorType string) {
	if span.IsRecording() {
		if status != 0 {
			span.SetAttributes(semconv.HTTPResponseStatusCode(status))
		}
		if errorType != "" {
			span.SetAttributes(semconv.ErrorTypeKey.String(errorType))
			span.SetStatus(codes.Error, errorType)
		}
	}
	span.End()
}

// off returns the context with a span that records nothing and has its parent's span context.
func off(ctx context.Context) (context.Context, trace.Span) {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return ctx, trace.SpanFromContext(context.Background())
	}
	ctx = trace.ContextWithSpanContext(ctx, sc)
	return ctx, trace.SpanFromContext(ctx)
}
