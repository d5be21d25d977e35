package sender

import (
	"slices"

	"github.com/google/uuid"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

// job does something once with live notifications of one partition, whatever they wait for: those with the given ids,
// or all that match. Those that were accepted after it began may be left out. A tick does a bounded part of it, and
// commits that; entries that are not in memory are read from the ledger first. The tick lock is held over its
// functions.
//
// It ends with its partition: who needs it done writes down in done that it is, and begins it again after a restore.
type job struct {
	ids   []uuid.UUID           // only these; nil: all that match
	match func(v slotView) bool // is asked of each when ids is nil; nil: all
	// do may change e (update, fail, settle) or leave it as it is. It is called again when its unit is undone.
	do func(u unit, e *entry)
	// done is called when do was called and committed for all of them. False: ask again in the next tick.
	done func(tx tick) bool

	cursor ref         // the next slot to look at
	next   int         // the next of ids
	again  []uuid.UUID // to be done once more: their unit was undone, or their entry was being read
	asleep []uuid.UUID // their entries are being read
	open   int         // units that are not yet committed
	passed bool        // it has seen all, and whatever had just ended then has had its time to come back
}

// slotView is what can be seen of a live notification without its entry.
type slotView struct {
	ID     uuid.UUID
	Flow   limit.Flow
	State  ledgerv1.State
	Reason ledgerv1.HoldReason // of HELD
}

const (
	jobLooks = 20_000 // slots that jobs look at in one tick
	jobSteps = 250    // entries that they change in one tick
	jobLoads = 1000   // entries that one waits for
)

// begin starts j for p. Jobs of one partition run one after the other, in the order in which they began.
func (p *partition) begin(j *job) {
	j.cursor = 1
	p.jobs.pushBack(j)
}

// work does a part of the jobs that were begun.
func (h *handler) workJobs(tx tick) (again bool) {
	for _, p := range h.openParts(tx) {
		looks, steps := jobLooks, jobSteps
		for j, ok := p.jobs.front(); ok; j, ok = p.jobs.front() {
			done, wait := h.workJob(tx, p, j, &looks, &steps)
			if !done {
				again = again || !wait
				break
			}
			p.jobs.popFront()
		}
	}
	return again
}

// workJob reports whether j is done, else whether it waits for something that wakes the tick.
func (h *handler) workJob(tx tick, p *partition, j *job, looks, steps *int) (done, wait bool) {
	j.again = append(j.again, j.asleep...)
	j.asleep = j.asleep[:0]
	for {
		if len(j.asleep) >= jobLoads {
			return false, true
		}
		r, more := j.take(p, looks)
		switch {
		case !more && *looks <= 0:
			return false, false
		case !more && len(j.asleep) > 0:
			return false, true
		case !more && !j.passed && p.leaving > 0:
			j.passed = true
			return false, false
		case !more:
			return j.open == 0 && len(j.again) == 0 && j.done(tx), false
		}
		id := p.at(r).id
		e := p.entries[r]
		if e == nil && p.at(r).has(flagLame) {
			continue
		}
		if e == nil {
			h.load(p, r, loadBulk)
			j.asleep = append(j.asleep, id)
			continue
		}
		var u unit
		if *steps--; *steps >= 0 && !tx.Full() {
			u = tx.Unit(p.id, id.String())
		}
		if u == nil {
			j.again = append(j.again, id)
			return false, false
		}
		j.open++
		u.OnAbort(func() {
			j.open--
			j.repeat(id)
		})
		u.OnCommit(func() { j.open-- })
		j.do(u, e)
	}
}

// repeat has one done once more.
func (j *job) repeat(id uuid.UUID) {
	if !slices.Contains(j.again, id) && !slices.Contains(j.asleep, id) {
		j.again = append(j.again, id)
	}
}

// cameBack tells the jobs of one that had ended, and lives again because its unit was undone: they may have passed its
// place while it was not there.
func (p *partition) cameBack(r ref) {
	s := p.at(r)
	for j := range p.jobs.all() {
		j.passed = false
		if j.ids != nil {
			if slices.Contains(j.ids[:j.next], s.id) {
				j.repeat(s.id)
			}
		} else if r < j.cursor && (j.match == nil || j.match(p.view(s))) {
			j.repeat(s.id)
		}
	}
}

// take returns the next one to be done.
func (j *job) take(p *partition, looks *int) (ref, bool) {
	for len(j.again) > 0 {
		id := j.again[len(j.again)-1]
		j.again = j.again[:len(j.again)-1]
		if r := p.find(id); r != 0 {
			return r, true
		}
	}
	if j.ids != nil {
		for j.next < len(j.ids) {
			j.next++
			if r := p.find(j.ids[j.next-1]); r != 0 {
				return r, true
			}
		}
		return 0, false
	}
	for uint32(j.cursor) <= p.slots.top {
		if *looks--; *looks <= 0 {
			return 0, false
		}
		r := j.cursor
		j.cursor++
		s := p.at(r)
		if s.state == 0 {
			continue // free
		}
		if j.match == nil || j.match(p.view(s)) {
			return r, true
		}
	}
	return 0, false
}

func (p *partition) view(s *slot) slotView {
	return slotView{ID: s.id, Flow: p.flows[s.flow].key, State: ledgerv1.State(s.state), Reason: ledgerv1.HoldReason(s.reason)}
}
