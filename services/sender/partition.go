package sender

import (
	"hash/maphash"
	"sync/atomic"

	"github.com/google/uuid"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/sender/limit"
	"github.com/znshub/znshub/services/sender/memory"
)

// partition is the state of one partition that this member owns. The tick lock guards it, except what is atomic.
//
// Each live notification has a slot, and an entry while there is memory for it. It is in at most one place of each
// kind, which [partition.place] derives from its state: the line of its order, a heap of its flow with those that may
// start, the timer heap of its lane. No tick looks at more notifications than change in it.
type partition struct {
	id       int32
	rules    *rules
	interest *reconciler // is told which entries have open attempts

	slots     arena
	ids       ids
	entries   map[ref]*entry // those in memory
	flows     []*flow
	flowIndex map[limit.Flow]uint32
	freeFlows []uint32
	lanes     [lanes]lane
	scopes    scopes

	finished *memory.Table // what was there, until its dedupe window is over

	restoring map[uuid.UUID][]byte // while the ledger is read: the latest record of each entry with open attempts
	flowNames map[string]uint32    // and the flows, by the encoding of their keys
	name      []byte               // one such
	rebuilt   bool
	restored  bool              // ticks may look at it: until then it is another goroutine's
	orphaned  int               // entries that were SENDING when restored
	broken    int               // entries that could not be read
	oldest    int64             // the earliest open attempt
	reserved  map[string][]byte // latest ledger records under keys that are no notification's
	orphans   deque[orphan]     // SENDING when restored: to be written as UNKNOWN
	jobs      deque[*job]
	leaving   int       // ended in units that are not yet committed
	obeyed    obedience // of zns.control

	collapse   map[uint64][]ref // those with a collapse_key, by its hash
	collapseOf map[ref]uint64
	superseded deque[supersession]

	wanted [2][]ref // entries to be read, by urgency
	hand   ref      // where the last look for entries that can go ended

	bytes        int64          // of entries in memory
	uncommitted  map[*call]bool // their intents are written but not yet confirmed
	lastAccepted int64
	upSince      int64                     // since when this member works on the partition, ms
	waiting      [waitReasons]atomic.Int64 // live entries by why they wait; read by the metrics

	calls   atomic.Int32 // intents written whose call has not ended
	ended   atomic.Int32 // calls ended whose outcome is not written
	dropped atomic.Bool
}

func newPartition(id int32, h *handler) *partition {
	p := &partition{
		id: id, rules: &h.rules, interest: h.callbacks, entries: map[ref]*entry{},
		flowIndex: map[limit.Flow]uint32{}, finished: memory.New(), restoring: map[uuid.UUID][]byte{}, flowNames: map[string]uint32{}, reserved: map[string][]byte{},
		uncommitted: map[*call]bool{},
	}
	p.ids.init()
	p.scopes.init()
	return p
}

// rules is what of the configuration decides where entries stand.
type rules struct {
	unresolvedAfter int64
	orderWait       int64
	watch           int64 // how long a FAILED(UNRESOLVED) is watched
}

func (p *partition) at(r ref) *slot { return p.slots.at(r) }

// find returns the slot of a live notification; 0: there is none.
func (p *partition) find(id uuid.UUID) ref { return p.ids.find(&p.slots, id) }

// entry returns the live notification with the given id; nil: there is none, or it is not in memory.
func (p *partition) entry(id uuid.UUID) *entry { return p.entries[p.find(id)] }

// live is how many notifications are not finished.
func (p *partition) live() int { return p.slots.n }

// anyWaiting returns one that waits; 0: there is none.
func (p *partition) anyWaiting() ref {
	for i := range p.lanes {
		if r := p.lanes[i].timers.first(); r != 0 {
			return r
		}
	}
	return 0
}

// add makes e known.
func (p *partition) add(e *entry, now int64) {
	r := p.slots.alloc()
	s := p.at(r)
	s.id, s.offset, s.expire, s.due, s.hash = e.id, to48(e.offset), to48(e.expire), to48(e.due), shortHash(e.hash[:])
	f := p.flowOf(e.flow)
	f.members++
	s.flow, e.flow = f.index, f.key
	s.ledger = to48(e.ledger)
	p.ids.insert(&p.slots, r)
	e.p, e.ref = p, r
	p.attach(e)
	if e.collapse != 0 {
		p.joinCollapse(r, s, e.collapse)
	}
	if e.order != 0 {
		s.scope = p.scopes.enter(e.order)
	}
	p.place(e, now)
}

