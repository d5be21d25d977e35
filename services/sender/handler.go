package sender

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/stream"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

// unit is the part of *stream.Unit that the sender uses.
type unit interface {
	Now() time.Time
	Partition() int32
	LedgerPartitions() int32
	Poison() error
	Ledger(key string, value []byte) *stream.Written // its Offset counts from OnCommit on
	Publish(kafka.Record)
	OnCommit(func())
	OnAbort(func())
}

// tick is the part of *stream.Tx that the sender uses.
type tick interface {
	Now() time.Time
	Partitions() []int32
	Owns(p int32) bool
	Closing(p int32) bool
	Full() bool
	Unit(p int32, key string) unit
}

// streamTick makes a *stream.Tx a tick: the two differ in the type that Unit returns.
type streamTick struct{ *stream.Tx }

func (t streamTick) Unit(p int32, key string) unit {
	if u := t.Tx.Unit(p, key); u != nil {
		return u
	}
	return nil
}

// handler is the sender as a [stream.Handler]. The engine's tick lock guards everything but what says otherwise.
//
// State is changed at once, and undone by the function given to OnAbort; calls, metrics and log lines happen in
// OnCommit only. So no call ever starts before its intent is confirmed.
type handler struct {
	settings settings
	rules    rules
	log      *slog.Logger
	metrics  *metrics
	tracer   tracer

	mu    sync.RWMutex // guards the map, not what it holds: restores run beside the ticks
	parts map[int32]*partition

	// What decides which flows may start, and when: set before the engine runs. The first gate that is closed gives
	// the reason.
	gates            []gate
	pace             pacer                                                          // nil: none
	templateCategory func(oa, template string) (c notificationv1.Category, ok bool) // nil: no template is known
	arrived          func(limit.Flow)                                               // is told of each request taken; may be nil
	wholeOA          func()                                                         // is told when all requests of an OA are held, or go out again; may be nil
	seedHold         func(limit.Flow, limit.Hold)                                   // is told what a restored ledger says of closed flows; may be nil

	limits       *limit.Limits
	limitsNext   time.Time                     // when the limits want to be looked at again
	control      rulebook                      // what operators said; nil: nothing
	releaseFlows func(oa, template string) int // is [limit.Limits.Release]; nil: there are no gates
	operators    *operatorMetrics              // nil: not measured

	dispatch    *dispatcher
	callbacks   *reconciler
	clock       *clock
	uncommitted int          // intents written but not yet confirmed
	open        []*partition // of openParts
	credit      [lanes]int   // starts of other lanes since one of this lane

	loader  *loader
	loading [2]int // entries that are being read, by urgency
	fixed   int64  // bytes that have to stay in memory, as of the last look
	full    bool
	// The same for the metrics.
	fixedSeen, payloadSeen atomic.Int64
	fullSeen               atomic.Bool

	probed time.Time // when an entry was last rewritten to see the broker's time
}

var _ stream.Handler = (*handler)(nil)

// Assigned implements [stream.Handler].
func (h *handler) Assigned(p int32) {
	h.mu.Lock()
	h.parts[p] = newPartition(p, h)
	h.mu.Unlock()
}

func (h *handler) partition(p int32) *partition {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.parts[p]
}

// Restore implements [stream.Handler].
func (h *handler) Restore(p int32, r kafka.Record) error {
	return h.partition(p).restore(r)
}

// Restored implements [stream.Handler].
func (h *handler) Restored(p int32) {
	h.Rebuild(p) // unless the engine had that done already, off the tick lock
	pt := h.partition(p)
	pt.restored = true
	for _, f := range pt.flows {
		if f != nil && f.restored.Reason != 0 && h.seedHold != nil {
			h.seedHold(f.key, f.restored)
		}
	}
	h.limits.Own(p, h.settings.partitions(), time.Now())
	if pt.oldest != 0 {
		h.callbacks.need(fromMs(pt.oldest), true)
	}
	h.measure()
	h.log.Info("notifications restored", "partition", p, "waiting", pt.live()-pt.orphaned, "unknown", pt.orphaned, "finished", pt.finished.Len())
	if pt.broken > 0 {
		h.log.Error("ledger entries cannot be read and are left alone", "partition", p, "entries", pt.broken)
	}
}

// Full implements [stream.Handler]. All partitions share SENDER_MEMORY: while what has to stay in memory takes that,
// nothing is accepted.
func (h *handler) Full(int32) bool { return h.full }

// Accept implements [stream.Handler].
func (h *handler) Accept(u *stream.Unit, r kafka.Record) { h.accept(u, r) }

