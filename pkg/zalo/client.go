package zalo

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"
)

// DefaultURL is the host of messages by phone.
const DefaultURL = "https://business.openapi.zalo.me"

// maxAnswer bounds what is read of an answer; Zalo's are some hundred bytes.
const maxAnswer = 64 << 10

// Config is what a Client needs. The zero value of a field that is not required means its default.
type Config struct {
	URL string // of the host of messages by phone; DefaultURL

	// AccessToken returns the OA's access token (required). It is asked for every call, so that a rotated token is used
	// at once. An error ends the call as NotSent, held for the token.
	AccessToken func(ctx context.Context, oaID string) (string, error)

	// AppSecret, when set, adds the header appsecret_proof, which an app's settings can demand.
	AppSecret string

	// MaxInFlight is how many calls may run at once (256). Each has a connection of its own, kept open between calls.
	// A call above it waits for a connection within its timeout.
	MaxInFlight int

	// RequestTimeout bounds a whole call, from connecting to the last byte of the answer (10 s).
	RequestTimeout time.Duration

	// IdleTimeout is how long a connection is kept without a call (30 s): shorter than a usual gateway's, so that a call
	// does not meet a connection that the other side is closing.
	IdleTimeout time.Duration

	// Dial opens connections; a net.Dialer by default. Tests put a virtual network here.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	TLS *tls.Config // nil: the system's roots
}

// Client calls Zalo. It is safe for concurrent use.
type Client struct {
	cfg       Config
	transport *http.Transport
	phone     *url.URL
	hash      *url.URL
}

// SendRequest is one template message by phone.
type SendRequest struct {
	OAID         string
	Phone        string // "84987654321" or "+84987654321"; exactly one of this and PhoneSHA256
	PhoneSHA256  string // lower-case hexadecimal SHA-256 of "84987654321", see PhoneHash
	TemplateID   string
	TemplateData map[string]string
	TrackingID   string // at most 48 characters, alphanumerics only; Zalo echoes it in callbacks and does not dedupe by it
	SendingMode  string // "" = "1", normal; "3": over quota, for whitelisted OAs
	Development  bool   // Zalo's development mode: only administrators get it

	// LaunchBy is the last moment at which the first byte may leave, by the wall clock and by the monotonic one. A call
	// that got its connection later ends as NotSent. Zero: no limit.
	LaunchBy time.Time
}

// ErrLate is the Err of a call that was not begun because SendRequest.LaunchBy had passed.
var ErrLate = errors.New("launch deadline passed before a connection was free")

// NewClient returns a Client, or an error that names every problem of cfg.
func NewClient(cfg Config) (*Client, error) {
	if cfg.URL == "" {
		cfg.URL = DefaultURL
	}
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = 256
	}
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = 10 * time.Second
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = 30 * time.Second
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	}
	var problems []error
	base, err := url.Parse(cfg.URL)
	if err != nil || base.Scheme != "https" && base.Scheme != "http" || base.Host == "" || base.RawQuery != "" || base.User != nil {
		problems = append(problems, fmt.Errorf("zalo URL %q: want something like %s", redactURL(base), DefaultURL))
		base = &url.URL{}
	}
	if cfg.AccessToken == nil {
		problems = append(problems, errors.New("zalo AccessToken: a function is required"))
	}
	if cfg.MaxInFlight < 0 || cfg.RequestTimeout < 0 || cfg.IdleTimeout < 0 {
		problems = append(problems, errors.New("zalo MaxInFlight, RequestTimeout and IdleTimeout must not be negative"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	if base.Path == "" {
		base.Path = "/" // JoinPath keeps a path relative that begins so
	}
	http1 := new(http.Protocols)
	http1.SetHTTP1(true)
	return &Client{
		cfg: cfg,
		transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            countingDial(cfg.Dial),
			TLSClientConfig:        cfg.TLS,
			TLSHandshakeTimeout:    5 * time.Second,
			Protocols:              http1, // one request a connection at a time: what counting rests on
			DisableCompression:     true,
			MaxConnsPerHost:        cfg.MaxInFlight,
			MaxIdleConns:           cfg.MaxInFlight,
			MaxIdleConnsPerHost:    cfg.MaxInFlight,
			IdleConnTimeout:        cfg.IdleTimeout,
			MaxResponseHeaderBytes: maxAnswer,
		},
		phone: base.JoinPath("message/template"),
		hash:  base.JoinPath("message/template/hashphone"),
	}, nil
}

func redactURL(u *url.URL) string {
	if u == nil {
		return "(not a URL)"
	}
	return u.Redacted()
}

// Close closes idle connections. Calls in flight end by themselves.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// PhoneHash returns what Zalo's endpoint for hashed numbers takes: the lower-case hexadecimal SHA-256 of "84987654321".
func PhoneHash(phone string) string {
	sum := sha256.Sum256([]byte(strings.TrimPrefix(phone, "+")))
	return hex.EncodeToString(sum[:])
}

type sendJSON struct {
	Phone        string            `json:"phone,omitempty"`
	HashPhone    string            `json:"hash_phone,omitempty"`
	TemplateID   string            `json:"template_id"`
	TemplateData map[string]string `json:"template_data"`
	TrackingID   string            `json:"tracking_id"`
	SendingMode  string            `json:"sending_mode,omitempty"`
	Mode         string            `json:"mode,omitempty"`
}

// Send makes one call. It never returns an error: every end is a Result. It blocks until the answer is read or the
// timeout or ctx ends it, and it never makes a second call, except on another connection when provably nothing was
// written on the first. Nothing of ctx's trace goes to Zalo.
func (c *Client) Send(ctx context.Context, req SendRequest) Result {
	start := time.Now()
	r := c.send(ctx, &req)
	r.Duration = time.Since(start)
	return r
}

func (c *Client) send(ctx context.Context, req *SendRequest) Result {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	defer cancel()
	token, err := c.cfg.AccessToken(ctx, req.OAID)
	if err == nil && token == "" {
		err = errors.New("no access token for this OA")
	}
	if err != nil {
		return Result{
			Outcome: NotSent, Class: ClassToken, Hold: true, HoldReason: HoldToken, Scope: "oa",
			Message: "No access token for the OA", Err: fmt.Errorf("access token: %w", err),
		}
	}
	bytesOf := ledgerOfBytes{launchBy: req.LaunchBy}
	bytesOf.uses = bytesOf.room[:0]
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: bytesOf.gotConn})
	hreq, err := c.request(ctx, token, req)
	if err != nil {
		return Result{Outcome: NotSent, Class: ClassConfig, Hold: true, HoldReason: HoldOperator, Message: "The request cannot be built", Err: err}
	}
	// The transport and not an http.Client, which would follow redirects and on 307 and 308 post the message again.
	resp, err := c.transport.RoundTrip(hreq)
	if err != nil {
		return failed(err, &bytesOf)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return brokenBody(resp, err)
	}
	if len(body) > maxAnswer {
		// Judged by its status alone; the connection is not used again, since the rest is not read.
		body = nil
	}
	return classify(resp.StatusCode, resp.Header, body)
}

