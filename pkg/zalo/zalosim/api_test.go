package zalosim_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/znshub/znshub/pkg/zalo"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
)

// call makes one request with the access token and returns status and body.
func (s *stand) call(t *testing.T, method, path, body string, headers ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("access_token", zalosim.DefaultAccessToken)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

func code(t *testing.T, body string) int {
	t.Helper()
	var answer struct{ Error *int }
	if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Error == nil {
		t.Fatalf("%q: %v", body, err)
	}
	return *answer.Error
}

// Zalo's checks, each with one thing broken; and two broken at once, for their order.
func TestValidation(t *testing.T) {
	s := newStand(t, func(c *zalosim.Config) {
		c.CallbackURL, c.Admins = "", []string{"0911111111"}
		c.Templates = append(zalosim.DefaultTemplates(),
			zalosim.Template{ID: "1", Status: "DISABLE"},
			zalosim.Template{ID: "2", DailyQuota: 1},
			zalosim.Template{ID: "3", Params: []zalosim.Param{{Name: "name", Required: true, MaxLength: 5, MinLength: 2}}},
		)
		c.Wallet = 100_000
	})
	const good = `{"phone":"84987654321","template_id":"300200","template_data":{"customer_name":"Nguyễn","order_code":"DH-1"},"tracking_id":"t"}`
	swap := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(good) }
	named := func(name string) string {
		return `{"phone":"84987654321","template_id":"3","template_data":{"name":` + name + `},"tracking_id":"t"}`
	}
	for _, tt := range []struct {
		name, body string
		headers    []string
		want       int
	}{
		{"good", good, nil, 0},
		{"0 before the number", swap("84987654321", "0987654321"), nil, 0},
		{"+84", swap("84987654321", "+84987654321"), nil, 0},
		{"nothing before the number", swap("84987654321", "987654321"), nil, 0},
		{"number for a string", swap(`"DH-1"`, `17`), nil, 0},
		{"parameter that is not registered", swap(`"order_code"`, `"x":"y","order_code"`), nil, 0},
		{"token missing", good, []string{"access_token", ""}, -124},
		{"token wrong", good, []string{"access_token", "x"}, -124},
		{"token as bearer", good, []string{"access_token", "", "Authorization", "Bearer " + zalosim.DefaultAccessToken}, -124},
		{"token before body", "", []string{"access_token", "x"}, -124},
		{"no body", " ", nil, -121},
		{"no JSON", "phone=84987654321", nil, -122},
		{"truncated JSON", good[:40], nil, -122},
		{"template unknown", swap("300200", "9"), nil, -109},
		{"template before phone", swap("300200", "9", "84987654321", "1"), nil, -109},
		{"template in review", swap("300200", "300400"), nil, -131},
		{"template disabled", swap("300200", "1"), nil, -146},
		{"phone too short", swap("84987654321", "8498765432"), nil, -108},
		{"landline", swap("84987654321", "84287654321"), nil, -108},
		{"foreign phone", swap("84987654321", "14155550100"), nil, -108},
		{"letters in the phone", swap("84987654321", "8498765432x"), nil, -108},
		{"phone before parameters", swap("84987654321", "1", "order_code", "x"), nil, -108},
		{"no data", swap(`{"customer_name":"Nguyễn","order_code":"DH-1"}`, `{}`), nil, -111},
		{"data null", swap(`{"customer_name":"Nguyễn","order_code":"DH-1"}`, `null`), nil, -111},
		{"parameter missing", swap("order_code", "x"), nil, -1122},
		{"parameter null", swap(`"DH-1"`, `null`), nil, -1122},
		{"parameter of a wrong type", swap(`"DH-1"`, `{}`), nil, -112},
		{"parameter empty", swap(`"DH-1"`, `""`), nil, -1124},
		{"parameter too short", named(`"a"`), nil, -1124},
		{"parameter too long", named(`"abcdef"`), nil, -1121},
		{"five letters in more bytes", named(`"Nguyễ"`), nil, 0},
		{"five letters, decomposed", named("\"Nguye\u0302\u0303\""), nil, 0},
		{"sending_mode unknown", swap(`"tracking_id"`, `"sending_mode":"2","tracking_id"`), nil, -161},
		{"sending_mode 3 without promotion", swap(`"tracking_id"`, `"sending_mode":"3","tracking_id"`), nil, -162},
		{"development, not an admin", swap(`"tracking_id"`, `"mode":"development","tracking_id"`), nil, -127},
		{"development, an admin", swap(`"tracking_id"`, `"mode":"development","tracking_id"`, "84987654321", "0911111111"), nil, 0},
		{"recipient last", swap("84987654321", "84900000118", "order_code", "x"), nil, -1122},
		{"no Zalo account", swap("84987654321", "84900000118"), nil, -118},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, body := s.call(t, "POST", "/message/template", tt.body, tt.headers...)
			if got := code(t, body); got != tt.want || status != 200 {
				t.Errorf("HTTP %d, error %d, want %d: %s", status, got, tt.want, body)
			}
			if strings.Contains(body, `"data"`) != (tt.want == 0) {
				t.Errorf("data in %s", body)
			}
			if strings.Contains(tt.name, "an admin") && tt.want == 0 && strings.Contains(body, "quota") {
				t.Errorf("quota in development mode: %s", body)
			}
		})
	}
	for i, want := range []int{0, -147} {
		_, body := s.call(t, "POST", "/message/template", `{"phone":"84987654321","template_id":"2","tracking_id":"t"}`)
		if got := code(t, body); got != want {
			t.Errorf("message %d of a template with a quota of 1: %d", i, got)
		}
	}
	if _, body := s.call(t, "GET", "/message/template", ""); code(t, body) != -106 {
		t.Errorf("GET: %s", body)
	}
	hashed := `{"hash_phone":"` + zalo.PhoneHash("84987654321") + `","template_id":"300900","tracking_id":"h"}`
	if _, body := s.call(t, "POST", "/message/template/hashphone", hashed); code(t, body) != 0 {
		t.Errorf("hash: %s", body)
	}
	if _, body := s.call(t, "POST", "/message/template/hashphone", strings.Replace(hashed, `"hash_phone":"`, `"hash_phone":"X`, 1)); code(t, body) != -108 {
		t.Errorf("bad hash: %s", body)
	}
}

