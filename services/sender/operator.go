package sender

import (
	"bytes"
	"slices"
	"time"

	"github.com/google/uuid"

	controlv1 "github.com/znshub/znshub/proto/control/v1"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/sender/control"
)

// rulebook is what operators said. A handler without one obeys nobody.
type rulebook interface {
	View() *control.View
}

// obedience is what a partition has obeyed of zns.control, and what it is at.
//
// The rules that hold whole flows count as soon as they are read: they are a gate. All else is done here, in rounds: a
// job for each command above what the ledger says was obeyed, and when all are done and committed the ledger says so,
// with what they came to. A round that is cut short by the partition's end is begun again by its next owner: so each
// job leaves alone what it has changed already.
type obedience struct {
	known bool // ack was read from the ledger
	ack   control.Ack
	round *roundOf
}

// roundOf is the commands up to one position of zns.control.
type roundOf struct {
	target  control.Position
	open    int // jobs that are not done
	results []control.Result
}

// obey begins what operators have newly said.
func (h *handler) obey(tx tick) {
	if h.control == nil {
		return
	}
	view := h.control.View()
	if !view.Known() {
		return
	}
	for _, p := range h.openParts(tx) {
		if p.id >= h.settings.partitions() {
			continue // a front door: nothing waits there, and there is no ledger to answer in
		}
		o := &p.obeyed
		if !o.known {
			// restore has refused what cannot be read.
			o.ack, _ = control.DecodeAck(p.reserved[control.AckKey])
			o.known = true
		}
		if o.round == nil && !o.ack.Position.Equal(view.Position()) {
			h.beginRound(p, view, tx.Now())
		}
	}
}

// answer says of what was obeyed that it was.
func (h *handler) answer(tx tick) (again bool) {
	for _, p := range h.openParts(tx) {
		if r := p.obeyed.round; r != nil && r.open == 0 && (tx.Full() || !h.answerRound(tx, p)) {
			return true
		}
	}
	return false
}

// beginRound does nothing while only a clock that is right can tell whether a command has expired.
func (h *handler) beginRound(p *partition, view *control.View, now time.Time) {
	commands := view.Pending(now, p.obeyed.ack.Position)
	if !h.clock.trusted() && len(commands) < len(view.Pending(time.Time{}, p.obeyed.ack.Position)) {
		return
	}
	r := &roundOf{target: view.Position()}
	p.obeyed.round = r
	for i, c := range commands {
		h.beginCommand(p, r, c, commands[i+1:])
	}
}

// answerRound writes into the ledger that the round is done.
func (h *handler) answerRound(tx tick, p *partition) bool {
	u := tx.Unit(p.id, "control")
	if u == nil {
		return false
	}
	o := &p.obeyed
	before, r := o.ack, o.round
	o.ack.Position = r.target
	for _, result := range r.results {
		o.ack = o.ack.With(result)
	}
	o.round = nil
	u.Ledger(control.AckKey, o.ack.Encode())
	u.OnAbort(func() { o.ack, o.round = before, r })
	return true
}

// deed is a command on its way through one partition.
type deed struct {
	h       *handler
	command *control.Command
	after   []*control.Command // the round's commands behind it
	result  control.Result
	gates   map[string]int // how many gates of each OA a RETRY opened
}

// beginCommand begins the job of one command.
func (h *handler) beginCommand(p *partition, r *roundOf, c *control.Command, after []*control.Command) {
	d := &deed{h: h, command: c, after: after, result: control.Result{Command: c.ID}}
	j := &job{done: func(tx tick) bool {
		d.openRest()
		if r.open--; !c.Standing() {
			d.result.At = tx.Now()
			r.results = append(r.results, d.result)
			h.operators.obeyed(c.Action)
			h.log.Info("operator's command obeyed", "command_id", c.ID, "action", c.Action.String(), "scope", c.Scope.String(),
				"partition", p.id, "changed", d.result.Changed, "too_late", d.result.TooLate, "left", d.result.Left)
		}
		return true
	}}
	switch c.Action {
	case controlv1.Action_ACTION_HOLD, controlv1.Action_ACTION_RELEASE:
		j.do = d.ruleOfOne
	case controlv1.Action_ACTION_CANCEL:
		j.do = d.cancel
	case controlv1.Action_ACTION_RETRY:
		j.do = d.retry
	case controlv1.Action_ACTION_RESEND_UNKNOWN, controlv1.Action_ACTION_FAIL_UNKNOWN:
		j.do = d.decide
	default:
		return
	}
	if id, single := c.Scope.ID(); single {
		j.ids = []uuid.UUID{id}
	} else {
		j.match = d.concerns
	}
	r.open++
	p.begin(j)
}

