package zalo

import (
	"cmp"
	"net/http"
	"strconv"
	"strings"
	"time"

	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// Outcome is how a call ended. Its String is a metric label; the numbers equal zns.v1.AttemptOutcome.
type Outcome int

const (
	Accepted Outcome = iota + 1 // Zalo took the message: error 0 and a msg_id. Not yet delivered
	Rejected                    // Zalo refused it; it was not sent
	NotSent                     // no byte of the request left this machine
	Unknown                     // Zalo may or may not have taken it, see Cause
)

var outcomeNames = [...]string{"none", "accepted", "rejected", "not_sent", "unknown"}

func (o Outcome) String() string { return enumName(outcomeNames[:], int(o)) }

// Proto returns the outcome as it stands in an attempt of zns.failed.
func (o Outcome) Proto() znsv1.AttemptOutcome { return znsv1.AttemptOutcome(o) }

// Cause is why an outcome is Unknown. Its String is a metric label; the numbers equal zns.v1.UnknownCause.
type Cause int

const (
	CauseNone          Cause = iota
	CauseTimeout             // no answer in time, or HTTP 408
	CauseReset               // the connection broke
	CauseHTTP5xx             // a gateway's error
	CauseUnreadable          // an answer that is not Zalo's: HTML, truncated JSON, a redirect, success without msg_id
	CauseAmbiguousCode       // a code of Zalo that does not say whether the message was sent
	CauseOwnerDied           // never from this package: the sender died inside the call
)

var causeNames = [...]string{"none", "timeout", "reset", "http_5xx", "unreadable", "ambiguous_code", "owner_died"}

func (c Cause) String() string { return enumName(causeNames[:], int(c)) }

// Proto returns the cause as it stands in zns.unresolved.
func (c Cause) Proto() znsv1.UnknownCause { return znsv1.UnknownCause(c) }

// Result is how a call ended and what is to be done about it.
type Result struct {
	Outcome Outcome

	// Of Rejected, and of Unknown with CauseAmbiguousCode.
	Code    int    // Zalo's error code; 0 when the refusal was an HTTP status
	Class   Class  // also with NotSent when there is no token
	Message string // what Code or HTTPStatus means, from this package's table and never from the wire

	// At most one of Retryable and Hold is true. Both false with Rejected: it is final.
	Retryable  bool   // of Rejected: call again with backoff. NotSent is retryable unless Hold is true
	Hold       bool   // wait for what HoldReason names
	HoldReason Hold   // with Hold
	Scope      string // see CodeInfo.Scope
	Period     string // see CodeInfo.Period

	// Of Accepted.
	MsgID    string
	SentTime time.Time // by Zalo's clock; zero when Zalo did not say
	Quota    *Quota    // nil when Zalo did not say

	Cause      Cause         // of Unknown
	HTTPStatus int           // 0: no answer
	RetryAfter time.Duration // what the header Retry-After asked for, at most an hour
	RateLimit  *RateLimit    // nil when Zalo did not say
	Duration   time.Duration // from the call of Send to its end
	Err        error         // what broke, of NotSent and Unknown; without personal data
}

// Quota is what an answer tells about the OA's messages per day. Nil: it did not say.
type Quota struct{ Daily, Remaining *int32 }

// RateLimit is what the headers X-RateLimit-Limit and X-RateLimit-Remain say: how many calls the app may make in a
// minute, 0 when it is not told, and how many are left of them.
type RateLimit struct{ Limit, Remaining int }

// maxRetryAfter bounds what a header may ask for: a gateway's mistake must not stop the queue for a day.
const maxRetryAfter = time.Hour

// refusals are the HTTP statuses that refuse a request before it was acted upon, also without Zalo's JSON.
var refusals = map[int]CodeInfo{
	http.StatusUnauthorized:                {Class: ClassConfig, Action: ActionHold, Hold: HoldOperator, Scope: "app", Text: "HTTP 401: refused by a gateway"},
	http.StatusForbidden:                   {Class: ClassConfig, Action: ActionHold, Hold: HoldOperator, Scope: "app", Text: "HTTP 403: refused by a gateway"},
	http.StatusNotFound:                    {Class: ClassConfig, Action: ActionHold, Hold: HoldOperator, Scope: "app", Text: "HTTP 404: no such API here; check ZALO_API_URL"},
	http.StatusMethodNotAllowed:            {Class: ClassConfig, Action: ActionHold, Hold: HoldOperator, Scope: "app", Text: "HTTP 405: no such API here; check ZALO_API_URL"},
	http.StatusLengthRequired:              {Class: ClassConfig, Action: ActionHold, Hold: HoldOperator, Text: "HTTP 411: a gateway wants Content-Length"},
	http.StatusRequestEntityTooLarge:       {Class: ClassConfig, Action: ActionHold, Hold: HoldOperator, Text: "HTTP 413: request too large for a gateway"},
	http.StatusTooManyRequests:             {Class: ClassTransient, Action: ActionHold, Hold: HoldRate, Text: "HTTP 429: too many requests"},
	http.StatusRequestHeaderFieldsTooLarge: {Class: ClassConfig, Action: ActionHold, Hold: HoldOperator, Text: "HTTP 431: header too large for a gateway"},
}

// classify turns a complete answer of the host of messages by phone into a Result. It is the only place where an answer is judged:
//
//	status                                  Zalo's JSON       outcome
//	2xx                                     error 0, msg_id   Accepted
//	2xx                                     error 0, no id    Unknown (unreadable)
//	2xx, 4xx but 408                        -100, -200        Unknown (ambiguous code)
//	2xx, 4xx but 408                        other code        Rejected, by the code's class
//	401 403 404 405 411 413 429 431         none              Rejected, held
//	2xx, other 4xx                          none              Unknown (unreadable)
//	3xx                                     any               Unknown (unreadable)
//	408                                     any               Unknown (timeout)
//	5xx                                     any               Unknown (http_5xx)
func classify(status int, header http.Header, body []byte) Result {
	r := Result{HTTPStatus: status, RetryAfter: retryAfter(header), RateLimit: rateLimit(header)}
	switch {
	case status == http.StatusRequestTimeout:
		return r.unknown(CauseTimeout)
	case status >= 500:
		return r.unknown(CauseHTTP5xx)
	case status < 200 || status >= 300 && status < 400:
		return r.unknown(CauseUnreadable)
	}
	answer, err := readAnswer(body)
	if err != nil || !answer.Error.ok || answer.Error.n != int64(int32(answer.Error.n)) {
		if info, ok := refusals[status]; ok {
			return r.rejected(info)
		}
		return r.unknown(CauseUnreadable)
	}
	if code := int(answer.Error.n); code != 0 {
		return r.rejected(LookupCode(HostBusiness, code))
	}
	if status >= 300 || answer.Data.v.MsgID == "" {
		return r.unknown(CauseUnreadable)
	}
	r.Outcome = Accepted
	r.MsgID = string(answer.Data.v.MsgID)
	r.SentTime = epoch(answer.Data.v.SentTime)
	if q := answer.Data.v.Quota.v; q.Daily.ok || q.Remaining.ok {
		r.Quota = &Quota{Daily: q.Daily.int32(), Remaining: q.Remaining.int32()}
	}
	return r
}

func (r Result) unknown(cause Cause) Result {
	r.Outcome, r.Cause = Unknown, cause
	return r
}

func (r Result) rejected(info CodeInfo) Result {
	r.Code, r.Class, r.Message = info.Code, info.Class, info.Text
	if info.Action == ActionUnknown {
		return r.unknown(CauseAmbiguousCode)
	}
	r.Outcome = Rejected
	r.Retryable = info.Action == ActionRetry
	r.Hold = info.Action == ActionHold
	r.HoldReason, r.Scope, r.Period = info.Hold, info.Scope, info.Period
	return r
}

// retryAfter reads both forms of the header, seconds and an HTTP date, the latter against the answer's own Date where
// there is one, so that a clock that is wrong here does not matter.
func retryAfter(header http.Header) time.Duration {
	value := strings.TrimSpace(header.Get("Retry-After"))
	if value == "" {
		return 0
	}
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// rateLimit reads Zalo's headers; "Remaining" is how others spell the second.
func rateLimit(header http.Header) *RateLimit {
	value := cmp.Or(header.Get("X-RateLimit-Remain"), header.Get("X-RateLimit-Remaining"))
	if value == "" {
		return nil
	}
	left, err := strconv.ParseUint(strings.TrimSpace(value), 10, 31)
	if err != nil {
		return nil
	}
	limit, err := strconv.ParseUint(strings.TrimSpace(header.Get("X-RateLimit-Limit")), 10, 31)
	if err != nil {
		limit = 0
	}
	return &RateLimit{Limit: int(limit), Remaining: int(left)}
}
