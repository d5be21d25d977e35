// Package telemetry is the hub's tracing: one trace from the caller's span to the delivery on the phone.
//
//	(caller)                                     traceparent in the request's headers, or a new trace
//	└─ process notification.requested            consumer, [Tracer.StartProcess]
//	   └─ POST                                   client, one for each attempt, [Tracer.StartCall]
//	      ├─ send zns.sent                       producer, [Tracer.StartSend]
//	      └─ POST /webhooks/zalo                 server, [Tracer.StartCallback]; the tracking_id names its parent
//	         └─ send zns.delivered
//
// The span of an attempt's POST has an id derived from notification and attempt, [SendSpanID], instead of a random one.
// So webhook-ingest can hang a callback below it with nothing but the tracking_id.
//
// Setup goes by the standard OTEL_ variables. No exporter is made unless OTEL_TRACES_EXPORTER or an OTLP endpoint is
// set; then spans cost next to nothing, and the caller's trace context is handed on unchanged. Sampling follows the
// parent (OTEL_TRACES_SAMPLER changes it). Spans carry names and attributes of the semantic conventions 1.43, the newest
// that the SDK has, and never phone numbers, template data or tokens. Baggage is not propagated: it is the caller's data
// and may be personal.
//
// No globals are read or set, so that several services can run in one process, each under its own name. Everything is
// safe for concurrent use. Spans are exported in the background; when the exporter cannot keep up they are dropped, and
// nothing waits.
package telemetry