func TestWallet(t *testing.T) {
	s := newStand(t, func(c *zalosim.Config) { c.Wallet = 450 })
	var codes []int
	for i := range 3 {
		codes = append(codes, s.send("0912345678", string(rune('a'+i))).Code)
		s.settle(t)
	}
	if d := cmp.Diff([]int{0, 0, -115}, codes); d != "" {
		t.Errorf("three messages of 200 from 450: %v", codes)
	}
}

func TestAppSecretProof(t *testing.T) {
	s := newStand(t, func(c *zalosim.Config) { c.AppSecret = "app-secret" })
	if r := s.send("0912345678", "1"); r.Code != -1241 || r.Class != zalo.ClassConfig {
		t.Errorf("without proof: %+v", r)
	}
	_, body := s.call(t, "POST", "/message/template", `{"phone":"0912345678","template_id":"300900","tracking_id":"t"}`,
		"appsecret_proof", zalo.AppSecretProof("app-secret", zalosim.DefaultAccessToken))
	if code(t, body) != 0 {
		t.Errorf("with proof: %s", body)
	}
}

func TestTokenRotation(t *testing.T) {
	s := newStand(t, nil)
	if status, body := s.call(t, "POST", "/sim/token", `{"access_token":"new"}`); status != 200 {
		t.Fatal(body)
	}
	if r := s.send("0912345678", "1"); r.Code != -124 || r.HoldReason != zalo.HoldToken {
		t.Errorf("with the old token: %+v", r)
	}
}

