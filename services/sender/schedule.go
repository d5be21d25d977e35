package sender

import (
	"math"
	"slices"
	"time"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

const (
	// laneShare: of so many starts one goes to each lower lane in which something may start, so that none starves.
	laneShare = 16
	// timersPerTick bounds what ends of waits take of one tick: a million of them at 06:00 must not hold up an OTP.
	timersPerTick = 2000
	// tellAfter is how long a flow must be closed before those that waited in it already are written as HELD.
	tellAfter = time.Second
	// tellsPerTick bounds how many of them one tick writes.
	tellsPerTick = 100
	// movesPerTick bounds how many it puts among the told, or back, without writing anything.
	movesPerTick = 2000
)

// round is the choosing of one tick.
type round struct {
	h     *handler
	now   time.Time
	parts []*partition
}

// openParts are the partitions for which something may start.
func (h *handler) openParts(tx tick) []*partition {
	h.open = h.open[:0]
	for _, id := range tx.Partitions() {
		if !tx.Closing(id) {
			h.open = append(h.open, h.partition(id))
		}
	}
	return h.open
}

// unparkDue makes candidates of the flows whose time to be looked at again has come.
func (h *handler) unparkDue(p *partition, now time.Time) {
	at, version := ms(now), h.version()
	for i := range p.lanes {
		l := &p.lanes[i]
		for _, f := range slices.Backward(l.parked) {
			if f.until <= at || f.shut && (!f.closed || f.version != version) {
				p.unpark(f)
			}
		}
	}
}

// best returns the open flow of a lane whose first is the most urgent of all partitions; nil: there is none.
func (r *round) best(lane int) (bp *partition, bf *flow) {
	for _, p := range r.parts {
		l := &p.lanes[lane]
		for len(l.open) > 0 {
			f := l.open[0]
			if !r.h.isOpen(f, r.now) {
				p.park(f, f.reopens(), false)
				continue
			}
			if !p.settleFirst(f) {
				continue
			}
			if bf == nil || (byExpiry{}).before(p.at(f.first(&p.slots)), bp.at(bf.first(&bp.slots))) {
				bp, bf = p, f
			}
			break
		}
	}
	return bp, bf
}

// settleFirst makes the first of an open flow take its place in its order, when it gave that up while the flow was
// closed. False: another one is first now, or f has none.
func (p *partition) settleFirst(f *flow) bool {
	r := f.first(&p.slots)
	if s := p.at(r); s.scope != 0 && !s.has(flagInLine) {
		return p.takePlace(r, s) && f.place != 0 && f.first(&p.slots) == r
	}
	return true
}

// choose returns the partition and the flow whose first is to start next: of the first lane that has one, but now and
// then of a lower one. urgent: of the first lane only.
func (r *round) choose(urgent bool) (p *partition, f *flow, lane int) {
	if urgent {
		p, f = r.best(0)
		return p, f, 0
	}
	first := -1
	for l := range lanes {
		bp, bf := r.best(l)
		switch {
		case bf == nil:
			r.h.credit[l] = 0
		case first < 0:
			first, p, f, lane = l, bp, bf, l
		case r.h.credit[l] >= laneShare-1:
			return bp, bf, l
		}
	}
	return p, f, lane
}

// started keeps account of the lanes' shares.
func (h *handler) started(lane int) {
	h.credit[lane] = 0
	for l := 1; l < lanes; l++ {
		if l != lane {
			h.credit[l]++
		}
	}
}

// launches writes intents for those that may start, while there is room. OTPs may start in a transaction that is full
// already: one that is busy with other things must not hold them up.
func (h *handler) launches(tx tick) (again bool) {
	now := tx.Now()
	r := &round{h: h, now: now, parts: h.openParts(tx)}
	for _, p := range r.parts {
		h.unparkDue(p, now)
	}
	room := h.dispatch.room() - h.uncommitted
	for room > 0 {
		p, f, lane := r.choose(tx.Full())
		if f == nil {
			return tx.Full()
		}
		if f.ready() == 0 || !p.settleFirst(f) {
			continue // one of another lane has taken its place in their order meanwhile
		}
		h.lookAhead(p, f)
		first := f.first(&p.slots)
		e := p.entries[first]
		if e == nil {
			h.load(p, first, loadUrgent)
			p.park(f, ms(now)+loadAgain.Milliseconds(), true)
			continue
		}
		if h.mustStop(e, now) {
			u := tx.Unit(p.id, e.id.String())
			if u == nil {
				return true
			}
			h.stop(u, e)
			continue
		}
		permit, ok := h.takePace(p, f, now)
		if !ok {
			continue
		}
		u := tx.Unit(p.id, e.id.String())
		if u == nil {
			permit.Undo()
			return true
		}
		behind := p.at(first).next // in its order
		if !h.launch(u, e, permit) {
			p.drop(e.ref) // its timer ends it
			continue
		}
		h.started(lane)
		f.ahead--
		if behind != 0 {
			h.load(p, behind, loadUrgent)
		}
		room--
	}
	return false
}

// aheadOf is how many of those that start next in a flow are to be in memory.
const aheadOf = 512

// lookAhead has those read that start next in f.
func (h *handler) lookAhead(p *partition, f *flow) {
	if f.ahead > 0 || len(p.entries) == p.live() {
		return
	}
	f.ahead = aheadOf / 2
	var next []ref
	for i := range f.heaps {
		// Parents stand before their children: nearly the order in which they come out.
		refs := f.heaps[i].refs
		next = append(next, refs[:min(len(refs), 2*aheadOf)]...)
	}
	slices.SortFunc(next, func(a, b ref) int {
		if (byExpiry{}).before(p.at(a), p.at(b)) {
			return -1
		}
		return 1
	})
	for _, r := range next[:min(len(next), aheadOf)] {
		p.at(r).set(flagRecent, true)
		if !h.load(p, r, loadUrgent) {
			return
		}
	}
}

// takePace takes what one call of f needs. False: f is parked.
func (h *handler) takePace(p *partition, f *flow, now time.Time) (permit *limit.Permit, ok bool) {
	if h.pace == nil {
		return nil, true
	}
	permit, next, ok := h.pace.Take(now, f.key)
	if ok {
		return permit, true
	}
	f.asked = 0 // an answer may have closed it since the gates were asked: then they tell when it opens
	switch {
	case !h.isOpen(f, now):
		p.park(f, f.reopens(), false)
	case next.After(now):
		p.park(f, ms(next)+1, false)
	default:
		p.park(f, ms(now), false) // looked at again in the next tick
	}
	return nil, false
}

// drop takes r out of what may start, until its state changes.
func (p *partition) drop(r ref) {
	s := p.at(r)
	s.set(flagRunnable, false)
	p.reheap(r, s)
}

// timers does what became due: waits that end, expiry, policies of UNKNOWN, the end of a watch, tombstones.
func (h *handler) timers(tx tick) (again bool) {
	now := ms(tx.Now())
	var stuck [lanes]bool // too many are being read: the rest of the lane waits for them
	for n := 0; ; {
		// The lane first, then the partition: an OTP's timer does not wait behind a million promotions'.
		p, r, lane := h.dueTimer(tx, now, &stuck)
		if r == 0 {
			break
		}
		if n++; n > timersPerTick || tx.Full() {
			return true
		}
		s := p.at(r)
		if st := ledgerv1.State(s.state); (st == stateAccepted || st == stateHeld) && now <= s.expire.get() {
			p.resume(r, s)
			continue
		}
		e := p.entries[r]
		if e == nil {
			if stuck[lane] = !h.load(p, r, min(lane, loadBulk)); !stuck[lane] {
				s.set(flagDue, true)
				p.setTimer(r, s, now+loadAgain.Milliseconds())
			}
			continue
		}
		if !h.due(tx, e, now) {
			return true
		}
	}
	for _, p := range h.openParts(tx) {
		if h.tombstones(tx, p, now) {
			again = true
		}
	}
	return again
}

// dueTimer returns a slot whose timer is due, of the first lane that has one and is not to be left out.
func (h *handler) dueTimer(tx tick, now int64, leaveOut *[lanes]bool) (p *partition, r ref, lane int) {
	parts := h.openParts(tx)
	for l := range lanes {
		for _, p := range parts {
			if r := p.lanes[l].timers.first(); r != 0 && !leaveOut[l] && p.at(r).at.get() <= now {
				return p, r, l
			}
		}
	}
	return nil, 0, 0
}

// tell writes as HELD those that were waiting already when their flow closed, a few in each tick, so that the ledger
// tells soon why they wait, and so that those behind them in their order can pass when the reason lets them.
func (h *handler) tell(tx tick) (again bool) {
	now, writes, moves := tx.Now(), tellsPerTick, movesPerTick
	for _, p := range h.openParts(tx) {
		for i := range p.lanes {
			for _, f := range p.lanes[i].parked {
				if f == nil || !f.parked { // others left meanwhile
					continue
				}
				if f.loading || f.ready() == 0 || h.isOpen(f, now) || ms(now)-f.closedAt < tellAfter.Milliseconds() {
					continue
				}
				if !h.tellFlow(tx, p, f, &writes, &moves) {
					return true
				}
			}
		}
	}
	return false
}

// tellFlow tells of those of one closed flow. False: some are left that could be told at once, in another tick.
func (h *handler) tellFlow(tx tick, p *partition, f *flow, writes, moves *int) bool {
	if !f.retell(&p.slots, moves) {
		return false
	}
	for f.untold().len() > 0 {
		r := f.untold().first()
		switch s := p.at(r); {
		case s.toldOf(f.hold.Reason): // it came, or came back, while another reason was told
			if *moves--; *moves < 0 {
				return false
			}
			if blocks(f.hold.Reason) {
				p.reheap(r, s)
			} else {
				p.giveWay(r, s)
			}
		case !s.has(flagLoaded):
			h.loadUntold(p, f)
			return true // they are being read
		default:
			if *writes--; *writes < 0 || tx.Full() || !h.tellHeld(tx, p, f, r) {
				return false
			}
		}
	}
	return true
}

// toldOf reports whether the ledger tells that s waits because its flow is closed for this reason.
func (s *slot) toldOf(reason ledgerv1.HoldReason) bool {
	return ledgerv1.State(s.state) == stateHeld && s.has(flagFlowHold) && ledgerv1.HoldReason(s.reason) == reason
}

// loadUntold has some of those read that are to be told.
func (h *handler) loadUntold(p *partition, f *flow) {
	refs := f.untold().refs
	for _, r := range refs[:min(len(refs), loadAtOnce)] {
		if !p.at(r).toldOf(f.hold.Reason) && !h.load(p, r, loadBulk) {
			return
		}
	}
}

// retell makes those that were told of another reason be told of the present one. False: more are to be moved, in
// another tick, before anybody is told.
func (f *flow) retell(a *arena, moves *int) bool {
	if f.told == f.hold.Reason {
		return true
	}
	if f.untold().len() == 0 {
		f.toldIn = 1 - f.toldIn
	}
	told, untold := &f.heaps[f.toldIn], f.untold()
	for told.len() > 0 {
		if *moves--; *moves < 0 {
			return false
		}
		r := told.refs[told.len()-1] // nobody has to move up
		told.remove(a, r)
		a.at(r).set(flagSecond, f.toldIn == 0)
		untold.push(a, r)
	}
	f.told = f.hold.Reason
	return true
}

func (h *handler) tellHeld(tx tick, p *partition, f *flow, r ref) bool {
	e := p.entries[r]
	u := tx.Unit(p.id, e.id.String())
	if u == nil {
		return false
	}
	reason, now, until := f.hold.Reason, ms(u.Now()), untilMs(f.hold.Until)
	h.update(u, e, func() { e.holdOfFlow(reason, until, now) })
	return true
}

// nextTimer returns when the first timer of all partitions is due, or a parked flow is to be looked at.
func (h *handler) nextTimer(tx tick) time.Time {
	next := int64(math.MaxInt64)
	see := func(at int64) {
		if at != 0 {
			next = min(next, at)
		}
	}
	now := tx.Now()
	for _, p := range h.openParts(tx) {
		see(p.nextTimer(ms(now)))
		if t, ok := p.finished.Front(); ok {
			see(t.Finished + h.settings.dedupe.Milliseconds())
		}
		for i := range p.lanes {
			for _, f := range p.lanes[i].parked {
				if f.until > ms(now) {
					see(f.until)
				}
				if at := f.closedAt + tellAfter.Milliseconds(); f.closed && f.untold().len() > 0 && at > ms(now) {
					see(at)
				}
			}
		}
	}
	if at := h.limitsNext; !at.IsZero() {
		see(ms(at) + 1) // after it, not in its millisecond
	}
	if next == math.MaxInt64 {
		return time.Time{}
	}
	return fromMs(next)
}
