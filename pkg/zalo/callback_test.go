package zalo

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseCallback(t *testing.T) {
	at := time.UnixMilli
	for _, tt := range []struct {
		name, body string
		want       Callback
		keys       []string // of DedupeKeys; "*" at the end: any rest
	}{
		{
			name: "delivery by phone, as documented",
			body: `{"sender":{"id":"2893352839501541173"},"recipient":{"id":"84123456789"},"event_name":"user_received_message",
				"message":{"delivery_time":"1602960467432","msg_id":"15a0cc0bbb13bd4ce403","tracking_id":"tracking_id"},
				"app_id":"2074138120372622546","timestamp":"1602560967477"}`,
			want: Callback{
				Event: EventReceived, Kind: KindDelivery, AppID: "2074138120372622546", OAID: "2893352839501541173",
				SenderID: "2893352839501541173", RecipientID: "84123456789", MsgID: "15a0cc0bbb13bd4ce403",
				MsgIDs: []string{"15a0cc0bbb13bd4ce403"}, TrackingID: "tracking_id", Timestamp: "1602560967477",
				Time: at(1602560967477), DeliveryTime: at(1602960467432),
			},
			keys: []string{"user_received_message/15a0cc0bbb13bd4ce403"},
		},
		{
			name: "ids and times as numbers keep every digit",
			body: `{"event_name":"user_received_message","sender":{"id":9007199254740993},"recipient":{"id":84123456789},
				"message":{"delivery_time":1602960467432,"msg_id":12345678901234567890123,"tracking_id":9223372036854775809},
				"app_id":2074138120372622547,"timestamp":1602560967477}`,
			want: Callback{
				Event: EventReceived, Kind: KindDelivery, AppID: "2074138120372622547", OAID: "9007199254740993",
				SenderID: "9007199254740993", RecipientID: "84123456789", MsgID: "12345678901234567890123",
				MsgIDs: []string{"12345678901234567890123"}, TrackingID: "9223372036854775809", Timestamp: "1602560967477",
				Time: at(1602560967477), DeliveryTime: at(1602960467432),
			},
			keys: []string{"user_received_message/12345678901234567890123"},
		},
		{
			name: "delivery without tracking_id is told by its delivery_time",
			body: `{"event_name":"user_received_message","sender":{"id":"1"},"recipient":{"id":"84"},"message":{"delivery_time":"1602960467432","msg_id":"m"},"timestamp":"5"}`,
			want: Callback{
				Event: EventReceived, Kind: KindDelivery, OAID: "1", SenderID: "1", RecipientID: "84", MsgID: "m", MsgIDs: []string{"m"},
				Timestamp: "5", Time: time.Unix(5, 0), DeliveryTime: at(1602960467432),
			},
			keys: []string{"user_received_message/m"},
		},
		{
			name: "receipt of a chat message has the same event name",
			body: `{"event_name":"user_received_message","sender":{"id":"579745863508352884"},"recipient":{"id":"246845883529197922"},"message":{"msg_id":"m"},"timestamp":"1602560967477"}`,
			want: Callback{
				Event: EventReceived, Kind: KindReceipt, OAID: "579745863508352884", SenderID: "579745863508352884", RecipientID: "246845883529197922",
				MsgID: "m", MsgIDs: []string{"m"}, Timestamp: "1602560967477", Time: at(1602560967477),
			},
			keys: []string{"user_received_message/m"},
		},
		{
			name: "seen, several ids",
			body: `{"event_name":"user_seen_message","sender":{"id":"1"},"recipient":{"id":"2"},"message":{"msg_ids":["a",2,null,"c"]},"timestamp":"1602560967477"}`,
			want: Callback{
				Event: EventSeen, Kind: KindSeen, OAID: "1", SenderID: "1", RecipientID: "2", MsgID: "a", MsgIDs: []string{"a", "2", "c"},
				Timestamp: "1602560967477", Time: at(1602560967477),
			},
			keys: []string{"user_seen_message/a", "user_seen_message/2", "user_seen_message/c"},
		},
		{
			name: "feedback",
			body: `{"event_name":"user_feedback","message":{"rating_type":"csat","option":"five_emotions","note":"Tôi rất hài lòng.","rate":5,
				"submit_time":"1616673095659","msg_id":"7e4c","feedbacks":["Nhân viên vui vẻ"],"tracking_id":"1956"},"app_id":"1","oa_id":"2","timestamp":"1616673095660"}`,
			want: Callback{
				Event: EventFeedback, Kind: KindFeedback, AppID: "1", OAID: "2", MsgID: "7e4c", MsgIDs: []string{"7e4c"}, TrackingID: "1956",
				Timestamp: "1616673095660", Time: at(1616673095660), SubmitTime: at(1616673095659),
				Feedback: &Feedback{Rate: 5, Note: "Tôi rất hài lòng.", Feedbacks: []string{"Nhân viên vui vẻ"}, RatingType: "csat", Option: "five_emotions"},
			},
			keys: []string{"user_feedback/7e4c"},
		},
		{
			name: "quick reply has its msg_id at the root",
			body: `{"event_name":"user_click_response_button","message":{"submit_time":"1759215799072","button_type":"response","data":"Có","tracking_id":"t"},"msg_id":"m","app_id":"1","oa_id":"2","timestamp":"1759215799075"}`,
			want: Callback{
				Event: EventResponseButton, Kind: KindReply, AppID: "1", OAID: "2", MsgID: "m", MsgIDs: []string{"m"}, TrackingID: "t",
				Timestamp: "1759215799075", Time: at(1759215799075), SubmitTime: at(1759215799072), Reply: &Reply{ButtonType: "response", Data: "Có"},
			},
			keys: []string{"user_click_response_button/*"},
		},
		{
			name: "template status",
			body: `{"event_name":"change_template_status","oa_id":"2","app_id":"1","template_id":31239,"status":{"prev_status":"PENDING_REVIEW","new_status":"ENABLE"},"reason":"","timestamp":"1759215799075"}`,
			want: Callback{
				Event: EventTemplateStatus, Kind: KindTemplate, AppID: "1", OAID: "2", Timestamp: "1759215799075", Time: at(1759215799075),
				Template: &TemplateChange{TemplateID: "31239", Status: "ENABLE", PrevStatus: "PENDING_REVIEW"},
			},
			keys: []string{"change_template_status/1759215799075/*"},
		},
		{
			name: "daily quota spells oaId",
			body: `{"event_name":"change_oa_daily_quota","app_id":"1","oaId":"2","quota":{"prev_value":1000,"new_value":"2000"},"timestamp":"1759215799075"}`,
			want: Callback{
				Event: EventDailyQuota, Kind: KindQuota, AppID: "1", OAID: "2", Timestamp: "1759215799075", Time: at(1759215799075),
				DailyQuota: &QuotaChange{Prev: new(int32(1000)), New: new(int32(2000))},
			},
			keys: []string{"body/*"},
		},
		{
			name: "follow has no sender",
			body: `{"oa_id":"2","follower":{"id":"7"},"event_name":"follow","source":"oa_profile","app_id":"1","timestamp":"1759215799075"}`,
			want: Callback{
				Event: "follow", AppID: "1", OAID: "2", UserID: "7", Timestamp: "1759215799075", Time: at(1759215799075),
			},
			keys: []string{"follow/1759215799075/*"},
		},
		{
			name: "a person's message names the OA as recipient",
			body: `{"app_id":"1","sender":{"id":"7"},"recipient":{"id":"2"},"event_name":"user_send_text","message":{"text":"message","msg_id":"96d3"},"timestamp":"1787209817225"}`,
			want: Callback{
				Event: EventUserSendText, AppID: "1", OAID: "2", SenderID: "7", RecipientID: "2", MsgID: "96d3", MsgIDs: []string{"96d3"}, Text: "message",
				Timestamp: "1787209817225", Time: at(1787209817225),
			},
			keys: []string{"user_send_text/96d3"},
		},
		{
			name: "unknown event and fields of odd types",
			body: `{"event_name":"event_of_2027","oa_id":{"x":1},"sender":"7","recipient":[1],"message":"text","quota":7,"status":"new","timestamp":true}`,
			want: Callback{Event: "event_of_2027"},
			keys: []string{"body/*"},
		},
		{name: "nothing", body: ` {} `, want: Callback{}, keys: []string{"body/*"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseCallback([]byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got, cmpopts.IgnoreUnexported(Callback{})); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
			keys := got.DedupeKeys()
			if len(keys) != len(tt.keys) {
				t.Fatalf("keys %q, want %q", keys, tt.keys)
			}
			for i, want := range tt.keys {
				prefix, rest := strings.CutSuffix(want, "*")
				if keys[i] != want && (!rest || !strings.HasPrefix(keys[i], prefix) || len(keys[i]) == len(prefix)) {
					t.Errorf("key %q, want %q", keys[i], want)
				}
			}
		})
	}
}

