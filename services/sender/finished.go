package sender

import (
	"time"

	"github.com/google/uuid"

	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// Memory keeps of a finished notification its id, the low half of its offset and 32 bits of its content's hash, of which
// the lowest says whether it FAILED and was surely not sent.
const unsentBit = 1

// finishedHash is what memory keeps as the hash of e, which is finished.
func (e *entry) finishedHash() uint32 {
	return hashFinished(shortHash(e.hash[:]), e.state == stateFailed && e.failure != znsv1.FailureReason_FAILURE_REASON_UNRESOLVED)
}

func hashFinished(hash uint32, unsent bool) uint32 {
	if unsent {
		return hash | unsentBit
	}
	return hash &^ unsentBit
}

// finish remembers that e is finished, until its tombstone.
func (p *partition) finish(e *entry) (undo func()) {
	id := e.id
	old, replaced := p.finished.Add(id, e.finishedHash(), e.offset, e.finished)
	return func() {
		p.finished.Delete(id)
		if replaced {
			p.finished.PutBack(old)
		}
	}
}

// finishedAs returns what is remembered of a finished notification.
func (p *partition) finishedAs(id uuid.UUID) (hash, offsetLow uint32, ok bool) {
	return p.finished.Get(id)
}

// forget forgets a finished notification.
func (p *partition) forget(id uuid.UUID) (undo func()) {
	old, known := p.finished.Delete(id)
	return func() {
		if known {
			p.finished.PutBack(old)
		}
	}
}

// known reports whether id is in the partition's memory, with the hash of its content but for the lowest bit, and the
// low half of its offset.
func (p *partition) known(id uuid.UUID) (known bool, hash, offsetLow uint32) {
	if r := p.find(id); r != 0 {
		s := p.at(r)
		return true, hashFinished(s.hash, false), uint32(s.offset.get()) //nolint:gosec // G115: the low half is meant
	}
	hash, offsetLow, known = p.finished.Get(id)
	return known, hashFinished(hash, false), offsetLow
}

// tombstones forgets what finished longer ago than the dedupe window.
func (h *handler) tombstones(tx tick, p *partition, now int64) (again bool) {
	for n := 0; ; n++ {
		e, ok := p.finished.Front()
		if !ok || e.Finished+h.settings.dedupe.Milliseconds() > now {
			if ok && e.Finished > now+time.Minute.Milliseconds() {
				// A clock that was ahead wrote that: it must not hold up those that finished after it.
				p.finished.Add(e.ID, e.Hash, int64(e.OffsetLow), now)
			}
			return false
		}
		if tx.Full() || n == maxTombs {
			return true
		}
		u := tx.Unit(p.id, e.ID.String())
		if u == nil {
			return true
		}
		u.Ledger(e.ID.String(), nil)
		u.OnAbort(p.forget(e.ID))
	}
}

// maxTombs bounds what cleaning up takes of one tick.
const maxTombs = 500
