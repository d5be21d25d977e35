package sender

import (
	"cmp"
	"slices"
	"time"

	"github.com/znshub/znshub/pkg/zalo"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

// maxResults is how many attempts an entry tells of.
const maxResults = 16

func (e *entry) addResult(r attemptResult) {
	if len(e.results) >= maxResults {
		e.results = slices.Clone(e.results[len(e.results)-maxResults+1:])
	}
	e.results = append(e.results, r)
}

// outcomes writes what the finished calls brought.
func (h *handler) outcomes(tx tick) (again bool) {
	var aside []*call
	defer func() {
		for _, c := range slices.Backward(aside) {
			h.dispatch.unfinish(c)
		}
	}()
	for {
		c := h.dispatch.finished()
		if c == nil {
			return false
		}
		if c.p.dropped.Load() {
			continue // its partition went to another owner, who has it as UNKNOWN
		}
		if !tx.Owns(c.p.id) {
			aside = append(aside, c) // a stopped partition holds up nobody else's outcomes
			continue
		}
		var u unit
		if !tx.Full() {
			u = tx.Unit(c.p.id, c.e.id.String())
		}
		if u == nil {
			h.dispatch.unfinish(c)
			return true
		}
		c.p.ended.Add(-1)
		u.OnAbort(func() {
			c.p.ended.Add(1)
			h.dispatch.unfinish(c)
		})
		u.OnCommit(func() { h.clock.committed(c.p.id, u.Now()) })
		h.outcome(u, c)
	}
}

// outcome moves c's entry to where its call's result says.
func (h *handler) outcome(u unit, c *call) {
	e, r, now := c.e, &c.result, ms(u.Now())
	if e.state != stateSending || e.attempt != c.attempt {
		return
	}
	if c.withdrawn {
		if e.heard != nil {
			h.settle(u, e, e.heard) // an earlier attempt reached Zalo: nothing is sent again
			return
		}
		h.withdrawn(u, e, now)
		return
	}
	done := attemptResult{
		openAttempt: e.open[len(e.open)-1], duration: int32(min(r.Duration.Milliseconds(), 1<<31-1)),
		outcome: r.Outcome.Proto(), code: int32(r.Code), cause: r.Cause.Proto(),
	}
	u.OnCommit(func() { h.metrics.attempt(r) })
	switch {
	case r.Outcome == zalo.Accepted:
		h.sent(u, e, sentFacts{
			attempt: done, source: znsv1.OutcomeSource_OUTCOME_SOURCE_RESPONSE, step: ledgerv1.StepKind_STEP_KIND_SENT,
			msgID: r.MsgID, at: r.SentTime, quota: r.Quota,
		})
	case e.heard != nil:
		// A callback said that this attempt, whose answer is lost, or an earlier one reached Zalo.
		h.settle(u, e, e.heard)
	case r.Outcome == zalo.NotSent, r.Outcome == zalo.Rejected:
		h.turnedAway(u, e, done, r, now)
	default:
		h.update(u, e, func() {
			e.addResult(done)
			h.becomeUnknown(e, r.Cause.Proto(), int32(cmp.Or(r.Code, r.HTTPStatus)), done.duration, now)
		})
		h.tellUnknown(u, e)
	}
}

// withdrawn puts e back in front of its order: its intent was written, but its call was never begun.
func (h *handler) withdrawn(u unit, e *entry, now int64) {
	h.update(u, e, func() {
		e.open = slices.Clone(e.open[:len(e.open)-1])
		e.history.add(&ledgerv1.Step{TimeMs: now, Kind: ledgerv1.StepKind_STEP_KIND_NOT_SENT, Attempt: e.attempt})
		if hold, closed := h.limits.Closed(u.Now(), e.flow); closed {
			e.holdOfFlow(hold.Reason, untilMs(hold.Until), now)
			return
		}
		e.state, e.reason, e.until = stateAccepted, 0, 0
	})
}

// turnedAway handles an attempt that provably sent nothing: Zalo refused it, or no byte left.
func (h *handler) turnedAway(u unit, e *entry, done attemptResult, r *zalo.Result, now int64) {
	kind := ledgerv1.StepKind_STEP_KIND_REJECTED
	if r.Outcome == zalo.NotSent {
		kind = ledgerv1.StepKind_STEP_KIND_NOT_SENT
	}
	unlisted := isUnlisted(r)
	ended := func() {
		if !unlisted {
			e.open = slices.Clone(e.open[:len(e.open)-1])
		}
		e.addResult(done)
		e.code = int32(r.Code)
		e.history.add(&ledgerv1.Step{
			TimeMs: now, Kind: kind, Attempt: e.attempt, Code: int32(cmp.Or(r.Code, r.HTTPStatus)), DurationMs: done.duration,
		})
	}
	if r.Outcome == zalo.Rejected && !r.Retryable && !r.Hold {
		h.fail(u, e, failure{
			reason: znsv1.FailureReason_FAILURE_REASON_REJECTED, class: r.Class.Proto(), code: int32(r.Code), message: r.Message,
			advice: advice(r.Class), before: ended,
		})
		return
	}
	h.update(u, e, func() {
		ended()
		h.waits(e, r, u.Now())
		e.retries++
	})
	if unlisted {
		u.OnCommit(func() { h.callbacks.need(fromMs(done.intent), false) })
	}
}

// isUnlisted reports whether Zalo answered with a code that is in no table. It may mean "taken, but …": the attempt
// stays open for a callback, and nothing is called again without a person.
func isUnlisted(r *zalo.Result) bool {
	return r.Outcome == zalo.Rejected && r.Code != 0 && r.Class == zalo.ClassNone
}

// waits makes e wait for its next attempt: for its own sake, or with its whole flow.
func (h *handler) waits(e *entry, r *zalo.Result, now time.Time) {
	own := limit.Own(now, r, e.retries)
	switch own.Reason {
	case 0, ledgerv1.HoldReason_HOLD_REASON_RETRY, ledgerv1.HoldReason_HOLD_REASON_RATE:
		if hold, closed := h.limits.Closed(now, e.flow); closed {
			e.holdOfFlow(hold.Reason, untilMs(hold.Until), ms(now))
			return
		}
	}
	if own.Reason == 0 {
		// What refused it is open again already, or a newer token came meanwhile.
		own = limit.Hold{Reason: ledgerv1.HoldReason_HOLD_REASON_RETRY, Until: now.Add(limit.Backoff(e.retries))}
	}
	e.hold(own.Reason, untilMs(own.Until), ms(now))
}

// advice is what a caller should do about a refusal.
func advice(c zalo.Class) znsv1.Advice {
	switch c {
	case zalo.ClassRecipientPermanent, zalo.ClassRecipientTemporary:
		return znsv1.Advice_ADVICE_TRY_OTHER_CHANNEL
	case zalo.ClassTemplate:
		return znsv1.Advice_ADVICE_FIX_REQUEST
	case zalo.ClassTransient, zalo.ClassQuota, zalo.ClassHours:
		return znsv1.Advice_ADVICE_TRY_LATER
	}
	return znsv1.Advice_ADVICE_ASK_OPERATOR
}

// sentFacts is what is known about an acceptance.
type sentFacts struct {
	attempt  attemptResult
	source   znsv1.OutcomeSource
	step     ledgerv1.StepKind
	msgID    string
	at       time.Time // by Zalo's clock; zero: unknown
	quota    *zalo.Quota
	corrects bool
}

// sent ends e as SENT and publishes it.
func (h *handler) sent(u unit, e *entry, f sentFacts) {
	now := u.Now()
	h.publishSent(u, e, f)
	h.update(u, e, func() {
		e.msgID, e.finished = f.msgID, e.ended(ms(now))
		e.state, e.reason, e.until, e.open, e.failure = stateSent, 0, 0, nil, 0
		if !f.at.IsZero() {
			e.sent = ms(f.at)
		}
		e.history.add(&ledgerv1.Step{TimeMs: ms(now), Kind: f.step, Attempt: f.attempt.number, DurationMs: f.attempt.duration})
	})
	u.OnCommit(func() { h.metrics.sent(e, f.source, now) })
}

// failure is why a notification ends unsent.
type failure struct {
	reason     znsv1.FailureReason
	class      znsv1.ErrorClass
	code       int32
	message    string
	advice     znsv1.Advice
	violations []*znsv1.Violation
	before     func() // changes e first, and is undone with the rest
}

// fail ends e as FAILED and publishes it. While an earlier attempt may have reached Zalo, every failure is UNRESOLVED,
// the one that a callback may still revise.
func (h *handler) fail(u unit, e *entry, f failure) {
	now := u.Now()
	h.update(u, e, func() {
		if f.before != nil {
			f.before()
		}
		if len(e.open) > 0 {
			f.reason = znsv1.FailureReason_FAILURE_REASON_UNRESOLVED
		}
		e.state, e.reason, e.until, e.failure, e.finished = stateFailed, 0, 0, f.reason, e.ended(ms(now))
		e.history.add(&ledgerv1.Step{TimeMs: ms(now), Kind: ledgerv1.StepKind_STEP_KIND_FAILED, Attempt: e.attempt, Code: f.code})
		h.publishFailed(u, e, f)
	})
	u.OnCommit(func() { h.metrics.failed(f.reason) })
}

// ended is when e, which ends now, is to have ended: not before anything that is known to have been before. A clock that is
// behind would make it forgotten at once when it is right, and taken for new when it is repeated.
func (e *entry) ended(now int64) int64 {
	at := max(now, e.requested, e.p.lastAccepted)
	for i := range e.open {
		at = max(at, e.open[i].intent)
	}
	return at
}
