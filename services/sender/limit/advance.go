package limit

import (
	"slices"
	"time"
)

// sweepEvery is how often what nobody uses any more is forgotten.
const (
	sweepEvery = time.Minute
	idleAfter  = 2 * time.Hour
)

// Advance does what is due: gates let a probe through, gained partitions begin to count, quotas begin anew, what is idle
// is forgotten. Version has changed afterwards where some flow may have opened that Closed did not tell the time of.
// Call it in every tick, and again at next; zero: nothing is to come by time.
func (l *Limits) Advance(now time.Time) (next time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sweep := now.Sub(l.swept) >= sweepEvery
	if !sweep && (l.wake.IsZero() || l.wake.After(now)) {
		return l.wake
	}
	a := advance{l: l, now: now}
	if l.paced() {
		if l.share.ripe(now) {
			l.settle(now)
			a.news = true
		}
		for _, g := range l.share.gained {
			a.see(g.at)
		}
	}
	if sweep {
		l.swept = now
	}
	for id, o := range l.oas {
		a.gates(&o.gates, o.id, "")
		a.quota(&o.day, l.cfg.Reserve)
		a.quota(&o.month, 0)
		for id, t := range o.templates {
			a.gates(&t.gates, o.id, t.id)
			a.quota(&t.day, 0)
			if sweep && t.inFlight == 0 && len(t.gates) == 0 && !t.day.known && t.unlisted == 0 {
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
		l.version.Add(1)
	}
	return l.wake
}

// paced reports whether anything has a pace.
func (l *Limits) paced() bool { return l.cfg.Rate > 0 || len(l.cfg.Rates) > 0 || l.cfg.HostRate > 0 }

// idle reports whether nothing would be forgotten with o.
func (o *oa) idle(now time.Time) bool {
	return o.guard.inFlight == 0 && o.guard.reason == 0 && len(o.gates) == 0 && len(o.templates) == 0 &&
		!o.day.known && !o.month.known && o.arrivals.told.Exhausted.IsZero() && now.Sub(o.used) > idleAfter
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

func (a *advance) gates(gs *gates, oaID, templateID string) {
	if len(*gs) == 0 {
		return
	}
	*gs = slices.DeleteFunc(*gs, func(g *gate) bool {
		if !g.until.IsZero() {
			gone := g.until.Add(a.l.cfg.Spread)
			if !gone.After(a.now) && g.probe == nil {
				a.l.opened(oaID, templateID)(g)
				return true
			}
			a.see(gone)
		}
		if !g.probeAt.IsZero() && g.probe == nil {
			a.see(g.probeAt)
			if !g.told && !g.probeAt.After(a.now) {
				g.told, a.news = true, true
			}
		}
		return false
	})
}

func (a *advance) quota(q *quota, reserve float64) {
	if q.roll(a.now, reserve) {
		a.news = true
	}
}
