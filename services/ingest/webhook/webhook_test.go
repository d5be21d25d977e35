package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/telemetry"
	"github.com/znshub/znshub/pkg/trackingid"
	"github.com/znshub/znshub/pkg/zalo"
)

const (
	appID   = "2074138120372622546"
	oaID    = "2893352839501541173"
	secret  = "oa-secret-key"
	cluster = "test"
)

var notification = uuid.MustParse("018f3c5e-7b1a-7c3e-9c39-5c1f1b9f2a10")

// request is one callback as Zalo would post it; each case of a test breaks one thing of it.
type request struct {
	method string
	app    string
	secret string
	stamp  string // what is signed
	body   string
	header http.Header
	sign   bool
}

func delivery(trackingID string) request {
	return request{
		method: http.MethodPost,
		app:    appID,
		secret: secret,
		stamp:  "1602560967477",
		// Odd spacing and order, and text that a re-serialiser would escape otherwise.
		body: `{ "timestamp":"1602560967477", "sender":{"id":"` + oaID + `"}, "recipient":{ "id":"84123456789"},"event_name":"user_received_message",` +
			`"note":"Xin chào","message":{"delivery_time":"1602960467432","msg_id":"15a0cc0bbb13bd4ce403","tracking_id":"` + trackingID + `"},"app_id":"` + appID + `"}`,
		header: http.Header{"X-Zevent-Server": {"ZNS"}},
		sign:   true,
	}
}

func (r request) http(url string) *http.Request {
	if r.sign {
		r.header = r.header.Clone()
		r.header.Set(zalo.HeaderSignature, "mac="+zalo.Sign(r.app, r.secret, r.stamp, []byte(r.body)))
	}
	req, err := http.NewRequest(r.method, url+Path, strings.NewReader(r.body))
	if err != nil {
		panic(err)
	}
	req.Header = r.header
	return req
}

// rig is a handler over real HTTP that remembers what it was given to store.
type rig struct {
	url      string
	mu       sync.Mutex
	stored   []kafka.Record
	outcomes map[Outcome]int
	events   map[string]int
	fail     error
}

func newRig(tb testing.TB, change ...func(*Config)) *rig {
	tb.Helper()
	secrets, err := ParseSecrets(secret)
	if err != nil {
		tb.Fatal(err)
	}
	r := &rig{outcomes: map[Outcome]int{}, events: map[string]int{}}
	cfg := Config{
		AppID: appID, Secrets: secrets, Cluster: cluster, Source: "/znshub/test/ingest", Topic: "zalo.callback",
		Log: slog.New(slog.DiscardHandler),
		Append: func(_ context.Context, rec kafka.Record) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.fail == nil {
				r.stored = append(r.stored, rec)
			}
			return r.fail
		},
		Answered: func(o Outcome, _ int, _ time.Duration) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.outcomes[o]++
		},
		Received: func(event string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events[event]++
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	mux := http.NewServeMux()
	mux.Handle(Path, New(cfg))
	srv := httptest.NewServer(mux)
	tb.Cleanup(srv.Close)
	r.url = srv.URL
	return r
}

// count is how often an outcome was told. What no answer belongs to is told by another goroutine.
func (r *rig) count(o Outcome) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.outcomes[o]
}

