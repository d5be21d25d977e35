package sender

import (
	"math"
	"time"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

// gate closes flows: while one does, nothing of the flow starts. The tick lock is held over its methods.
type gate interface {
	// Closed reports whether nothing of the flow may start now, why, and until when.
	Closed(now time.Time, f limit.Flow) (limit.Hold, bool)
	// Version changes whenever a flow may have opened or closed other than by the passing of time.
	Version() uint64
}

// pacer says when the next call may start. The tick lock is held over its method.
type pacer interface {
	// Take takes what one call of the flow needs; the permit's Undo gives it back. Not ok: try again at next, or, when
	// that is zero, when something has changed.
	Take(now time.Time, f limit.Flow) (p *limit.Permit, next time.Time, ok bool)
}

// lanes is how many there are: OTP, TRANSACTION, CUSTOMER_CARE, PROMOTION.
const lanes = 4

// laneOf is the lane of a category; a smaller one goes first.
func laneOf(c notificationv1.Category) int {
	switch c {
	case notificationv1.Category_CATEGORY_OTP:
		return 0
	case notificationv1.Category_CATEGORY_CUSTOMER_CARE:
		return 2
	case notificationv1.Category_CATEGORY_PROMOTION:
		return 3
	}
	return 1
}

// lane is what of a partition waits in one lane. A flow in which something may start is open, in a heap by its first
// entry, or parked: it is closed, or has no pace or no entry in memory for now.
type lane struct {
	open   []*flow
	parked []*flow
	timers slotHeap[byTimer]
}

// flow is the waiting notifications of a partition that are limited and commanded alike. Those that may start stand in
// one of two heaps: those of which the ledger says why their flow is closed, and the others. A closed flow is skipped
// as a whole, however many wait in it.
type flow struct {
	key     limit.Flow
	index   uint32
	lane    int
	members int // live notifications, wherever they stand
	heaps   [2]slotHeap[byExpiry]
	toldIn  int                 // which of the heaps is of those told
	told    ledgerv1.HoldReason // and of what

	parked  bool
	place   int   // index in lane.open or lane.parked + 1; 0: nothing in it may start
	until   int64 // parked: when to look again, at the latest
	loading bool  // parked because its first entry is being read
	shut    bool  // parked because it was closed

	// What the gates said last, and when that holds.
	version  uint64
	asked    int64
	closed   bool
	hold     limit.Hold
	closedAt int64

	ahead    int        // starts until those to come next are looked at for entries that are not in memory
	restored limit.Hold // what a restored ledger said, until the gates are told
}

// flowBytes is about what a flow costs.
const flowBytes = 512

// first returns the slot of f that comes first.
func (f *flow) first(a *arena) ref {
	x, y := f.heaps[0].first(), f.heaps[1].first()
	if x == 0 || y != 0 && (byExpiry{}).before(a.at(y), a.at(x)) {
		return y
	}
	return x
}

// untold is the heap of those of which the ledger does not say why their flow is closed.
func (f *flow) untold() *slotHeap[byExpiry] { return &f.heaps[1-f.toldIn] }

func (f *flow) ready() int { return f.heaps[0].len() + f.heaps[1].len() }

// flowOf returns the partition's flow with the given key, made when there is none.
func (p *partition) flowOf(key limit.Flow) *flow {
	if i, ok := p.flowIndex[key]; ok {
		return p.flows[i]
	}
	f := &flow{key: key, lane: laneOf(key.Category)}
	if n := len(p.freeFlows); n > 0 {
		f.index = p.freeFlows[n-1]
		p.freeFlows = p.freeFlows[:n-1]
		p.flows[f.index] = f
	} else {
		f.index = uint32(len(p.flows)) //nolint:gosec // G115: fewer than slots
		p.flows = append(p.flows, f)
	}
	p.flowIndex[key] = f.index
	return f
}

// leaveFlow says that one notification less belongs to f.
func (p *partition) leaveFlow(f *flow) {
	if f.members--; f.members > 0 {
		return
	}
	p.unplaceFlow(f)
	delete(p.flowIndex, f.key)
	p.flows[f.index] = nil
	p.freeFlows = append(p.freeFlows, f.index)
}

// refresh puts f where its first entry says.
func (p *partition) refresh(f *flow) {
	l := &p.lanes[f.lane]
	switch {
	case f.ready() == 0:
		p.unplaceFlow(f)
	case f.place == 0:
		l.open = append(l.open, f)
		f.parked, f.place = false, len(l.open)
		p.flowUp(l, len(l.open)-1)
	case !f.parked:
		p.flowUp(l, f.place-1)
		p.flowDown(l, f.place-1)
	}
}

func (p *partition) unplaceFlow(f *flow) {
	if f.place == 0 {
		return
	}
	l := &p.lanes[f.lane]
	list := &l.open
	if f.parked {
		list = &l.parked
	}
	i, last := f.place-1, len(*list)-1
	if i != last {
		(*list)[i] = (*list)[last]
		(*list)[i].place = i + 1
	}
	(*list)[last] = nil
	*list = (*list)[:last]
	if !f.parked && i != last {
		p.flowUp(l, i)
		p.flowDown(l, i)
	}
	f.parked, f.place, f.loading = false, 0, false
}

// park sets f aside until the given time, in Unix milliseconds, or until it is refreshed.
func (p *partition) park(f *flow, until int64, loading bool) {
	p.unplaceFlow(f)
	l := &p.lanes[f.lane]
	l.parked = append(l.parked, f)
	f.parked, f.place, f.until, f.loading, f.shut = true, len(l.parked), until, loading, f.closed
}

// unpark makes f a candidate again.
func (p *partition) unpark(f *flow) {
	p.unplaceFlow(f)
	p.refresh(f)
}

func (p *partition) flowBefore(a, b *flow) bool {
	return (byExpiry{}).before(p.at(a.first(&p.slots)), p.at(b.first(&p.slots)))
}

func (p *partition) flowUp(l *lane, i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !p.flowBefore(l.open[i], l.open[parent]) {
			return
		}
		l.swap(i, parent)
		i = parent
	}
}

