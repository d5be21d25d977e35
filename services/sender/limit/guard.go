package limit

import (
	"math/rand/v2"
	"time"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
)

// guard decides how many calls a provider in trouble gets. There is one for the host and one for each OA.
//
// Its window is the number of calls at a time. It doubles with every round trip until the first sign of trouble, then
// grows by an eighth; trouble halves it, once in a round trip. A run of calls without an answer closes it: a gateway
// that answers 503 makes every call's outcome unknown. So does Zalo's word that it has had enough. While it is closed
// nothing starts; then one probe at a time, each after a longer pause, and after the first good answer the window
// begins with two.
type guard struct {
	host    bool // of all OAs: a run of one OA's alone says nothing about the others
	max     float64
	window  float64
	knee    float64   // below it the window doubles
	cut     time.Time // when it was last halved
	trouble float64   // share of answers that were none, smoothed

	inFlight int // taken, not ended

	fails   int    // in a row without an answer
	refused int    // in a row refused for coming too often
	oa      string // of the first of the run, for the host's guard
	mixed   bool   // the run has calls of several OAs

	reason ledgerv1.HoldReason // CIRCUIT or RATE; 0: open for calls
	since  time.Time
	until  time.Time
	pause  time.Duration
	probe  *Permit
}

const (
	firstWindow = 16
	breakAfter  = 5
	rateAfter   = 3
	firstPause  = time.Second
	maxPause    = 2 * time.Minute // each probe may be one more notification of which nobody knows
	maxObeyed   = time.Hour       // a header's mistake must not stop the queue for a day

	troubleShare = 0.5 // of calls without an answer, from which on the window shrinks: a single lost answer says nothing
	troubleAlpha = 1.0 / 16
)

func newGuard(limit int, first float64) guard {
	return guard{max: float64(limit), window: min(first, float64(limit)), knee: float64(limit)}
}

// closed tells whether nothing may start now, and until when.
func (g *guard) closed(now time.Time) (Hold, bool) {
	switch {
	case g.reason == 0:
		return Hold{}, false
	case now.Before(g.until):
		return Hold{g.reason, g.until}, true
	}
	return Hold{Reason: g.reason}, g.probe != nil // until the probe has ended
}

// good notes an answer of Zalo's own, whatever it says. opened: calls may start again.
func (g *guard) good(p *Permit) (opened bool) {
	if g.reason != 0 {
		if p.at.Before(g.since) {
			return false // a straggler from before
		}
		g.reason, g.pause, g.probe = 0, 0, nil
		g.knee = max(2, g.window)
		g.window = min(g.max, 2)
		g.fails, g.refused, g.trouble = 0, 0, 0
		return true
	}
	g.fails, g.refused = 0, 0
	g.trouble *= 1 - troubleAlpha
	if g.window < g.knee {
		g.window = min(g.max, g.window+1)
	} else {
		g.window = min(g.max, g.window+1.0/8)
	}
	return false
}

// bad notes a call that got no answer, or that did not get out. closed: nothing starts any more for a while.
func (g *guard) bad(p *Permit, now time.Time) (closed bool) {
	if g.fails == 0 {
		g.oa, g.mixed = p.flow.OA, false
	}
	g.mixed = g.mixed || g.oa != p.flow.OA
	g.fails++
	g.trouble += (1 - g.trouble) * troubleAlpha
	if g.trouble > troubleShare {
		g.halve(p, now)
	}
	if g.reason == 0 && g.fails >= breakAfter && (g.mixed || !g.host) || g.probe == p {
		return g.close(ledgerv1.HoldReason_HOLD_REASON_CIRCUIT, 0, now)
	}
	return false
}

// limited notes an answer that says: too many. after is how long it asked to wait, 0 when it did not say.
func (g *guard) limited(p *Permit, after time.Duration, now time.Time) (closed bool) {
	g.halve(p, now)
	g.refused++
	if after > 0 && (g.reason == 0 || g.probe == p) || g.reason == 0 && g.refused >= rateAfter || g.probe == p {
		return g.close(ledgerv1.HoldReason_HOLD_REASON_RATE, after, now)
	}
	return false
}

func (g *guard) halve(p *Permit, now time.Time) {
	if !p.at.After(g.cut) {
		return // it began before the last time, and says nothing about the window since
	}
	g.cut = now
	// Not half of what was allowed but never used.
	g.window = max(1, min(g.window, float64(g.inFlight))/2)
	g.knee = g.window
}

// close lets nothing start until after has passed, or the next longer pause.
func (g *guard) close(reason ledgerv1.HoldReason, after time.Duration, now time.Time) bool {
	longest := maxPause
	if reason == ledgerv1.HoldReason_HOLD_REASON_RATE {
		longest = time.Minute // what Zalo counts by
	}
	g.pause = min(max(2*g.pause, firstPause), longest)
	wait := spread(g.pause)
	if after > 0 {
		wait = min(max(after, g.pause), maxObeyed) + rand.N(g.pause/4+1) //nolint:gosec // G404: spreading load needs no secrecy
	}
	g.reason, g.since, g.until, g.probe = reason, now, now.Add(wait), nil
	g.fails, g.refused = 0, 0
	return true
}

// end says that p ended, or was not called after all.
func (g *guard) end(p *Permit) {
	g.inFlight--
	if g.probe == p {
		g.probe = nil
	}
}

// spread makes 0.8 to 1.2 of d, so that those who were refused together do not come back together.
func spread(d time.Duration) time.Duration {
	return d*8/10 + rand.N(d*4/10+1) //nolint:gosec // G404: spreading load needs no secrecy
}
