package sender

import (
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/zalo"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// minResolve is how long an unknown one waits for its callback at the least. It must be longer than any call of an
// earlier owner can still run: launch deadline and request timeout.
const minResolve = 15 * time.Second

// settleIn is how long an owner must have been at work before a policy acts, except for OTPs: after an outage of Kafka
// callbacks still sit in the spool of webhook-ingest.
const settleIn = 60 * time.Second

// becomeUnknown moves e to UNKNOWN. The caller writes it. A wall clock that is wrong must not make windows that are over
// before they begin, or that never end: nothing is unknown before its call, and while the clock is not trusted it counts
// from when the call was over for certain.
func (h *handler) becomeUnknown(e *entry, cause znsv1.UnknownCause, code, duration int32, now int64) {
	intent := e.open[len(e.open)-1].intent
	if now = max(now, intent); !h.clock.trusted() {
		now = min(now, intent+minResolve.Milliseconds())
	}
	e.state, e.reason, e.until = stateUnknown, 0, 0
	e.unknownSince, e.cause, e.unresolved = now, cause, false
	e.decideAt = 0
	switch e.policy {
	case znsv1.UnknownPolicy_UNKNOWN_POLICY_HOLD:
		e.decideBy = max(e.expire, now+minResolve.Milliseconds())
	default:
		e.decideBy = now + e.window
	}
	e.history.add(&ledgerv1.Step{
		TimeMs: now, Kind: ledgerv1.StepKind_STEP_KIND_UNKNOWN, Attempt: e.attempt, Cause: int32(cause), Code: code,
		DurationMs: duration, UntilMs: e.decideBy,
	})
}

// tellUnknown says that e is unknown, once that is committed, and sees to it that its callback will be found.
func (h *handler) tellUnknown(u unit, e *entry) {
	cause, decideBy, oldest := e.cause, e.decideBy, e.open[0].intent // a callback may settle e before the commit
	u.OnCommit(func() {
		h.metrics.unknown(cause)
		h.log.Warn("outcome unknown", "notification_id", e.id, "attempt", e.attempt, "cause", cause.String(),
			"policy", e.policy.String(), "decide_by", fromMs(decideBy))
		h.callbacks.need(fromMs(oldest), false)
	})
}

// due does what e's timer was set for. False: the transaction takes no more.
func (h *handler) due(tx tick, e *entry, now int64) bool {
	p := e.p
	switch e.state {
	case stateAccepted, stateHeld:
		if now <= e.expire {
			p.place(e, now) // its wait is over
			return true
		}
		u := tx.Unit(p.id, e.id.String())
		if u == nil {
			return false
		}
		h.fail(u, e, failure{
			reason: znsv1.FailureReason_FAILURE_REASON_EXPIRED, code: e.code, class: h.classOf(e), advice: znsv1.Advice_ADVICE_TRY_OTHER_CHANNEL,
		})
	case stateUnknown:
		return h.dueUnknown(tx, e, now)
	case stateFailed:
		u := tx.Unit(p.id, e.id.String())
		if u == nil {
			return false
		}
		// The watch is over: the request leaves the ledger.
		h.update(u, e, func() { e.open = nil })
	default:
		p.setTimer(e.ref, p.at(e.ref), 0)
	}
	return true
}

// classOf returns the class of the last refusal, so that an expiry tells why there was no success before.
func (h *handler) classOf(e *entry) znsv1.ErrorClass {
	if e.code == 0 {
		return znsv1.ErrorClass_ERROR_CLASS_UNSPECIFIED
	}
	return zalo.LookupCode(zalo.HostBusiness, int(e.code)).Class.Proto()
}

func (h *handler) dueUnknown(tx tick, e *entry, now int64) bool {
	p := e.p
	decided := now >= e.decideBy && h.mayDecide(e, now)
	publish := !e.unresolved && now >= e.unknownSince+h.rules.unresolvedAfter
	if !decided && !publish {
		if now >= e.decideBy {
			e.decideAt = now + 500
		}
		p.place(e, now) // those behind it may go on, or it is asked again soon
		return true
	}
	u := tx.Unit(p.id, e.id.String())
	if u == nil {
		return false
	}
	if publish {
		h.update(u, e, func() {
			e.unresolved = true
			e.history.add(&ledgerv1.Step{TimeMs: now, Kind: ledgerv1.StepKind_STEP_KIND_UNRESOLVED_PUBLISHED, Attempt: e.attempt})
		})
		h.publishUnresolved(u, e)
		u.OnCommit(h.metrics.unresolved.Inc)
		return true
	}
	f := failure{reason: znsv1.FailureReason_FAILURE_REASON_UNRESOLVED, code: e.code, advice: znsv1.Advice_ADVICE_TRY_OTHER_CHANNEL}
	switch cancel := h.calledBack(e, u.Now()); {
	case e.policy != znsv1.UnknownPolicy_UNKNOWN_POLICY_RESEND || now > e.expire:
	case e.superseded:
		f.advice = znsv1.Advice_ADVICE_UNSPECIFIED
	case cancel != nil:
		f.advice, f.before = znsv1.Advice_ADVICE_ASK_OPERATOR, func() { e.history.add(stepOf(cancel, now)) }
	default:
		h.update(u, e, e.sendAgain)
		u.OnCommit(func() {
			h.metrics.resent.Inc()
			h.log.Warn("sending again: the outcome stayed unknown and the policy says RESEND", "notification_id", e.id, "attempt", e.attempt)
		})
		return true
	}
	h.fail(u, e, f)
	return true
}

// mayDecide reports whether the callback that would settle e could have been seen: the reader has passed what was
// there when the window ended, and this owner has been at work long enough, with a clock that tells how long.
func (h *handler) mayDecide(e *entry, now int64) bool {
	if passed := h.callbacks.passed(); passed < e.decideBy || passed > now {
		return false // later than now: the clock was ahead when it looked
	}
	e.p.upSince = min(e.p.upSince, now) // the clock was ahead
	return e.category == notificationv1.Category_CATEGORY_OTP ||
		now-max(e.p.upSince, h.callbacks.healthySince(), h.clock.rightSince()) >= settleIn.Milliseconds()
}

// heardCallback is a signed callback that carries one of our tracking_ids.
type heardCallback struct {
	id         uuid.UUID
	trackingID string
	msgID      string
}

// heard takes the callbacks that the reconciler found.
func (h *handler) heard(tx tick) (again bool) {
	var aside []*heardCallback
	defer func() {
		for _, c := range aside {
			h.callbacks.unfind(c)
		}
	}()
	for {
		c := h.callbacks.found()
		if c == nil {
			return false
		}
		p, r := h.lookup(c.id)
		if p == nil || p.at(r).has(flagLame) {
			continue
		}
		e := p.entries[r]
		if e == nil {
			h.load(p, r, loadUrgent)
			aside = append(aside, c)
			continue
		}
		if !e.isOpen(c.trackingID) {
			continue
		}
		if e.state == stateSending {
			e.heard = c // its answer is still to come; should that be lost, this settles it
			continue
		}
		if tx.Closing(e.p.id) {
			continue // the next owner reads from before the attempt
		}
		var u unit
		if !tx.Full() {
			u = tx.Unit(e.p.id, e.id.String())
		}
		if u == nil {
			h.callbacks.unfind(c)
			return true
		}
		u.OnAbort(func() { h.callbacks.unfind(c) })
		h.settle(u, e, c)
	}
}

func (e *entry) isOpen(trackingID string) bool {
	for i := range e.open {
		if e.open[i].trackingID == trackingID {
			return true
		}
	}
	return false
}

// settle ends e as SENT because a callback proves it.
func (h *handler) settle(u unit, e *entry, c *heardCallback) {
	f := sentFacts{
		source: znsv1.OutcomeSource_OUTCOME_SOURCE_CALLBACK, step: ledgerv1.StepKind_STEP_KIND_CALLBACK, msgID: c.msgID,
		corrects: e.state == stateFailed,
	}
	for _, a := range e.open {
		if a.trackingID == c.trackingID {
			f.attempt = attemptResult{openAttempt: a, outcome: znsv1.AttemptOutcome_ATTEMPT_OUTCOME_ACCEPTED}
		}
	}
	h.sent(u, e, f)
	since := e.unknownSince
	u.OnCommit(func() {
		h.log.Info("settled by a signed callback", "notification_id", e.id, "attempt", f.attempt.number, "corrects", f.corrects,
			"unknown_ms", ms(u.Now())-since)
	})
}
