package sender

import (
	"hash/maphash"
	"math/bits"
	"slices"

	"github.com/google/uuid"
)

// ref names a slot of a partition. The zero ref names none.
type ref uint32

// slot is what memory always has of a notification that is not finished: enough to know it again and to decide what
// starts next. It holds no pointers, so that a million of them are nothing to the garbage collector, and it is kept
// small: the rest, its entry, is in memory only while there is room for it, and in the ledger always.
type slot struct {
	id     uuid.UUID
	ledger u48 // offset of its latest ledger record; 0 while that is not known
	offset u48 // of the request: the order of arrival
	expire u48 // Unix milliseconds, as all times here
	at     u48 // when its timer is due
	due    u48 // when it takes its place in its order
	state  uint8
	reason uint8
	hash   uint32 // of the request's content
	flow   uint32 // index in partition.flows
	heap   uint32 // place in a heap of its flow + 1; 0: in none
	timer  uint32 // place in the timer heap of its lane + 1; 0: in none
	scope  uint32 // index in partition.scopes + 1; 0: it has no order
	next   ref    // behind it in its order's line; in a free slot the next free one
	prev   ref
	flags  slotFlags
	count  uint8 // index in partition.waiting + 1
}

type slotFlags uint16

const (
	flagRunnable slotFlags = 1 << iota // may start as soon as its turn comes
	flagInLine                         // stands in its order's line
	flagFlowHold                       // HELD because its whole flow is closed
	flagSecond                         // in the second heap of its flow
	flagListened                       // the reconciler listens for its callbacks
	flagWanting                        // and only a callback can settle an attempt of it
	flagLoaded                         // its entry is in memory
	flagRecent                         // and was used or read since the last look for what can go
	flagLoading                        // its entry is being read
	flagDue                            // its timer was due while its entry was not in memory
	flagCollapse                       // has a collapse_key
	flagRestored                       // was read from the ledger and has no place yet
	flagLame                           // its record cannot be read: nothing is done for it
	flagStale                          // a newer one is to end it
)

func (s *slot) has(f slotFlags) bool { return s.flags&f != 0 }

func (s *slot) set(f slotFlags, on bool) {
	if on {
		s.flags |= f
	} else {
		s.flags &^= f
	}
}

// u48 is an integer of 48 bits: milliseconds until the year 10889, offsets until 2.8e14.
type u48 [6]byte

func to48(v int64) (u u48) {
	v = min(max(v, 0), 1<<48-1)
	for i := range u {
		u[i] = byte(v >> (8 * i))
	}
	return u
}

func (u u48) get() int64 {
	return int64(u[0]) | int64(u[1])<<8 | int64(u[2])<<16 | int64(u[3])<<24 | int64(u[4])<<32 | int64(u[5])<<40
}

const (
	chunkBits = 9
	chunkLen  = 1 << chunkBits
	slotSize  = 80
)

// arena is where the slots of a partition live. It grows by chunks and never moves one; a chunk of which all slots are
// free goes back, or a burst would count as used for as long as one of it waits.
type arena struct {
	chunks []*[chunkLen]slot // noSlots where one went
	rooms  []room            // of each chunk
	open   []uint32          // chunks with free slots; the last is filled first
	gone   []uint32          // chunks that went
	top    uint32            // slots in all chunks
	n      int               // slots in use
}

// room is what is free in a chunk.
type room struct {
	free ref    // first of the free slots
	used uint32 // slots in use
}

// noSlots stands for a chunk that went: all of it is free. It is never written to.
var noSlots [chunkLen]slot

func (a *arena) at(r ref) *slot { return &a.chunks[(r-1)>>chunkBits][(r-1)&(chunkLen-1)] }

func (a *arena) alloc() ref {
	if len(a.open) == 0 {
		a.grow()
	}
	c := &a.rooms[a.open[len(a.open)-1]]
	r := c.free
	s := a.at(r)
	c.free = s.next
	c.used++
	a.n++
	if c.free == 0 {
		a.open = a.open[:len(a.open)-1]
	}
	*s = slot{}
	return r
}