// concerns reports whether the command may be about one that stands there.
func (d *deed) concerns(v slotView) bool {
	if !d.command.Scope.Matches(v.ID, v.Flow) {
		return false
	}
	switch d.command.Action {
	case controlv1.Action_ACTION_RETRY:
		return v.State == stateHeld
	case controlv1.Action_ACTION_RESEND_UNKNOWN, controlv1.Action_ACTION_FAIL_UNKNOWN:
		return v.State == stateUnknown || v.State == stateHeld && v.Reason == ledgerv1.HoldReason_HOLD_REASON_OPERATOR
	}
	return v.State != stateFailed
}

// count counts what the command came to for one, once that is committed.
func (d *deed) count(u unit, n *int) { u.OnCommit(func() { *n++ }) }

// step is what e's history tells of the command.
func (d *deed) step(e *entry, now int64) { e.history.add(stepOf(d.command, now)) }

func stepOf(c *control.Command, now int64) *ledgerv1.Step {
	return &ledgerv1.Step{TimeMs: now, Kind: ledgerv1.StepKind_STEP_KIND_OPERATOR, Code: int32(c.Action), Owner: c.ID.String()}
}

// unlisted reports whether e waits for an operator because it may have been sent: Zalo answered with a code that is in
// no table. One that was unknown and is to be sent again, which begins its refusals anew, may be held by a rule for its id.
func (e *entry) unlisted() bool {
	return e.state == stateHeld && e.reason == ledgerv1.HoldReason_HOLD_REASON_OPERATOR && !e.flowHold &&
		len(e.open) > 0 && e.open[len(e.open)-1].number == e.attempt && e.retries > 0
}

// unknown is since when, in Unix milliseconds, and why nobody knows whether e was sent; 0: it is known, or tried again.
func (e *entry) unknown() (since int64, cause znsv1.UnknownCause) {
	switch {
	case e.state == stateUnknown:
		return e.unknownSince, e.cause
	case e.unlisted():
		return e.open[len(e.open)-1].intent, znsv1.UnknownCause_UNKNOWN_CAUSE_AMBIGUOUS_CODE
	}
	return 0, 0
}

// cancel ends what was not sent.
func (d *deed) cancel(u unit, e *entry) {
	switch {
	case e.requested > ms(d.command.At):
	case e.state == stateSending, e.state == stateUnknown, e.unlisted():
		d.count(u, &d.result.TooLate)
	case e.state == stateAccepted, e.state == stateHeld:
		d.h.cancel(u, e, d.command)
		d.count(u, &d.result.Changed)
	}
}

// cancel ends e because an operator said so.
func (h *handler) cancel(u unit, e *entry, c *control.Command) {
	f := cancellation(e, c, ms(u.Now()))
	f.code, f.class = e.code, h.classOf(e)
	h.fail(u, e, f)
}

func cancellation(e *entry, c *control.Command, now int64) failure {
	return failure{
		reason: znsv1.FailureReason_FAILURE_REASON_CANCELLED, advice: znsv1.Advice_ADVICE_ASK_OPERATOR,
		before: func() { e.history.add(stepOf(c, now)) },
	}
}

// retry lets e be tried now. What waits for its own time, its order or a rule stays, and what may have been sent.
func (d *deed) retry(u unit, e *entry) {
	now := u.Now()
	if e.state != stateHeld {
		return
	}
	if !retries(e.reason) || e.unlisted() || d.h.heldByID(e.id, now) != nil {
		d.count(u, &d.result.Left)
		return
	}
	if e.flowHold {
		n := &d.result.Left
		if _, ruled := d.h.control.View().Closed(now, e.flow); !ruled && d.opened(e.flow.OA) {
			n = &d.result.Changed
		}
		d.count(u, n)
		return
	}
	d.h.update(u, e, func() {
		d.step(e, ms(now))
		e.waitsNoMore(ms(now))
	})
	d.count(u, &d.result.Changed)
}