func (r *rig) send(tb testing.TB, req *http.Request) (code int, body string) {
	tb.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestAnswers(t *testing.T) {
	ours := trackingid.Encode(cluster, notification, trace.TraceID{1}, true, 1)
	for _, tt := range []struct {
		name    string
		change  func(*request)
		code    int
		outcome Outcome
		key     string // of the stored record; empty: nothing is stored
	}{
		{"as Zalo sends it", func(*request) {}, 200, Stored, notification.String()},
		{"a resend", func(r *request) { r.header.Set("num_retry", "2") }, 200, Stored, notification.String()},
		{"signed over the header's timestamp", func(r *request) {
			r.header.Set("X-ZEvent-Timestamp", "99")
			r.stamp = "99"
		}, 200, Stored, notification.String()},
		{"tracking_id of another program", func(r *request) { r.body = strings.Replace(r.body, ours, "order-1", 1) }, 200, Stored, "15a0cc0bbb13bd4ce403"},
		{"tracking_id of another cluster", func(r *request) {
			r.body = strings.Replace(r.body, ours, trackingid.Encode("staging", notification, trace.TraceID{1}, true, 1), 1)
		}, 200, Stored, "15a0cc0bbb13bd4ce403"},
		{"event that nobody knows", func(r *request) {
			r.body = `{"event_name":"user_teleports","oa_id":"` + oaID + `","timestamp":"1602560967477","x":[1,{}]}`
		}, 200, Stored, "*"},
		{"no event name", func(r *request) { r.body = `{"oa_id":"` + oaID + `","timestamp":"1602560967477"}` }, 200, Stored, "*"},
		{"signed, not JSON", func(r *request) {
			r.body = "\xff\xfe rubbish"
			r.header.Set("X-ZEvent-Timestamp", "7")
			r.stamp = "7"
		}, 200, Stored, "*"},
		{"signed, fields of odd types", func(r *request) {
			r.body = `{"event_name":["x"],"message":7,"sender":"s","recipient":null,"timestamp":1602560967477}`
		}, 200, Stored, "*"},

		{"the console's test event", func(r *request) {
			r.body = `{"event_name":"user_send_text","sender":{"id":"1"},"recipient":{"id":"2"},"message":{"text":"This is testing message","msg_id":"This is message id"},"timestamp":"1602560967477"}`
		}, 200, Test, ""},
		{"the console's test event, signed with another key", func(r *request) {
			r.body = `{"event_name":"user_send_text","sender":{"id":"1"},"recipient":{"id":"2"},"message":{"text":"This is testing message","msg_id":"This is message id"},"timestamp":"1602560967477"}`
			r.secret = "other"
		}, 200, Test, ""},
		{"the console's probe", func(r *request) { r.body, r.sign = `{}`, false }, 200, Probe, ""},
		{"the console's probe, empty", func(r *request) { r.body, r.sign = "", false }, 200, Probe, ""},
		{"GET", func(r *request) { r.method, r.body, r.sign = http.MethodGet, "", false }, 200, Hello, ""},
		{"HEAD", func(r *request) { r.method, r.body, r.sign = http.MethodHead, "", false }, 200, Hello, ""},

		{"unsigned", func(r *request) { r.sign = false }, 401, Unsigned, ""},
		{"empty signature", func(r *request) { r.sign = false; r.header.Set(zalo.HeaderSignature, "mac=") }, 401, Unsigned, ""},
		{"signed with another secret", func(r *request) { r.secret = "app-secret" }, 401, WrongMAC, ""},
		{"signed for another app", func(r *request) { r.app = "1" }, 401, WrongMAC, ""},
		{"signed over another timestamp", func(r *request) { r.stamp = "1602560967478" }, 401, WrongMAC, ""},
		{"changed after signing", func(r *request) {
			r.header.Set(zalo.HeaderSignature, "mac="+zalo.Sign(r.app, r.secret, r.stamp, []byte(r.body)))
			r.sign = false
			r.body = strings.Replace(r.body, "84123456789", "84123456780", 1)
		}, 401, WrongMAC, ""},
		{"signed without a timestamp", func(r *request) { r.body = `{"oa_id":"` + oaID + `"}` }, 401, Untimed, ""},
		{"PUT", func(r *request) { r.method = http.MethodPut }, 405, WrongMethod, ""},
		{"DELETE", func(r *request) { r.method = http.MethodDelete }, 405, WrongMethod, ""},
		{"body of 1 MiB", func(r *request) { r.body = pad(r.body, MaxBody) }, 200, Stored, notification.String()},
		{"body above 1 MiB", func(r *request) { r.body = pad(r.body, MaxBody+1) }, 413, TooLarge, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rig := newRig(t)
			r := delivery(ours)
			tt.change(&r)
			code, _ := rig.send(t, r.http(rig.url))
			if code != tt.code || rig.outcomes[tt.outcome] != 1 || len(rig.outcomes) != 1 {
				t.Fatalf("answered %d, outcomes %v; want %d, %s", code, rig.outcomes, tt.code, tt.outcome)
			}
			if tt.key == "" {
				if len(rig.stored) != 0 {
					t.Fatalf("stored %d records", len(rig.stored))
				}
				return
			}
			if len(rig.stored) != 1 || !bytes.Equal(rig.stored[0].Value, []byte(r.body)) {
				t.Fatalf("stored %d records; the body must stand there byte for byte", len(rig.stored))
			}
			if got := string(rig.stored[0].Key); tt.key != "*" && got != tt.key || got == "" {
				t.Errorf("key %q, want %q", got, tt.key)
			}
		})
	}
}

// pad makes the body size bytes long without changing what it says.
func pad(body string, size int) string {
	return "{" + strings.Repeat(" ", size-len(body)) + body[1:]
}