// grow adds a chunk, in the place of one that went when there is one.
func (a *arena) grow() {
	var c uint32
	if last := len(a.gone) - 1; last >= 0 {
		c = a.gone[last]
		a.gone = a.gone[:last]
	} else {
		c = uint32(len(a.chunks)) //nolint:gosec // G115: fewer than slots
		a.chunks, a.rooms = append(a.chunks, nil), append(a.rooms, room{})
		a.top += chunkLen
	}
	chunk, free := new([chunkLen]slot), ref(0)
	for i := chunkLen - 1; i >= 0; i-- {
		chunk[i].next = free
		free = ref(c)<<chunkBits + ref(i) + 1
	}
	a.chunks[c], a.rooms[c] = chunk, room{free: free}
	a.open = append(a.open, c)
}

func (a *arena) release(r ref) {
	i := uint32(r-1) >> chunkBits
	c := &a.rooms[i]
	*a.at(r) = slot{next: c.free}
	if c.free == 0 {
		a.open = append(a.open, i)
	}
	c.free = r
	c.used--
	if a.n--; a.n == 0 {
		*a = arena{} // a burst is over: its memory goes back
		return
	}
	if c.used == 0 && (len(a.chunks)-len(a.gone))*chunkLen-a.n >= 2*chunkLen { // not the next one's that comes
		a.chunks[i], *c = &noSlots, room{}
		at := slices.Index(a.open, i)
		a.open = slices.Delete(a.open, at, at+1)
		a.gone = append(a.gone, i)
	}
}

func (a *arena) bytes() int64 { return int64(len(a.chunks)-len(a.gone)) * chunkLen * slotSize }

// ids finds slots by notification id. It is cut into segments so that none of them takes long to grow.
type ids struct {
	seed     maphash.Seed
	segments [idSegments]idSegment
	size     int64
}

const idSegments = 512

type idSegment struct {
	table []ref // open addressing; 0: free
	n     int
}

func (x *ids) init() { x.seed = maphash.MakeSeed() }

func (x *ids) sum(id *uuid.UUID) uint64 { return maphash.Bytes(x.seed, id[:]) }

func (x *ids) segment(sum uint64) *idSegment { return &x.segments[sum%idSegments] }

// home is where an id with this sum belongs in a table of n places.
func home(sum uint64, n int) int {
	hi, _ := bits.Mul64(sum, uint64(n))
	return int(hi) //nolint:gosec // G115: less than n
}

func (x *ids) find(a *arena, id uuid.UUID) ref {
	sum := x.sum(&id)
	g := x.segment(sum)
	n := len(g.table)
	if n == 0 {
		return 0
	}
	for i := home(sum, n); g.table[i] != 0; {
		if r := g.table[i]; a.at(r).id == id {
			return r
		}
		if i++; i == n {
			i = 0
		}
	}
	return 0
}

func (x *ids) insert(a *arena, r ref) {
	sum := x.sum(&a.at(r).id)
	g := x.segment(sum)
	if (g.n+1)*8 > len(g.table)*7 {
		x.resize(a, g, max(8, len(g.table)+len(g.table)/4+4))
	}
	g.put(sum, r)
	g.n++
}

func (g *idSegment) put(sum uint64, r ref) {
	i := home(sum, len(g.table))
	for g.table[i] != 0 {
		if i++; i == len(g.table) {
			i = 0
		}
	}
	g.table[i] = r
}

// remove forgets r, whose id is still in its slot. Those behind it that are not at home move up.
func (x *ids) remove(a *arena, r ref) {
	sum := x.sum(&a.at(r).id)
	g := x.segment(sum)
	n := len(g.table)
	i := home(sum, n)
	for g.table[i] != r {
		if i++; i == n {
			i = 0
		}
	}
	for j := i; ; {
		if j++; j == n {
			j = 0
		}
		if g.table[j] == 0 {
			break
		}
		h := home(x.sum(&a.at(g.table[j]).id), n)
		// It may move to i unless its home lies, going round, behind i and not behind j.
		if between := i < j && i < h && h <= j || i > j && (i < h || h <= j); !between {
			g.table[i] = g.table[j]
			i = j
		}
	}
	g.table[i] = 0
	g.n--
	if n > 64 && g.n < n/3 {
		x.resize(a, g, n/2)
	}
}

func (x *ids) resize(a *arena, g *idSegment, n int) {
	old := g.table
	g.table = make([]ref, n)
	x.size += int64(n-len(old)) * 4
	for _, r := range old {
		if r != 0 {
			g.put(x.sum(&a.at(r).id), r)
		}
	}
}
