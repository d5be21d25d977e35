package stream

import (
	"time"

	"github.com/znshub/znshub/pkg/kafka"
)

// Tx is one tick's transaction while it is being built. It must not be kept after Work returns.
type Tx struct{}

// Now is the tick's time.
func (tx *Tx) Now() time.Time { panic("not built yet") }

// Partitions lists the partitions that take part in this tick, ascending.
func (tx *Tx) Partitions() []int32 { panic("not built yet") }

// Owns reports whether p takes part in this tick. Writing for one that does not is a programmer error.
func (tx *Tx) Owns(p int32) bool { panic("not built yet") }

// Closing reports whether p is being given up: write outcomes, start nothing.
func (tx *Tx) Closing(p int32) bool { panic("not built yet") }

// Full reports whether the transaction has reached its limit of records or bytes. Unit still works when it is full,
// but what can wait should wait for the next tick.
func (tx *Tx) Full() bool { panic("not built yet") }

// Unit begins a group of writes for partition p that belong together. key names it within p, so that a group that
// the broker refuses for its own sake is recognised when it comes again; the notification's id serves.
// Unit returns nil when the transaction takes no more groups: stop, and go on in the next tick.
func (tx *Tx) Unit(p int32, key string) *Unit { panic("not built yet") }

// Unit is a group of writes that are committed or undone together.
type Unit struct{}

// Now is the tick's time.
func (u *Unit) Now() time.Time { panic("not built yet") }

// Partition is the partition that the unit belongs to.
func (u *Unit) Partition() int32 { panic("not built yet") }

// Poison returns the error with which the broker refused this unit's records when they were alone in a transaction;
// nil for a unit that was never refused. A poisoned unit must write something smaller.
func (u *Unit) Poison() error { panic("not built yet") }

// Ledger writes the state kept under key in the ledger of the unit's partition; a nil value is a tombstone.
func (u *Unit) Ledger(key string, value []byte) { panic("not built yet") }

// Publish writes r to r.Topic. Partition -1 chooses by murmur2 of the key. Offset is ignored; a zero Time means now.
func (u *Unit) Publish(r kafka.Record) { panic("not built yet") }

// OnCommit registers f to run under the tick lock once the commit is confirmed.
func (u *Unit) OnCommit(f func()) { panic("not built yet") }

// OnAbort registers f to run under the tick lock when the transaction is undone; the last registered runs first.
func (u *Unit) OnAbort(f func()) { panic("not built yet") }
