package zalo

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
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
	exchanger *exchanger // nil: calls go by the transport
	phone     *url.URL
	hash      *url.URL
	phoneHead string
	hashHead  string
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
	c := &Client{
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
	}
	c.phoneHead, c.hashHead = head(base.Host, c.phone.EscapedPath()), head(base.Host, c.hash.EscapedPath())
	if proxy, err := c.transport.Proxy(&http.Request{URL: c.phone}); proxy == nil && err == nil && canLook && !byTransport {
		c.exchanger = newExchanger(&cfg, base)
	}
	return c, nil
}

// byTransport makes every call go by http.Transport, as it does through a proxy: tests take both ways. They differ in one
// thing: http.Transport may take an answer that nobody asked for, and that came just behind another, for that of the next
// request.
var byTransport bool

func redactURL(u *url.URL) string {
	if u == nil {
		return "(not a URL)"
	}
	return u.Redacted()
}

// Close closes idle connections. Calls in flight end by themselves.
func (c *Client) Close() {
	c.transport.CloseIdleConnections()
	if c.exchanger != nil {
		c.exchanger.close()
	}
}

// PhoneHash returns what Zalo's endpoint for hashed numbers takes: the lower-case hexadecimal SHA-256 of "84987654321".
func PhoneHash(phone string) string {
	sum := sha256.Sum256([]byte(strings.TrimPrefix(phone, "+")))
	return hex.EncodeToString(sum[:])
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
	if c.exchanger != nil {
		raw, err := c.rawRequest(token, req)
		if err != nil {
			return unbuildable(err)
		}
		a, err := c.exchanger.do(ctx, raw, &bytesOf)
		switch {
		case err != nil:
			return failed(err, &bytesOf)
		case a.broken != nil:
			return brokenBody(a.status, a.header, a.broken)
		}
		return classify(a.status, a.header, a.body)
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: bytesOf.gotConn})
	hreq, err := c.request(ctx, token, req)
	if err != nil {
		return unbuildable(err)
	}
	// The transport and not an http.Client, which would follow redirects and on 307 and 308 post the message again.
	resp, err := c.transport.RoundTrip(hreq)
	if err != nil {
		return failed(err, &bytesOf)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return brokenBody(resp.StatusCode, resp.Header, err)
	}
	if len(body) > maxAnswer {
		// Judged by its status alone; the connection is not used again, since the rest is not read.
		body = nil
	}
	return classify(resp.StatusCode, resp.Header, body)
}

// AppSecretProof returns the value of the header appsecret_proof: HMAC-SHA256 of the access token under the app's
// secret key, in lower-case hexadecimal.
func AppSecretProof(appSecret, accessToken string) string {
	h := hmac.New(sha256.New, []byte(appSecret))
	h.Write([]byte(accessToken))
	return hex.EncodeToString(h.Sum(nil))
}

func unbuildable(err error) Result {
	return Result{Outcome: NotSent, Class: ClassConfig, Hold: true, HoldReason: HoldOperator, Message: "The request cannot be built", Err: err}
}

// failed judges a call that got no answer.
func failed(err error, bytesOf *ledgerOfBytes) Result {
	if bytesOf.nothingLeft() {
		if bytesOf.late {
			err = ErrLate
		}
		return Result{Outcome: NotSent, Err: err}
	}
	cause := causeOf(err, bytesOf.anythingRead())
	if cause == CauseUnreadable {
		err = errNotHTTP
	}
	return Result{Outcome: Unknown, Cause: cause, Err: err}
}

// brokenBody judges an answer whose header came and whose body did not come to its end. The status alone can say
// enough: a gateway's refusal or its 5xx.
func brokenBody(status int, header http.Header, err error) Result {
	r := classify(status, header, nil)
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
	var op *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), isTimeout(err):
		return CauseTimeout
	case !answered, errors.As(err, &op), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return CauseReset
	default:
		return CauseUnreadable
	}
}

// errNotHTTP stands for whatever the other side wrote instead of an answer: it may have repeated what it was sent.
var errNotHTTP = errors.New("the answer is not HTTP")

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}
