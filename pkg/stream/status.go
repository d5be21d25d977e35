package stream

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Status is a snapshot for readiness, metrics and "zns status".
type Status struct {
	Joined     bool
	Partitions []PartitionStatus // ascending
	Commits    uint64            // transactions committed since the start
	Aborts     uint64            // transactions aborted since the start
}

// PartitionStatus is the state of one partition that this member owns.
type PartitionStatus struct {
	Partition int32
	FrontDoor bool  // has no ledger: its records are moved to their canonical partition
	Ready     bool  // restored and taking part in ticks
	Full      bool  // fetching is paused because the Handler is full
	Next      int64 // next input offset to accept
	Err       error // why the partition is stopped, or could not be restored for 15 s; nil when it is neither

	// HeldBack is since when an open transaction keeps read-committed readers from the end of the input; zero when
	// none does.
	HeldBack time.Time
}

// Status is what the engine owns and how it fares, as of the end of the latest tick. It never waits for a tick.
func (e *Engine) Status() Status {
	s := *e.status.Load()
	s.Partitions = slices.Clone(s.Partitions)
	s.Joined = e.joined.Load()
	return s
}

// publish makes the present state the one that Status tells. mu is held.
func (e *Engine) publish() {
	s := &Status{Commits: e.tally.commits, Aborts: e.tally.aborts}
	for _, p := range e.sorted() {
		err := p.err
		if h := p.held.Load(); err == nil && h != nil && !p.ready && time.Since(h.since) >= e.cfg.heldUpFor {
			err = fmt.Errorf("not restored after %v: %w", time.Since(h.since).Round(time.Second), h.why)
		}
		next := p.next
		if tx := e.unsettled; tx != nil {
			if in, ok := tx.accepted[p]; ok {
				next = in.before // what it accepted may come again
			}
		}
		s.Partitions = append(s.Partitions, PartitionStatus{
			Partition: p.id, FrontDoor: !p.ledgered, Ready: p.ready && p.err == nil, Full: p.full, Next: next,
			Err: err, HeldBack: p.heldBack,
		})
	}
	e.status.Store(s)
}

// Step names a point in the engine's work at which a test may stop or kill the process.
type Step string

// The steps of a tick, of giving a partition up, of a restore and of the end, in this order.
const (
	StepBuilt       Step = "tick: built"             // nothing has left the process
	StepProduced    Step = "tick: produced"          // records are at the broker, the transaction is open
	StepOffsets     Step = "tick: offsets"           // offsets are in the transaction
	StepCommitted   Step = "tick: committed"         // EndTxn was confirmed, OnCommit has not run
	StepApplied     Step = "tick: applied"           // OnCommit has run
	StepAborted     Step = "tick: aborted"           // OnAbort has run
	StepUnconfirmed Step = "tick: unconfirmed"       // EndTxn failed: committed or not is not known
	StepSettled     Step = "tick: settled"           // now it is known
	StepClosing     Step = "revoke: closing"         // nothing is started any more for the partitions
	StepIdle        Step = "revoke: idle"            // their calls have ended and their outcomes are committed
	StepDropped     Step = "revoke: dropped"         // their state is gone
	StepAssigned    Step = "restore: assigned"       // empty state exists, fetching is paused
	StepRestoring   Step = "restore: reading"        // the ledger's end is known
	StepRestored    Step = "restore: restored"       // the partition takes part in ticks
	StepTakeover    Step = "restore: fenced another" // a dead owner's transaction was ended
	StepDraining    Step = "stop: draining"          // a stop was asked for
)

// Steps lists all steps, in the order of their constants.
func Steps() []Step {
	return []Step{
		StepBuilt, StepProduced, StepOffsets, StepCommitted, StepApplied, StepAborted, StepUnconfirmed, StepSettled,
		StepClosing, StepIdle, StepDropped, StepAssigned, StepRestoring, StepRestored, StepTakeover, StepDraining,
	}
}

// String is the step's name, as a test names the step at which a process is to stop.
func (s Step) String() string { return string(s) }

// quiet lets a repeated log line through once in a while.
type quiet struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// recent reports whether key was let through in the last ten seconds.
func (q *quiet) recent(key string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return time.Since(q.last[key]) < 10*time.Second
}

// pass reports whether key was not let through in the last ten seconds.
func (q *quiet) pass(key string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if now.Sub(q.last[key]) < 10*time.Second {
		return false
	}
	if q.last == nil || len(q.last) > 1000 {
		q.last = map[string]time.Time{}
	}
	q.last[key] = now
	return true
}