func TestRecordHeaders(t *testing.T) {
	rig := newRig(t)
	r := delivery(trackingid.Encode(cluster, notification, trace.TraceID{1}, true, 1))
	r.header.Set("num_retry", "3")
	if code, _ := rig.send(t, r.http(rig.url)); code != 200 {
		t.Fatal(code)
	}
	rec := rig.stored[0]
	for name, want := range map[string]string{
		"ce_specversion": "1.0", "ce_type": "zalo.callback", "ce_source": "/znshub/test/ingest", "ce_subject": notification.String(),
		"content-type": "application/json", "zns-event": "user_received_message", "zns-signature": "valid",
		"x-zevent-server": "ZNS", "num_retry": "3",
		"x-zevent-signature": "mac=" + zalo.Sign(appID, secret, r.stamp, []byte(r.body)),
	} {
		if got, _ := rec.Header(name); string(got) != want {
			t.Errorf("header %s = %q, want %q", name, got, want)
		}
	}
	if v, _ := rec.Header("zns-received"); v == nil {
		t.Error("no zns-received")
	}
	for _, h := range rec.Headers {
		if bytes.Contains(h.Value, []byte("84123456789")) {
			t.Errorf("header %s holds the phone number", h.Key)
		}
	}
}

func TestSecretsPerOA(t *testing.T) {
	secrets, err := ParseSecrets(oaID + "=first, " + oaID + "=second,111=other")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]int{"first": 200, "second": 200, "other": 401, secret: 401} {
		rig := newRig(t, func(c *Config) { c.Secrets = secrets })
		r := delivery("x")
		r.secret = key
		if code, _ := rig.send(t, r.http(rig.url)); code != want {
			t.Errorf("signed with %q: %d, want %d", key, code, want)
		}
	}
}

func TestParseSecrets(t *testing.T) {
	for _, bad := range []string{"", " , ", "x=secret", "123=", "=secret"} {
		if _, err := ParseSecrets(bad); err == nil {
			t.Errorf("%q was taken", bad)
		} else if strings.Contains(err.Error(), "secret") && strings.Contains(bad, "=secret") && strings.Contains(err.Error(), "=secret") {
			t.Errorf("the error holds the secret: %v", err)
		}
	}
	s, err := ParseSecrets("new, old")
	if err != nil || !s.Contains("new") || !s.Contains("old") || s.Contains("other") {
		t.Errorf("two plain secrets: %v", err)
	}
}

func TestNotStored(t *testing.T) {
	rig := newRig(t)
	rig.fail = errors.New("disk full")
	r := delivery("x")
	if code, body := rig.send(t, r.http(rig.url)); code != 503 || strings.Contains(body, "disk") {
		t.Fatalf("answered %d %q", code, body)
	}
}

// A chunked body has no length: it is counted while it is read.
func TestChunkedBodyTooLarge(t *testing.T) {
	rig := newRig(t)
	req, err := http.NewRequest(http.MethodPost, rig.url+Path, io.MultiReader(strings.NewReader(strings.Repeat(" ", MaxBody)), strings.NewReader("{}")))
	if err != nil {
		t.Fatal(err)
	}
	if code, _ := rig.send(t, req); code != 413 {
		t.Fatalf("answered %d", code)
	}
}

