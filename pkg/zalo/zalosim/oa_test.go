package zalosim_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/zalo"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
)

// Several OAs of one app have tokens, quotas, faults and callbacks of their own.
func TestSeveralOAs(t *testing.T) {
	s := newStand(t, func(c *zalosim.Config) {
		c.OtherOAs = []zalosim.OA{{ID: "4", Secret: "secret of 4", AccessToken: "token of 4", DailyQuota: 1}}
	})
	if _, err := s.sim.AddFault(zalosim.Fault{Kind: zalosim.FaultCode, Code: -131, OAID: "4", Count: 1}); err != nil {
		t.Fatal(err)
	}
	other, err := zalo.NewClient(zalo.Config{URL: s.url, AccessToken: func(context.Context, string) (string, error) { return "token of 4", nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	send := func(tracking string) int {
		return other.Send(t.Context(), zalo.SendRequest{
			OAID: "4", Phone: "0912345678", TemplateID: "300900", TrackingID: tracking, TemplateData: map[string]string{"key": "k", "seq": "1"},
		}).Code
	}
	if r := s.send("0912345678", "first"); r.Outcome != zalo.Accepted {
		t.Fatalf("the first OA met the fault of the other: %+v", r)
	}
	if got := []int{send("a"), send("b"), send("c")}; got[0] != -131 || got[1] != 0 || got[2] != -144 {
		t.Errorf("codes %v, want the fault, success, quota used up", got)
	}
	if r := s.send("0912345678", "second"); r.Outcome != zalo.Accepted {
		t.Errorf("the first OA met the quota of the other: %+v", r)
	}
	for begin := time.Now(); len(s.receiver.all()) < 3 && time.Since(begin) < 5*time.Second; { // that of OA 4 is refused there
		time.Sleep(5 * time.Millisecond)
	}
	if n := len(s.receiver.all()); n != 3 {
		t.Errorf("%d callbacks", n)
	}
	for _, c := range s.receiver.all() {
		oa, secret := zalosim.DefaultOAID, zalosim.DefaultOASecret
		if strings.Contains(c.body, `"tracking_id":"b"`) {
			oa, secret = "4", "secret of 4"
		}
		if !strings.Contains(c.body, `"sender":{"id":"`+oa+`"}`) {
			t.Errorf("callback of another OA than %s: %s", oa, c.body)
		}
		if err := zalo.VerifySignature(zalosim.DefaultAppID, []string{secret}, []byte(c.body), c.header); err != nil {
			t.Errorf("callback of OA %s: %v", oa, err)
		}
	}
	if m := s.sim.ByTrackingID("b"); len(m) != 1 || m[0].OAID != "4" {
		t.Errorf("audit %+v", m)
	}
}
