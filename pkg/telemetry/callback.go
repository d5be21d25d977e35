package telemetry

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// StartCallback starts the server span "POST ROUTE" around the receipt of a callback that arrived at start. Its parent is
// the POST that sent the message, see CallbackParent; without a valid one it begins a trace. End it with EndCallback.
func (t *Tracer) StartCallback(ctx context.Context, parent trace.SpanContext, route string, start time.Time, attrs ...attribute.KeyValue) (context.Context, trace.Span) {
	if parent.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, parent)
	}
	if t == nil {
		return off(ctx)
	}
	all := append(make([]attribute.KeyValue, 0, 2+len(attrs)), semconv.HTTPRequestMethodPost, semconv.HTTPRoute(route))
	return t.tracer.Start(ctx, http.MethodPost+" "+route, trace.WithSpanKind(trace.SpanKindServer),
		trace.WithTimestamp(start), trace.WithAttributes(append(all, attrs...)...))
}

// EndCallback ends the span with the status that was answered.
func EndCallback(span trace.Span, status int) {
	if span.IsRecording() {
		span.SetAttributes(semconv.HTTPResponseStatusCode(status))
		if status >= http.StatusInternalServerError {
			span.SetAttributes(semconv.ErrorTypeKey.String(strconv.Itoa(status)))
		}
	}
	span.End()
}
