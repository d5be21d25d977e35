package zalo

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const usualAnswer = `{"error":0,"message":"Success","data":{"msg_id":"e04f5b6a7c8d9e0f","sent_time":"1626926349402","sending_mode":"1","quota":{"remainingQuota":"499","dailyQuota":"500"}}}`

// FuzzReadAnswer holds the short way through an answer against encoding/json.
func FuzzReadAnswer(f *testing.F) {
	for _, s := range []string{
		usualAnswer, `{"error":-124,"message":"Access token is invalid"}`, `{"error":"0","data":{"msg_id":12345678901234567890}}`,
		`{"error":0,"data":[]}`, `{"error":0,"data":null}`, `{"error":0,"data":{}}`, `{"Error":-100,"error":0}`, `{"error":0,"error":-100}`,
		`{"error":0,}`, `{"error":00}`, `{"error":-0}`, `{"error":0}x`, `{"error":1.0}`, `{"error":" 5 "}`, `{"error":"+5"}`, `{"error":9223372036854775808}`,
		"{\"error\":0,\"data\":{\"msg_id\":\"\\u0041\"}}", `{"error":0,"data":{"msg_id":"é"}}`, ` { "error" : 0 , "data" : { "msg_id" : "a" } } `,
		`{"error":0,"x":{"error":5}}`, `{"error":0 "data":{}}`, `{"error":0,"data":{"quota":{"dailyQuota":"x","remainingQuota":5000000000}}}`, `{`, `{}`, ``, `{"error":""}`, `{"error":-}`,
		`{"error":0,"data":{"msg_id":"a","ſent_time":"5","sent_time":"6"}}`, `{"error":0,"data":{"quota":{"dailyQuota":"\"5\""}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, gotErr := readAnswer(body)
		var want sendAnswer
		wantErr := json.Unmarshal(body, &want)
		if (gotErr == nil) != (wantErr == nil) {
			t.Fatalf("error %v, want %v", gotErr, wantErr)
		}
		if wantErr == nil && got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// TestUsualAnswerTakesTheShortWay checks that the fuzz test compares two ways.
func TestUsualAnswerTakesTheShortWay(t *testing.T) {
	for _, body := range []string{usualAnswer, `{"error":-124,"message":"Access token is invalid"}`} {
		s := scanner{rest: []byte(body)}
		if _, ok := s.answer(); !ok {
			t.Errorf("%s: left to encoding/json", body)
		}
	}
	got, err := readAnswer([]byte(usualAnswer))
	if diff := cmp.Diff([]any{text("e04f5b6a7c8d9e0f"), text("1626926349402"), int64(500), int64(499)},
		[]any{got.Data.v.MsgID, got.Data.v.SentTime, got.Data.v.Quota.v.Daily.n, got.Data.v.Quota.v.Remaining.n}); diff != "" || err != nil {
		t.Errorf("(-want +got), %v:\n%s", err, diff)
	}
}

func BenchmarkReadAnswer(b *testing.B) {
	body := []byte(usualAnswer)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := readAnswer(body); err != nil {
			b.Fatal(err)
		}
	}
}