// remove forgets e, whatever its state.
func (p *partition) remove(e *entry) {
	r := e.ref
	s := p.at(r)
	p.unplace(r, s)
	p.release(r, s)
}

// unplace takes r out of everything.
func (p *partition) unplace(r ref, s *slot) {
	p.setTimer(r, s, 0)
	p.count(s, 0)
	s.set(flagRunnable, false)
	p.reheap(r, s)
	if s.scope != 0 {
		sc := p.scopes.at(s.scope)
		p.leaveLine(sc, r, s)
		sc.release(r)
		p.promote(sc)
	}
	if e := p.entries[r]; e != nil {
		p.interest.track(e, false, false)
		p.detach(e)
		e.ref = 0
	}
}

// release gives back the slot of one that stands nowhere any more.
func (p *partition) release(r ref, s *slot) {
	if s.scope != 0 {
		p.scopes.leave(s.scope)
	}
	if s.has(flagCollapse) {
		p.leaveCollapse(r)
	}
	p.ids.remove(&p.slots, r)
	p.leaveFlow(p.flows[s.flow])
	p.slots.release(r)
}

// place puts e where its state says.
func (p *partition) place(e *entry, now int64) {
	s := p.at(e.ref)
	line, runnable, timer := e.wants(now, p.rules)
	s.state, s.reason = uint8(e.state), uint8(e.reason)
	s.set(flagFlowHold, e.state == stateHeld && e.flowHold)
	p.count(s, 1+waitIndex(e))
	if e.obsolete() {
		p.superseded.pushBack(supersession{e.id, e.id})
	}
	p.interest.track(e, len(e.open) > 0, len(e.open) > 0 && (e.state != stateSending || len(e.open) > 1))
	p.arrange(e.ref, s, line, runnable, timer)
}

// resume lets what waited for a time of its own start. Its entry need not be in memory.
func (p *partition) resume(r ref, s *slot) { p.arrange(r, s, true, true, s.expire.get()+1) }

func (p *partition) arrange(r ref, s *slot, line, runnable bool, timer int64) {
	s.set(flagRunnable, runnable)
	p.setTimer(r, s, timer)
	if s.scope != 0 {
		sc := p.scopes.at(s.scope)
		if ledgerv1.State(s.state) == stateSending {
			sc.busy = r
		} else {
			sc.release(r)
		}
		if line {
			p.joinLine(sc, r, s)
		} else {
			p.leaveLine(sc, r, s)
		}
		p.promote(sc)
	}
	p.reheap(r, s)
}

// count keeps the number of entries by why they wait; index 0: it is not counted any more.
func (p *partition) count(s *slot, index int) {
	if int(s.count) == index {
		return
	}
	if s.count > 0 {
		p.waiting[s.count-1].Add(-1)
	}
	if index > 0 {
		p.waiting[index-1].Add(1)
	}
	s.count = uint8(index) //nolint:gosec // G115: few reasons
}

// wants derives from e's state whether it stands in its order's line, whether it may start, and when it is to be
// looked at next (0: not by time).
func (e *entry) wants(now int64, r *rules) (line, runnable bool, timer int64) {
	expiry := e.expire + 1
	switch e.state {
	case stateAccepted:
		return true, true, expiry
	case stateHeld:
		if e.reason == ledgerv1.HoldReason_HOLD_REASON_ORDER {
			return true, true, expiry
		}
		if e.flowHold { // the gates decide
			return blocks(e.reason), true, expiry
		}
		if e.until == 0 {
			return blocks(e.reason), false, expiry
		}
		if e.until <= now {
			return true, true, expiry
		}
		return blocks(e.reason), false, min(e.until, expiry)
	case stateSending:
		return true, false, 0
	case stateUnknown:
		timer = max(e.decideBy, e.decideAt)
		if !e.unresolved {
			timer = min(timer, e.unknownSince+r.unresolvedAfter)
		}
		// A re-send is possible by the policy or by an operator; those who wait behind it do so for a bounded time.
		if e.policy != znsv1.UnknownPolicy_UNKNOWN_POLICY_FAIL && now < e.unknownSince+r.orderWait {
			line = true
			timer = min(timer, e.unknownSince+r.orderWait)
		}
		return line, false, timer
	case stateFailed: // watched
		return false, false, e.finished + r.watch
	}
	return false, false, 0
}

