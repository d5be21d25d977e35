package status

import (
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/services/ingest/timerheap"
)

// Window is how long ago a snapshot may have been written to be found again: as long as the topics of events keep what
// is in them.
const Window = 14 * 24 * time.Hour

// table finds the latest snapshot of each notification of one partition. The Folder's mu guards it.
type table struct {
	days   map[int64]map[uuid.UUID]int64 // day of writing → offset in zns.status: a day expires at once
	recent map[uuid.UUID]*snapshot       // the newest ones, of all that the Folder's cache holds
	lost   map[int64]uuid.UUID           // offsets that are to be read again
	again  map[uuid.UUID][]byte          // what was read again, until it was used: at most one for each fact of a batch

	awaited map[uuid.UUID]*awaited   // those whose receipt is watched for
	due     timerheap.Heap[*awaited] // the same
	toRead  []*awaited               // those that are overdue and of which zns.overdue has to tell
}

// snapshot is a value of zns.status.
type snapshot struct {
	table  *table // in which it is
	id     uuid.UUID
	offset int64
	value  []byte
}

func newTable() *table {
	return &table{days: map[int64]map[uuid.UUID]int64{}, recent: map[uuid.UUID]*snapshot{}, lost: map[int64]uuid.UUID{}, again: map[uuid.UUID][]byte{}, awaited: map[uuid.UUID]*awaited{}}
}

func dayOf(t time.Time) int64 { return t.Unix() / int64(24*time.Hour/time.Second) }

// put notes that the latest snapshot of id stands at offset.
func (t *table) put(id uuid.UUID, at time.Time, offset int64) {
	day := dayOf(at)
	for d, ids := range t.days {
		if d == day {
			continue
		}
		if _, ok := ids[id]; ok {
			delete(ids, id)
			break
		}
	}
	if t.days[day] == nil {
		t.days[day] = map[uuid.UUID]int64{}
	}
	t.days[day][id] = offset
}

// find returns where the latest snapshot of id stands.
func (t *table) find(id uuid.UUID) (offset int64, ok bool) {
	for _, ids := range t.days {
		if offset, ok := ids[id]; ok {
			return offset, true
		}
	}
	return 0, false
}

func (t *table) remove(id uuid.UUID) {
	for _, ids := range t.days {
		delete(ids, id)
	}
}

// expire forgets the days that ended before at.
func (t *table) expire(at time.Time) {
	maps.DeleteFunc(t.days, func(day int64, _ map[uuid.UUID]int64) bool { return day < dayOf(at) })
}

func (t *table) len() int {
	n := 0
	for _, ids := range t.days {
		n += len(ids)
	}
	return n
}

// wanted lists the offsets that are to be read again, ascending.
func (t *table) wanted() []int64 { return slices.Sorted(maps.Keys(t.lost)) }

// cache bounds the snapshots that are in memory, over all partitions.
type cache struct {
	most  int
	queue []*snapshot // oldest first; some were replaced since
	bytes int
}

// add keeps a snapshot in memory and lets go of the oldest ones.
func (c *cache) add(s *snapshot) {
	s.table.recent[s.id] = s
	c.queue = append(c.queue, s)
	c.bytes += size(s)
	for c.bytes > c.most && len(c.queue) > 1 {
		old := c.queue[0]
		c.queue[0] = nil
		c.queue = c.queue[1:]
		c.bytes -= size(old)
		if old.table.recent[old.id] == old {
			delete(old.table.recent, old.id)
		}
	}
}

// size is about what a snapshot takes in memory, with its places in the maps.
func size(s *snapshot) int { return len(s.value) + 160 }
