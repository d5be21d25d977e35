package sender

import (
	"slices"
	"testing"
	"time"
)

// TestKafkaRateIsShared: two senders together keep to SENDER_RATE and use it, also when one of them is stopped and the
// other takes over its partitions.
func TestKafkaRateIsShared(t *testing.T) {
	t.Parallel()
	const rate = 40
	w := newWorld(t, 6, "SENDER_RATE=40")
	a, b := w.run("a"), w.run("b")
	w.eventually("both own partitions", 60*time.Second, func() bool {
		return a.ready() && b.ready() && len(a.Status().Partitions) == 3 && len(b.Status().Partitions) == 3
	})
	time.Sleep(7 * time.Second) // their shares count after the launch deadline
	start := time.Now()
	ids := w.many(800, nil)
	time.Sleep(12 * time.Second)
	half := len(w.provider.got(""))
	// At least a quarter: on a machine that is busy with other tests commits take seconds. TestVirtualPace has the rest.
	if most, least := 12*rate+2, 12*rate/4; half > most || half < least {
		t.Errorf("%d calls in 12 s by two senders at %d a second; limits %+v and %+v", half, rate, a.h.limits.State(time.Now(), 0), b.h.limits.State(time.Now(), 0))
	}
	b.stop()
	w.eventually("all sent", 120*time.Second, func() bool { return len(w.provider.got("")) >= len(ids) })
	w.wantAllSentOnce(ids, 20*time.Second)
	var at []time.Time
	for _, p := range w.provider.got("") {
		at = append(at, p.At)
	}
	slices.SortFunc(at, time.Time.Compare)
	// rate × W + owners in any window, by the time at which the provider saw them: that is late by what this machine
	// takes to get a call there, so windows of seconds are looked at.
	const owners, jitter = 2, 6
	for i := range at {
		for _, span := range []int{60, 200, 400} {
			if i < span {
				continue
			}
			allowed := rate*at[i].Sub(at[i-span]).Seconds() + owners + jitter
			if n := float64(span + 1); n > allowed {
				t.Fatalf("%.0f calls within %s, allowed %.1f", n, at[i].Sub(at[i-span]), allowed)
			}
		}
	}
	t.Logf("800 calls took %s, %d of them in the first 12 s", at[len(at)-1].Sub(start).Round(time.Second), half)
}
