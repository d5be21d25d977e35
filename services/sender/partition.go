package sender

import (
	"sync/atomic"

	"github.com/google/uuid"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// partition is the state of one partition that this member owns. The tick lock guards it, except what is atomic.
//
// Each live entry is in at most one place of each kind, which [partition.place] derives from its state: the line of
// its order scope, the queue of those ready to start, the timer heap. No tick looks at more entries than change in it.
type partition struct {
	id       int32
	rules    *rules
	used     *int64      // bytes of live entries of all partitions
	interest *reconciler // is told which entries have open attempts

	live   map[uuid.UUID]*entry
	done   map[uuid.UUID]doneEntry // terminal: the memory of what was there
	tombs  deque[tomb]             // terminal, in the order in which they became so
	scopes map[string]*scope
	ready  deque[*entry]
	stale  int // entries in ready that are gone
	timers timerHeap

	restoring map[uuid.UUID][]byte // while the ledger is read: the latest record of each entry that is not terminal
	orphans   deque[*entry]        // SENDING when restored: to be written as UNKNOWN

	bytes        int64 // of live entries
	uncommitted  int   // intents written but not yet confirmed
	lastAccepted int64
	upSince      int64 // since when this member works on the partition, ms
	full         bool
	waiting      [waitReasons]atomic.Int64 // live entries by why they wait; read by the metrics

	calls   atomic.Int32 // intents written whose call has not ended
	ended   atomic.Int32 // calls ended whose outcome is not written
	dropped atomic.Bool
}

// doneEntry is what memory keeps of a terminal entry.
type doneEntry struct {
	offset   int64
	hash     uint64 // the first eight bytes of the payload's hash
	finished int64
}

type tomb struct {
	id       uuid.UUID
	finished int64
}

func newPartition(id int32, h *handler) *partition {
	return &partition{
		id: id, rules: &h.rules, used: &h.used, interest: h.callbacks, live: map[uuid.UUID]*entry{}, done: map[uuid.UUID]doneEntry{}, scopes: map[string]*scope{},
		restoring: map[uuid.UUID][]byte{},
	}
}

// rules is what of the configuration decides where entries stand.
type rules struct {
	unresolvedAfter int64
	orderWait       int64
	watch           int64 // how long a FAILED(UNRESOLVED) is watched
}

// sched is where the schedule has an entry.
type sched struct {
	scope    *scope
	inLine   bool // stands in its scope's line
	inReady  bool // stands in the ready queue
	runnable bool // may start as soon as its turn comes
	timer    int  // index in the timer heap + 1; 0: none
	timerAt  int64
	counted  int   // index in partition.waiting + 1
	listened bool  // the reconciler listens for its callbacks
	wanting  bool  // and only a callback can settle an attempt of it
	decideAt int64 // when to look again whether the policy may act
}

// add makes e known. Its scope, when it has one, is found by key.
func (p *partition) add(e *entry, scopeKey string, now int64) {
	e.p = p
	p.live[e.id] = e
	p.bytes += e.size()
	*p.used += e.size()
	if scopeKey != "" {
		s := p.scopes[scopeKey]
		if s == nil {
			s = &scope{key: scopeKey}
			p.scopes[scopeKey] = s
		}
		s.members++
		e.scope = s
	}
	p.place(e, now)
}

// remove forgets e, whatever its state.
func (p *partition) remove(e *entry) {
	delete(p.live, e.id)
	p.bytes -= e.size()
	*p.used -= e.size()
	p.interest.track(e, false, false)
	p.setTimer(e, 0)
	p.count(e, 0)
	if e.inReady {
		p.stale++
		p.tidyReady()
	}
	e.runnable, e.inReady = false, false
	if s := e.scope; s != nil {
		s.leave(e)
		s.release(e)
		if s.members--; s.members == 0 {
			delete(p.scopes, s.key)
		}
		p.promote(s)
	}
}

// readd undoes remove.
func (p *partition) readd(e *entry, now int64) {
	key := ""
	if e.scope != nil {
		key = e.scope.key
	}
	e.sched = sched{}
	p.add(e, key, now)
}

// place puts e where its state says.
func (p *partition) place(e *entry, now int64) {
	line, runnable, timer := e.wants(now, p.rules)
	e.runnable = runnable
	p.setTimer(e, timer)
	p.count(e, 1+waitIndex(e))
	p.interest.track(e, len(e.open) > 0, len(e.open) > 0 && (e.state != stateSending || len(e.open) > 1))
	s := e.scope
	if s == nil {
		p.push(e)
		return
	}
	if e.state == stateSending {
		s.busy = e
	} else {
		s.release(e)
	}
	switch {
	case line && !e.inLine:
		s.join(e)
	case !line && e.inLine:
		s.leave(e)
	}
	p.promote(s)
}

// count keeps the number of entries by why they wait; index 0: e is not counted any more.
func (p *partition) count(e *entry, index int) {
	if e.counted == index {
		return
	}
	if e.counted > 0 {
		p.waiting[e.counted-1].Add(-1)
	}
	if index > 0 {
		p.waiting[index-1].Add(1)
	}
	e.counted = index
}

// wants derives from e's state whether it stands in its order's line, whether it may start, and when it is to be
// looked at next (0: not by time).
func (e *entry) wants(now int64, r *rules) (line, runnable bool, timer int64) {
	expiry := e.expire + 1
	switch e.state {
	case stateAccepted:
		return true, true, expiry
	case stateHeld:
		switch e.reason {
		case ledgerv1.HoldReason_HOLD_REASON_ORDER:
			return true, true, expiry
		case ledgerv1.HoldReason_HOLD_REASON_NOT_BEFORE, ledgerv1.HoldReason_HOLD_REASON_OPERATOR,
			ledgerv1.HoldReason_HOLD_REASON_ACCOUNT, ledgerv1.HoldReason_HOLD_REASON_TEMPLATE_REVIEW:
			line = false
		default:
			line = true
		}
		if e.until == 0 {
			return line, false, expiry
		}
		if e.until <= now {
			return true, true, expiry
		}
		return line, false, min(e.until, expiry)
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

// push puts e at the end of the ready queue when it may start.
func (p *partition) push(e *entry) {
	if e.runnable && !e.inReady {
		e.inReady = true
		p.ready.pushBack(e)
	}
}

// promote lets the first in line start when nothing of its scope is under way.
func (p *partition) promote(s *scope) {
	if s.busy == nil && len(s.line) > 0 {
		p.push(s.line[0])
	}
}

// next takes the next entry that may start from the ready queue; nil: none. What became unfit since it was queued is
// skipped: its own change of state put it where it belongs.
func (p *partition) next() *entry {
	for {
		e, ok := p.ready.popFront()
		if !ok {
			return nil
		}
		if !e.inReady {
			p.stale = max(p.stale-1, 0)
			continue
		}
		e.inReady = false
		if !e.runnable || e.scope != nil && (e.scope.busy != nil || len(e.scope.line) == 0 || e.scope.line[0] != e) {
			continue
		}
		return e
	}
}

// tidyReady drops what is gone from the ready queue, so that a long standstill in which much expires costs no memory.
func (p *partition) tidyReady() {
	if p.stale < 1024 || p.stale < p.ready.len()/2 {
		return
	}
	p.stale = 0
	for range p.ready.len() {
		if e, _ := p.ready.popFront(); e.inReady && p.live[e.id] == e {
			p.ready.pushBack(e)
		}
	}
}

// putBack undoes next.
func (p *partition) putBack(e *entry) {
	if !e.inReady {
		e.inReady = true
		p.ready.pushFront(e)
	}
}

// scope is an order: those of one OA and ordering_key.
type scope struct {
	key     string
	line    []*entry // those that have a place, first to go first
	busy    *entry   // the one under way
	members int      // live entries, in line or not
}

func (s *scope) release(e *entry) {
	if s.busy == e {
		s.busy = nil
	}
}

// join gives e its place: by the time at which it was due, then by its offset. accepted never decreases with the
// offset, so the same order comes out again after a restore.
func (s *scope) join(e *entry) {
	i := len(s.line)
	for i > 0 && before(e, s.line[i-1]) {
		i--
	}
	s.line = append(s.line, nil)
	copy(s.line[i+1:], s.line[i:])
	s.line[i] = e
	e.inLine = true
}

func (s *scope) leave(e *entry) {
	if !e.inLine {
		return
	}
	e.inLine = false
	for i, x := range s.line {
		if x == e {
			s.line = append(s.line[:i], s.line[i+1:]...)
			return
		}
	}
}

func before(a, b *entry) bool {
	if a.due != b.due {
		return a.due < b.due
	}
	return a.offset < b.offset
}