// setTimer arms, moves or, with 0, stops the timer of a slot.
func (p *partition) setTimer(r ref, s *slot, at int64) {
	h := &p.lanes[p.flows[s.flow].lane].timers
	switch {
	case at == 0 && s.timer == 0:
	case at == 0:
		h.remove(&p.slots, r)
	case s.timer == 0:
		s.at = to48(at)
		h.push(&p.slots, r)
	case at != s.at.get():
		s.at = to48(at)
		h.fix(&p.slots, r)
	}
}

// nextTimer returns when the first timer is to be looked at; 0: there is none. One that is due already waits for entries
// that are being read, and the end of that wakes.
func (p *partition) nextTimer(now int64) (at int64) {
	for i := range p.lanes {
		if r := p.lanes[i].timers.first(); r != 0 {
			t := p.at(r).at.get()
			if t <= now {
				t = now + loadAgain.Milliseconds()
			}
			if at == 0 || t < at {
				at = t
			}
		}
	}
	return at
}

// reheap puts r into the heap of its flow that it belongs to, or takes it out.
func (p *partition) reheap(r ref, s *slot) {
	f := p.flows[s.flow]
	in, which := p.mayStart(r, s), 1-f.toldIn
	if reason := ledgerv1.HoldReason(s.reason); in && s.has(flagFlowHold) && (blocks(reason) || !s.has(flagInLine)) {
		if f.heaps[f.toldIn].len() == 0 {
			f.told = reason
		}
		if f.told == reason {
			which = f.toldIn
		}
	}
	if s.heap != 0 {
		was := b2i(s.has(flagSecond))
		if in && which == was {
			return
		}
		f.heaps[was].remove(&p.slots, r)
	}
	if in {
		s.set(flagSecond, which == 1)
		f.heaps[which].push(&p.slots, r)
	}
	p.refresh(f)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// mayStart reports whether nothing but its flow keeps r from starting. One whose flow is closed for a reason that lets
// others of its order pass has no place in line: it takes one when it is its turn.
func (p *partition) mayStart(r ref, s *slot) bool {
	if !s.has(flagRunnable) {
		return false
	}
	if s.scope == 0 || !s.has(flagInLine) {
		return true
	}
	sc := p.scopes.at(s.scope)
	return sc.busy == 0 && sc.head == r
}

// takePlace makes one that gave way while its flow was closed stand in line again. It reports whether it may start.
func (p *partition) takePlace(r ref, s *slot) bool {
	if s.scope != 0 && !s.has(flagInLine) {
		sc := p.scopes.at(s.scope)
		p.joinLine(sc, r, s)
		p.promote(sc)
		p.reheap(r, s)
	}
	return p.mayStart(r, s)
}

// giveWay undoes takePlace: its flow is closed again.
func (p *partition) giveWay(r ref, s *slot) {
	if s.scope != 0 {
		sc := p.scopes.at(s.scope)
		p.leaveLine(sc, r, s)
		p.promote(sc)
	}
	p.reheap(r, s)
}

// orderSeed makes orders' hashes differ from program to program, so that nobody can choose keys that meet.
var orderSeed = maphash.MakeSeed()

// orderOf names the order that a request belongs to; 0: none. Two orders that meet in one hash wait for each other
// now and then, and nothing else comes of it.
func orderOf(req *notificationv1.NotificationRequested) uint64 {
	if req.GetOrderingKey() == "" {
		return 0
	}
	return hashOf(req.GetOaId(), req.GetOrderingKey())
}

func hashOf[T ~string | ~[]byte](parts ...T) uint64 {
	joined := make([]byte, 0, 128) // on the stack, mostly
	for _, part := range parts {
		joined = append(append(joined, part...), 0)
	}
	return max(maphash.Bytes(orderSeed, joined), 1)
}
