package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/znshub/znshub/pkg/kafka"
)

const (
	traceparentHeader = "traceparent"
	tracestateHeader  = "tracestate"
)

// Headers carries trace context in a record's headers; it implements propagation.TextMapCarrier.
type Headers []kafka.Header

// Get returns the value of the last header named key.
func (h *Headers) Get(key string) string {
	value, _ := (&kafka.Record{Headers: *h}).Header(key)
	return string(value)
}

// Set replaces every header named key by one.
func (h *Headers) Set(key, value string) {
	others := make(Headers, 0, len(*h)+1) // a new one: the record's own headers are not to change
	for _, header := range *h {
		if header.Key != key {
			others = append(others, header)
		}
	}
	others = append(others, kafka.Header{Key: key, Value: []byte(value)})
	*h = others
}

// Keys returns the names of all headers.
func (h *Headers) Keys() []string {
	keys := make([]string, len(*h))
	for i, header := range *h {
		keys[i] = header.Key
	}
	return keys
}

// Extract returns a context with the span context in a record's headers, as a remote parent. Without one, or with one
// that is not valid, the context comes back as it is.
func Extract(ctx context.Context, r *kafka.Record) context.Context {
	traceparent, ok := r.Header(traceparentHeader)
	if !ok {
		return ctx
	}
	tracestate, _ := r.Header(tracestateHeader)
	return WithParent(ctx, string(traceparent), string(tracestate))
}

// WithParent returns a context with the span context that two header values describe, as a remote parent: what the
// ledger keeps. Values that are empty or not valid leave the context as it is.
func WithParent(ctx context.Context, traceparent, tracestate string) context.Context {
	if traceparent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, pair{traceparent, tracestate})
}

// TraceParent returns the header values that describe the context's span; both are empty when there is none.
func TraceParent(ctx context.Context) (traceparent, tracestate string) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return "", ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier[traceparentHeader], carrier[tracestateHeader]
}

// pair is a carrier of the two headers, to read from.
type pair struct{ traceparent, tracestate string }

func (p pair) Get(key string) string {
	switch key {
	case traceparentHeader:
		return p.traceparent
	case tracestateHeader:
		return p.tracestate
	}
	return ""
}
func (pair) Set(string, string) {}
func (pair) Keys() []string     { return []string{traceparentHeader, tracestateHeader} }