func (c *Client) request(ctx context.Context, token string, req *SendRequest) (*http.Request, error) {
	if (req.Phone == "") == (req.PhoneSHA256 == "") {
		return nil, errors.New("exactly one of Phone and PhoneSHA256 is required")
	}
	payload := sendJSON{
		Phone: strings.TrimPrefix(req.Phone, "+"), HashPhone: req.PhoneSHA256, TemplateID: req.TemplateID,
		TemplateData: req.TemplateData, TrackingID: req.TrackingID, SendingMode: req.SendingMode,
	}
	if payload.TemplateData == nil {
		payload.TemplateData = map[string]string{}
	}
	if req.Development {
		payload.Mode = "development"
	}
	var body bytes.Buffer
	body.Grow(512)
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // what the person reads goes over the wire as it is
	if err := enc.Encode(&payload); err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	target := c.phone
	if req.PhoneSHA256 != "" {
		target = c.hash
	}
	raw := body.Bytes()
	header := make(http.Header, 4)
	header["Content-Type"] = []string{"application/json"}
	header["User-Agent"] = []string{"znshub"}
	// Zalo's spelling; a gateway that compares case would not know Access_token.
	header["access_token"] = []string{token}
	if c.cfg.AppSecret != "" {
		header["appsecret_proof"] = []string{AppSecretProof(c.cfg.AppSecret, token)}
	}
	hreq := &http.Request{
		Method: http.MethodPost, URL: target, Host: target.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(raw)), ContentLength: int64(len(raw)),
		// Lets the transport take another connection when one died before a byte was written. There is no
		// Idempotency-Key header, which would let it repeat a request that may have arrived.
		GetBody: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil },
	}
	return hreq.WithContext(ctx), nil
}

// AppSecretProof returns the value of the header appsecret_proof: HMAC-SHA256 of the access token under the app's
// secret key, in lower-case hexadecimal.
func AppSecretProof(appSecret, accessToken string) string {
	h := hmac.New(sha256.New, []byte(appSecret))
	h.Write([]byte(accessToken))
	return hex.EncodeToString(h.Sum(nil))
}

// failed judges a call that got no answer.
func failed(err error, bytesOf *ledgerOfBytes) Result {
	if bytesOf.nothingLeft() {
		if bytesOf.late {
			err = ErrLate
		}
		return Result{Outcome: NotSent, Err: err}
	}
	return Result{Outcome: Unknown, Cause: causeOf(err, bytesOf.anythingRead()), Err: err}
}

// brokenBody judges an answer whose header came and whose body did not come to its end. The status alone can say
// enough: a gateway's refusal or its 5xx.
func brokenBody(resp *http.Response, err error) Result {
	r := classify(resp.StatusCode, resp.Header, nil)
	if r.Outcome == Unknown && r.Cause == CauseUnreadable {
		r.Cause = causeOf(err, true)
	}
	if r.Outcome == Unknown {
		r.Err = err
	}
	return r
}

// causeOf tells why a call that had begun got no whole answer. answered: something was read that is no HTTP.
func causeOf(err error, answered bool) Cause {
	var timeout interface{ Timeout() bool }
	var op *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.As(err, &timeout) && timeout.Timeout():
		return CauseTimeout
	case !answered, errors.As(err, &op), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return CauseReset
	default:
		return CauseUnreadable
	}
}
