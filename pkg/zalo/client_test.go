package zalo

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const accepted = `{"error":0,"message":"Success","data":{"msg_id":"a4d0243feee163bd3af2","sent_time":"1626926349402","sending_mode":"1","quota":{"dailyQuota":"500","remainingQuota":"499"}}}`

func otpRequest() SendRequest {
	return SendRequest{
		OAID: "2893352839501541173", Phone: "+84987654321", TemplateID: "643118",
		TemplateData: map[string]string{"otp": "123456", "name": "Nguyễn <Văn> & A"}, TrackingID: "t1",
	}
}

func newClient(t *testing.T, url string, change func(*Config)) *Client {
	t.Helper()
	cfg := Config{
		URL: url, RequestTimeout: 5 * time.Second, MaxInFlight: 8,
		AccessToken: func(context.Context, string) (string, error) { return "the-token", nil },
	}
	if change != nil {
		change(&cfg)
	}
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestSendOnTheWire(t *testing.T) {
	for _, tt := range []struct {
		name       string
		cfg        func(*Config)
		change     func(*SendRequest)
		path, body string
		proof      string
	}{
		{
			name: "phone", path: "/message/template",
			body: `{"phone":"84987654321","template_id":"643118","template_data":{"name":"Nguyễn <Văn> & A","otp":"123456"},"tracking_id":"t1"}`,
		},
		{
			name: "hashed phone", path: "/message/template/hashphone",
			change: func(r *SendRequest) { r.PhoneSHA256, r.Phone = PhoneHash(r.Phone), "" },
			body:   `{"hash_phone":"116ce31ae9170769b075a11dedca1198f41d30318334919fb90917e9c617b438","template_id":"643118","template_data":{"name":"Nguyễn <Văn> & A","otp":"123456"},"tracking_id":"t1"}`,
		},
		{
			name: "development, no data", path: "/message/template",
			change: func(r *SendRequest) { r.Development, r.TemplateData, r.SendingMode = true, nil, "1" },
			body:   `{"phone":"84987654321","template_id":"643118","template_data":{},"tracking_id":"t1","sending_mode":"1","mode":"development"}`,
		},
		{
			name: "proof", path: "/message/template", cfg: func(c *Config) { c.AppSecret = "appSecretKey" },
			body:  `{"phone":"84987654321","template_id":"643118","template_data":{"name":"Nguyễn <Văn> & A","otp":"123456"},"tracking_id":"t1"}`,
			proof: AppSecretProof("appSecretKey", "the-token"),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, answer(200, accepted))
			req := otpRequest()
			if tt.change != nil {
				tt.change(&req)
			}
			r := newClient(t, s.url, tt.cfg).Send(t.Context(), req)
			if r.Outcome != Accepted {
				t.Fatalf("%+v", r)
			}
			got := s.request(t, 0)
			if got.Method != http.MethodPost || got.URL.Path != tt.path || strings.TrimSpace(got.body) != tt.body {
				t.Errorf("%s %s\n got %s\nwant %s", got.Method, got.URL.Path, got.body, tt.body)
			}
			if !strings.Contains(got.head, "\r\naccess_token: the-token\r\n") {
				t.Errorf("access_token is not written as Zalo spells it:\n%s", got.head)
			}
			if p := got.Header.Get("appsecret_proof"); p != tt.proof {
				t.Errorf("appsecret_proof %q, want %q", p, tt.proof)
			}
			for _, forbidden := range []string{"Authorization", "Idempotency-Key", "X-Idempotency-Key", "Traceparent", "Accept-Encoding", "Expect"} {
				if got.Header.Get(forbidden) != "" {
					t.Errorf("header %s was sent", forbidden)
				}
			}
			if got.ContentLength != int64(len(got.body)) || got.ProtoMajor != 1 {
				t.Errorf("content length %d of %d, protocol %s", got.ContentLength, len(got.body), got.Proto)
			}
		})
	}
}

