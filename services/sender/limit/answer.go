package limit

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/znshub/znshub/pkg/zalo"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// Answered ends p with what its call brought, and learns from it. Ask Closed what that means for the flow, and [Own]
// for the notification itself.
func (p *Permit) Answered(now time.Time, r *zalo.Result) {
	if p == nil {
		return
	}
	l := p.l
	l.mu.Lock()
	defer l.mu.Unlock()
	looked := p.looked()
	if !p.ended {
		l.guards(p, r, now)
	}
	if !p.end() {
		return
	}
	l.learn(p, r, now)
	for _, g := range looked {
		if g.probe == nil && !g.probeAt.After(now) {
			// The probe told nothing about this gate, or it is gone.
			g.probeAt, g.told = now.Add(unsure), false
			l.changed(g.probeAt)
		}
	}
}

// looked are the gates that let only p through.
func (p *Permit) looked() (out []*gate) {
	if !p.probe {
		return nil
	}
	for _, gs := range p.gates() {
		for _, g := range *gs {
			if g.probe == p {
				out = append(out, g)
			}
		}
	}
	return out
}

// guards tells those of the host and of the OA whether there was an answer.
func (l *Limits) guards(p *Permit, r *zalo.Result, now time.Time) {
	o := &p.oa.guard
	switch {
	case isLimited(r):
		if o.limited(p, r.RetryAfter, now) {
			l.closedGuard(p.oa.id, o)
		}
		if r.Code == 0 {
			l.host.halve(p, now) // the gateway's own refusal
		}
		l.answers(&l.host, "", p)
	case r.Outcome == zalo.Accepted, r.Outcome == zalo.Rejected, r.Outcome == zalo.Unknown && r.Cause == zalo.CauseAmbiguousCode:
		l.answers(&l.host, "", p)
		l.answers(o, p.oa.id, p)
		if r.RateLimit != nil && r.RateLimit.Remaining <= 0 && o.reason == 0 {
			// Calls per minute; which minute, Zalo does not say.
			o.close(ledgerv1.HoldReason_HOLD_REASON_RATE, time.Minute-time.Duration(now.UnixNano()%int64(time.Minute)), now)
			l.closedGuard(p.oa.id, o)
		}
	case r.Outcome == zalo.NotSent && (r.Hold || errors.Is(r.Err, zalo.ErrLate)):
		// A missing token or a machine that was stopped says nothing about the provider.
	default:
		if l.host.bad(p, now) {
			l.closedGuard("", &l.host)
			for _, other := range l.oas {
				other.guard.fails = 0 // it was not the OA's own trouble
			}
		}
		if l.host.reason == 0 && o.bad(p, now) {
			l.closedGuard(p.oa.id, o)
		}
	}
}

// isLimited reports whether Zalo refused a call because there were too many.
func isLimited(r *zalo.Result) bool {
	return r.Outcome == zalo.Rejected && (r.Code == rateCode || r.Hold && r.HoldReason == zalo.HoldRate)
}

// rateCode is Zalo's "reached limit call api".
const rateCode = -32

func (l *Limits) answers(g *guard, oaID string, p *Permit) {
	if g.good(p) {
		l.changed()
		l.event(Event{OA: oaID, Cause: "circuit", Open: true})
	}
}

func (l *Limits) closedGuard(oaID string, g *guard) {
	l.changed(g.until)
	l.event(Event{OA: oaID, Cause: "circuit", Reason: g.reason, Until: g.until})
}

// learn draws from an answer what it says about the flow. mu is held.
func (l *Limits) learn(p *Permit, r *zalo.Result, now time.Time) {
	o, f := p.oa, p.flow
	t := o.templates[f.Template]
	if r.Code != 0 && r.Class != zalo.ClassToken {
		l.openToken(o, p) // Zalo looked at more than the token
	}
	switch {
	case r.Outcome == zalo.Accepted:
		l.accepted(p, t, r, now)
	case !r.Hold:
		if t != nil {
			t.unlisted = 0
		}
	default:
		if t != nil {
			if g := t.gates.find(kindSeed, f.Category); g != nil {
				l.remove(&t.gates, g) // now it is known why
				if g.reason == ledgerv1.HoldReason_HOLD_REASON_OPERATOR {
					t.unlisted = unlistedAfter - 1 // should it be for that, an earlier owner had seen the others
				}
			}
		}
		l.held(p, r, now)
	}
}

