package zalosim_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/znshub/znshub/pkg/zalo/zalosim"
)

// Whatever is posted gets HTTP 200 and JSON with a numeric error, and is accepted only with a msg_id.
func FuzzSend(f *testing.F) {
	f.Add(`{"phone":"84987654321","template_id":"300200","template_data":{"customer_name":"a","order_code":1},"tracking_id":"t"}`)
	f.Add(`{"phone":84987654321}`)
	f.Add(`{"template_data":[]}`)
	f.Add(`null`)
	sim, err := zalosim.New(zalosim.Config{DailyQuota: 1 << 30})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(sim.Close)
	f.Fuzz(func(t *testing.T, body string) {
		if strings.Contains(body, "90000900") {
			return // numbers of the convention answer late or never
		}
		r := httptest.NewRequest(http.MethodPost, "/message/template", strings.NewReader(body))
		r.Header.Set("access_token", zalosim.DefaultAccessToken)
		w := httptest.NewRecorder()
		before := sim.Totals().Accepted
		sim.ServeHTTP(w, r)
		var answer struct {
			Error *int
			Data  struct {
				MsgID string `json:"msg_id"`
			}
		}
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Error == nil || w.Code != http.StatusOK {
			t.Fatalf("%q: HTTP %d %q", body, w.Code, w.Body)
		}
		took := sim.Totals().Accepted - before
		if (*answer.Error == 0) != (answer.Data.MsgID != "") || (took == 1) != (*answer.Error == 0) {
			t.Fatalf("%q: %q, accepted %d", body, w.Body, took)
		}
	})
}
