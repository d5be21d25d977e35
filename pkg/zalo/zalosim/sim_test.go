package zalosim_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/znshub/znshub/pkg/zalo"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
)

// receiver is a webhook that verifies and remembers what it got.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex // guards all below
	status []int      // answers to the next posts; then 200
	got    []received
}

type received struct {
	header   http.Header
	body     string
	verified error
	callback zalo.Callback
	at       time.Time
}

func (rc *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	one := received{header: r.Header, body: string(body), at: time.Now()}
	one.verified = zalo.VerifySignature(zalosim.DefaultAppID, []string{zalosim.DefaultOASecret}, body, r.Header)
	one.callback, _ = zalo.ParseCallback(body)
	rc.mu.Lock()
	defer rc.mu.Unlock()
	rc.got = append(rc.got, one)
	switch {
	case one.verified != nil:
		w.WriteHeader(http.StatusUnauthorized)
	case len(rc.status) > 0:
		w.WriteHeader(rc.status[0])
		rc.status = rc.status[1:]
	}
}

func (rc *receiver) all() []received {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	return append([]received(nil), rc.got...)
}

type stand struct {
	sim      *zalosim.Sim
	url      string
	client   *zalo.Client
	receiver *receiver
}

// newStand is a simulator behind a real HTTP server, the real client and a webhook.
func newStand(t testing.TB, change func(*zalosim.Config)) *stand {
	t.Helper()
	rc := &receiver{}
	rc.Server = httptest.NewServer(rc)
	t.Cleanup(rc.Close)
	cfg := zalosim.Config{Seed: 1, CallbackURL: rc.URL + "/webhooks/zalo", AuditParams: []string{"key", "seq"}}
	if change != nil {
		change(&cfg)
	}
	sim, err := zalosim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(sim)
	t.Cleanup(func() { sim.Close(); server.Close() })
	client, err := zalo.NewClient(zalo.Config{
		URL: server.URL, RequestTimeout: 400 * time.Millisecond,
		AccessToken: func(context.Context, string) (string, error) { return zalosim.DefaultAccessToken, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &stand{sim: sim, url: server.URL, client: client, receiver: rc}
}

func (s *stand) send(phone, tracking string) zalo.Result {
	return s.client.Send(context.Background(), zalo.SendRequest{
		OAID: zalosim.DefaultOAID, Phone: phone, TemplateID: "300900", TrackingID: tracking,
		TemplateData: map[string]string{"key": phone, "seq": tracking},
	})
}

// settle waits until nothing is to come.
func (s *stand) settle(t testing.TB) {
	t.Helper()
	for begin := time.Now(); !s.sim.Idle(); time.Sleep(2 * time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			t.Fatalf("not idle: %+v", s.sim.Totals())
		}
	}
}

// Every fault, seen from the real client and from the webhook.
func TestFaults(t *testing.T) {
	const phone = "84912345678"
	for _, tt := range []struct {
		name      string
		fault     zalosim.Fault
		outcome   zalo.Outcome
		cause     zalo.Cause
		accepted  int
		delivered int
		callbacks int // verified ones
		forged    int
	}{
		{"none", zalosim.Fault{Kind: zalosim.FaultSlow, Phone: "84987654321"}, zalo.Accepted, 0, 1, 1, 1, 0},
		{"code", zalosim.Fault{Kind: zalosim.FaultCode, Code: -144}, zalo.Rejected, 0, 0, 0, 0, 0},
		{"ambiguous code", zalosim.Fault{Kind: zalosim.FaultCode, Code: -100}, zalo.Unknown, zalo.CauseAmbiguousCode, 0, 0, 0, 0},
		{"slow", zalosim.Fault{Kind: zalosim.FaultSlow, Delay: 50 * time.Millisecond}, zalo.Accepted, 0, 1, 1, 1, 0},
		{"slower than the client", zalosim.Fault{Kind: zalosim.FaultSlow, Delay: time.Second}, zalo.Unknown, zalo.CauseTimeout, 1, 1, 1, 0},
		{"answer lost", zalosim.Fault{Kind: zalosim.FaultLostAnswer}, zalo.Unknown, zalo.CauseTimeout, 1, 1, 1, 0},
		{"hang", zalosim.Fault{Kind: zalosim.FaultHang}, zalo.Unknown, zalo.CauseTimeout, 0, 0, 0, 0},
		{"reset before", zalosim.Fault{Kind: zalosim.FaultResetBefore}, zalo.Unknown, zalo.CauseReset, 0, 0, 0, 0},
		{"reset after", zalosim.Fault{Kind: zalosim.FaultResetAfter}, zalo.Unknown, zalo.CauseReset, 1, 1, 1, 0},
		{"reset mid-body", zalosim.Fault{Kind: zalosim.FaultResetMidBody}, zalo.Unknown, zalo.CauseReset, 1, 1, 1, 0},
		{"truncated", zalosim.Fault{Kind: zalosim.FaultTruncated}, zalo.Unknown, zalo.CauseUnreadable, 1, 1, 1, 0},
		{"502 accepted", zalosim.Fault{Kind: zalosim.FaultHTML, Accept: true}, zalo.Unknown, zalo.CauseHTTP5xx, 1, 1, 1, 0},
		{"503 not accepted", zalosim.Fault{Kind: zalosim.FaultHTML, Status: 503}, zalo.Unknown, zalo.CauseHTTP5xx, 0, 0, 0, 0},
		{"HTML 200", zalosim.Fault{Kind: zalosim.FaultHTML, Status: 200, Accept: true}, zalo.Unknown, zalo.CauseUnreadable, 1, 1, 1, 0},
		{"429", zalosim.Fault{Kind: zalosim.FaultHTML, Status: 429}, zalo.Rejected, 0, 0, 0, 0, 0},
		{"quoted", zalosim.Fault{Kind: zalosim.FaultQuoted}, zalo.Accepted, 0, 1, 1, 1, 0},
		{"no msg_id", zalosim.Fault{Kind: zalosim.FaultNoMsgID}, zalo.Unknown, zalo.CauseUnreadable, 1, 1, 1, 0},
		{"redirect", zalosim.Fault{Kind: zalosim.FaultRedirect}, zalo.Unknown, zalo.CauseUnreadable, 0, 0, 0, 0},
		{"offline", zalosim.Fault{Kind: zalosim.FaultOffline, Delay: 50 * time.Millisecond}, zalo.Accepted, 0, 1, 1, 1, 0},
		{"never delivered", zalosim.Fault{Kind: zalosim.FaultNeverDelivered}, zalo.Accepted, 0, 1, 0, 0, 0},
		{"callback before", zalosim.Fault{Kind: zalosim.FaultCallbackBefore}, zalo.Accepted, 0, 1, 1, 1, 0},
		{"callback twice", zalosim.Fault{Kind: zalosim.FaultCallbackTwice}, zalo.Accepted, 0, 1, 1, 2, 0},
		{"callback delayed", zalosim.Fault{Kind: zalosim.FaultCallbackDelayed, Delay: 50 * time.Millisecond}, zalo.Accepted, 0, 1, 1, 1, 0},
		{"callback lost", zalosim.Fault{Kind: zalosim.FaultCallbackLost}, zalo.Accepted, 0, 1, 1, 0, 0},
		{"callback forged", zalosim.Fault{Kind: zalosim.FaultCallbackForged}, zalo.Accepted, 0, 1, 1, 1, 1},
		{"callback of another app", zalosim.Fault{Kind: zalosim.FaultCallbackApp}, zalo.Accepted, 0, 1, 1, 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStand(t, nil)
			tt.fault.Count = 1
			if _, err := s.sim.AddFault(tt.fault); err != nil {
				t.Fatal(err)
			}
			r := s.send("+"+phone, "1")
			if r.Outcome != tt.outcome || r.Cause != tt.cause {
				t.Errorf("%s %s (%v), want %s %s", r.Outcome, r.Cause, r.Err, tt.outcome, tt.cause)
			}
			if tt.fault.Kind == zalosim.FaultCode && r.Code != tt.fault.Code {
				t.Errorf("code %d, want %d", r.Code, tt.fault.Code)
			}
			if tt.fault.Kind == zalosim.FaultCallbackBefore && len(s.receiver.all()) != 1 {
				t.Error("no callback before the answer")
			}
			s.settle(t)
			got, total := s.sim.ByPhone(phone), s.sim.Totals()
			if len(got) != tt.accepted || total.Accepted != tt.accepted || total.Delivered != tt.delivered {
				t.Errorf("accepted %d (%d), delivered %d; want %d, %d", len(got), total.Accepted, total.Delivered, tt.accepted, tt.delivered)
			}
			if len(got) == 1 && r.Outcome == zalo.Accepted && got[0].MsgID != r.MsgID {
				t.Errorf("msg_id %s in the answer, %s in the audit", r.MsgID, got[0].MsgID)
			}
			verified, refused := 0, 0
			for _, c := range s.receiver.all() {
				if c.verified != nil {
					refused++
					continue
				}
				verified++
				if c.callback.Kind != zalo.KindDelivery || c.callback.TrackingID != "1" || c.callback.RecipientID != phone ||
					c.callback.MsgID != got[0].MsgID || c.callback.OAID != zalosim.DefaultOAID || c.callback.DeliveryTime.IsZero() {
					t.Errorf("callback %+v", c.callback)
				}
			}
			if verified != tt.callbacks || refused != tt.forged || total.Forged != tt.forged || total.ForgedAccepted != 0 {
				t.Errorf("%d callbacks and %d forged, want %d and %d; %+v", verified, refused, tt.callbacks, tt.forged, total)
			}
			// The fault was for one request.
			if r := s.send(phone, "2"); r.Outcome != zalo.Accepted {
				t.Errorf("the next request: %s %d %s", r.Outcome, r.Code, r.Cause)
			}
		})
	}
}

func TestConvention(t *testing.T) {
	s := newStand(t, func(c *zalosim.Config) { c.TimeScale = 1000 })
	for phone, code := range map[string]int{
		"+84900000118": -118, "0900000139": -139, "84900000141": -141, "84900001471": -1471, "84900000124": -124, "84900000144": -144,
		"84900000999": 0, "84900009001": 0, "84900009002": 0, "84900009003": 0,
	} {
		if r := s.send(phone, phone); r.Code != code {
			t.Errorf("%s: code %d, want %d", phone, r.Code, code)
		}
	}
	r := s.client.Send(t.Context(), zalo.SendRequest{PhoneSHA256: zalo.PhoneHash("84900000118"), TemplateID: "300900", TrackingID: "h"})
	if r.Code != -118 {
		t.Errorf("the hash of a phone without Zalo: %+v", r)
	}
	s.settle(t)
	if got := s.sim.Totals(); got.Delivered != 3 || got.Accepted != 4 {
		t.Errorf("accepted %d, delivered %d; want 4, 3", got.Accepted, got.Delivered)
	}
	if d := s.sim.ByPhone("0900009002")[0]; d.DeliveredAt.Sub(d.AcceptedAt) < 25*time.Millisecond {
		t.Errorf("offline for %s", d.DeliveredAt.Sub(d.AcceptedAt))
	}
}

// No idempotency: the same tracking_id is a second message, and the audit says so.
func TestRepeatIsASecondMessage(t *testing.T) {
	s := newStand(t, nil)
	a, b := s.send("0912345678", "1"), s.send("84912345678", "1")
	if a.Outcome != zalo.Accepted || b.Outcome != zalo.Accepted || a.MsgID == b.MsgID {
		t.Fatalf("%+v %+v", a, b)
	}
	if r := s.send("0911111111", "2"); r.Outcome != zalo.Accepted || *r.Quota.Daily != 1_000_000 || *r.Quota.Remaining != 999_997 {
		t.Errorf("%+v", r)
	}
	s.settle(t)
	if got := s.sim.ByTrackingID("1"); len(got) != 2 || got[0].MsgID != a.MsgID || got[1].MsgID != b.MsgID {
		t.Errorf("by tracking_id: %+v", got)
	}
	total := s.sim.Totals()
	if total.Accepted != 3 || total.Delivered != 3 || total.BilledVND != 600 || total.Phones != 2 || total.CallbacksOK != 3 {
		t.Errorf("%+v", total)
	}
	for _, by := range []string{"phone", "tracking_id"} {
		got := s.sim.Copies(by)
		if got.Messages != 3 || got.Distinct != 2 || !cmp.Equal(got.ByCopies, map[int]int{1: 1, 2: 1}) || len(got.Repeated) != 1 {
			t.Errorf("copies by %s: %+v", by, got)
		}
	}
	if m, ok := s.sim.ByMsgID(a.MsgID); !ok || m.TrackingID != "1" || m.Billed != 200 || m.CallbacksOK != 1 {
		t.Errorf("%+v", m)
	}
	if _, ok := s.sim.ByMsgID("a4d0243feee163bd3af2"); ok {
		t.Error("found a msg_id that is not the simulator's")
	}
}

func TestOrder(t *testing.T) {
	s := newStand(t, func(c *zalosim.Config) { c.CallbackURL = "" })
	for _, step := range []struct{ phone, seq string }{
		{"84911111111", "1"}, {"84922222222", "1"}, {"84911111111", "2"}, {"84922222222", "3"}, {"84922222222", "2"}, {"84911111111", "2"},
	} {
		if r := s.send(step.phone, step.seq); r.Outcome != zalo.Accepted {
			if step.phone[2] == '9' && step.phone[3] == '2' {
				t.Fatalf("%+v", r)
			}
		}
	}
	got := s.sim.Order("key", "seq")
	want := zalosim.Order{Messages: 6, Groups: 2, Inversions: 1, Repeats: 1, Examples: []string{"84922222222"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// The same seed meets the same requests with the same faults, whatever their order.
func TestDeterminism(t *testing.T) {
	run := func(seed uint64, reverse bool) map[string]string {
		s := newStand(t, func(c *zalosim.Config) { c.Seed, c.CallbackURL = seed, "" })
		for _, f := range []zalosim.Fault{
			{Kind: zalosim.FaultCode, Code: -144, Probability: 0.3}, {Kind: zalosim.FaultNeverDelivered, Probability: 0.3},
		} {
			if _, err := s.sim.AddFault(f); err != nil {
				t.Fatal(err)
			}
		}
		ends := map[string]string{}
		for i := range 60 {
			if reverse {
				i = 59 - i
			}
			tracking := fmt.Sprint(i)
			r := s.send("84912345678", tracking)
			ends[tracking] = fmt.Sprint(r.Outcome, r.Code)
		}
		s.settle(t)
		for m := range s.sim.Messages(0) {
			ends[m.TrackingID] += fmt.Sprint(!m.DeliveredAt.IsZero())
		}
		return ends
	}
	first := run(7, false)
	if d := cmp.Diff(first, run(7, true)); d != "" {
		t.Errorf("the same seed, other order:\n%s", d)
	}
	if cmp.Equal(first, run(8, false)) {
		t.Error("another seed changes nothing")
	}
}

// Close frees answers that hang, and their clients see a broken connection, not an empty success.
func TestCloseFreesHangingAnswers(t *testing.T) {
	for _, fault := range []zalosim.Fault{{Kind: zalosim.FaultLostAnswer}, {Kind: zalosim.FaultSlow, Delay: time.Hour}} {
		sim, err := zalosim.New(zalosim.Config{})
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(sim)
		defer server.Close()
		client, err := zalo.NewClient(zalo.Config{
			URL: server.URL, RequestTimeout: 5 * time.Second,
			AccessToken: func(context.Context, string) (string, error) { return zalosim.DefaultAccessToken, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if _, err := sim.AddFault(fault); err != nil {
			t.Fatal(err)
		}
		result := make(chan zalo.Result, 1)
		go func() {
			result <- client.Send(context.Background(), zalo.SendRequest{Phone: "84912345678", TemplateID: "300900", TrackingID: "1"})
		}()
		for begin := time.Now(); sim.Totals().Accepted == 0; time.Sleep(time.Millisecond) {
			if time.Since(begin) > 2*time.Second {
				t.Fatal("nothing arrived")
			}
		}
		sim.Close()
		if r := <-result; r.Outcome != zalo.Unknown || r.Cause != zalo.CauseReset {
			t.Errorf("%s: %+v", fault.Kind, r)
		}
	}
}

func BenchmarkSend(b *testing.B) {
	sim, err := zalosim.New(zalosim.Config{DailyQuota: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	defer sim.Close()
	const body = `{"phone":"84912345678","template_id":"300900","template_data":{"key":"order-1042","seq":"17","order_code":"DH1042"},"tracking_id":"0123456789012345678901234567890123456789abcdefgh"}`
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest(http.MethodPost, "/message/template", newReader(body))
		r.Header["Access_token"] = []string{zalosim.DefaultAccessToken}
		w := httptest.NewRecorder()
		sim.ServeHTTP(w, r)
		if w.Code != 200 || w.Body.Len() < 100 {
			b.Fatal(w.Body)
		}
	}
}

func newReader(s string) io.Reader { return &reader{s: s} }

// reader has no Len, so that httptest does not look into it.
type reader struct{ s string }

func (r *reader) Read(p []byte) (int, error) {
	if r.s == "" {
		return 0, io.EOF
	}
	n := copy(p, r.s)
	r.s = r.s[n:]
	return n, nil
}
