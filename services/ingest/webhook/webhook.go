// Package webhook is the HTTP side of webhook-ingest: it takes what Zalo posts, verifies it on the raw bytes, has it
// stored and only then answers 200.
//
// # Promises
//
// Every request is answered within Zalo's two seconds. 200 means stored, or deliberately not stored: the console's
// probe and test event. What is not signed with the OA secret key is answered 401 and leaves no trace but a counter.
// When too many requests are under way, further ones wait for a turn; 503, which counts against the webhook at Zalo, is
// answered only when the two seconds would not suffice or nothing could store the callback. At most MaxConcurrent
// small bodies and MaxConcurrent/16 large ones (or of unknown size) are in memory at a time.
//
//	request                                              answer  stored
//	signed by Zalo                                       200     yes
//	signed, event or body that nobody knows              200     yes
//	unsigned and about nobody: the console's probe       200     no
//	the console's test event, whatever its signature     200     no
//	unsigned, wrongly signed, signed for another app     401     no
//	body above 1 MiB                                     413     no
//	neither Kafka nor the disk takes it, or no time left 503     no
//	GET, HEAD                                            200     no
//	another method                                       405     no
//	body cut off or too slow                             400     no
package webhook

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/telemetry"
	"github.com/znshub/znshub/pkg/trackingid"
	"github.com/znshub/znshub/pkg/zalo"
	"github.com/znshub/znshub/services/ingest/raw"
)

const (
	// Path is where Zalo posts.
	Path = "/webhooks/zalo"
	// MaxBody is the largest body that is taken. Real callbacks have about 1 KiB.
	MaxBody = 1 << 20
	// Budget is the time for one request, inside the 2 s after which Zalo gives up.
	Budget = 1700 * time.Millisecond

	smallBody = 64 << 10
	bodyTime  = time.Second // for the body to arrive
)

// Outcome is how a request ended.
type Outcome string

// The outcomes: labels of metrics.
const (
	Stored      Outcome = "stored"
	Probe       Outcome = "probe"
	Test        Outcome = "test"
	Hello       Outcome = "get"
	Unsigned    Outcome = "unsigned"      // no well-formed signature
	Untimed     Outcome = "no_timestamp"  // nothing says which timestamp was signed
	WrongMAC    Outcome = "bad_signature" // none of the secrets fits
	TooLarge    Outcome = "too_large"
	CutOff      Outcome = "cut_off"
	WrongMethod Outcome = "method"
	Busy        Outcome = "busy"
	NotStored   Outcome = "not_stored"
)

// Outcomes lists all of them.
var Outcomes = []Outcome{Stored, Probe, Test, Hello, Unsigned, Untimed, WrongMAC, TooLarge, CutOff, WrongMethod, Busy, NotStored}

// Code is the status with which an outcome is answered.
func (o Outcome) Code() int {
	switch o {
	case Unsigned, Untimed, WrongMAC:
		return http.StatusUnauthorized
	case TooLarge:
		return http.StatusRequestEntityTooLarge
	case CutOff:
		return http.StatusBadRequest
	case WrongMethod:
		return http.StatusMethodNotAllowed
	case Busy, NotStored:
		return http.StatusServiceUnavailable
	default:
		return http.StatusOK
	}
}

// Config says whose callbacks are taken and where they go.
type Config struct {
	AppID   string
	Secrets Secrets
	Cluster string // ZNS_CLUSTER: tells our tracking_ids from others
	Source  string // ce_source of the records
	Topic   string // of the records

	// Append makes a record durable; an error means that it could not.
	Append        func(context.Context, kafka.Record) error
	Tracer        *telemetry.Tracer
	MaxConcurrent int // default 512

	// Answered is told of every request, Received of every event that was stored; both may be nil.
	Answered func(o Outcome, code int, took time.Duration)
	Received func(event string)
	Log      *slog.Logger
}

// Handler serves Path. It is safe for concurrent use.
type Handler struct {
	cfg   Config
	small chan struct{} // a place for each small body in memory
	large chan struct{} // a place for each other one
	warn  *limiter
}

// New returns the handler.
func New(cfg Config) *Handler {
	if cfg.MaxConcurrent == 0 {
		cfg.MaxConcurrent = 512
	}
	return &Handler{
		cfg:   cfg,
		small: make(chan struct{}, cfg.MaxConcurrent),
		large: make(chan struct{}, max(1, cfg.MaxConcurrent/16)),
		warn:  newLimiter(cfg.Log, 10*time.Second),
	}
}