func TestPhoneHashAndProofGolden(t *testing.T) {
	// Computed with sha256sum; the proof's inputs are those of Zalo's Java SDK.
	for _, phone := range []string{"84987654321", "+84987654321"} {
		if got := PhoneHash(phone); got != "116ce31ae9170769b075a11dedca1198f41d30318334919fb90917e9c617b438" {
			t.Errorf("PhoneHash(%s) = %s", phone, got)
		}
	}
	if got := AppSecretProof("appSecretKey", "accessToken"); got != "0584869ec908cfecf20763760e69c4baca98ac64aaeb6a938f47ca758dfe779f" {
		t.Errorf("AppSecretProof = %s", got)
	}
}

func TestTokenIsAskedForEveryCall(t *testing.T) {
	s := newServer(t, answer(200, accepted))
	tokens := []string{"first", "second"}
	c := newClient(t, s.url, func(cfg *Config) {
		cfg.AccessToken = func(_ context.Context, oaID string) (string, error) {
			if oaID != "2893352839501541173" {
				return "", errors.New("unknown OA")
			}
			token := tokens[0]
			tokens = tokens[1:]
			return token, nil
		}
	})
	for i, want := range []string{"first", "second"} {
		if r := c.Send(t.Context(), otpRequest()); r.Outcome != Accepted {
			t.Fatalf("%+v", r)
		}
		if got := s.request(t, i).Header.Get("access_token"); got != want {
			t.Errorf("call %d had token %q, want %q", i, got, want)
		}
	}
	req := otpRequest()
	req.OAID = "1"
	r := c.Send(t.Context(), req)
	if r.Outcome != NotSent || !r.Hold || r.HoldReason != HoldToken || r.Class != ClassToken {
		t.Errorf("without a token: %+v", r)
	}
	if n := s.count(); n != 2 {
		t.Errorf("%d requests reached the server, want 2", n)
	}
}

func TestSendRefusesAmbiguousRecipient(t *testing.T) {
	s := newServer(t, answer(200, accepted))
	c := newClient(t, s.url, nil)
	both, none := otpRequest(), otpRequest()
	both.PhoneSHA256, none.Phone = "x", ""
	for _, req := range []SendRequest{both, none} {
		if r := c.Send(t.Context(), req); r.Outcome != NotSent || r.HoldReason != HoldOperator || r.Err == nil {
			t.Errorf("%+v", r)
		}
	}
	if s.count() != 0 {
		t.Error("a request without one recipient was sent")
	}
}

func TestNewClientNamesEveryProblem(t *testing.T) {
	_, err := NewClient(Config{URL: "zalo.me", RequestTimeout: -1})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"URL", "AccessToken", "RequestTimeout", DefaultURL} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
}

