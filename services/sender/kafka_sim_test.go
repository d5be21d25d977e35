package sender

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/telemetry"
	"github.com/znshub/znshub/pkg/trackingid"
	"github.com/znshub/znshub/pkg/zalo"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// TestKafkaSimulator runs against the simulator, with every way in which it can lose an answer. Its callbacks are
// verified and stored as webhook-ingest would.
func TestKafkaSimulator(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4, "SENDER_REQUEST_TIMEOUT=2s", "SENDER_UNRESOLVED_AFTER=100ms", "ZALO_ACCESS_TOKEN="+zalosim.DefaultOAID+"="+zalosim.DefaultAccessToken)
	sim, err := zalosim.New(zalosim.Config{Seed: 1, AuditParams: []string{"order_code"}, Delivery: zalosim.Range{Low: 200 * time.Millisecond, High: 400 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(sim)
	webhook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := zalo.VerifySignature(zalosim.DefaultAppID, []string{zalosim.DefaultOASecret}, body, r.Header); err != nil {
			return
		}
		cb, err := zalo.ParseCallback(body)
		if err != nil {
			t.Error(err)
			return
		}
		if id, err := trackingid.Decode("test", cb.TrackingID); err == nil {
			w.write(kafka.Record{Topic: topic.Callback, Partition: -1, Key: []byte(id.Notification.String()), Value: body})
		}
	}))
	t.Cleanup(func() {
		sim.Close()
		server.CloseClientConnections()
		server.Close()
		webhook.Close()
	})
	if err := sim.SetCallbackURL(webhook.URL); err != nil {
		t.Fatal(err)
	}
	template := sim.Templates()[0]
	data := map[string]string{}
	for _, p := range template.Params {
		data[p.Name] = "1"
	}
	kinds := []zalosim.FaultKind{
		"", zalosim.FaultSlow, zalosim.FaultLostAnswer, zalosim.FaultResetAfter, zalosim.FaultResetMidBody, zalosim.FaultTruncated,
		zalosim.FaultNoMsgID, zalosim.FaultQuoted, zalosim.FaultCallbackBefore,
	}
	var reqs []*notificationv1.NotificationRequested
	for i, kind := range kinds {
		phone := fmt.Sprintf("09876000%02d", i)
		if kind != "" {
			f := zalosim.Fault{Kind: kind, Phone: phone}
			if kind == zalosim.FaultSlow {
				f.Delay = time.Second
			}
			if _, err := sim.AddFault(f); err != nil {
				t.Fatal(err)
			}
		}
		reqs = append(reqs, request("", func(r *notificationv1.NotificationRequested) {
			r.TemplateId, r.TemplateData, r.Recipient = template.ID, data, &notificationv1.Recipient{Phone: phone}
		}))
	}
	w.run("a", "ZALO_API_URL="+server.URL)
	ids := w.publish(reqs...)
	for i, id := range ids {
		sent := w.wantSent(id, 40*time.Second)
		lost := slices.Contains([]zalosim.FaultKind{
			zalosim.FaultLostAnswer, zalosim.FaultResetAfter, zalosim.FaultResetMidBody, zalosim.FaultTruncated, zalosim.FaultNoMsgID,
		}, kinds[i])
		if got := sent.OutcomeSource == znsv1.OutcomeSource_OUTCOME_SOURCE_CALLBACK; got != lost {
			t.Errorf("%q: outcome from %s", kinds[i], sent.OutcomeSource)
		}
		if n := len(sim.ByPhone(fmt.Sprintf("09876000%02d", i))); n != 1 {
			t.Errorf("%q: the phone got %d", kinds[i], n)
		}
	}
}

// TestKafkaTrace: the caller's span, process, POST for each attempt and send are one trace; a caller without one gets
// one of its own, which the event and the tracking_id name.
func TestKafkaTrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	exporter := tracetest.NewInMemoryExporter()
	provider := telemetry.NewProvider(sdktrace.WithSyncer(exporter))
	t.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	w.tracer = telemetry.NewTracer(provider)
	w.provider.respond(func(p post) answer {
		if p.Attempt == 1 {
			return answer{code: -32}
		}
		return answer{}
	})
	s := w.run("a")
	const caller = "4bf92f3577b34da6a3ce929d0e0e4736"
	traced, plain := request("traced"), request("plain")
	tracedID, plainID := uuid.MustParse(traced.NotificationId), w.publish(plain)[0]
	w.write(kafka.Record{
		Topic: w.input, Partition: -1, Key: []byte(traced.NotificationId), Value: mustMarshal(t, traced),
		Headers: []kafka.Header{{Key: "traceparent", Value: []byte("00-" + caller + "-00f067aa0ba902b7-01")}},
	})
	sent := w.wantSent(tracedID, 40*time.Second)
	other := w.wantSent(plainID, 40*time.Second)
	s.stop()
	if sent.TraceId != caller {
		t.Errorf("trace_id %s, want the caller's", sent.TraceId)
	}
	if len(other.TraceId) != 32 || other.TraceId == strings.Repeat("0", 32) || other.TraceId == caller {
		t.Errorf("trace_id %q of a request without a trace", other.TraceId)
	}
	for _, e := range []*znsv1.Sent{sent, other} {
		id, err := trackingid.Decode("test", e.TrackingId)
		if err != nil || id.Trace.String() != e.TraceId || !id.Sampled || id.Attempt != 2 {
			t.Errorf("tracking_id: %+v, %v", id, err)
		}
		var tree []string
		names := map[string]string{"00f067aa0ba902b7": "caller"}
		spans := exporter.GetSpans()
		for _, sp := range spans {
			names[sp.SpanContext.SpanID().String()] = sp.Name
		}
		for _, sp := range spans {
			if sp.SpanContext.TraceID().String() != e.TraceId {
				continue
			}
			name := sp.Name
			if n := sp.SpanContext.SpanID(); n == telemetry.SendSpanID(id.Notification, 1) || n == telemetry.SendSpanID(id.Notification, 2) {
				name += fmt.Sprintf("(%t)", n == telemetry.SendSpanID(id.Notification, 2))
			}
			tree = append(tree, names[sp.Parent.SpanID().String()]+" > "+name)
		}
		slices.Sort(tree)
		root := "caller"
		if e == other {
			root = ""
		}
		want := []string{"POST > send zns.sent", root + " > process " + w.input, "process " + w.input + " > POST(false)", "process " + w.input + " > POST(true)"}
		slices.Sort(want)
		if !slices.Equal(tree, want) {
			t.Errorf("spans %q, want %q", tree, want)
		}
	}
	for _, sp := range exporter.GetSpans() {
		for _, a := range sp.Attributes {
			if v := a.Value.String(); strings.Contains(v, "987654321") || strings.Contains(v, "token") {
				t.Errorf("span %s: attribute %s holds personal data", sp.Name, a.Key)
			}
		}
	}
}
