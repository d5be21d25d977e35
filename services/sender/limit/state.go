package limit

import (
	"maps"
	"slices"
	"strings"
	"time"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// State is what the limits hold back, for metrics and for people.
type State struct {
	Slots int // calls at a time, over all OAs
	OAs   []OAState
}

// OAState is the state of one OA.
type OAState struct {
	OA       string
	Window   int       // calls at a time
	InFlight int       // calls taken and not ended
	Pace     float64   // calls a second that this process may start; 0: no limit
	Accepted time.Time // the latest message that Zalo took; zero: none yet
	Closed   []Closing
	Quotas   []QuotaState
}

// Closing is one thing that holds requests back.
type Closing struct {
	Template string                  // empty: all of the OA's
	Category notificationv1.Category // UNSPECIFIED: all
	Cause    string
	Reason   ledgerv1.HoldReason
	Code     int
	Since    time.Time
	Until    time.Time // zero: until an event, or a probe
}

// NeedsPerson reports whether nothing but a person can mend it.
func (c Closing) NeedsPerson() bool { return needsPerson(c.Reason) }

// QuotaState is what is known about one quota.
type QuotaState struct {
	Template  string // empty: the OA's
	Month     bool   // promotions per month, else messages per day
	Total     int64  // 0: not told
	Left      int64
	Exhausted time.Time // the forecast; zero: not before its reset
}

// State returns what is known, of at most so many templates per OA.
func (l *Limits) State(now time.Time, templates int) State {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := State{Slots: int(l.host.window)}
	if l.host.reason != 0 {
		s.Slots = 0
	}
	for _, id := range slices.Sorted(maps.Keys(l.oas)) {
		o := l.oas[id]
		out := OAState{OA: id, Window: int(o.guard.window), InFlight: o.guard.inFlight, Pace: o.pace.rate * l.share.part(), Accepted: o.accepted}
		if l.tokens != nil && l.tokens[id] == 0 {
			out.Closed = append(out.Closed, Closing{Cause: "no_token", Reason: ledgerv1.HoldReason_HOLD_REASON_TOKEN})
		}
		for i, g := range []*guard{&l.host, &o.guard} {
			if g.reason != 0 {
				out.Closed = append(out.Closed, Closing{Cause: []string{"host_circuit", "circuit"}[i], Reason: g.reason, Since: g.since, Until: g.until})
			}
		}
		out.gates(o.gates, "")
		out.quota(l, &o.day, &o.arrivals, "", now)
		out.quota(l, &o.month, &o.promotions, "", now)
		known := slices.SortedFunc(maps.Values(o.templates), func(a, b *template) int { return strings.Compare(a.id, b.id) })
		for _, t := range known[:min(len(known), templates)] {
			out.gates(t.gates, t.id)
			out.quota(l, &t.day, &t.arrivals, t.id, now)
		}
		s.OAs = append(s.OAs, out)
	}
	return s
}

func (o *OAState) gates(gs gates, template string) {
	for _, g := range gs {
		o.Closed = append(o.Closed, Closing{template, g.category, g.kind.String(), g.reason, g.code, g.since, g.until})
	}
}

func (o *OAState) quota(l *Limits, q *quota, a *arrivals, template string, now time.Time) {
	if q.known {
		o.Quotas = append(o.Quotas, QuotaState{
			Template: template, Month: q.month, Total: q.total, Left: q.left(0, l.share.owned()), Exhausted: l.exhausted(q, a, 0, now),
		})
	}
}
