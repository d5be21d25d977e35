package stream

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
)

// Tx is one tick's transaction while it is being built. It must not be kept after Work returns.
type Tx struct {
	e     *Engine
	now   time.Time
	parts map[int32]*part // those that take part in this tick
	order []int32         // their numbers, ascending

	records []*kgo.Record // in the order in which they were written
	owners  []*Unit       // owners[i] wrote records[i]; nil for a Position
	bytes   int
	units   int // units that wrote something
	limit   int // units at most: the search for a refused unit

	touched  map[int32]*part  // partitions whose offset is committed with this transaction
	accepted map[*part]intake // input consumed by this transaction
	undo     []callback       // in order of registration; run backwards
	commit   []callback       // in order of registration
	meta     string           // "<incarnation>/<tick>": recognises this transaction in the group's offsets
	by       *producer
	began    time.Time
}

// intake is what a transaction consumed of one partition's queue.
type intake struct {
	records int
	before  int64 // next offset when the transaction began
}

// callback belongs to a partition so that it does not run once the partition is gone.
type callback struct {
	p *part
	f func()
}

// Now is the tick's time.
func (tx *Tx) Now() time.Time { return tx.now }

// LedgerPartitions is the number of partitions of the ledger topic: an input partition with a number below it is
// canonical, one at or above it is a front door and has no ledger.
func (tx *Tx) LedgerPartitions() int32 { return tx.e.LedgerPartitions() }

// Partitions lists the partitions that take part in this tick, ascending. Do not change the slice.
func (tx *Tx) Partitions() []int32 { return tx.order }

// Owns reports whether p takes part in this tick. Writing for one that does not is a programmer error.
func (tx *Tx) Owns(p int32) bool { return tx.parts[p] != nil }

// Closing reports whether p is being given up: write outcomes, start nothing.
func (tx *Tx) Closing(p int32) bool { return tx.parts[p] == nil || tx.parts[p].closing }

// Full reports whether the transaction has reached its limit of records or bytes. Unit still works when it is full,
// but what can wait should wait for the next tick.
func (tx *Tx) Full() bool {
	return len(tx.records) >= tx.e.cfg.MaxRecords || tx.bytes >= tx.e.cfg.MaxBytes || tx.units >= tx.limit
}

// Unit begins a group of writes for partition p that belong together. key names it within p, so that a group that
// the broker refuses for its own sake is recognised when it comes again; the notification's id serves.
// Unit returns nil when the transaction takes no more groups: stop, and go on in the next tick.
func (tx *Tx) Unit(p int32, key string) *Unit {
	pt := tx.parts[p]
	if pt == nil {
		panic(fmt.Sprintf("stream: Unit for partition %d, which takes no part in this tick", p))
	}
	if tx.units >= tx.limit || len(tx.records) >= 2*tx.e.cfg.MaxRecords || tx.bytes >= 2*tx.e.cfg.MaxBytes {
		return nil
	}
	return tx.unit(pt, key)
}

func (tx *Tx) unit(p *part, key string) *Unit {
	return &Unit{tx: tx, p: p, key: key, poison: tx.e.poison[poisonKey{p.id, key}]}
}

// Unit is a group of writes that are committed or undone together.
type Unit struct {
	tx     *Tx
	p      *part
	key    string
	poison error
	wrote  bool
}

// Now is the tick's time.
func (u *Unit) Now() time.Time { return u.tx.now }

// Partition is the partition that the unit belongs to.
func (u *Unit) Partition() int32 { return u.p.id }

// LedgerPartitions is the number of partitions of the ledger topic, as of [Tx.LedgerPartitions].
func (u *Unit) LedgerPartitions() int32 { return u.tx.LedgerPartitions() }

// Poison returns the error with which the broker refused this unit's records when they were alone in a transaction;
// nil for a unit that was never refused. A poisoned unit must write something smaller.
func (u *Unit) Poison() error { return u.poison }

// Ledger writes the state kept under key in the ledger of the unit's partition; a nil value is a tombstone.
// A partition without a ledger and the reserved [PositionKey] are programmer errors. That key is the engine's only one:
// every other, one that begins with a zero byte included, is the application's and comes back through Restore. One that
// keeps records about itself beside those that its input names should let them begin with a zero byte too, so that
// readers of the ledger tell them apart.
func (u *Unit) Ledger(key string, value []byte) *Written {
	switch {
	case !u.p.ledgered:
		panic(fmt.Sprintf("stream: input partition %d has no ledger: it is a front door", u.p.id))
	case key == PositionKey:
		panic("stream: the key of the position record is reserved")
	}
	w := &Written{kgo.Record{Topic: u.tx.e.cfg.Ledger, Partition: u.p.id, Key: []byte(key), Value: value}}
	u.add(&w.record)
	return w
}

// Written is a record on its way. It holds the whole record: keep its offset, not itself.
type Written struct{ record kgo.Record }

// Offset is the record's place in its partition, for a ledger record what [Engine.ReadLedger] takes. It is valid from
// OnCommit on.
func (w *Written) Offset() int64 { return w.record.Offset }

// Partition is where the record went. It is valid from OnCommit on.
func (w *Written) Partition() int32 { return w.record.Partition }

// WrittenAt is a record at offset, for programs that test their Handler without an Engine.
func WrittenAt(offset int64) *Written { return &Written{kgo.Record{Offset: offset}} }

// Publish writes r to r.Topic. Partition -1 chooses by murmur2 of the key. Offset is ignored; a zero Time means now.
func (u *Unit) Publish(r kafka.Record) { u.Append(r) }

// Append is Publish that tells where the record went.
func (u *Unit) Append(r kafka.Record) *Written {
	w := &Written{kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Timestamp: r.Time}}
	out := &w.record
	if len(r.Headers) > 0 {
		out.Headers = make([]kgo.RecordHeader, len(r.Headers))
		for i, h := range r.Headers {
			out.Headers[i] = kgo.RecordHeader{Key: h.Key, Value: h.Value}
		}
	}
	u.add(out)
	return w
}

func (u *Unit) add(r *kgo.Record) {
	if !u.wrote {
		u.wrote = true
		u.tx.units++
		u.tx.touched[u.p.id] = u.p
	}
	u.tx.add(u, r)
}

func (tx *Tx) add(u *Unit, r *kgo.Record) {
	tx.records = append(tx.records, r)
	tx.owners = append(tx.owners, u)
	tx.bytes += size(r)
}

// size is about what r takes in a produce request.
func size(r *kgo.Record) int {
	n := len(r.Key) + len(r.Value) + 32
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value) + 4
	}
	return n
}

// OnCommit registers f to run under the tick lock once the commit is confirmed. A unit of a transaction that
// writes nothing at all is confirmed at once. f does not run when the partition was given up before.
func (u *Unit) OnCommit(f func()) { u.tx.commit = append(u.tx.commit, callback{u.p, f}) }

// OnAbort registers f to run under the tick lock when the transaction is undone; the last registered runs first.
// f does not run when the partition was given up before: its state was dropped as a whole.
func (u *Unit) OnAbort(f func()) { u.tx.undo = append(u.tx.undo, callback{u.p, f}) }