// With every place taken a request waits for its turn, and answers 503 only when its time is up.
func TestBusy(t *testing.T) {
	release := make(chan struct{})
	rig := newRig(t, func(c *Config) {
		c.MaxConcurrent = 1
		c.Append = func(context.Context, kafka.Record) error {
			<-release
			return nil
		}
	})
	codes := make(chan int, 3)
	start := time.Now()
	var wg sync.WaitGroup
	r := delivery("x")
	for range 3 {
		wg.Go(func() {
			code, _ := rig.send(t, r.http(rig.url))
			codes <- code
		})
		time.Sleep(20 * time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond)
	release <- struct{}{} // the first ends; another takes its place and keeps it
	if code := <-codes; code != 200 {
		t.Errorf("the first was answered %d", code)
	}
	if code := <-codes; code != 503 {
		t.Errorf("the one without a place was answered %d", code)
	}
	if took := time.Since(start); took < time.Second || took > 2*time.Second {
		t.Errorf("it waited %v; want nearly 2 s, not longer", took)
	}
	release <- struct{}{}
	if code := <-codes; code != 200 {
		t.Errorf("the one that had waited was answered %d", code)
	}
	wg.Wait()
}

// A client that sends its body slowly is cut off and does not keep its place.
func TestSlowBody(t *testing.T) {
	rig := newRig(t, func(c *Config) { c.MaxConcurrent = 1 })
	conn, err := net.Dial("tcp", strings.TrimPrefix(rig.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", Path)
	time.Sleep(50 * time.Millisecond)
	r := delivery("x")
	start := time.Now()
	if code, _ := rig.send(t, r.http(rig.url)); code != 200 {
		t.Fatalf("answered %d while another client dawdles", code)
	}
	if took := time.Since(start); took > 1600*time.Millisecond {
		t.Errorf("waited %v", took)
	}
	for wait := time.Now().Add(time.Second); rig.count(CutOff) != 1; time.Sleep(time.Millisecond) { // its own goroutine tells
		if time.Now().After(wait) {
			t.Fatalf("%d were cut off, want 1", rig.count(CutOff))
		}
	}
}

// The callback's span belongs to the trace of the send, and its context travels with the record; a refused callback
// makes no span.
func TestSpan(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tracer := telemetry.NewTracer(telemetry.NewProvider(sdktrace.WithSpanProcessor(spans)))
	rig := newRig(t, func(c *Config) { c.Tracer = tracer })
	r := delivery(trackingid.Encode(cluster, notification, trace.TraceID{7}, true, 2))
	rig.send(t, r.http(rig.url))
	forged := r
	forged.secret = "other"
	rig.send(t, forged.http(rig.url))
	ended := spans.Ended()
	if len(ended) != 1 {
		t.Fatalf("%d spans", len(ended))
	}
	s := ended[0]
	if s.Name() != "POST /webhooks/zalo" || s.SpanKind() != trace.SpanKindServer || s.Parent().SpanID() != telemetry.SendSpanID(notification, 2) || s.SpanContext().TraceID() != (trace.TraceID{7}) {
		t.Errorf("span %s, kind %v, parent %v", s.Name(), s.SpanKind(), s.Parent())
	}
	want := fmt.Sprintf("00-%s-%s-01", s.SpanContext().TraceID(), s.SpanContext().SpanID())
	if got, _ := rig.stored[0].Header("traceparent"); string(got) != want {
		t.Errorf("traceparent %s, want %s", got, want)
	}
	for _, a := range s.Attributes() {
		if strings.Contains(a.Value.String(), "84123456789") {
			t.Errorf("attribute %s holds the phone number", a.Key)
		}
	}
}

func TestKnownEvent(t *testing.T) {
	for name, want := range map[string]string{"user_received_message": "user_received_message", "": "none", "user_84123456789": "other"} {
		if got := KnownEvent(name); got != want {
			t.Errorf("KnownEvent(%q) = %q", name, got)
		}
	}
}

// Whatever is posted, the handler answers and never panics; without the secret nothing is ever stored.
func FuzzPost(f *testing.F) {
	f.Add([]byte(delivery("x").body), "mac="+strings.Repeat("0", 64), "1")
	f.Add([]byte(`{"sender":{"id":[[[[`), "", "")
	f.Add([]byte(`{"event_name":"user_send_text","message":{"msg_id":"This is message id"}}`), "sha256=zz", "-1")
	secrets, _ := ParseSecrets("1=a,2=b,c")
	stored := false
	h := New(Config{
		AppID: appID, Secrets: secrets, Cluster: cluster, Source: "s", Topic: "t",
		Log:    slog.New(slog.DiscardHandler),
		Append: func(context.Context, kafka.Record) error { stored = true; return nil },
	})
	f.Fuzz(func(t *testing.T, body []byte, signature, stamp string) {
		r := httptest.NewRequest(http.MethodPost, Path, bytes.NewReader(body))
		r.Header = http.Header{zalo.HeaderSignature: {signature}, zalo.HeaderTimestamp: {stamp}}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if stored {
			t.Fatalf("stored what nobody signed: %q", body)
		}
		// And the same bytes signed are always stored, unless they are the console's test.
		r = httptest.NewRequest(http.MethodPost, Path, bytes.NewReader(body))
		r.Header = http.Header{zalo.HeaderSignature: {zalo.Sign(appID, "c", "5", body)}, zalo.HeaderTimestamp: {"5"}}
		w = httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if cb, _ := zalo.ParseCallback(body); w.Code != 200 || !stored && !cb.IsTest() && len(body) <= MaxBody {
			t.Fatalf("signed body answered %d, stored %v", w.Code, stored)
		}
		stored = false
	})
}
