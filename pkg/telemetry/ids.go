package telemetry

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"github.com/znshub/znshub/pkg/trackingid"
)

// SendSpanID returns the id of the span around an attempt's POST: the first 8 bytes of
// SHA-256("znshub call\n" + the UUID's 16 bytes + the attempt as 4 bytes, big-endian), never zero.
func SendSpanID(notification uuid.UUID, attempt int32) trace.SpanID {
	msg := append(make([]byte, 0, 32), "znshub call\n"...)
	msg = append(msg, notification[:]...)
	msg = binary.BigEndian.AppendUint32(msg, uint32(attempt))
	sum := sha256.Sum256(msg)
	id := trace.SpanID(sum[:8])
	if !id.IsValid() {
		id[7] = 1
	}
	return id
}

// CallbackParent returns the span context under which a callback belongs: that of the POST with its tracking_id. It is
// not valid when the send had no trace. For a saturated id it is the first of the attempts that share it.
func CallbackParent(id trackingid.ID) trace.SpanContext {
	if !id.Trace.IsValid() {
		return trace.SpanContext{}
	}
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID:    id.Trace,
		SpanID:     SendSpanID(id.Notification, id.Attempt),
		TraceFlags: trace.TraceFlags(0).WithSampled(id.Sampled),
		Remote:     true,
	})
}

// idGenerator makes random ids, but for a span that is started with one in its context.
type idGenerator struct{}

type spanIDKey struct{}

// NewIDs implements sdktrace.IDGenerator.
func (g idGenerator) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	var id trace.TraceID
	for !id.IsValid() {
		binary.BigEndian.PutUint64(id[:8], rand.Uint64())
		binary.BigEndian.PutUint64(id[8:], rand.Uint64())
	}
	return id, g.NewSpanID(ctx, id)
}

// NewSpanID implements sdktrace.IDGenerator.
func (idGenerator) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	if id, ok := ctx.Value(spanIDKey{}).(trace.SpanID); ok {
		return id
	}
	var id trace.SpanID
	for !id.IsValid() {
		binary.BigEndian.PutUint64(id[:], rand.Uint64())
	}
	return id
}