func (l *Limits) openToken(o *oa, p *Permit) {
	if g := o.gates.find(kindToken, 0); g != nil && !p.at.Before(g.since) {
		l.remove(&o.gates, g)
		l.opened(o.id, "")(g)
	}
}

// accepted opens every gate that the message passed, and takes what Zalo says about the quota.
func (l *Limits) accepted(p *Permit, t *template, r *zalo.Result, now time.Time) {
	o, f := p.oa, p.flow
	o.accepted = wall(now)
	l.openAll(&o.gates, f.Category, p, l.opened(o.id, ""))
	if t != nil {
		t.unlisted = 0
		l.openAll(&t.gates, f.Category, p, l.opened(o.id, t.id))
		if t.day.known {
			t.day.used++
		}
	}
	if o.month.known && f.Category == notificationv1.Category_CATEGORY_PROMOTION {
		o.month.used++
	}
	if r.Quota != nil {
		l.word(o, nil, &o.day, kindDay, Word{r.Quota.Daily, r.Quota.Remaining, r.SentTime}, now)
	} else if o.day.known {
		o.day.used++
	}
}

// held closes what the refusal says is closed. What it says about this one message alone is for Own.
func (l *Limits) held(p *Permit, r *zalo.Result, now time.Time) {
	o, f := p.oa, p.flow
	templates := func(k kind, until time.Time) {
		if t := l.template(o, f.Template); t != nil {
			l.close(o.id, t.id, &t.gates, k, 0, r.Code, until, now, p)
		}
	}
	whole := func(k kind, c notificationv1.Category, until time.Time) {
		l.close(o.id, "", &o.gates, k, c, r.Code, until, now, p)
	}
	switch {
	case r.HoldReason == zalo.HoldToken:
		if l.tokens == nil || l.tokens[f.OA] == p.token {
			whole(kindToken, 0, time.Time{})
		}
	case r.HoldReason == zalo.HoldAccount && r.Scope == scopeCategory:
		whole(kindContent, f.Category, time.Time{})
	case r.HoldReason == zalo.HoldAccount:
		whole(kindAccount, 0, time.Time{})
	case r.HoldReason == zalo.HoldQuota && r.Scope == scopeOA:
		whole(kindDay, 0, midnight(now))
	case r.HoldReason == zalo.HoldQuota && r.Scope == scopeTemplate:
		templates(kindDay, midnight(now))
	case r.HoldReason == zalo.HoldQuota && r.Scope == scopePromotion:
		whole(kindMonth, notificationv1.Category_CATEGORY_PROMOTION, monthEnd(now))
	case r.HoldReason == zalo.HoldHours:
		templates(kindHours, l.morning(now))
	case r.HoldReason == zalo.HoldTemplateReview:
		templates(kindReview, time.Time{})
	case r.HoldReason == zalo.HoldOperator && (r.Scope == scopeOA || r.Scope == scopeApp):
		whole(kindConfig, 0, time.Time{})
	case r.HoldReason == zalo.HoldOperator:
		if t := l.template(o, f.Template); t != nil {
			if t.unlisted++; t.unlisted >= unlistedAfter {
				templates(kindUnlisted, time.Time{})
			}
		}
	}
}

// The scopes of a refusal, as pkg/zalo's table names them.
const (
	scopeOA        = "oa"
	scopeApp       = "app"
	scopeTemplate  = "template"
	scopePromotion = "promotion"
	scopeCategory  = "category"
)

// unlistedAfter is how many messages of a template in a row may end with a code that nobody can read before the rest
// of them waits for a person: each might have cost money.
const unlistedAfter = 3