func (p *partition) flowDown(l *lane, i int) {
	for {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(l.open); c++ {
			if p.flowBefore(l.open[c], l.open[least]) {
				least = c
			}
		}
		if least == i {
			return
		}
		l.swap(i, least)
		i = least
	}
}

func (l *lane) swap(i, j int) {
	l.open[i], l.open[j] = l.open[j], l.open[i]
	l.open[i].place, l.open[j].place = i+1, j+1
}

// version is that of all gates together.
func (h *handler) version() (v uint64) {
	for _, g := range h.gates {
		v += g.Version()
	}
	return v
}

// isOpen asks the gates about f, at most once in a tick while nothing changes. What they said to a clock that was ahead
// does not count.
func (h *handler) isOpen(f *flow, now time.Time) bool {
	at, version := ms(now), h.version()
	if f.asked != 0 && f.version == version && (f.asked == at || f.closed && f.asked < at && (f.hold.Until.IsZero() || at < msUp(f.hold.Until))) {
		return !f.closed
	}
	was := f.closed
	f.asked, f.version, f.closed, f.hold = at, version, false, limit.Hold{}
	for _, g := range h.gates {
		if hold, closed := g.Closed(now, f.key); closed {
			f.closed, f.hold = true, hold
			break
		}
	}
	if f.closed && (!was || f.closedAt > at) {
		f.closedAt = at
	}
	return !f.closed
}

// reopens is when a closed flow is to be looked at again.
func (f *flow) reopens() int64 {
	if f.hold.Until.IsZero() {
		return math.MaxInt64
	}
	return max(msUp(f.hold.Until), f.asked+1)
}

// blocks reports whether one that waits for this reason keeps its place in its order.
func blocks(r ledgerv1.HoldReason) bool {
	switch r {
	case ledgerv1.HoldReason_HOLD_REASON_NOT_BEFORE, ledgerv1.HoldReason_HOLD_REASON_OPERATOR,
		ledgerv1.HoldReason_HOLD_REASON_ACCOUNT, ledgerv1.HoldReason_HOLD_REASON_TEMPLATE_REVIEW:
		return false
	}
	return true
}
