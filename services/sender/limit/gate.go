package limit

import (
	"hash/maphash"
	"slices"
	"time"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// kind is what closed a gate.
type kind uint8

const (
	kindToken    kind = iota + 1 // Zalo refuses the OA's access token
	kindAccount                  // the OA may not send, or has no money
	kindContent                  // the OA may not send this category
	kindConfig                   // the settings of the app or of this program are at fault
	kindUnlisted                 // codes that are in no table, several in a row
	kindReview                   // the template is not approved
	kindDay                      // messages per day, of the OA or of the template
	kindMonth                    // promotions per month
	kindHours                    // Zalo said: not at this hour
	kindSeed                     // an earlier owner held it; one call will tell why
)

var kindNames = [...]string{"", "token", "account", "content", "config", "unlisted_code", "template_review", "daily_quota", "monthly_quota", "hours", "restored"}

func (k kind) String() string { return kindNames[k] }

var kindReasons = [...]ledgerv1.HoldReason{
	kindToken: ledgerv1.HoldReason_HOLD_REASON_TOKEN, kindAccount: ledgerv1.HoldReason_HOLD_REASON_ACCOUNT,
	kindContent: ledgerv1.HoldReason_HOLD_REASON_ACCOUNT, kindConfig: ledgerv1.HoldReason_HOLD_REASON_OPERATOR,
	kindUnlisted: ledgerv1.HoldReason_HOLD_REASON_OPERATOR, kindReview: ledgerv1.HoldReason_HOLD_REASON_TEMPLATE_REVIEW,
	kindDay: ledgerv1.HoldReason_HOLD_REASON_QUOTA, kindMonth: ledgerv1.HoldReason_HOLD_REASON_QUOTA,
	kindHours: ledgerv1.HoldReason_HOLD_REASON_HOURS,
	kindSeed:  ledgerv1.HoldReason_HOLD_REASON_UNSPECIFIED, // Seed says it
}

// probing is how long after its closing a gate lets one call through to see whether it is still closed, and the
// longest such pause; they double. Zalo tells nobody that a wallet was filled or a quota raised, and a refused call
// costs nothing. A kind without a pause waits for its event, or for a person.
var probing = [...]struct{ first, most time.Duration }{
	kindToken:    {time.Hour, 4 * time.Hour}, // in case that it was Zalo's own mistake
	kindAccount:  {15 * time.Minute, time.Hour},
	kindContent:  {time.Hour, 4 * time.Hour},
	kindConfig:   {15 * time.Minute, time.Hour},
	kindUnlisted: {},
	kindReview:   {30 * time.Minute, 2 * time.Hour},
	kindDay:      {time.Hour, 2 * time.Hour},
	kindMonth:    {6 * time.Hour, day},
	kindHours:    {},
	kindSeed:     {time.Second, time.Minute},
}

// unsure is when to probe again after a probe that told nothing.
const unsure = 5 * time.Second

// gate is closed. An open one does not exist.
type gate struct {
	kind     kind
	reason   ledgerv1.HoldReason
	category notificationv1.Category // UNSPECIFIED: all
	code     int
	since    time.Time
	until    time.Time     // opens by itself; zero: not by time
	probeAt  time.Time     // one call may go; zero: none
	pause    time.Duration // the present one between probes
	probe    *Permit       // the call that looks
	told     bool          // that probeAt has come
}

// gates are the closed ones of an OA or of a template. There are few.
type gates []*gate

func (gs gates) find(k kind, c notificationv1.Category) *gate {
	for _, g := range gs {
		if g.kind == k && g.category == c {
			return g
		}
	}
	return nil
}

func (gs gates) of(c notificationv1.Category) func(yield func(*gate) bool) {
	return func(yield func(*gate) bool) {
		for _, g := range gs {
			if (g.category == 0 || g.category == c) && !yield(g) {
				return
			}
		}
	}
}

// closed tells whether the gate lets nothing of f through now.
func (l *Limits) closedBy(g *gate, f Flow, now time.Time) (Hold, bool) {
	hold := Hold{Reason: g.reason, Until: g.until}
	if !g.until.IsZero() {
		hold.Until = g.until.Add(l.jitter(f))
		if !hold.Until.After(now) {
			return Hold{}, false
		}
	}
	if g.probe != nil || g.probeAt.IsZero() || g.probeAt.After(now) {
		return hold, true
	}
	return Hold{}, false // half-open: Take lets one through
}

// shut closes a gate, or keeps it closed after a probe found it so.
func (l *Limits) shut(gs *gates, k kind, c notificationv1.Category, code int, until, now time.Time, p *Permit) *gate {
	g := gs.find(k, c)
	found := g != nil
	switch {
	case !found:
		g = &gate{kind: k, reason: kindReasons[k], category: c, since: now, code: code}
		*gs = append(*gs, g)
	case g.probe != nil && g.probe != p || p != nil && g.probe == nil && p.at.Before(g.since):
		return g // a straggler of those that were under way when it closed
	}
	g.code, g.until, g.told, g.probe = code, until, false, nil
	if first := probing[k].first; first > 0 {
		g.pause = min(max(2*g.pause, first), probing[k].most)
		g.probeAt = now.Add(spread(g.pause))
	}
	l.changed(g.probeAt, until)
	return g
}

// openAll opens the gates that a message of the category has just passed. It reports those that were closed.
func (l *Limits) openAll(gs *gates, c notificationv1.Category, p *Permit, opened func(*gate)) {
	if len(*gs) == 0 {
		return
	}
	*gs = slices.DeleteFunc(*gs, func(g *gate) bool {
		if g.category != 0 && g.category != c || g.probe != p && p.at.Before(g.since) {
			return false // of those under way when it closed
		}
		opened(g)
		return true
	})
}

// spreadSteps divides the time over which flows come back after a night or a reset, so that they come one by one.
const spreadSteps = 20

// jitter is how long after the common moment a flow comes back. What somebody waits for comes at once.
func (l *Limits) jitter(f Flow) time.Duration {
	if f.Category <= notificationv1.Category_CATEGORY_TRANSACTION || l.cfg.Spread == 0 {
		return 0
	}
	return time.Duration(maphash.Comparable(l.seed, f)%spreadSteps) * (l.cfg.Spread / spreadSteps)
}
