package limit

import (
	"slices"
	"time"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// Event says that something closed or opened, for the log.
type Event struct {
	OA       string // empty: the host
	Template string // empty: all of the OA's
	Category notificationv1.Category
	Cause    string
	Reason   ledgerv1.HoldReason
	Code     int       // Zalo's
	Until    time.Time // zero: until an event, or a probe
	Open     bool
}

// NeedsPerson reports whether nothing but a person can mend what closed.
func (e Event) NeedsPerson() bool { return !e.Open && needsPerson(e.Reason) }

// WholeOA reports whether all of an OA's requests are held, or go out again.
func (e Event) WholeOA() bool { return e.OA != "" && e.Template == "" && e.Category == 0 }

func needsPerson(r ledgerv1.HoldReason) bool {
	switch r {
	case ledgerv1.HoldReason_HOLD_REASON_TOKEN, ledgerv1.HoldReason_HOLD_REASON_ACCOUNT, ledgerv1.HoldReason_HOLD_REASON_OPERATOR:
		return true
	}
	return false
}

// maxEvents bounds those that nobody has taken.
const maxEvents = 1000

func (l *Limits) event(e Event) {
	if len(l.events) < maxEvents {
		l.events = append(l.events, e)
	}
}

// Events takes what has closed and opened since the last time.
func (l *Limits) Events() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	events := l.events
	l.events = nil
	return events
}

// close closes a gate and tells about it, once.
func (l *Limits) close(oaID, templateID string, gs *gates, k kind, c notificationv1.Category, code int, until, now time.Time, p *Permit) {
	known := gs.find(k, c) != nil
	g := l.shut(gs, k, c, code, until, now, p)
	if !known {
		l.event(Event{OA: oaID, Template: templateID, Category: c, Cause: k.String(), Reason: g.reason, Code: code, Until: until})
	}
}

// opened returns what tells that a gate is open.
func (l *Limits) opened(oaID, templateID string) func(*gate) {
	return func(g *gate) {
		l.version.Add(1)
		l.event(Event{OA: oaID, Template: templateID, Category: g.category, Cause: g.kind.String(), Reason: g.reason, Open: true})
	}
}

func (l *Limits) remove(gs *gates, g *gate) {
	*gs = slices.DeleteFunc(*gs, func(x *gate) bool { return x == g })
}