func TestAdminAPI(t *testing.T) {
	s := newStand(t, nil)
	status, body := s.call(t, "POST", "/sim/faults", `[{"kind":"code","code":-144,"phone":"0987654321"},{"kind":"slow","delay":"20ms","probability":0.5,"template_id":"300900"}]`)
	if status != 200 || !strings.Contains(body, `["f1","f2"]`) {
		t.Fatalf("%d %s", status, body)
	}
	for name, bad := range map[string]string{
		"kind": `{"kind":"explode"}`, "code": `{"kind":"code"}`, "probability": `{"kind":"slow","probability":2}`,
		"delay": `{"kind":"slow","delay":"soon"}`, "Vietnamese": `{"kind":"slow","phone":"1"}`, "body": `{`,
	} {
		if status, body := s.call(t, "POST", "/sim/faults", bad); status != 400 || !strings.Contains(body, name) {
			t.Errorf("%s: %d %s", bad, status, body)
		}
	}
	if _, body := s.call(t, "GET", "/sim/faults", ""); !strings.Contains(body, `"delay":"20ms"`) || strings.Count(body, `"kind"`) != 2 {
		t.Errorf("faults: %s", body)
	}
	if r := s.send("0987654321", "0"); r.Code != -144 {
		t.Errorf("%+v", r)
	}
	if _, body := s.call(t, "DELETE", "/sim/faults?id=f1", ""); strings.Contains(body, "f1") || !strings.Contains(body, "f2") {
		t.Errorf("after deleting one: %s", body)
	}
	s.call(t, "DELETE", "/sim/faults", "")
	for _, tracking := range []string{"1", "2", "3"} {
		if r := s.send("0987654321", tracking); r.Outcome != zalo.Accepted {
			t.Errorf("%+v", r)
		}
	}
	if r := s.send("0900000118", "4"); r.Code != -118 {
		t.Errorf("the convention went with the faults: %+v", r)
	}
	s.settle(t)
	for path, want := range map[string]string{
		"/sim/audit": "123", "/sim/audit?from=1": "23", "/sim/audit?from=1&limit=1": "2", "/sim/audit?phone=%2B84987654321": "123",
		"/sim/audit?phone=0911111111": "", "/sim/audit?tracking_id=2": "2", "/sim/audit?msg_id=x": "",
	} {
		_, body := s.call(t, "GET", path, "")
		got := ""
		for dec := json.NewDecoder(strings.NewReader(body)); ; {
			var m zalosim.Message
			if err := dec.Decode(&m); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			got += m.TrackingID
			if m.Phone != "84987654321" || m.Params["seq"] != m.TrackingID || m.DeliveredAt.IsZero() || m.CallbacksOK != 1 {
				t.Errorf("%+v", m)
			}
		}
		if got != want {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
	var total zalosim.Totals
	_, body = s.call(t, "GET", "/sim/totals", "")
	if err := json.Unmarshal([]byte(body), &total); err != nil || total.Accepted != 3 || total.Rejected[-144] != 1 || total.Requests != 5 {
		t.Errorf("%s, %v", body, err)
	}
	if _, body := s.call(t, "GET", "/sim/order?group=phone&seq=seq", ""); !strings.Contains(body, `"groups":1`) || !strings.Contains(body, `"inversions":0`) {
		t.Errorf("order: %s", body)
	}
	if _, body := s.call(t, "GET", "/sim/copies", ""); !strings.Contains(body, `"by_copies":{"3":1}`) {
		t.Errorf("copies: %s", body)
	}
	for _, bad := range [][2]string{{"/sim/templates", `{"id":"9","tag":7}`}, {"/sim/templates", `{}`}, {"/sim/webhook", `{"url":"localhost"}`}, {"/sim/webhook", `[]`}, {"/sim/token", `{}`}} {
		if status, body := s.call(t, "POST", bad[0], bad[1]); status != 400 || !strings.Contains(body, "error") {
			t.Errorf("%v: %d %s", bad, status, body)
		}
	}
	if status, _ := s.call(t, "POST", "/sim/templates", `{"id":"9","name":"x","params":[{"name":"a","require":true}]}`); status != 200 {
		t.Error("template refused")
	}
	if _, body := s.call(t, "GET", "/", ""); !strings.Contains(body, "/sim/audit") || !strings.Contains(body, "+84900000118") {
		t.Error("no usage at /")
	}
}

func TestPostEvent(t *testing.T) {
	s := newStand(t, nil)
	const event = `{"event_name":"user_send_text","sender":{"id":"7"},"recipient":{"id":"2"},"message":{"text":"Xin chào","msg_id":"m"},"timestamp": "1787209817225"}`
	for sign, want := range map[string]string{"good": `"status":200`, "wrong_secret": `"status":401`, "other_app": `"status":401`, "none": `"status":401`} {
		if _, body := s.call(t, "POST", "/sim/event?signature="+sign, event); !strings.Contains(body, want) {
			t.Errorf("%s: %s", sign, body)
		}
	}
	got := s.receiver.all()
	if len(got) != 4 || got[0].body != event || got[0].header.Get("X-ZEvent-Server") != "OA OpenAPI" {
		t.Errorf("%+v", got)
	}
	if status, _ := s.call(t, "POST", "/sim/event", "no JSON"); status != 400 {
		t.Errorf("HTTP %d", status)
	}
}

// A receiver that parses and writes the body again before it verifies fails on every callback.
func TestReserialisedCallbackDoesNotVerify(t *testing.T) {
	s := newStand(t, nil)
	s.send("0912345678", `quote " and ễ`)
	s.settle(t)
	got := s.receiver.all()[0]
	if got.verified != nil || got.callback.TrackingID != `quote " and ễ` {
		t.Fatalf("%v %+v", got.verified, got.callback)
	}
	var v any
	if err := json.Unmarshal([]byte(got.body), &v); err != nil {
		t.Fatal(err)
	}
	var plain bytes.Buffer
	if err := json.Compact(&plain, []byte(got.body)); err != nil {
		t.Fatal(err)
	}
	sorted, _ := json.Marshal(v)
	for _, body := range [][]byte{sorted, plain.Bytes()} {
		if zalo.VerifySignature(zalosim.DefaultAppID, []string{zalosim.DefaultOASecret}, body, got.header) == nil {
			t.Errorf("verifies: %s", body)
		}
	}
}

func TestQueries(t *testing.T) {
	s := newStand(t, nil)
	r, never := s.send("0912345678", "1"), s.send("0900009003", "2")
	s.settle(t)
	for _, tt := range []struct{ path, want string }{
		{"/message/status?message_id=" + r.MsgID, `"status":1`},
		{"/message/status?message_id=" + r.MsgID, `"delivery_time":"`},
		{"/message/status?message_id=" + never.MsgID, `"status":0`},
		{"/message/status?message_id=a4d0243feee163bd3af2", `"error":-107`},
		{"/message/quota", `"remainingQuota":999998`},
		{"/message/quota", `"message":"success"`},
		{"/template/all?offset=0&limit=2", `"metadata":{"total":6}`},
		{"/template/all?offset=0&limit=2", `"templateId":300100`},
		{"/template/all?offset=0&limit=100&status=2", `"total":1`},
		{"/template/all?offset=0", `"error":-132`},
		{"/template/info/v2?template_id=300100", `"timeout":15000`},
		{"/template/info/v2?template_id=300100", `"price_sdt":"300"`},
		{"/template/info/v2?template_id=1", `"error":-109`},
	} {
		if status, body := s.call(t, "GET", tt.path, ""); status != 200 || !strings.Contains(body, tt.want) {
			t.Errorf("%s: HTTP %d %s, want %s", tt.path, status, body, tt.want)
		}
		if _, body := s.call(t, "GET", tt.path, "", "access_token", "x"); code(t, body) != -124 {
			t.Errorf("%s without the token: %s", tt.path, body)
		}
	}
}

func TestParseRange(t *testing.T) {
	for text, want := range map[string]zalosim.Range{
		"0s":         {},
		"50ms":       {Low: 50 * time.Millisecond, High: 50 * time.Millisecond},
		"10ms..80ms": {Low: 10 * time.Millisecond, High: 80 * time.Millisecond},
		"50ms~400ms": {Low: 50 * time.Millisecond, High: 400 * time.Millisecond, Skewed: true},
	} {
		got, err := zalosim.ParseRange(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%q = %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "5", "-1s", "2s..1s", "0s~1s", "1s..", "..1s"} {
		if got, err := zalosim.ParseRange(text); err == nil {
			t.Errorf("%q = %+v", text, got)
		}
	}
}