func TestParseCallbackRefuses(t *testing.T) {
	for _, body := range []string{``, `null`, `[]`, `"x"`, `1`, `{`, `{"event_name":"x"}1700`, `{"event_name":"x"} {}`, `{"a":}`, `<html>`} {
		if c, err := ParseCallback([]byte(body)); err == nil {
			t.Errorf("ParseCallback(%q) = %+v, want an error", body, c)
		}
	}
}

func TestDedupeKeysTellEventsApart(t *testing.T) {
	reply := `{"event_name":"user_click_response_button","message":{"submit_time":"1759215799072","data":"Có","tracking_id":"t"},"msg_id":"m","oa_id":"2","timestamp":"1"}`
	keys := map[string]string{}
	for _, body := range []string{
		reply,
		strings.Replace(reply, "Có", "Không", 1),
		strings.Replace(reply, "1759215799072", "1759215799073", 1),
		strings.Replace(reply, `"m"`, `"n"`, 1),
		`{"event_name":"user_reacted_message","sender":{"id":"7"},"message":{"msg_id":"m"},"timestamp":"1"}`,
		`{"event_name":"user_reacted_message","sender":{"id":"7"},"message":{"msg_id":"m"},"timestamp":"2"}`,
		`{"event_name":"follow","oa_id":"2","follower":{"id":"7"},"timestamp":"1"}`,
		`{"event_name":"follow","oa_id":"2","follower":{"id":"8"},"timestamp":"1"}`,
		`{"event_name":"unfollow","oa_id":"2","follower":{"id":"8"},"timestamp":"1"}`,
		`{"event_name":"unfollow"}`, `{"event_name":"unfollow","x":1}`,
	} {
		c, err := ParseCallback([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range c.DedupeKeys() {
			if other, ok := keys[k]; ok {
				t.Errorf("same key %s for\n%s\n%s", k, body, other)
			}
			keys[k] = body
			if strings.Contains(k, "Có") {
				t.Errorf("key %q holds what the person wrote", k)
			}
		}
	}
}

func TestCallbackOA(t *testing.T) {
	inverted := `{"event_name":"user_received_message","sender":{"id":"7"},"recipient":{"id":"2"},"message":{"msg_id":"m"}}`
	c, err := ParseCallback([]byte(inverted))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.OA(func(id string) bool { return id == "2" }); got != "2" {
		t.Errorf("OA = %q, want the recipient, which is ours", got)
	}
	if got := c.OA(func(string) bool { return false }); got != "" {
		t.Errorf("OA = %q, want none", got)
	}
}

func TestIsTestAndProbe(t *testing.T) {
	unsigned, signed := http.Header{}, http.Header{}
	signed.Set("X-ZEvent-Signature", "mac=00")
	for _, tt := range []struct {
		name, body  string
		header      http.Header
		test, probe bool
	}{
		{"empty probe", "", unsigned, false, true},
		{"empty object", "{}", unsigned, false, true},
		{"probe with an app id", `{"app_id":"1","timestamp":"1"}`, unsigned, false, true},
		{"signed and empty", "{}", signed, false, false},
		{"forged delivery", `{"event_name":"user_received_message","sender":{"id":"1"},"message":{"msg_id":"m"}}`, unsigned, false, false},
		{"forged follow", `{"event_name":"follow","oa_id":"1"}`, unsigned, false, false},
		{"garbage", `<html>`, unsigned, false, false},
		{"test button", `{"event_name":"user_send_text","sender":{"id":"9"},"recipient":{"id":"8"},"message":{"msg_id":"This is message id","text":"This is testing message"}}`, signed, true, false},
		{"a person who writes the test's text", `{"event_name":"user_send_text","sender":{"id":"9"},"recipient":{"id":"8"},"message":{"msg_id":"1","text":"This is testing message"}}`, signed, false, false},
		{"a person's text", `{"event_name":"user_send_text","sender":{"id":"9"},"recipient":{"id":"8"},"message":{"msg_id":"1","text":"hello"}}`, signed, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ParseCallback([]byte(tt.body))
			if got := err == nil && c.IsTest(); got != tt.test {
				t.Errorf("IsTest = %v", got)
			}
			if got := IsProbe([]byte(tt.body), tt.header); got != tt.probe {
				t.Errorf("IsProbe = %v", got)
			}
		})
	}
}

func FuzzParseCallback(f *testing.F) {
	f.Add([]byte(validRequest().body))
	f.Add([]byte(`{"event_name":"user_seen_message","message":{"msg_ids":[1,"2",{}]},"timestamp":1e99}`))
	f.Add([]byte(`{"event_name":"user_feedback","message":{"rate":"5","feedbacks":"x"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := ParseCallback(body)
		if err != nil {
			return
		}
		if len(c.DedupeKeys()) == 0 {
			t.Fatal("no dedupe key")
		}
		again, err := ParseCallback(body)
		if err != nil || !cmp.Equal(c.DedupeKeys(), again.DedupeKeys()) {
			t.Fatalf("the same body has two keys: %q, %q, %v", c.DedupeKeys(), again.DedupeKeys(), err)
		}
	})
}
