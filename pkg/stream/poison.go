package stream

import (
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// poisonKey names a unit that the broker refused.
type poisonKey struct {
	partition int32
	key       string
}

// isRecordsOwn reports whether the broker, or the client before it, refuses r for its own sake: it would be refused again.
func isRecordsOwn(r *kgo.Record, err error) bool {
	for _, own := range []error{
		kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord,
	} {
		if errors.Is(err, own) {
			return true
		}
	}
	// Brokers refuse times of more than an hour ahead. One of about now is no fault of the record: this machine's clock is
	// wrong, or the broker's, and will be right one day.
	return errors.Is(err, kerr.InvalidTimestamp) && time.Until(r.Timestamp) > time.Minute
}

// search finds the unit that the broker refuses, by trying with ever fewer units in a transaction. Half of them go
// first, then a quarter, until one is alone. Input and work take turns so that neither hides the other's culprit;
// the turn changes only when a transaction got through. The zero value searches nothing.
type search struct {
	on       bool
	work     bool // whose turn: Work's or the input's
	most     int  // units in a transaction
	enough   int  // with so many getting through the search is over
	dryTurns int  // turns without anything to write
}

const noLimit = 1 << 30

func (s *search) limit() int {
	if s.on {
		return s.most
	}
	return noLimit
}

func (s *search) takesInput() bool { return !s.on || !s.work }
func (s *search) takesWork() bool  { return !s.on || s.work }

// failed notes that a transaction of n units was refused.
func (s *search) failed(n int) {
	if !s.on {
		*s = search{on: true, enough: 2 * n}
	}
	s.most = max(1, n/2)
	s.dryTurns = 0
}

// succeeded notes that a transaction of n units got through.
func (s *search) succeeded(int) {
	if !s.on {
		return
	}
	s.dryTurns = 0
	s.work = !s.work
	if s.most *= 2; s.most > s.enough {
		*s = search{}
	}
}

// idle notes that there was nothing to write.
func (s *search) idle() {
	if !s.on {
		return
	}
	s.work = !s.work
	if s.dryTurns++; s.dryTurns >= 2 {
		*s = search{}
	}
}

// refuse acts on a transaction of which records were refused for their own sake, after it was undone. mu is held.
func (e *Engine) refuse(tx *Tx, refused map[*Unit]error) {
	if len(refused) == 0 {
		return
	}
	if tx.units > 1 {
		e.search.failed(tx.units)
		return
	}
	for i, u := range tx.owners {
		if u == nil {
			continue
		}
		err := refused[u]
		if err == nil {
			// Only the position was refused: the topic takes nothing at all.
			e.halt(u.p, fmt.Errorf("the ledger of partition %d refuses the engine's own position record: %w", u.p.id, anyOf(refused)))
			return
		}
		if u.poison != nil {
			e.halt(u.p, fmt.Errorf("the broker refused unit %q of partition %d (record %d of its transaction) and refused also what was written in its place: %w",
				printable(u.key), u.p.id, i, err))
			return
		}
		e.poison[poisonKey{u.p.id, u.key}] = err
		e.search = search{}
		e.log.Warn("the broker refuses a record for its own sake; something smaller is written instead",
			"partition", u.p.id, "unit", printable(u.key), "err", err)
		return
	}
	for _, p := range tx.touched {
		e.halt(p, fmt.Errorf("the ledger of partition %d refuses the engine's own position record: %w", p.id, anyOf(refused)))
	}
}

func anyOf(refused map[*Unit]error) error {
	for _, err := range refused {
		return err
	}
	return nil
}

// printable is a unit's key when it is an id or an offset, and its length otherwise: keys come from applications.
func printable(key string) string {
	if len(key) > 64 {
		return fmt.Sprintf("(%d bytes)", len(key))
	}
	return key
}