func TestClassify(t *testing.T) {
	const html = "<html><body>502 Bad Gateway</body></html>"
	quota := &Quota{Daily: new(int32(500)), Remaining: new(int32(499))}
	sent := time.UnixMilli(1626926349402)
	for _, tt := range []struct {
		name   string
		status int
		body   string
		want   Result
	}{
		{"accepted", 200, accepted, Result{Outcome: Accepted, MsgID: "a4d0243feee163bd3af2", SentTime: sent, Quota: quota}},
		{"accepted, numbers for strings", 200, `{"error":"0","data":{"msg_id":12345678901234567890,"sent_time":1626926349402,"quota":{"dailyQuota":500,"remainingQuota":499}}}`,
			Result{Outcome: Accepted, MsgID: "12345678901234567890", SentTime: sent, Quota: quota}},
		{"accepted, development mode", 200, `{"error":0,"data":{"msg_id":"m","sent_time":"1626926349402"}}`, Result{Outcome: Accepted, MsgID: "m", SentTime: sent}},
		{"accepted, quota null", 200, `{"error":0,"data":{"msg_id":"m","quota":null}}`, Result{Outcome: Accepted, MsgID: "m"}},
		{"accepted, half a quota", 200, `{"error":0,"data":{"msg_id":"m","quota":{"dailyQuota":null,"remainingQuota":"7"}}}`,
			Result{Outcome: Accepted, MsgID: "m", Quota: &Quota{Remaining: new(int32(7))}}},
		{"success without msg_id", 200, `{"error":0,"message":"Success","data":{}}`, Result{Outcome: Unknown, Cause: CauseUnreadable}},
		{"success without data", 200, `{"error":0}`, Result{Outcome: Unknown, Cause: CauseUnreadable}},
		{"msg_id without error", 200, `{"data":{"msg_id":"m"}}`, Result{Outcome: Unknown, Cause: CauseUnreadable}},
		{"error null", 200, `{"error":null,"data":{"msg_id":"m"}}`, Result{Outcome: Unknown, Cause: CauseUnreadable}},
		{"error beyond int32", 200, `{"error":4294967296,"data":{"msg_id":"m"}}`, Result{Outcome: Unknown, Cause: CauseUnreadable}},

		{"no account", 200, `{"error":-118,"message":"anything"}`, Result{Outcome: Rejected, Code: -118, Class: ClassRecipientPermanent, Message: "Zalo account not existed or deactivated"}},
		{"data null", 200, `{"error":-118,"data":null}`, Result{Outcome: Rejected, Code: -118, Class: ClassRecipientPermanent, Message: "Zalo account not existed or deactivated"}},
		{"quoted error", 200, `{"error":"-118"}`, Result{Outcome: Rejected, Code: -118, Class: ClassRecipientPermanent, Message: "Zalo account not existed or deactivated"}},
		{"rate limit", 200, `{"error":-32}`, Result{Outcome: Rejected, Code: -32, Class: ClassTransient, Retryable: true, Message: "Rate limit of the API reached"}},
		{"daily quota", 200, `{"error":-144}`, Result{Outcome: Rejected, Code: -144, Class: ClassQuota, Hold: true, HoldReason: HoldQuota, Scope: "oa", Period: "day", Message: "OA exceeded its daily limit of messages"}},
		{"token, with HTTP 401", 401, `{"error":-124}`, Result{Outcome: Rejected, Code: -124, Class: ClassToken, Hold: true, HoldReason: HoldToken, Scope: "oa", Message: "Access token invalid"}},
		{"unknown code", 200, `{"error":-7777}`, Result{Outcome: Rejected, Code: -7777, Hold: true, HoldReason: HoldOperator, Message: LookupCode(HostBusiness, -7777).Text}},
		{"ambiguous -100", 200, `{"error":-100}`, Result{Outcome: Unknown, Cause: CauseAmbiguousCode, Code: -100, Class: ClassTransient, Message: LookupCode(HostBusiness, -100).Text}},
		{"ambiguous -200", 200, `{"error":-200}`, Result{Outcome: Unknown, Cause: CauseAmbiguousCode, Code: -200, Class: ClassTransient, Message: LookupCode(HostBusiness, -200).Text}},

		{"empty 200", 200, ``, Result{Outcome: Unknown, Cause: CauseUnreadable}},
		{"HTML 200", 200, html, Result{Outcome: Unknown, Cause: CauseUnreadable}},
		{"truncated JSON", 200, accepted[:len(accepted)-9], Result{Outcome: Unknown, Cause: CauseUnreadable}},
		{"JSON and more", 200, accepted + "x", Result{Outcome: Unknown, Cause: CauseUnreadable}},
		{"null", 200, `null`, Result{Outcome: Unknown, Cause: CauseUnreadable}},
		{"array", 200, `[]`, Result{Outcome: Unknown, Cause: CauseUnreadable}},
		{"redirect", 302, ``, Result{Outcome: Unknown, Cause: CauseUnreadable}},
		{"redirect with success", 307, accepted, Result{Outcome: Unknown, Cause: CauseUnreadable}},
		{"400 without Zalo's JSON", 400, html, Result{Outcome: Unknown, Cause: CauseUnreadable}},
		{"400 with Zalo's JSON", 400, `{"error":-108}`, Result{Outcome: Rejected, Code: -108, Class: ClassRecipientPermanent, Message: "Phone number invalid"}},
		{"400 that says success", 400, accepted, Result{Outcome: Unknown, Cause: CauseUnreadable}},
		{"403 that says success", 403, accepted, Result{Outcome: Unknown, Cause: CauseUnreadable}},
		{"408", 408, html, Result{Outcome: Unknown, Cause: CauseTimeout}},
		{"408 with Zalo's JSON", 408, `{"error":-108}`, Result{Outcome: Unknown, Cause: CauseTimeout}},
		{"429", 429, html, Result{Outcome: Rejected, Class: ClassTransient, Hold: true, HoldReason: HoldRate, Message: "HTTP 429: too many requests"}},
		{"500", 500, ``, Result{Outcome: Unknown, Cause: CauseHTTP5xx}},
		{"502 HTML", 502, html, Result{Outcome: Unknown, Cause: CauseHTTP5xx}},
		{"503 with Zalo's JSON", 503, `{"error":-108}`, Result{Outcome: Unknown, Cause: CauseHTTP5xx}},
		{"504", 504, html, Result{Outcome: Unknown, Cause: CauseHTTP5xx}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.HTTPStatus = tt.status
			got := classify(tt.status, http.Header{}, []byte(tt.body))
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
	for _, status := range []int{401, 403, 404, 405, 411, 413, 431} {
		got := classify(status, http.Header{}, []byte(html))
		if got.Outcome != Rejected || got.Class != ClassConfig || !got.Hold || got.HoldReason != HoldOperator || got.Message == "" {
			t.Errorf("HTTP %d: %+v", status, got)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for _, tt := range []struct {
		value, date string
		want        time.Duration
	}{
		{"", "", 0},
		{"7", "", 7 * time.Second},
		{" 7 ", "", 7 * time.Second},
		{"-7", "", 0},
		{"soon", "", 0},
		{"999999", "", time.Hour},
		{"Sun, 22 Nov 2026 10:00:30 GMT", "Sun, 22 Nov 2026 10:00:00 GMT", 30 * time.Second},
		{"Sun, 22 Nov 2026 10:00:00 GMT", "Sun, 22 Nov 2026 10:00:30 GMT", 0},
		{"Sun, 22 Nov 2099 10:00:00 GMT", "", time.Hour},
	} {
		header := http.Header{"Retry-After": {tt.value}, "Date": {tt.date}}
		if got := retryAfter(header); got != tt.want {
			t.Errorf("Retry-After %q at %q = %s, want %s", tt.value, tt.date, got, tt.want)
		}
	}
}

// Whatever is answered: acceptance needs 2xx, error 0 and a msg_id; a 5xx is never a refusal; one outcome's fields do
// not stand with another.
func FuzzClassify(f *testing.F) {
	f.Add(200, []byte(accepted))
	f.Add(200, []byte(`{"error":-118}`))
	f.Add(503, []byte(`<html>`))
	f.Add(429, []byte(`{"error":"-32","data":null}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		r := classify(status, http.Header{}, body)
		switch r.Outcome {
		case Accepted:
			if r.MsgID == "" || status < 200 || status > 299 || r.Code != 0 || r.Hold || r.Retryable {
				t.Fatalf("%d %q: %+v", status, body, r)
			}
		case Rejected:
			if r.MsgID != "" || status >= 500 || status == 408 || r.Hold && r.Retryable || r.Hold == (r.HoldReason == HoldNone) {
				t.Fatalf("%d %q: %+v", status, body, r)
			}
		case Unknown:
			if r.MsgID != "" || r.Cause == CauseNone || r.Hold || r.Retryable {
				t.Fatalf("%d %q: %+v", status, body, r)
			}
		default:
			t.Fatalf("%d %q: an answer that is %s", status, body, r.Outcome)
		}
	})
}

func TestRateLimit(t *testing.T) {
	for _, tt := range []struct {
		name   string
		header http.Header
		want   *RateLimit
	}{
		{"none", http.Header{}, nil},
		{"Zalo's", http.Header{"X-Ratelimit-Limit": {"4000"}, "X-Ratelimit-Remain": {"12"}}, &RateLimit{4000, 12}},
		{"used up", http.Header{"X-Ratelimit-Limit": {"4000"}, "X-Ratelimit-Remain": {"0"}}, &RateLimit{4000, 0}},
		{"spelled as others do", http.Header{"X-Ratelimit-Remaining": {" 7 "}}, &RateLimit{0, 7}},
		{"no number", http.Header{"X-Ratelimit-Limit": {"4000"}, "X-Ratelimit-Remain": {"many"}}, nil},
		{"negative", http.Header{"X-Ratelimit-Remain": {"-1"}}, nil},
		{"limit alone", http.Header{"X-Ratelimit-Limit": {"4000"}}, nil},
	} {
		if got := classify(http.StatusOK, tt.header, []byte(`{"error":0}`)).RateLimit; !cmp.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
