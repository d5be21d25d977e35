package translate

import (
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/stream"
	"github.com/znshub/znshub/pkg/zalo"
)

const (
	// lookAgain is how soon a receipt whose time is up is looked at again while the side inputs are behind.
	lookAgain = 200 * time.Millisecond
	// tombstonesPerTick bounds what a tick forgets, so that expiry never delays a receipt.
	tombstonesPerTick = 200
	// betweenTombstones is the pause between two such ticks.
	betweenTombstones = 50 * time.Millisecond
)

// Work publishes the receipts whose send was found and those that have waited long enough, and forgets old ones.
func (t *Translator) Work(tx *stream.Tx) (next time.Time) {
	soonest := func(at time.Time) {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	for _, p := range tx.Partitions() {
		part := t.part(p)
		if part == nil || tx.Closing(p) {
			continue // what waits stands in the ledger: the next owner goes on with it
		}
		caughtUp := t.cfg.Sends.CaughtUp(p) // before Take: what was seen by then is in what Take returns
		for _, s := range t.cfg.Sends.Take(p) {
			part.offer(s)
		}
		if !t.publishReady(tx, p, part) || !t.publishDue(tx, p, part, caughtUp) {
			return tx.Now() // full: go on in the next tick
		}
		if at := part.nextDue(); !at.IsZero() {
			if at.After(tx.Now()) {
				soonest(at)
			} else {
				soonest(tx.Now().Add(lookAgain))
			}
		}
		soonest(t.forget(tx, p, part))
	}
	soonest(t.cfg.Status.Work(tx, t.waitsFor)) // behind the receipts: what is full by them folds in the next tick
	return next
}

// waitsFor reports whether a receipt of the notification waits to be published.
func (t *Translator) waitsFor(p int32, id uuid.UUID) bool {
	part := t.part(p)
	return part != nil && len(part.of[id]) > 0
}

// publishReady publishes what found its send. It reports whether the transaction had room for all.
func (t *Translator) publishReady(tx *stream.Tx, p int32, part *partition) bool {
	for len(part.ready) > 0 {
		r := part.ready[0]
		if part.waiting[r.key] != r {
			part.ready = part.ready[1:]
			continue
		}
		if !t.release(tx, p, part, r) {
			return false
		}
		part.ready = part.ready[1:]
	}
	return true
}

// publishDue publishes what has waited long enough, as far as the side inputs are known to hold nothing for it.
func (t *Translator) publishDue(tx *stream.Tx, p int32, part *partition, caughtUp time.Time) bool {
	for part.due.Len() > 0 {
		r := part.due.First()
		if r.waitUntil.After(tx.Now()) || r.waitUntil.After(caughtUp) {
			return true
		}
		if !t.release(tx, p, part, r) {
			return false
		}
	}
	return true
}

// release publishes one waiting receipt. It reports whether the transaction had room.
func (t *Translator) release(tx *stream.Tx, p int32, part *partition, r *receipt) bool {
	if tx.Full() {
		return false
	}
	u := tx.Unit(p, r.key.String())
	if u == nil {
		return false
	}
	if !part.remove(r) {
		u.OnCommit(func() { t.unwatch(p, part, r.key) })
	}
	u.OnAbort(func() {
		part.add(r)
		if r.exact {
			part.ready = append(part.ready, r)
		}
	})
	t.publish(u, r)
	return true
}

// unwatch ends the watch over a notification unless another receipt of it has begun to wait meanwhile.
func (t *Translator) unwatch(p int32, part *partition, k key) {
	if len(part.of[k.id]) == 0 {
		t.cfg.Sends.Unwatch(p, k.id)
	}
}

func (p *partition) nextDue() time.Time {
	if p.due.Len() == 0 {
		return time.Time{}
	}
	return p.due.First().waitUntil
}

// forget writes tombstones for receipts that nothing can repeat any more. It returns when it wants to be called again.
func (t *Translator) forget(tx *stream.Tx, p int32, part *partition) time.Time {
	n := 0
	for k, stored := range part.seen.expired(tx.Now(), t.cfg.DedupeWindow) {
		if part.waiting[k] != nil {
			continue
		}
		if n == tombstonesPerTick || tx.Full() {
			return tx.Now().Add(betweenTombstones)
		}
		u := tx.Unit(p, k.String())
		if u == nil {
			return tx.Now().Add(betweenTombstones)
		}
		u.Ledger(k.String(), nil)
		part.seen.remove(k)
		u.OnAbort(func() { part.seen.add(k, stored) })
		n++
	}
	at := part.seen.nextExpiry(t.cfg.DedupeWindow)
	if !at.IsZero() && !at.After(tx.Now()) {
		return tx.Now().Add(time.Minute) // it waits still
	}
	return at
}

// publish writes the event and marks the receipt published. A record that the broker refused for its own sake is
// written without the fields of the send: they are what may be large.
func (t *Translator) publish(u *stream.Unit, r *receipt) {
	result := Unjoined
	best := r.best
	switch {
	case u.Poison() != nil:
		best = nil
	case r.exact:
		result = Joined
	case best != nil:
		result = JoinedPart
	}
	event := delivered(r, best, result == Joined)
	record, end := t.record(r, event)
	u.Publish(record)
	u.Ledger(r.key.String(), marshal(published(r.state)))
	u.OnCommit(end)
	t.count(u, zalo.EventReceived, result)
}
