package sender

import (
	"time"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
)

// update applies f to e, writes the entry and puts it where its new state says. All of that is undone with the unit.
func (h *handler) update(u unit, e *entry, f func()) {
	p, before, now := e.p, e.mut, ms(u.Now())
	f()
	h.write(u, e)
	if e.keepsRequest() {
		p.place(e, now)
		if e.state != stateSending {
			e.req = nil // it waits now: the decoded form is several times the size
		}
		u.OnAbort(func() {
			e.mut = before
			p.place(e, now)
		})
		return
	}
	p.remove(e)
	undo := p.finish(e)
	p.leaving++
	u.OnCommit(func() { p.leaving-- })
	u.OnAbort(func() {
		p.leaving--
		undo()
		e.mut = before
		p.add(e, now)
		p.cameBack(e.ref)
	})
}

// write puts e into the ledger as it is.
func (h *handler) write(u unit, e *entry) {
	w := u.Ledger(e.id.String(), e.encode())
	e.pins++ // it stays in memory until it is known where the ledger has it
	u.OnCommit(func() {
		e.pins--
		e.ledger = w.Offset()
		if e.ref != 0 {
			e.p.at(e.ref).ledger = to48(e.ledger)
		}
	})
	u.OnAbort(func() { e.pins-- })
}

// hold makes e wait for a reason of its own, until the given time or, with 0, until something ends the wait.
func (e *entry) hold(reason ledgerv1.HoldReason, until, now int64) {
	e.state, e.reason, e.until, e.flowHold = stateHeld, reason, until, false
	e.history.add(&ledgerv1.Step{TimeMs: now, Kind: ledgerv1.StepKind_STEP_KIND_HELD, HoldReason: reason, UntilMs: until})
}

// holdOfFlow tells that e waits because its whole flow is closed. It may start as soon as that opens: until, in Unix
// milliseconds and 0 when nobody knows, is only told.
func (e *entry) holdOfFlow(reason ledgerv1.HoldReason, until, now int64) {
	e.hold(reason, until, now)
	e.flowHold = true
}

// msUp is the first millisecond that is not before t: who wakes then finds t reached.
func msUp(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }

func untilMs(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return ms(t)
}
