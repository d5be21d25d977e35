package zalosim_test

import (
	"context"
	"fmt"
	"net"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/zalo"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
)

// What the client says of each of many calls, under every fault at once and with connections that break under it, is
// true of what the simulator accepted: Accepted exactly once, Rejected and NotSent never, Unknown at most once.
func TestClientTellsTheTruth(t *testing.T) {
	s := newStand(t, nil)
	for _, f := range []zalosim.Fault{
		{Kind: zalosim.FaultCode, Code: -118}, {Kind: zalosim.FaultCode, Code: -144}, {Kind: zalosim.FaultSlow, Delay: 20 * time.Millisecond},
		{Kind: zalosim.FaultLostAnswer}, {Kind: zalosim.FaultHang}, {Kind: zalosim.FaultResetBefore}, {Kind: zalosim.FaultResetAfter},
		{Kind: zalosim.FaultResetMidBody}, {Kind: zalosim.FaultTruncated}, {Kind: zalosim.FaultHTML, Status: 502, Accept: true},
		{Kind: zalosim.FaultHTML, Status: 503}, {Kind: zalosim.FaultHTML, Status: 429}, {Kind: zalosim.FaultQuoted},
		{Kind: zalosim.FaultNoMsgID}, {Kind: zalosim.FaultRedirect}, {Kind: zalosim.FaultCallbackTwice},
		{Kind: zalosim.FaultCallbackBefore}, {Kind: zalosim.FaultCallbackForged},
	} {
		f.Probability = 0.02
		if _, err := s.sim.AddFault(f); err != nil {
			t.Fatal(err)
		}
	}
	var conns breaker
	url := httptest.NewServer(s.sim)
	defer url.Close()
	client, err := zalo.NewClient(zalo.Config{
		URL: url.URL, RequestTimeout: 150 * time.Millisecond, MaxInFlight: 8, Dial: conns.dial,
		AccessToken: func(context.Context, string) (string, error) { return zalosim.DefaultAccessToken, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	const calls = 3000
	results := make([]zalo.Result, calls)
	var wg sync.WaitGroup
	next := make(chan int)
	for range 16 { // more than connections: some wait for one
		wg.Go(func() {
			for i := range next {
				results[i] = client.Send(context.Background(), zalo.SendRequest{
					Phone: fmt.Sprintf("8497%07d", i), TemplateID: "300900", TrackingID: fmt.Sprint(i),
				})
			}
		})
	}
	for i := range calls {
		next <- i
		if i%100 == 99 {
			conns.breakAll()
		}
	}
	close(next)
	wg.Wait()
	s.settle(t)

	outcomes := map[zalo.Outcome]int{}
	accepted := 0
	for i, r := range results {
		outcomes[r.Outcome]++
		got := s.sim.ByTrackingID(fmt.Sprint(i))
		accepted += len(got)
		switch r.Outcome {
		case zalo.Accepted:
			if len(got) != 1 || got[0].MsgID != r.MsgID {
				t.Errorf("%d: accepted with %s, the simulator has %+v", i, r.MsgID, got)
			}
		case zalo.Rejected, zalo.NotSent:
			if len(got) != 0 {
				t.Errorf("%d: %s, the simulator accepted %d", i, r.Outcome, len(got))
			}
		case zalo.Unknown:
			if len(got) > 1 || r.Cause == zalo.CauseNone {
				t.Errorf("%d: unknown (%s), the simulator accepted %d", i, r.Cause, len(got))
			}
		}
	}
	total := s.sim.Totals()
	t.Logf("outcomes %v, accepted %d", outcomes, accepted)
	if total.Accepted != accepted || total.Delivered != accepted || total.ForgedAccepted != 0 || total.CallbacksOK < accepted {
		t.Errorf("accepted %d, %+v", accepted, total)
	}
	for _, o := range []zalo.Outcome{zalo.Accepted, zalo.Rejected, zalo.Unknown} {
		if outcomes[o] == 0 {
			t.Errorf("no call was %s: the test tests nothing", o)
		}
	}
}

// breaker dials connections that it can break all at once.
type breaker struct {
	mu    sync.Mutex // guards conns
	conns []net.Conn
}

func (b *breaker) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns = append(b.conns, conn)
	return conn, err
}

func (b *breaker) breakAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, conn := range b.conns {
		if conn != nil {
			conn.Close()
		}
	}
	b.conns = nil
}