// opened opens the gates of an OA that wait for a person or an event, once for the command. It reports whether there
// were any.
func (d *deed) opened(oa string) bool {
	if d.h.releaseFlows == nil {
		return false
	}
	n, asked := d.gates[oa]
	if !asked {
		if d.gates == nil {
			d.gates = map[string]int{}
		}
		n = d.h.releaseFlows(oa, "")
		d.gates[oa] = n
	}
	return n > 0
}

// openRest opens what of a RETRY's scope is closed though nothing of this partition waits for it: what comes next need
// not wait for the next probe, or for another RETRY.
func (d *deed) openRest() {
	oa, template, ok := d.command.Scope.Gates()
	if ok && d.command.Action == controlv1.Action_ACTION_RETRY && d.h.releaseFlows != nil && (len(d.gates) == 0 || oa+template == "") {
		d.h.releaseFlows(oa, template)
	}
}

// retries reports whether a person may end a wait for this reason.
func retries(r ledgerv1.HoldReason) bool {
	switch r {
	case ledgerv1.HoldReason_HOLD_REASON_NOT_BEFORE, ledgerv1.HoldReason_HOLD_REASON_ORDER, ledgerv1.HoldReason_HOLD_REASON_HOURS:
		return false
	}
	return true
}

// waitsNoMore ends e's own wait: it goes on as if it had just been accepted, not before its not_before.
func (e *entry) waitsNoMore(now int64) {
	if e.early(now) {
		e.hold(ledgerv1.HoldReason_HOLD_REASON_NOT_BEFORE, e.due, now)
		return
	}
	e.state, e.reason, e.until, e.flowHold = stateAccepted, 0, 0, false
}

// early reports whether e's not_before is to come. One without it may go from its acceptance on, also when a clock that
// was ahead said when that was.
func (e *entry) early(now int64) bool { return e.due > now && e.due > e.accepted }

// decide sends again or fails what is unknown.
func (d *deed) decide(u unit, e *entry) {
	now := ms(u.Now())
	since, cause := e.unknown()
	if since == 0 {
		return
	}
	switch {
	case d.command.Action == controlv1.Action_ACTION_RESEND_UNKNOWN && d.resent(e):
		// Obeyed before the partition's last owner could say so.
	case !d.command.FitsUnknown(controlv1.UnknownCause(cause), fromMs(since), e.flow.Template):
		d.count(u, &d.result.Left)
	case d.command.Action == controlv1.Action_ACTION_FAIL_UNKNOWN:
		d.h.fail(u, e, failure{
			reason: znsv1.FailureReason_FAILURE_REASON_UNRESOLVED, code: e.code, advice: znsv1.Advice_ADVICE_TRY_OTHER_CHANNEL,
			before: func() { d.step(e, now) },
		})
		d.count(u, &d.result.Changed)
	case now > e.expire:
		d.count(u, &d.result.TooLate)
	default:
		d.h.update(u, e, func() {
			d.step(e, now)
			e.resentBy, e.superseded = slices.Clone(d.command.ID[:]), false
			e.sendAgain()
		})
		d.count(u, &d.result.Changed)
		u.OnCommit(d.h.metrics.resent.Inc)
	}
}

// sendAgain lets one that may have been sent be called once more.
func (e *entry) sendAgain() { e.state, e.reason, e.until, e.retries = stateAccepted, 0, 0, 0 }

// resent reports whether an owner before has had e sent again by this command: a round's commands are obeyed one after the
// other, so that it was before one behind it.
func (d *deed) resent(e *entry) bool {
	by := func(c *control.Command) bool { return bytes.Equal(e.resentBy, c.ID[:]) }
	return by(d.command) || slices.ContainsFunc(d.after, by)
}

// ruleOfOne puts e where the rule for its id, as it is now, says.
func (d *deed) ruleOfOne(u unit, e *entry) {
	now := u.Now()
	if e.state != stateAccepted && e.state != stateHeld || e.unlisted() {
		return
	}
	rule := d.h.heldByID(e.id, now)
	own := e.state == stateHeld && e.reason == ledgerv1.HoldReason_HOLD_REASON_OPERATOR && !e.flowHold
	switch {
	case rule != nil && (!own || e.until != untilMs(rule.Until)):
		d.h.update(u, e, func() {
			d.step(e, ms(now))
			e.hold(rule.Reason, untilMs(rule.Until), ms(now))
		})
	case rule == nil && own:
		d.h.update(u, e, func() {
			d.step(e, ms(now))
			e.waitsNoMore(ms(now))
		})
	}
}
