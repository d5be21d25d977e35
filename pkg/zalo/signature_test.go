package zalo

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
)

// The vectors were computed with Python's hashlib, not with this package.
func TestSignGolden(t *testing.T) {
	const nfc = `{"event_name":"user_send_text","app_id":"1","message":{"text":"Xin chào Nguyễn","msg_id":"m1"},"timestamp":"1"}`
	const reserialised = `{"event_name": "user_send_text", "app_id": "1", "message": {"text": "Xin ch\u00e0o Nguy\u1ec5n", "msg_id": "m1"}, "timestamp": "1"}`
	for _, tt := range []struct{ name, app, body, stamp, secret, want string }{
		{"short", "app1", `{"a":1}`, "1700000000000", "oasecret", "8a218619c619b178cabdd081cdeb90d99ef5f80e14e25dedcb25363c6995db4c"},
		{"vietnamese", "1", nfc, "1", "k", "264f71d0998dc62e8c7cbe3853cd71d54ab1086e736de476a45970a097717aad"},
		{"reserialised", "1", reserialised, "1", "k", "55949b87d86e4d1af93ae56295affb7fe623eada43643f12556e034a7da62ea8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Sign(tt.app, tt.secret, tt.stamp, []byte(tt.body)); got != tt.want {
				t.Errorf("Sign = %s, want %s", got, tt.want)
			}
			header := http.Header{}
			header.Set("X-ZEvent-Signature", "mac="+tt.want)
			header.Set("X-ZEvent-Timestamp", tt.stamp)
			if err := VerifySignature(tt.app, []string{tt.secret}, []byte(tt.body), header); err != nil {
				t.Errorf("VerifySignature: %v", err)
			}
		})
	}
	header := http.Header{}
	header.Set("X-ZEvent-Signature", "mac=55949b87d86e4d1af93ae56295affb7fe623eada43643f12556e034a7da62ea8")
	if err := VerifySignature("1", []string{"k"}, []byte(nfc), header); !errors.Is(err, ErrSignature) {
		t.Errorf("the signature of the re-serialised body was taken for the raw one: %v", err)
	}
}

// signed is one valid request; each case of the test breaks one thing of it.
type signed struct {
	app     string
	secrets []string
	body    string
	header  http.Header
}

func validRequest() signed {
	const body = "{ \"timestamp\" : \"1602560967477\",\n \"event_name\":\"user_received_message\", \"app_id\":\"2074138120372622546\"," +
		`"message":{"timestamp":"1","msg_id":"15a0cc0bbb13bd4ce403","note":"\"timestamp\":\"2\" Tiếng Việt"},"oa_id":"2893352839501541173"}`
	header := http.Header{}
	header.Set("x-zevent-signature", "mac="+Sign("2074138120372622546", "oa-secret", "1602560967477", []byte(body)))
	return signed{app: "2074138120372622546", secrets: []string{"oa-secret"}, body: body, header: header}
}

func (s *signed) signature() string         { return strings.TrimPrefix(s.header.Get(HeaderSignature), "mac=") }
func (s *signed) setSignature(value string) { s.header.Set(HeaderSignature, value) }