// Work implements [stream.Handler].
func (h *handler) Work(tx *stream.Tx) time.Time { return h.work(streamTick{tx}) }

// InFlight implements [stream.Handler].
func (h *handler) InFlight(p int32) int {
	pt := h.partition(p)
	if pt == nil {
		return 0
	}
	return int(pt.calls.Load())
}

// Pending implements [stream.Handler].
func (h *handler) Pending(p int32) bool {
	pt := h.partition(p)
	return pt != nil && pt.ended.Load() > 0
}

// Dropped implements [stream.Handler].
func (h *handler) Dropped(p int32) {
	pt := h.partition(p)
	if pt == nil {
		return
	}
	pt.dropped.Store(true)
	h.limits.Lose(p, time.Now())
	h.dispatch.forget(pt)
	h.uncommitted -= len(pt.uncommitted)
	for c := range pt.uncommitted {
		c.permit.Undo() // nobody tells any more whether its intent was confirmed
	}
	for r := ref(1); uint32(r) <= pt.slots.top; r++ {
		e := pt.entries[r]
		if s := pt.at(r); e == nil && s.has(flagListened) {
			e = &entry{id: s.id, listened: true, wanting: s.has(flagWanting)}
		}
		if e != nil {
			h.callbacks.track(e, false, false)
		}
	}
	h.mu.Lock()
	delete(h.parts, p)
	h.mu.Unlock()
}

// work writes what became due, in the order of what must not wait: outcomes first, for they free the order of their
// keys and end what is uncertain, then callbacks, timers and new intents.
func (h *handler) work(tx tick) time.Time {
	now := tx.Now()
	h.dispatch.observe()
	h.measure()
	h.evict() // before what was read comes in: that is to be used in this tick
	h.loaded(ms(now))
	defer h.submitLoads()
	for _, p := range tx.Partitions() {
		if tx.Closing(p) {
			h.dispatch.withdraw(h.partition(p))
		}
	}
	again := h.outcomes(tx)
	again = h.heard(tx) || again
	h.obey(tx)
	var next time.Time
	if h.clock.trusted() {
		h.advance(now)
		again = h.orphans(tx) || again
		again = h.supersessions(tx) || again
		again = h.timers(tx) || again
		again = h.launches(tx) || again
		again = h.tell(tx) || again
		again = h.workJobs(tx) || again
		next = h.nextTimer(tx)
	} else {
		h.probeClock(tx)
		next = now.Add(time.Second)
	}
	again = h.answer(tx) || again
	if again {
		return now
	}
	return next
}

// orphans writes as UNKNOWN what was SENDING when its partition was restored: an earlier owner died in the call. That
// counts from now, when the clock is right, and not from the restore.
func (h *handler) orphans(tx tick) (again bool) {
	now := ms(tx.Now())
	for _, p := range h.openParts(tx) {
		for p.orphans.len() > 0 {
			if tx.Full() {
				return true
			}
			o, _ := p.orphans.popFront()
			e := o.e
			if e.state != stateUnknown || e.ref == 0 {
				e.pins--
				continue // a callback was faster
			}
			u := tx.Unit(p.id, e.id.String())
			if u == nil {
				p.orphans.pushFront(o)
				return true
			}
			before := e.mut
			e.mut = o.was
			h.orphan(e, now)
			h.write(u, e)
			p.place(e, now)
			e.pins--
			u.OnAbort(func() {
				e.pins++
				e.mut = before
				p.place(e, now)
				p.orphans.pushFront(o)
			})
			h.tellUnknown(u, e)
		}
	}
	return false
}

// orphan is one that was SENDING when its partition was restored.
type orphan struct {
	e   *entry
	was mut
}

// orphan makes e, which was SENDING, UNKNOWN.
func (h *handler) orphan(e *entry, now int64) {
	const cause = znsv1.UnknownCause_UNKNOWN_CAUSE_OWNER_DIED
	last := e.open[len(e.open)-1]
	e.addResult(attemptResult{openAttempt: last, outcome: znsv1.AttemptOutcome_ATTEMPT_OUTCOME_UNKNOWN, cause: cause})
	h.becomeUnknown(e, cause, 0, 0, max(now, last.intent))
}

// lookup returns where the live notification with the given id is; no partition: it is not here. Its entry need not be
// in memory.
func (h *handler) lookup(id uuid.UUID) (*partition, ref) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, p := range h.parts {
		if !p.restored {
			continue
		}
		if r := p.find(id); r != 0 {
			return p, r
		}
	}
	return nil, 0
}