// answer is how a request ended and what the body says of it.
type answer struct {
	outcome Outcome
	text    string
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	// Not ended by a client that goes away: what arrived whole is stored.
	ctx, cancel := context.WithDeadline(context.WithoutCancel(r.Context()), start.Add(Budget))
	defer cancel()
	a := h.serve(ctx, w, r, start)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	code := a.outcome.Code()
	switch code {
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", "POST, GET, HEAD")
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		w.Header().Set("Connection", "close") // the rest of the body is not waited for
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "5")
	}
	w.WriteHeader(code)
	_, _ = io.WriteString(w, a.text+"\n")
	if h.cfg.Answered != nil {
		h.cfg.Answered(a.outcome, code, time.Since(start))
	}
}

func (h *Handler) serve(ctx context.Context, w http.ResponseWriter, r *http.Request, start time.Time) answer {
	switch r.Method {
	case http.MethodPost:
	case http.MethodGet, http.MethodHead:
		return answer{Hello, "webhook-ingest: Zalo posts its callbacks here"}
	default:
		return answer{WrongMethod, "only POST"}
	}
	if r.ContentLength > MaxBody {
		return h.tooLarge(r.ContentLength)
	}
	places := h.small
	if r.ContentLength < 0 || r.ContentLength > smallBody {
		places = h.large
	}
	select {
	case places <- struct{}{}:
		defer func() { <-places }()
	case <-ctx.Done():
		h.warn.Warn("callback answered 503: too many requests under way")
		return answer{Busy, "busy"}
	}
	// A client that sends slowly gives its place back soon. Not every server behind the interface can set a deadline;
	// then the server's own read timeout is the bound.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return h.tooLarge(r.ContentLength)
	}
	if err != nil {
		return answer{CutOff, "body incomplete"}
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if zalo.IsProbe(body, r.Header) {
		h.cfg.Log.Info("Zalo's console probed the webhook")
		return answer{Probe, "ok"}
	}
	event, verified := h.verify(body, r.Header)
	if event.IsTest() {
		if verified != nil {
			h.warn.Warn("Zalo's test event does not verify: real callbacks will be refused", "error", verified)
		}
		return answer{Test, "ok"}
	}
	if verified != nil {
		h.warn.Warn("callback refused", "error", verified)
		return refusal(verified)
	}
	return h.store(ctx, body, r.Header, event, start)
}

// verify parses the body and checks its signature with the secrets of the OA that it names. A body that is not JSON
// is verified with the common secrets.
func (h *Handler) verify(body []byte, header http.Header) (zalo.Callback, error) {
	event, err := zalo.ParseCallback(body)
	if err != nil {
		event = zalo.Callback{}
	}
	secrets := h.cfg.Secrets.of(event.OAID, event.SenderID, event.RecipientID)
	return event, zalo.VerifySignature(h.cfg.AppID, secrets, body, header)
}

func refusal(err error) answer {
	o := WrongMAC
	switch {
	case errors.Is(err, zalo.ErrNoSignature):
		o = Unsigned
	case errors.Is(err, zalo.ErrNoTimestamp):
		o = Untimed
	}
	return answer{o, "signature not valid"}
}

func (h *Handler) tooLarge(length int64) answer {
	h.warn.Warn("callback answered 413: body above 1 MiB", "content_length", length)
	return answer{TooLarge, "body above 1 MiB"}
}

// store appends the record under a span that belongs to the trace of the send.
func (h *Handler) store(ctx context.Context, body []byte, header http.Header, event zalo.Callback, start time.Time) answer {
	var parent trace.SpanContext
	if id, err := trackingid.Decode(h.cfg.Cluster, event.TrackingID); err == nil {
		parent = telemetry.CallbackParent(id)
	}
	ctx, span := h.cfg.Tracer.StartCallback(ctx, parent, Path, start,
		attribute.Int("http.request.body.size", len(body)), attribute.String("zalo.event", KnownEvent(event.Event)))
	traceparent, tracestate := telemetry.TraceParent(ctx)
	record, err := raw.Callback{
		Topic:       h.cfg.Topic,
		Source:      h.cfg.Source,
		Body:        body,
		Header:      header,
		Event:       event,
		Key:         raw.Key(h.cfg.Cluster, event, body),
		Received:    start,
		Traceparent: traceparent,
		Tracestate:  tracestate,
	}.Record()
	if err == nil {
		err = h.cfg.Append(ctx, record)
	}
	a := answer{Stored, "ok"}
	if err != nil {
		a = answer{NotStored, "cannot be stored now"}
		h.warn.Error("callback answered 503: it could not be stored; Zalo will send it again", "error", err)
	} else if h.cfg.Received != nil {
		h.cfg.Received(event.Event)
	}
	telemetry.EndCallback(span, a.outcome.Code())
	return a
}