func TestVerifySignature(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*signed)
		want   error
	}{
		{"as Zalo sends it", func(*signed) {}, nil},
		{"bare hex", func(s *signed) { s.setSignature(s.signature()) }, nil},
		{"sha256 prefix", func(s *signed) { s.setSignature("sha256=" + s.signature()) }, nil},
		{"spaces around =", func(s *signed) { s.setSignature(" mac = " + s.signature() + " ") }, nil},
		{"upper-case hex", func(s *signed) { s.setSignature("mac=" + strings.ToUpper(s.signature())) }, nil},
		{"new secret first", func(s *signed) { s.secrets = []string{"next", "oa-secret"} }, nil},
		{"old secret first", func(s *signed) { s.secrets = []string{"oa-secret", "next"} }, nil},
		{"another timestamp in the header", func(s *signed) { s.header.Set(HeaderTimestamp, "99") }, nil},
		{"signed over the header's timestamp", func(s *signed) {
			s.header.Set(HeaderTimestamp, "1602560967999")
			s.setSignature("mac=" + Sign(s.app, "oa-secret", "1602560967999", []byte(s.body)))
		}, nil},
		{"number as timestamp", func(s *signed) {
			s.body = `{"timestamp":1602560967477}`
			s.setSignature("mac=" + Sign(s.app, "oa-secret", "1602560967477", []byte(s.body)))
		}, nil},

		{"no signature", func(s *signed) { s.header.Del(HeaderSignature) }, ErrNoSignature},
		{"empty mac", func(s *signed) { s.setSignature("mac=") }, ErrNoSignature},
		{"short mac", func(s *signed) { s.setSignature("mac=" + s.signature()[2:]) }, ErrNoSignature},
		{"not hex", func(s *signed) { s.setSignature("mac=" + strings.Repeat("z", 64)) }, ErrNoSignature},
		{"unknown scheme", func(s *signed) { s.setSignature("md5=" + s.signature()) }, ErrNoSignature},
		{"no timestamp at all", func(s *signed) { s.body = `{"message":{"timestamp":"1602560967477"}}` }, ErrNoTimestamp},
		{"header timestamp with text", func(s *signed) {
			s.body = `{"a":1}`
			s.header.Set(HeaderTimestamp, "1 or 1")
		}, ErrNoTimestamp},
		{"one bit of the mac", func(s *signed) {
			mac := []byte(s.signature())
			mac[0] = map[bool]byte{true: '1', false: '0'}[mac[0] == '0']
			s.setSignature("mac=" + string(mac))
		}, ErrSignature},
		{"other secret", func(s *signed) { s.secrets = []string{"app-secret"} }, ErrSignature},
		{"no secret", func(s *signed) { s.secrets = nil }, ErrSignature},
		{"empty secret", func(s *signed) {
			s.secrets = []string{""}
			s.setSignature("mac=" + Sign(s.app, "", "1602560967477", []byte(s.body)))
		}, ErrSignature},
		{"other app", func(s *signed) { s.app = "1" }, ErrSignature},
		{"changed body", func(s *signed) { s.body = strings.Replace(s.body, "15a0", "15a1", 1) }, ErrSignature},
		{"changed timestamp", func(s *signed) { s.body = strings.Replace(s.body, "1602560967477", "1602560967478", 1) }, ErrSignature},
		{"re-serialised body", func(s *signed) {
			var v any
			if err := json.Unmarshal([]byte(s.body), &v); err != nil {
				t.Fatal(err)
			}
			b, _ := json.Marshal(v)
			s.body = string(b)
		}, ErrSignature},
		{"HMAC-like order", func(s *signed) {
			s.setSignature("mac=" + Sign("oa-secret", s.app, "1602560967477", []byte(s.body)))
		}, ErrSignature},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := validRequest()
			tt.change(&s)
			if err := VerifySignature(s.app, s.secrets, []byte(s.body), s.header); !errors.Is(err, tt.want) {
				t.Errorf("VerifySignature = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestBodyTimestamp(t *testing.T) {
	for body, want := range map[string]string{
		`{"timestamp":"12"}`:                        "12",
		`{"timestamp":12}`:                          "12",
		"{\t\"timestamp\" \r\n:\n 12 }":             "12",
		`{"a":{"timestamp":"1"},"timestamp":"2"}`:   "2",
		`{"timestamp":"1","a":[{"timestamp":"2"}]}`: "1",
		`{"timestamp":"1","timestamp":"2"}`:         "2",
		`{"a":"\"timestamp\":\"3\"","timestamp":4}`: "4",
		`{"a":"timestamp","b":"5"}`:                 "",
		`{"timestamp":"1e3"}`:                       "",
		`{"timestamp":-5}`:                          "",
		`{"timestamp":null}`:                        "",
		`{"timestamp":"12`:                          "",
		`{"timestamp":`:                             "",
		`{"timestamp"`:                              "",
		`{"a":"\`:                                   "",
		``:                                          "",
	} {
		got, ok := bodyTimestamp([]byte(body))
		if string(got) != want || ok != (want != "") {
			t.Errorf("bodyTimestamp(%q) = %q, %v; want %q", body, got, ok, want)
		}
	}
}

// For a body that a JSON decoder takes, the scanner and the decoder see the same timestamp.
func FuzzBodyTimestamp(f *testing.F) {
	for _, seed := range []string{validRequest().body, `{"timestamp":"1","timestamp":2}`, `{"a":[["timestamp"]],"timestamp":9}`, `[{"timestamp":1}]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, ok := bodyTimestamp(body)
		if !ok {
			return
		}
		if !isDigits(string(got)) {
			t.Fatalf("bodyTimestamp(%q) = %q", body, got)
		}
		var members map[string]json.RawMessage
		if json.Unmarshal(body, &members) != nil {
			return
		}
		if _, ok := members["timestamp"]; !ok {
			t.Fatalf("bodyTimestamp(%q) = %q, a decoder sees none", body, got)
		}
	})
}

func FuzzVerifySignature(f *testing.F) {
	v := validRequest()
	f.Add([]byte(v.body), v.header.Get(HeaderSignature), "1")
	f.Add([]byte(`{"a":1}`), "mac=8a218619c619b178cabdd081cdeb90d99ef5f80e14e25dedcb25363c6995db4c", "1700000000000")
	f.Fuzz(func(t *testing.T, body []byte, signature, stamp string) {
		header := http.Header{HeaderSignature: {signature}, HeaderTimestamp: {stamp}}
		if err := VerifySignature("app", []string{"a secret that the fuzzer does not know"}, body, header); err == nil {
			t.Fatalf("a made-up signature %q was taken for body %q", signature, body)
		}
		// What Sign makes, VerifySignature takes.
		if raw, ok := bodyTimestamp(body); ok {
			header := http.Header{HeaderSignature: {"mac=" + Sign("app", "s", string(raw), body)}}
			if err := VerifySignature("app", []string{"s"}, body, header); err != nil {
				t.Fatalf("own signature refused: %v", err)
			}
		}
	})
}
