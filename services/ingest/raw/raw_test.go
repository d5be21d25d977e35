package raw

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/trackingid"
	"github.com/znshub/znshub/pkg/zalo"
)

func TestKey(t *testing.T) {
	id := uuid.MustParse("018f3c5e-7b1a-7c3e-9c39-5c1f1b9f2a10")
	ours := trackingid.Encode("test", id, trace.TraceID{1}, true, 3)
	for _, tt := range []struct{ name, body, want string }{
		{"our tracking_id", `{"event_name":"user_received_message","message":{"msg_id":"m","tracking_id":"` + ours + `"}}`, id.String()},
		{"our tracking_id in another event", `{"event_name":"user_feedback","message":{"msg_id":"m","tracking_id":"` + ours + `"}}`, id.String()},
		{"another's", `{"message":{"msg_id":"m","tracking_id":"order-7"}}`, "m"},
		{"a message", `{"msg_id":"m"}`, "m"},
		{"a template", `{"event_name":"change_template_status","template_id":"7","oa_id":"9"}`, Hash([]byte("7"))},
		{"a person", `{"event_name":"user_submit_info","sender":{"id":"84123456789"},"recipient":{"id":"84123456789"}}`, Hash([]byte("84123456789"))},
		{"an OA", `{"event_name":"x","oa_id":"9"}`, Hash([]byte("9"))},
		{"nothing", `{}`, Hash([]byte(`{}`))},
	} {
		c, err := zalo.ParseCallback([]byte(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		if got := Key("test", c, []byte(tt.body)); got != tt.want {
			t.Errorf("%s: key %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestReceived(t *testing.T) {
	at := time.Date(2026, 11, 22, 5, 0, 0, 123456789, time.UTC)
	r, err := Callback{Topic: "t", Source: "s", Key: "k", Body: []byte("{}"), Received: at}.Record()
	if err != nil {
		t.Fatal(err)
	}
	if got := Received(r); !got.Equal(at) {
		t.Errorf("received %v", got)
	}
	stored := at.Add(time.Hour)
	for _, r := range []kafka.Record{{Time: stored}, {Time: stored, Headers: []kafka.Header{{Key: HeaderReceived, Value: []byte("yesterday")}}},
		{Time: stored, Headers: []kafka.Header{{Key: HeaderReceived, Value: []byte("0001-01-01T00:00:00Z")}}}} {
		if got := Received(r); !got.Equal(stored) {
			t.Errorf("without a usable header: %v", got)
		}
	}
}

// What strangers write into headers and names is bounded before it is stored.
func TestHeadersAreBounded(t *testing.T) {
	long := strings.Repeat("é", 5000)
	r, err := Callback{
		Topic: "t", Source: "s", Key: "k", Body: []byte("{}"), Received: time.Now(), Event: zalo.Callback{Event: long},
		Header: http.Header{zalo.HeaderServer: {long}, zalo.HeaderSignature: {long}, "X-Other": {"not kept"}},
	}.Record()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range r.Headers {
		if len(h.Value) > maxHeader || !strings.HasPrefix(string(h.Value), "é") && strings.Contains(string(h.Value), "\uFFFD") || h.Key == "x-other" {
			t.Errorf("header %s has %d bytes", h.Key, len(h.Value))
		}
	}
}
