// Package memory is a partition's memory of finished notifications: which ids were there, with what content and at which
// offset, until their dedupe window is over.
//
// A [Table] takes at most 32 bytes of memory for each id, everything included, from 10,000 ids on, and nothing in it is a
// pointer that the garbage collector follows for each. It keeps whole ids: a fingerprint that two ids share would lose a
// message.
//
//	ring    chunks of 256 records of 24 bytes (id, hash, low half of the offset) in the order in which they finished, with
//	        a byte each for the time since the one before
//	index   for each record a uint32 in one of two buckets of 16, in segments of some thousand that grow, split and
//	        merge one at a time: no operation waits for a copy of the whole
//
// Times are kept to a second: an id may stay up to a second longer than its window, and by 1/8 of the gap when nothing
// had finished for minutes before it; it never leaves earlier. One that finished before its predecessor counts as
// finished with it.
//
// An id that is deleted or finishes again leaves its place in the ring empty until all of its chunk is, or until its turn
// comes.
//
// A Table is not safe for concurrent use.
package memory

import (
	"hash/maphash"

	"github.com/google/uuid"
)

// MaxLen is how many places the ring of a table has, and so the greatest number of ids: see [Table.Full].
const MaxLen = 1<<refBits - chunkLen

// Table is the memory of one partition. Use [New].
type Table struct {
	seed  maphash.Seed
	ring  ring
	index index
}

// Entry is a remembered id. It is what [Table.PutBack] needs to undo a deletion.
type Entry struct {
	ID        uuid.UUID
	Hash      uint32 // of the content
	OffsetLow uint32 // the low half of the offset
	Finished  int64  // Unix milliseconds; up to a second and 1/8 of the gap before it later than was said to Add

	seq uint64 // its place in the ring
}

// New returns an empty table.
func New() *Table {
	t := &Table{seed: maphash.MakeSeed()}
	t.index.init(t)
	return t
}

// Len is the number of ids.
func (t *Table) Len() int { return t.index.n }

// Bytes is the memory that the table takes.
func (t *Table) Bytes() int64 { return t.ring.bytes + t.index.bytes }

// Full reports whether the ring has no place left. A caller does not let it come to that: Add panics then.
func (t *Table) Full() bool { return t.ring.tail-t.ring.head >= MaxLen }

// Get returns the hash of the content and the low half of the offset that id was added with.
func (t *Table) Get(id uuid.UUID) (hash, offsetLow uint32, ok bool) {
	seq, ok := t.index.find(id, t.sum(id))
	if !ok {
		return 0, 0, false
	}
	r := t.ring.at(seq)
	return r.hash, r.offset, true
}

// Add remembers id, which finished at the given time (Unix milliseconds), as the latest. When it was known, what was
// known of it is returned and forgotten.
//
// Undo, newest change first: Delete(id), and when something was replaced PutBack of that.
func (t *Table) Add(id uuid.UUID, hash uint32, offset, finished int64) (old Entry, replaced bool) {
	sum := t.sum(id)
	old, replaced = t.remove(id, sum)
	t.append(record{id: id, hash: hash, offset: uint32(offset)}, sum, finished) //nolint:gosec // G115: the low half is meant
	return old, replaced
}

// Delete forgets id. PutBack undoes that.
func (t *Table) Delete(id uuid.UUID) (Entry, bool) { return t.remove(id, t.sum(id)) }

// Front returns the id that finished first. Once its window is over it is forgotten with Delete.
func (t *Table) Front() (Entry, bool) {
	for t.ring.skip() {
		r := t.ring.at(t.ring.head)
		if seq, ok := t.index.find(r.id, t.sum(r.id)); ok && seq == t.ring.head {
			return t.entry(seq), true
		}
		t.ring.head++
	}
	return Entry{}, false
}

// PutBack undoes the Delete that returned e, or the Add that replaced it, after all later changes were undone.
func (t *Table) PutBack(e Entry) {
	r := record{id: e.ID, hash: e.Hash, offset: e.OffsetLow}
	sum := t.sum(e.ID)
	if _, known := t.index.find(e.ID, sum); known {
		return
	}
	if !t.ring.restore(e.seq, r, e.Finished) {
		t.append(r, sum, e.Finished)
		return
	}
	t.index.insert(sum, e.seq)
}

func (t *Table) append(r record, sum uint64, finished int64) {
	if t.Full() {
		panic("memory: more ids than MaxLen: the caller must stop accepting before")
	}
	t.index.insert(sum, t.ring.append(r, finished))
}

func (t *Table) remove(id uuid.UUID, sum uint64) (Entry, bool) {
	seq, ok := t.index.find(id, sum)
	if !ok {
		return Entry{}, false
	}
	e := t.entry(seq)
	t.index.remove(sum, seq)
	t.ring.drop(seq)
	return e, true
}

func (t *Table) entry(seq uint64) Entry {
	r := t.ring.at(seq)
	return Entry{ID: r.id, Hash: r.hash, OffsetLow: r.offset, Finished: t.ring.finished(seq), seq: seq}
}

// sum is seeded, so that nobody can choose ids that crowd one segment.
func (t *Table) sum(id uuid.UUID) uint64 { return maphash.Bytes(t.seed, id[:]) }
