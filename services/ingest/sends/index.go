package sends

import (
	"time"

	"github.com/google/uuid"
)

// index finds the outcome of a notification. Entries are kept by the day of the record, so that a day expires at once
// and an entry needs no time of its own.
type index map[int64]map[uuid.UUID]place

// place is an offset and the topic it is in.
type place int64

func newPlace(k Kind, offset int64) place { return place(offset<<2 | int64(k)) }

func (p place) kind() Kind    { return Kind(p & 3) }
func (p place) offset() int64 { return int64(p >> 2) }

const day = 24 * time.Hour

func dayOf(t time.Time) int64 { return t.Unix() / int64(day/time.Second) }

// add takes note of an outcome. A notification keeps its zns.sent, else its latest outcome.
func (x index) add(id uuid.UUID, at time.Time, p place) {
	if d, ok := x.dayOf(id); ok {
		if x[d][id].kind() == KindSent && p.kind() != KindSent {
			return
		}
		delete(x[d], id)
	}
	d := dayOf(at)
	if x[d] == nil {
		x[d] = map[uuid.UUID]place{}
	}
	x[d][id] = p
}

func (x index) find(id uuid.UUID) (place, bool) {
	d, ok := x.dayOf(id)
	return x[d][id], ok
}

func (x index) remove(id uuid.UUID) {
	if d, ok := x.dayOf(id); ok {
		delete(x[d], id)
	}
}

// dayOf returns the day under which a notification stands.
func (x index) dayOf(id uuid.UUID) (int64, bool) {
	for d, m := range x {
		if _, ok := m[id]; ok {
			return d, true
		}
	}
	return 0, false
}

// expire forgets the days that ended before t.
func (x index) expire(t time.Time) {
	for d := range x {
		if d < dayOf(t) {
			delete(x, d)
		}
	}
}

func (x index) len() int {
	n := 0
	for _, m := range x {
		n += len(m)
	}
	return n
}
