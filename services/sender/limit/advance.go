package limit

import (
	"slices"
	"time"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// sweepEvery is how often what nobody uses any more is forgotten, and forecasts are made.
const (
	sweepEvery = time.Minute
	idleAfter  = 2 * time.Hour
)

// Advance does what is due: quotas begin anew, gates open or let a probe through, gained partitions begin to count.
// Version has changed afterwards where some flow may be concerned. Call it in every tick, and again at next (zero:
// nothing is to come by time).
func (l *Limits) Advance(now time.Time) (next time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.wake.IsZero() && l.wake.After(now) && now.Sub(l.swept) < sweepEvery {
		return l.wake
	}
	if l.share.ripe(now) {
		l.settle(now)
	}
	a := advance{l: l, now: now}
	for _, g := range l.share.gained {
		a.see(g.at)
	}
	for c := notificationv1.Category_CATEGORY_OTP; c <= notificationv1.Category_CATEGORY_PROMOTION; c++ {
		a.hours(l.cfg.Hours[c])
	}
	a.guard(&l.host)
	sweep := now.Sub(l.swept) >= sweepEvery
	if sweep {
		l.swept = now
	}
	a.see(l.swept.Add(sweepEvery))
	for id, o := range l.oas {
		a.guard(&o.guard)
		a.gates(&o.gates, o.id, "")
		a.quota(&o.day, l.cfg.Reserve)
		a.quota(&o.month, 0)
		for id, t := range o.templates {
			a.gates(&t.gates, o.id, t.id)
			a.quota(&t.day, 0)
			if sweep && t.inFlight == 0 && len(t.gates) == 0 && !t.day.known {
				delete(o.templates, id)
				l.templates--
			}
		}
		if sweep && o.idle(now) {
			delete(l.oas, id)
		}
	}
	l.wake = a.next
	if a.news {
		l.version++
	}
	return l.wake
}

// idle reports whether nothing would be forgotten with o.
func (o *oa) idle(now time.Time) bool {
	return o.guard.inFlight == 0 && o.guard.reason == 0 && len(o.gates) == 0 && len(o.templates) == 0 &&
		!o.day.known && !o.month.known && now.Sub(o.used) > idleAfter
}

// advance is one pass over everything that changes by time.
type advance struct {
	l    *Limits
	now  time.Time
	next time.Time
	news bool
}

// see notes a moment at which to look again.
func (a *advance) see(at time.Time) {
	if at.After(a.now) && (a.next.IsZero() || at.Before(a.next)) {
		a.next = at
	}
}

// steps are the moments after a common one at which flows come back one by one.
func (a *advance) steps(from time.Time) {
	if from.IsZero() {
		return
	}
	a.see(from)
	step := a.l.cfg.Spread / spreadSteps
	past := a.now.Sub(from)
	if past < 0 || past > a.l.cfg.Spread+2*step {
		return
	}
	a.news = true
	if step > 0 {
		a.see(from.Add((past/step + 1) * step))
	}
}

func (a *advance) hours(h Hours) {
	if h == (Hours{}) {
		return
	}
	a.see(h.opens(a.now))
	if opened, open := h.opened(a.now); open {
		a.see(h.closes(a.now))
		a.steps(opened)
	} else if a.now.Sub(opened.Add(h.length())) < sweepEvery {
		a.news = true // just closed
	}
}

func (a *advance) guard(g *guard) {
	if g.reason == 0 {
		return
	}
	a.see(g.until)
	if !g.told && !g.until.After(a.now) {
		g.told, a.news = true, true
	}
}

func (a *advance) gates(gs *gates, oaID, templateID string) {
	if len(*gs) == 0 {
		return
	}
	*gs = slices.DeleteFunc(*gs, func(g *gate) bool {
		if !g.until.IsZero() && !g.until.Add(a.l.cfg.Spread).After(a.now) && g.probe == nil {
			a.l.opened(oaID, templateID)(g)
			return true
		}
		a.steps(g.until)
		if !g.probeAt.IsZero() {
			a.see(g.probeAt)
			if !g.told && !g.probeAt.After(a.now) {
				g.told, a.news = true, true
			}
		}
		if !g.until.IsZero() {
			a.see(g.until.Add(a.l.cfg.Spread))
		}
		return false
	})
}

func (a *advance) quota(q *quota, reserve float64) {
	if q.roll(a.now, reserve) {
		a.news = true
	}
	if q.known {
		a.see(q.resets)
		a.steps(q.reset)
	}
}
