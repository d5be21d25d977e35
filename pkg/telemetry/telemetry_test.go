package telemetry

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/trackingid"
)

const (
	callerTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	callerParent = "00-" + callerTrace + "-00f067aa0ba902b7-01"
)

var (
	notification = uuid.MustParse("018f3c5e-7b1a-7c3e-9c39-5c1f1b9f2a10")
	api          = &url.URL{Scheme: "https", User: url.UserPassword("u", "SECRET"), Host: "business.openapi.zalo.me:8443", Path: "/message/template", RawQuery: "phone=SECRET"}
)

func newTracer(t *testing.T, opts ...sdktrace.TracerProviderOption) (*Tracer, *tracetest.InMemoryExporter) {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	provider := NewProvider(append(opts, sdktrace.WithSyncer(exporter))...)
	t.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	return NewTracer(provider), exporter
}

func request(headers ...kafka.Header) *kafka.Record {
	return &kafka.Record{Topic: "notification.requested", Partition: 3, Offset: 42, Headers: headers}
}

// deliver runs one notification through sender and webhook-ingest, which share nothing but what Kafka and Zalo carry.
func deliver(t *testing.T, tracer *Tracer, r *kafka.Record) (callbackOf trackingid.ID) {
	t.Helper()
	ctx, process := tracer.StartProcess(t.Context(), r, "zns-sender", notification.String())
	traceparent, tracestate := TraceParent(ctx)
	process.End()

	var trackingID string
	for attempt := int32(1); attempt <= 2; attempt++ { // the ledger carries the span from attempt to attempt
		ctx := WithParent(context.Background(), traceparent, tracestate)
		ctx, call := tracer.StartCall(ctx, notification, attempt, api)
		sc := trace.SpanContextFromContext(ctx)
		trackingID = trackingid.Encode("test", notification, sc.TraceID(), sc.IsSampled(), attempt)
		if attempt == 1 {
			EndCall(call, 0, "timeout")
			continue
		}
		EndCall(call, 200, "")
		_, send := tracer.StartSend(ctx, "zns.sent", "event-1")
		send.End()
	}

	id, err := trackingid.Decode("test", trackingID)
	if err != nil {
		t.Fatal(err)
	}
	ctx, callback := tracer.StartCallback(context.Background(), CallbackParent(id), "/webhooks/zalo", time.Now())
	traceparent, tracestate = TraceParent(ctx)
	EndCallback(callback, 200)
	_, delivered := tracer.StartSend(WithParent(context.Background(), traceparent, tracestate), "zns.delivered", "event-2")
	delivered.End()
	return id
}

// tree writes spans as "parent > name", with the parent's name.
func tree(spans tracetest.SpanStubs) (lines []string, traces map[trace.TraceID]bool) {
	names, traces := map[trace.SpanID]string{}, map[trace.TraceID]bool{}
	for _, s := range spans {
		name := s.Name
		for _, a := range s.Attributes {
			if a.Key == "http.request.resend_count" {
				name += " again"
			}
		}
		names[s.SpanContext.SpanID()] = name
		traces[s.SpanContext.TraceID()] = true
	}
	for _, s := range spans {
		parent, ok := names[s.Parent.SpanID()]
		if !ok && s.Parent.IsValid() {
			parent = s.Parent.SpanID().String()
		}
		lines = append(lines, parent+" > "+names[s.SpanContext.SpanID()])
	}
	return lines, traces
}

