package main

import (
	"context"
	"fmt"
	"time"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

const (
	hotKeys    = 1000      // half of them fail
	hotPhones  = 9_000_000 // those of the keys that fail begin here
	hotLatency = 50 * time.Millisecond
	hotSlots   = 100 // calls in flight: at most 2,000/s, so that slots are what is short and not processor time
	hotCode    = -129
)

// headOfLine measures the throughput of 500 keys that work. With failing there are 500 others between them of which
// every call is refused with a code that is worth a further attempt.
func (b *runner) headOfLine(ctx context.Context, failing bool) (r readings, err error) {
	ctx, d, err := b.simulated(ctx, []string{"SIM_LATENCY=" + hotLatency.String()}, []string{fmt.Sprintf("SENDER_MAX_IN_FLIGHT=%d", hotSlots)})
	if err != nil {
		return nil, err
	}
	defer d.close(ctx, &err)
	n := max(b.n/2, hotKeys)
	healthy := &harness.Load{Total: n, Keys: hotKeys / 2}
	if failing {
		for key := range hotKeys / 2 {
			if err := d.system.Simulator().Fault(ctx, zalosim.Fault{Kind: zalosim.FaultCode, Code: hotCode, Phone: harness.Phone(hotPhones + key)}); err != nil {
				return nil, err
			}
		}
		// They come first: every one of them is in front of those that work.
		if _, err := d.send(ctx, &harness.Load{Seed: 1, Total: n, Keys: hotKeys / 2, Change: func(i int, m *notificationv1.NotificationRequested) {
			m.Recipient.Phone = harness.Phone(hotPhones + i%(hotKeys/2))
		}}); err != nil {
			return nil, err
		}
	}
	requests, err := d.send(ctx, healthy)
	if err != nil {
		return nil, err
	}
	w, err := newWatch(ctx, d.addrs(), requests)
	if err != nil {
		return nil, err
	}
	defer w.close()
	p, err := d.system.NewSender()
	if err != nil {
		return nil, err
	}
	if err := p.Start(); err != nil {
		return nil, err
	}
	end, err := w.wait(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w; end of the log of %s:\n%s", err, p.Name, p.LogTail(5))
	}
	calls, err := d.system.Simulator().Calls(ctx)
	if err != nil {
		return nil, err
	}
	if len(calls) != n {
		return nil, fmt.Errorf("%d messages were accepted, not %d", len(calls), n)
	}
	metrics, err := scrape(ctx, admin(p)+"/metrics")
	if err != nil {
		return nil, err
	}
	refused := 0.0
	for key, value := range metrics {
		if hasLabel(key, "znshub_sender_attempts_total", `outcome="rejected"`) {
			refused += value
		}
	}
	if failing != (refused > 0) {
		return nil, fmt.Errorf("%.0f calls were refused", refused)
	}
	return readings{"per_second": float64(n) / end.Sub(calls[0].Time).Seconds(), "refused": refused, "inversions": float64(inversions(calls, requests))}, nil
}