// morning is until when Zalo's word that it is night holds. In the middle of the day it is taken for a difference
// between clocks, or for hours that nobody told, and asked again soon.
func (l *Limits) morning(now time.Time) time.Time {
	h := l.cfg.Hours[notificationv1.Category_CATEGORY_PROMOTION]
	if h == (Hours{}) {
		h = usualHours
	}
	if _, open := h.opened(now); open {
		return wall(now).Add(soonAgain)
	}
	return h.opens(now)
}

// usualHours are those at which Zalo takes promotions.
var usualHours = Hours{6 * time.Hour, 22 * time.Hour}

const soonAgain = 10 * time.Minute

// word takes what Zalo said about a quota, and opens or closes its gate by it. mu is held.
func (l *Limits) word(o *oa, t *template, q *quota, k kind, w Word, now time.Time) {
	q.roll(now, l.cfg.Reserve)
	news, raised := q.learn(w, now)
	if !news {
		return
	}
	l.changed(q.resets)
	gs, id, c := &o.gates, "", notificationv1.Category_CATEGORY_UNSPECIFIED
	if t != nil {
		gs, id = &t.gates, t.id
	}
	if q.month {
		c = notificationv1.Category_CATEGORY_PROMOTION
	}
	g := gs.find(k, c)
	switch {
	case w.Remaining == nil && g != nil && raised:
		g.probeAt, g.told = now, false // what is left now, a call will tell
		l.changed(now)
	case w.Remaining == nil:
	case *w.Remaining <= 0 && g == nil:
		l.close(o.id, id, gs, k, c, 0, q.resets, now, nil)
	case *w.Remaining > 0 && g != nil && w.At.After(g.since):
		l.remove(gs, g)
		l.opened(o.id, id)(g)
	}
}

// Own is why, and until when, a notification waits after the given answer for its own sake, whatever its flow does;
// retries is how often in a row it was refused before. A zero Reason: it has no hold of its own.
func Own(now time.Time, r *zalo.Result, retries int32) Hold {
	again := func(reason ledgerv1.HoldReason, wait time.Duration) Hold {
		return Hold{reason, now.Add(max(wait, r.RetryAfter))}
	}
	switch {
	case r.Outcome == zalo.NotSent && errors.Is(r.Err, zalo.ErrLate):
		return Hold{ledgerv1.HoldReason_HOLD_REASON_RETRY, now}
	case r.Outcome == zalo.NotSent && !r.Hold:
		return again(ledgerv1.HoldReason_HOLD_REASON_RETRY, backoff(notSentBase, notSentMax, retries))
	case isLimited(r):
		return again(ledgerv1.HoldReason_HOLD_REASON_RATE, backoff(retryBase, retryMax, retries))
	case !r.Hold:
		return again(ledgerv1.HoldReason_HOLD_REASON_RETRY, backoff(retryBase, retryMax, retries))
	case r.HoldReason == zalo.HoldOperator && r.Scope != scopeOA && r.Scope != scopeApp:
		return Hold{Reason: ledgerv1.HoldReason_HOLD_REASON_OPERATOR}
	case r.HoldReason == zalo.HoldQuota && r.Scope != scopeOA && r.Scope != scopeTemplate && r.Scope != scopePromotion:
		reset := midnight(now)
		if r.Period == "month" {
			reset = monthEnd(now)
		}
		return Hold{ledgerv1.HoldReason_HOLD_REASON_QUOTA, reset.Add(rand.N(ownSpread))} //nolint:gosec // G404: spreading load needs no secrecy
	}
	return Hold{}
}

// Waits before a notification that was refused for a while, or that did not get out, is tried again.
const (
	notSentBase = 500 * time.Millisecond
	notSentMax  = 30 * time.Second
	retryBase   = time.Second
	retryMax    = 5 * time.Minute
	ownSpread   = 30 * time.Minute
)

// Backoff is how long a notification waits that its flow does not hold back any more, though its answer did.
func Backoff(retries int32) time.Duration { return backoff(retryBase, retryMax, retries) }

// backoff doubles from base to limit.
func backoff(base, limit time.Duration, retries int32) time.Duration {
	return spread(min(base<<min(retries, 20), limit))
}
