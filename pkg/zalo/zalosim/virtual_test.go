package zalosim_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/znshub/znshub/pkg/virtual"
	"github.com/znshub/znshub/pkg/zalo"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
)

// virtualStand is simulator, client and webhook on a virtual network, inside a synctest bubble: hours pass at once and
// times are exact.
type virtualStand struct {
	stand
	answer func(n int, w http.ResponseWriter) // of the webhook, to its nth post
}

func newVirtualStand(t *testing.T, change func(*zalosim.Config)) *virtualStand {
	t.Helper()
	var network kfake.VirtualNetwork
	v := &virtualStand{answer: func(int, http.ResponseWriter) {}}
	v.receiver = &receiver{}
	cfg := zalosim.Config{Seed: 1, CallbackURL: "http://localhost:8080/webhooks/zalo", CallbackWorkers: 4, Dial: network.DialContext}
	if change != nil {
		change(&cfg)
	}
	var err error
	if v.sim, err = zalosim.New(cfg); err != nil {
		t.Fatal(err)
	}
	serve := func(port int, h http.Handler) *http.Server {
		ln, err := network.Listen("tcp", fmt.Sprintf("localhost:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: h}
		go server.Serve(ln)
		return server
	}
	sim := serve(9090, v.sim)
	webhook := serve(8080, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		one := received{header: r.Header, body: string(body), at: time.Now()}
		one.verified = zalo.VerifySignature(zalosim.DefaultAppID, []string{zalosim.DefaultOASecret}, body, r.Header)
		one.callback, _ = zalo.ParseCallback(body)
		v.receiver.mu.Lock()
		v.receiver.got = append(v.receiver.got, one)
		n := len(v.receiver.got)
		v.receiver.mu.Unlock()
		v.answer(n, w)
	}))
	v.client, err = zalo.NewClient(zalo.Config{
		URL: "http://localhost:9090", RequestTimeout: 10 * time.Second, Dial: network.DialContext,
		AccessToken: func(context.Context, string) (string, error) { return zalosim.DefaultAccessToken, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.client.Close(); v.sim.Close(); sim.Close(); webhook.Close() })
	return v
}

func (v *virtualStand) times(since time.Time) (list []time.Duration) {
	for _, c := range v.receiver.all() {
		list = append(list, c.at.Sub(since))
	}
	return list
}

// A callback that is not answered 200 within two seconds is resent after 30 s, 5, 15, 30 and 60 minutes, the same to the
// byte but for num_retry.
func TestResends(t *testing.T) {
	virtual.Test(t, func(t *testing.T) {
		v := newVirtualStand(t, nil)
		v.answer = func(n int, w http.ResponseWriter) {
			switch {
			case n == 1:
				time.Sleep(3 * time.Second) // too late
			case n < 6:
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}
		begin := time.Now()
		if r := v.send("0912345678", "1"); r.Outcome != zalo.Accepted {
			t.Fatalf("%+v", r)
		}
		time.Sleep(3 * time.Hour)
		late := 2 * time.Second
		want := []time.Duration{0, late + 30*time.Second, late + 330*time.Second, late + 1230*time.Second, late + 3030*time.Second, late + 6630*time.Second}
		if d := cmp.Diff(want, v.times(begin)); d != "" {
			t.Errorf("-want +got\n%s", d)
		}
		got := v.receiver.all()
		for i, c := range got {
			retry := ""
			if i > 0 {
				retry = fmt.Sprint(i)
			}
			if c.header.Get("num_retry") != retry || c.body != got[0].body || c.verified != nil {
				t.Errorf("post %d: num_retry %q, verified %v", i, c.header.Get("num_retry"), c.verified)
			}
			if c.header.Get("User-Agent") != "ZaloWebhook" || c.header.Get("X-ZEvent-Server") != "ZNS" || c.header.Get("X-ZEvent-Timestamp") != "" {
				t.Errorf("headers %v", c.header)
			}
		}
		total := v.sim.Totals()
		if total.CallbacksFailed != 5 || total.CallbacksOK != 1 || total.WebhookDisabled || total.Pending != 0 {
			t.Errorf("%+v", total)
		}
	})
}

// After the last resend the webhook is disabled, until somebody enables it; messages are delivered all the same.
func TestWebhookIsDisabled(t *testing.T) {
	virtual.Test(t, func(t *testing.T) {
		v := newVirtualStand(t, func(c *zalosim.Config) { c.TimeScale = 60 })
		v.answer = func(_ int, w http.ResponseWriter) { w.WriteHeader(http.StatusUnauthorized) }
		v.send("0912345678", "1")
		time.Sleep(2 * time.Minute) // two hours at this scale
		if n := len(v.receiver.all()); n != 6 || !v.sim.Totals().WebhookDisabled {
			t.Fatalf("%d posts, %+v", n, v.sim.Totals())
		}
		v.answer = func(int, http.ResponseWriter) {}
		v.send("0912345678", "2")
		time.Sleep(time.Minute)
		if total := v.sim.Totals(); len(v.receiver.all()) != 6 || total.CallbacksDropped != 2 || total.Delivered != 2 || total.Pending != 0 {
			t.Errorf("%d posts, %+v", len(v.receiver.all()), total)
		}
		if err := v.sim.SetCallbackURL("http://localhost:8080/webhooks/zalo"); err != nil {
			t.Fatal(err)
		}
		v.send("0912345678", "3")
		time.Sleep(time.Minute)
		if got := v.receiver.all(); len(got) != 7 || got[6].callback.TrackingID != "3" {
			t.Errorf("%d posts after it was enabled", len(got))
		}
	})
}

// Delays are exact and come from the seed; a message is billed only when it is delivered within its template's window.
func TestDelays(t *testing.T) {
	virtual.Test(t, func(t *testing.T) {
		v := newVirtualStand(t, func(c *zalosim.Config) {
			c.Latency = zalosim.Range{Low: 50 * time.Millisecond, High: 50 * time.Millisecond}
			c.Delivery = zalosim.Range{Low: time.Second, High: time.Second}
			c.TimestampHeader = true
		})
		begin := time.Now()
		r := v.send("0912345678", "1")
		if r.Duration != 50*time.Millisecond || !r.SentTime.Equal(begin.Truncate(time.Millisecond)) {
			t.Errorf("answered after %s, sent_time %s", r.Duration, r.SentTime)
		}
		v.send("0900009002", "2") // offline for 30 s
		if _, err := v.sim.AddFault(zalosim.Fault{Kind: zalosim.FaultCallbackDelayed, Phone: "0922222222"}); err != nil {
			t.Fatal(err)
		}
		v.send("0922222222", "3")
		otp := zalo.SendRequest{Phone: "0900009002", TemplateID: "300100", TemplateData: map[string]string{"otp": "1"}, TrackingID: "4"}
		if r := v.client.Send(t.Context(), otp); r.Outcome != zalo.Accepted {
			t.Fatalf("%+v", r)
		}
		time.Sleep(2 * time.Hour)
		want := []time.Duration{1050 * time.Millisecond, 31100 * time.Millisecond, 31200 * time.Millisecond, time.Hour + 1150*time.Millisecond}
		if d := cmp.Diff(want, v.times(begin)); d != "" {
			t.Errorf("callbacks: -want +got\n%s", d)
		}
		if last := v.receiver.all()[3]; last.callback.TrackingID != "3" || last.callback.DeliveryTime.Sub(begin) != 1150*time.Millisecond || last.header.Get("X-ZEvent-Timestamp") == "" {
			t.Errorf("%+v", last.callback)
		}
		for tracking, billed := range map[string]int{"1": 200, "2": 200, "3": 200, "4": 0} { // an OTP 30 s late costs nothing
			if got := v.sim.ByTrackingID(tracking)[0].Billed; got != billed {
				t.Errorf("message %s billed %d, want %d", tracking, got, billed)
			}
		}
	})
}

// Callbacks that are out of order are so by their time, not lost.
func TestOutOfOrder(t *testing.T) {
	virtual.Test(t, func(t *testing.T) {
		v := newVirtualStand(t, nil)
		if _, err := v.sim.AddFault(zalosim.Fault{Kind: zalosim.FaultCallbackSwapped, Count: 1}); err != nil {
			t.Fatal(err)
		}
		v.send("0912345678", "1")
		v.send("0912345678", "2")
		time.Sleep(time.Minute)
		got := v.receiver.all()
		if len(got) != 2 || got[0].callback.TrackingID != "2" || got[1].callback.TrackingID != "1" {
			t.Errorf("%d callbacks, first of %s", len(got), got[0].callback.TrackingID)
		}
	})
}

// Quotas are renewed at midnight in Vietnam, promotions stop at night.
func TestDays(t *testing.T) {
	virtual.Test(t, func(t *testing.T) { // begins at 2000-01-01 00:00 UTC, 07:00 in Vietnam
		v := newVirtualStand(t, func(c *zalosim.Config) {
			c.DailyQuota, c.PromotionsADay, c.PromotionHours = 3, 1, true
		})
		promotion := func() int {
			return v.client.Send(t.Context(), zalo.SendRequest{
				Phone: "0912345678", TemplateID: "300300", TemplateData: map[string]string{"customer_name": "A"}, TrackingID: "p",
			}).Code
		}
		codes := []int{promotion(), promotion(), v.send("0912345678", "1").Code, v.send("0912345678", "2").Code, v.send("0912345678", "3").Code}
		time.Sleep(15*time.Hour + time.Minute) // 22:01
		codes = append(codes, promotion())
		time.Sleep(2 * time.Hour) // 00:01
		codes = append(codes, v.send("0912345678", "4").Code, promotion())
		time.Sleep(6 * time.Hour) // 06:01
		codes = append(codes, promotion())
		if d := cmp.Diff([]int{0, -1472, 0, 0, -144, -133, 0, -133, 0}, codes); d != "" {
			t.Errorf("-want +got\n%s", d)
		}
	})
}

// Reset drops what is still to come and forgets the rest.
func TestReset(t *testing.T) {
	virtual.Test(t, func(t *testing.T) {
		v := newVirtualStand(t, func(c *zalosim.Config) { c.Delivery = zalosim.Range{Low: time.Minute, High: time.Minute} })
		v.send("0912345678", "1")
		v.sim.Reset()
		v.send("0912345678", "2")
		time.Sleep(time.Hour)
		total := v.sim.Totals()
		if got := v.receiver.all(); len(got) != 1 || got[0].callback.TrackingID != "2" || total.Accepted != 1 || total.Pending != 0 || len(v.sim.ByTrackingID("1")) != 0 {
			t.Errorf("%d callbacks, %+v", len(got), total)
		}
	})
}

// A callback that is under way during Reset counts for nothing afterwards.
func TestResetDuringACallback(t *testing.T) {
	virtual.Test(t, func(t *testing.T) {
		v := newVirtualStand(t, nil)
		v.answer = func(int, http.ResponseWriter) { time.Sleep(time.Second) }
		v.send("0912345678", "1")
		time.Sleep(500 * time.Millisecond)
		v.sim.Reset()
		time.Sleep(time.Hour)
		if total := v.sim.Totals(); len(v.receiver.all()) != 1 || total.Callbacks != 0 || total.Pending != 0 || !v.sim.Idle() {
			t.Errorf("%d posts, %+v", len(v.receiver.all()), total)
		}
	})
}
