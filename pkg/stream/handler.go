package stream

import (
	"time"

	"github.com/znshub/znshub/pkg/kafka"
)

// Handler is the application on top of the engine. It owns the state of the partitions that this member owns.
//
// Every method but Restore is called with the tick lock held, one call at a time: a Handler needs no lock of its own
// for what only these methods touch. State may be changed at once; each change is undone by the function given to
// Unit.OnAbort, and nothing may leave the process (a call, a metric, a log line) before Unit.OnCommit runs.
type Handler interface {
	// Assigned says that partition p is now this member's. Make empty state for it.
	Assigned(p int32)
	// Restore hands over one record of the ledger of p, in offset order, each once, all but those under [PositionKey];
	// Value nil is a tombstone. It runs on the partition's restore goroutine, between Assigned and Restored, and must
	// touch the state of p only. An error stops the partition: it stays paused, owned, and is told in Status.
	Restore(p int32, r kafka.Record) error
	// Restored says that the ledger of p was read to its end. From now on p takes part in ticks.
	Restored(p int32)
	// Full reports whether p holds as much as it may: its fetching pauses until Full is false again.
	Full(p int32) bool
	// Accept takes one input record of a restored partition, in offset order. What it writes into u is committed
	// together with the record's offset. When u.Poison() is not nil the broker refused what Accept wrote for this
	// record before: write something else (a dead letter without the value).
	Accept(u *Unit, r kafka.Record)
	// Work is called once in every tick after the input, except in some ticks while the engine looks for a unit that
	// the broker refuses. It writes what became due: outcomes of finished calls, timers, intents. next is when it wants
	// to be called again at the latest; zero: only when woken. Finished calls of a closing partition are still to be
	// written; nothing is to be started for it.
	Work(tx *Tx) (next time.Time)
	// InFlight is the number of calls of p under way, counting intents that are written but not yet committed.
	InFlight(p int32) int
	// Pending reports whether Work has something to write for p even while p is closing.
	Pending(p int32) bool
	// Dropped says that p is no longer this member's. Forget its state; what calls under way bring is to be ignored.
	Dropped(p int32)
}

// Rebuilder is a Handler that has to put what was restored in order before it can work with it.
type Rebuilder interface {
	// Rebuild says that the whole ledger of p was handed over. It runs where Restore runs, without the tick lock, so that
	// the other partitions work on, and must touch the state of p only. Restored follows, unless p is given up; when the
	// end of the restore has to be tried again, Rebuild is called again.
	Rebuild(p int32)
}