func TestOneTrace(t *testing.T) {
	for name, tc := range map[string]struct {
		record *kafka.Record
		parent string
	}{
		"caller with traceparent":              {request(kafka.Header{Key: "traceparent", Value: []byte(callerParent)}), "00f067aa0ba902b7"},
		"caller without":                       {request(), ""},
		"caller with a traceparent that is no": {request(kafka.Header{Key: "traceparent", Value: []byte("00-xyz")}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			tracer, exporter := newTracer(t)
			id := deliver(t, tracer, tc.record)
			got, traces := tree(exporter.GetSpans())
			want := []string{
				tc.parent + " > process notification.requested",
				"process notification.requested > POST",
				"process notification.requested > POST again",
				"POST again > send zns.sent",
				"POST again > POST /webhooks/zalo",
				"POST /webhooks/zalo > send zns.delivered",
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(traces) != 1 || !traces[id.Trace] {
				t.Errorf("%d traces, want that of the tracking_id alone", len(traces))
			}
			if tc.parent != "" && id.Trace.String() != callerTrace {
				t.Errorf("trace %v, want the caller's", id.Trace)
			}
		})
	}
}

func TestAttributes(t *testing.T) {
	tracer, exporter := newTracer(t)
	deliver(t, tracer, request())
	want := []map[string]string{
		{"messaging.system": "kafka", "messaging.destination.name": "notification.requested", "messaging.operation.name": "process", "messaging.operation.type": "process",
			"messaging.destination.partition.id": "3", "messaging.kafka.offset": "42", "messaging.consumer.group.name": "zns-sender", "messaging.message.id": notification.String()},
		{"http.request.method": "POST", "server.address": "business.openapi.zalo.me", "server.port": "8443", "url.full": "https://business.openapi.zalo.me:8443/message/template", "error.type": "timeout"},
		{"http.request.method": "POST", "server.address": "business.openapi.zalo.me", "server.port": "8443", "url.full": "https://business.openapi.zalo.me:8443/message/template",
			"http.request.resend_count": "1", "http.response.status_code": "200"},
		{"messaging.system": "kafka", "messaging.destination.name": "zns.sent", "messaging.operation.name": "send", "messaging.operation.type": "send", "messaging.message.id": "event-1"},
	}
	kinds := []trace.SpanKind{trace.SpanKindConsumer, trace.SpanKindClient, trace.SpanKindClient, trace.SpanKindProducer}
	spans := exporter.GetSpans()
	for i, want := range want {
		got := map[string]string{}
		for _, a := range spans[i].Attributes {
			got[string(a.Key)] = a.Value.String()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", spans[i].Name, diff)
		}
		if spans[i].SpanKind != kinds[i] {
			t.Errorf("%s is of kind %v, want %v", spans[i].Name, spans[i].SpanKind, kinds[i])
		}
	}
	if got := spans[1].Status; got.Description != "timeout" {
		t.Errorf("status of the call that failed: %+v", got)
	}
}

// TestOnlyTheCallHasTheDerivedID: a child that inherited the id would be its own parent.
func TestOnlyTheCallHasTheDerivedID(t *testing.T) {
	tracer, exporter := newTracer(t)
	ctx, call := tracer.StartCall(t.Context(), notification, 1, api)
	_, child := tracer.StartSend(ctx, "zns.sent", "")
	child.End()
	call.End()
	spans := exporter.GetSpans()
	if got := spans[1].SpanContext.SpanID(); got != SendSpanID(notification, 1) {
		t.Errorf("the call's id is %v, want %v", got, SendSpanID(notification, 1))
	}
	if spans[0].SpanContext.SpanID() == spans[1].SpanContext.SpanID() {
		t.Error("the child has its parent's id")
	}
}

func TestSendSpanID(t *testing.T) {
	// A golden value: sender and webhook-ingest may be of different releases.
	if got, want := SendSpanID(notification, 1).String(), "085fc49e808c9bd6"; got != want {
		t.Errorf("SendSpanID = %s, want %s", got, want)
	}
	seen := map[trace.SpanID]bool{}
	for attempt := range int32(1000) {
		id := SendSpanID(notification, attempt)
		if !id.IsValid() || seen[id] {
			t.Fatalf("attempt %d: %v is zero or was there", attempt, id)
		}
		seen[id] = true
	}
}

func TestSamplingFollowsTheParent(t *testing.T) {
	tracer, exporter := newTracer(t)
	unsampled := strings.TrimSuffix(callerParent, "01") + "00"
	id := deliver(t, tracer, request(kafka.Header{Key: "traceparent", Value: []byte(unsampled)}))
	if n := len(exporter.GetSpans()); n != 0 {
		t.Errorf("%d spans of a trace that the caller does not sample", n)
	}
	if id.Sampled || id.Trace.String() != callerTrace {
		t.Errorf("tracking_id %+v, want the caller's trace, not sampled", id)
	}
	if sc := CallbackParent(id); sc.IsSampled() || !sc.IsRemote() {
		t.Errorf("parent of the callback: %+v", sc)
	}
}

func TestCallbackParentWithoutTrace(t *testing.T) {
	if sc := CallbackParent(trackingid.ID{Notification: notification, Attempt: 1}); sc.IsValid() {
		t.Errorf("got %+v", sc)
	}
}

// TestOff: what is switched off hands the caller's trace on.
func TestOff(t *testing.T) {
	var tracer *Tracer
	if tracer.Enabled() {
		t.Error("nil is enabled")
	}
	id := deliver(t, tracer, request(kafka.Header{Key: "traceparent", Value: []byte(callerParent)}))
	if id.Trace.String() != callerTrace || !id.Sampled {
		t.Errorf("tracking_id %+v, want the caller's trace", id)
	}
	ctx, span := tracer.StartProcess(t.Context(), request(kafka.Header{Key: "traceparent", Value: []byte(callerParent)}), "g", "")
	if traceparent, _ := TraceParent(ctx); traceparent != callerParent {
		t.Errorf("traceparent %q, want the caller's", traceparent)
	}
	if span.IsRecording() {
		t.Error("a span is recorded")
	}
	if id := deliver(t, tracer, request()); id.Trace.IsValid() {
		t.Errorf("a trace out of nothing: %v", id.Trace)
	}
}

func TestHeaders(t *testing.T) {
	h := Headers{{Key: "traceparent", Value: []byte("old")}, {Key: "ce_id", Value: []byte("1")}, {Key: "traceparent", Value: []byte("older")}}
	ctx := WithParent(t.Context(), callerParent, "vendor=1")
	propagation.TraceContext{}.Inject(ctx, &h)
	if got := h.Get("traceparent"); got != callerParent {
		t.Errorf("traceparent %q", got)
	}
	if diff := cmp.Diff([]string{"ce_id", "traceparent", "tracestate"}, slices.Sorted(slices.Values(h.Keys()))); diff != "" {
		t.Error(diff)
	}
	r := request(h...)
	if traceparent, tracestate := TraceParent(Extract(t.Context(), r)); traceparent != callerParent || tracestate != "vendor=1" {
		t.Errorf("after a round trip: %q, %q", traceparent, tracestate)
	}
	if traceparent, tracestate := TraceParent(WithParent(t.Context(), "", "")); traceparent != "" || tracestate != "" {
		t.Errorf("of nothing: %q, %q", traceparent, tracestate)
	}
}

func TestSetup(t *testing.T) {
	for name, tc := range map[string]struct {
		env  map[string]string
		on   bool
		says string
	}{
		"nothing set":      {nil, false, ""},
		"none":             {map[string]string{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, false, ""},
		"disabled":         {map[string]string{"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, false, ""},
		"endpoint":         {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, true, ""},
		"traces endpoint":  {map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}, true, ""},
		"unknown exporter": {map[string]string{"OTEL_TRACES_EXPORTER": "zipkinn"}, false, "zipkinn"},
		"bad protocol":     {map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "smtp"}, false, "protocol"},
		"bad attributes":   {map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_RESOURCE_ATTRIBUTES": "novalue"}, false, "OTEL_RESOURCE_ATTRIBUTES"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, v := range []string{"OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_RESOURCE_ATTRIBUTES"} {
				t.Setenv(v, tc.env[v])
			}
			tracer, shutdown, err := Setup(t.Context(), Service{Name: "sender", Version: "1", Instance: "i", Cluster: "c"})
			if tc.says != "" {
				if err == nil || !strings.Contains(err.Error(), tc.says) {
					t.Fatalf("got %v, want %q in it", err, tc.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tracer.Enabled() != tc.on {
				t.Errorf("enabled: %t, want %t", tracer.Enabled(), tc.on)
			}
			if err := shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestExport reads what an OTLP collector gets.
func TestExport(t *testing.T) {
	bodies := make(chan string, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies <- r.URL.Path + " " + string(body)
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "team=logistics")
	tracer, shutdown, err := Setup(t.Context(), Service{Name: "sender", Version: "1.2.3", Instance: "sender-0", Cluster: "prod"})
	if err != nil {
		t.Fatal(err)
	}
	deliver(t, tracer, request())
	if err := shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	body := <-bodies
	for _, want := range []string{"/v1/traces ", "service.name", "sender", "1.2.3", "sender-0", "deployment.environment.name", "prod", "logistics", "process notification.requested", "POST /webhooks/zalo"} {
		if !strings.Contains(body, want) {
			t.Errorf("the collector got no %q", want)
		}
	}
}

func benchmark(b *testing.B, tracer *Tracer, r *kafka.Record) {
	b.ReportAllocs()
	for b.Loop() {
		ctx, process := tracer.StartProcess(b.Context(), r, "zns-sender", "018f3c5e-7b1a-7c3e-9c39-5c1f1b9f2a10")
		ctx, call := tracer.StartCall(ctx, notification, 1, api)
		_, send := tracer.StartSend(ctx, "zns.sent", "1")
		send.End()
		EndCall(call, 200, "")
		process.End()
	}
}

func BenchmarkOff(b *testing.B) { benchmark(b, nil, request()) }
func BenchmarkOffWithParent(b *testing.B) {
	benchmark(b, nil, request(kafka.Header{Key: "traceparent", Value: []byte(callerParent)}))
}
func BenchmarkOn(b *testing.B) { benchmark(b, NewTracer(NewProvider()), request()) }
