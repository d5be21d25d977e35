package memory

import (
	"slices"
	"unsafe"

	"github.com/google/uuid"
)

// A slot is the low 27 bits of a record's place and five bits of its hash, never 0, by which most others are passed
// over without a look at their record.
const (
	refBits   = 27
	refMask   = 1<<refBits - 1
	bucketLen = 16
)

type bucket [bucketLen]uint32 // a cache line; 0 is an empty slot

const bucketBytes = int64(unsafe.Sizeof(bucket{}))

// A segment that has more than splitAt ids is split; two halves that have less than mergeAt together become one again.
const (
	splitAt = 2048
	mergeAt = splitAt / 2
)

// segment holds the ids whose hashes begin with the same depth bits.
type segment struct {
	buckets []bucket
	n       int
	depth   int
	prefix  uint64
}

const segmentBytes = int64(unsafe.Sizeof(segment{}))

// index finds the place of an id: extendible hashing over segments of two-choice buckets.
type index struct {
	t      *Table
	dir    []*segment // by the first depth bits of the hash; a segment of less depth stands there several times
	depth  int
	deeper int // segments that have the directory's depth
	n      int
	bytes  int64
	sizes  []uint16 // what rounded has found out
}

func (x *index) init(t *Table) {
	x.t = t
	x.setDir([]*segment{x.newSegment(0, 0, 0)}, 0)
	x.deeper = 1
}

func (x *index) setDir(dir []*segment, depth int) {
	x.bytes += int64(len(dir)-len(x.dir)) * int64(unsafe.Sizeof(dir[0]))
	x.dir, x.depth = dir, depth
}

func (x *index) newSegment(depth int, prefix uint64, room int) *segment {
	s := &segment{depth: depth, prefix: prefix, buckets: newBuckets(room)}
	x.bytes += segmentBytes + int64(len(s.buckets))*bucketBytes
	return s
}

// newBuckets makes at least the given number of buckets, and as many as fit into what the allocator gives anyway.
func newBuckets(n int) []bucket {
	b := slices.Grow([]bucket(nil), max(n, 2))
	return b[:cap(b)]
}

func (x *index) segment(sum uint64) *segment { return x.dir[first(sum, x.depth)] }

// first returns the first n bits.
func first(sum uint64, n int) uint64 { return sum >> 1 >> (63 - n) }

// choices are the two buckets in which an id with that hash may be, and its mark.
func (s *segment) choices(sum uint64) (a, b *bucket, mark uint32) {
	n := uint64(len(s.buckets))
	i := sum & (1<<32 - 1) * n >> 32
	j := sum * 0x9e3779b97f4a7c15 >> 32 * n >> 32
	if i == j {
		if j++; j == n {
			j = 0
		}
	}
	return &s.buckets[i], &s.buckets[j], uint32(1+sum&0xffff%31) << refBits
}

// place completes the bits of a place that a slot holds: all places that are in use are within 2^27 from tail.
func (x *index) place(slot uint32) uint64 {
	tail := x.t.ring.tail
	seq := tail&^uint64(refMask) | uint64(slot&refMask)
	if seq >= tail {
		seq -= 1 << refBits
	}
	return seq
}

// find returns the place of id.
func (x *index) find(id uuid.UUID, sum uint64) (uint64, bool) {
	a, b, mark := x.segment(sum).choices(sum)
	for _, bucket := range [...]*bucket{a, b} {
		for _, slot := range bucket {
			if slot&^refMask == mark {
				if seq := x.place(slot); x.t.ring.at(seq).id == id {
					return seq, true
				}
			}
		}
	}
	return 0, false
}

// insert adds a place that is not there.
func (x *index) insert(sum, seq uint64) {
	x.n++
	for {
		s := x.segment(sum)
		if s.n >= splitAt {
			x.split(s)
			continue
		}
		if s.put(x, sum, seq) {
			s.n++
			return
		}
		x.resize(s, larger(s))
	}
}

// larger is a fifth more: every step looks at all ids of s again.
func larger(s *segment) int { return len(s.buckets)*6/5 + 1 }

// put fills the emptier of the two buckets. When both are full, one of theirs gives way to its other bucket.
func (s *segment) put(x *index, sum, seq uint64) bool {
	a, b, mark := s.choices(sum)
	slot := mark | uint32(seq&refMask)
	i, roomA := a.room()
	j, roomB := b.room()
	switch {
	case roomA == 0 && roomB == 0:
		for _, full := range [...]*bucket{a, b} {
			for i, moved := range full {
				c, d, _ := s.choices(x.sumOf(moved))
				if c == full {
					c = d
				}
				if k, room := c.room(); room > 0 {
					c[k], full[i] = moved, slot
					return true
				}
			}
		}
		return false
	case roomA >= roomB:
		a[i] = slot
	default:
		b[j] = slot
	}
	return true
}

// room returns an empty slot and how many there are.
func (b *bucket) room() (at, n int) {
	for i, slot := range b {
		if slot == 0 {
			at = i
			n++
		}
	}
	return at, n
}

func (x *index) sumOf(slot uint32) uint64 { return x.t.sum(x.t.ring.at(x.place(slot)).id) }

// remove takes away a place that is there.
func (x *index) remove(sum, seq uint64) {
	x.n--
	s := x.segment(sum)
	a, b, mark := s.choices(sum)
	slot := mark | uint32(seq&refMask)
	for _, bucket := range [...]*bucket{a, b} {
		if i := slices.Index(bucket[:], slot); i >= 0 {
			bucket[i] = 0
			s.n--
			break
		}
	}
	x.tidy(s)
}

// tidy gives back memory when s has become much too large, or small enough to be one with its other half.
func (x *index) tidy(s *segment) {
	if s.n < len(s.buckets)*bucketLen*19/25 {
		if room := s.n*8/(7*bucketLen) + 1; x.rounded(room) < len(s.buckets) {
			x.resize(s, room)
		}
	}
	if s.depth == 0 || s.n >= mergeAt {
		return
	}
	other := x.dir[(s.prefix^1)<<(x.depth-s.depth)]
	if other.depth == s.depth && s.n+other.n < mergeAt {
		x.merge(s, other)
	}
}

// rounded is how many buckets newBuckets makes.
func (x *index) rounded(n int) int {
	for len(x.sizes) <= n {
		x.sizes = append(x.sizes, uint16(len(newBuckets(len(x.sizes))))) //nolint:gosec // G115: a few hundred
	}
	return int(x.sizes[n])
}

// buckets is how many n ids need: four fifths full at most.
func buckets(n int) int { return n*5/(4*bucketLen) + 1 }

// resize gives s the least number of buckets, from the given one on, into which its ids fit.
func (x *index) resize(s *segment, room int) {
	old := s.buckets
	for ; ; room++ {
		s.buckets = newBuckets(room)
		if room = len(s.buckets); x.refill(s, old) {
			x.bytes += int64(len(s.buckets)-len(old)) * bucketBytes
			return
		}
	}
}

func (x *index) refill(s *segment, from []bucket) bool {
	for i := range from {
		sums := x.sums(&from[i])
		for k, slot := range from[i] {
			if slot != 0 && !s.put(x, sums[k], x.place(slot)) {
				return false
			}
		}
	}
	return true
}

// sums are the hashes of a bucket's ids. Their records lie anywhere in memory: looked up one behind the other, without
// a decision in between, the processor waits for several at a time.
func (x *index) sums(b *bucket) (sums [bucketLen]uint64) {
	for k, slot := range b {
		if slot != 0 {
			sums[k] = x.sumOf(slot)
		}
	}
	return sums
}

// split divides s by the next bit of its ids' hashes.
func (x *index) split(s *segment) {
	if s.depth == x.depth {
		dir := make([]*segment, 2*len(x.dir))
		for i := range dir {
			dir[i] = x.dir[i/2]
		}
		x.setDir(dir, x.depth+1)
		x.deeper = 0
	}
	depth := s.depth + 1
	halves := [2]*segment{x.newSegment(depth, s.prefix<<1, buckets(s.n/2)), x.newSegment(depth, s.prefix<<1|1, buckets(s.n/2))}
	x.move(s.buckets, func(sum uint64) *segment { return halves[first(sum, depth)&1] })
	x.replace(s, nil, halves[0])
	x.point(halves[1])
}

// move puts the slots of the given buckets into the segments that to chooses.
func (x *index) move(from []bucket, to func(sum uint64) *segment) {
	for i := range from {
		sums := x.sums(&from[i])
		for k, slot := range from[i] {
			if slot == 0 {
				continue
			}
			s := to(sums[k])
			for !s.put(x, sums[k], x.place(slot)) {
				x.resize(s, larger(s))
			}
			s.n++
		}
	}
}

// merge makes one segment of the two halves.
func (x *index) merge(a, b *segment) {
	whole := x.newSegment(a.depth-1, a.prefix>>1, buckets(a.n+b.n))
	for _, half := range [...]*segment{a, b} {
		x.move(half.buckets, func(uint64) *segment { return whole })
	}
	x.replace(a, b, whole)
	for x.deeper == 0 && x.depth > 0 {
		dir := make([]*segment, len(x.dir)/2)
		for i := range dir {
			dir[i] = x.dir[2*i]
		}
		x.setDir(dir, x.depth-1)
		for i := range dir {
			if dir[i].depth == x.depth {
				x.deeper++
			}
		}
	}
}

// replace forgets the segments gone, of which the second may be nil, and puts s into the directory.
func (x *index) replace(gone, also, s *segment) {
	for _, g := range [...]*segment{gone, also} {
		if g == nil {
			continue
		}
		x.bytes -= segmentBytes + int64(len(g.buckets))*bucketBytes
		if g.depth == x.depth {
			x.deeper--
		}
	}
	x.point(s)
}

func (x *index) point(s *segment) {
	span := 1 << (x.depth - s.depth)
	at := int(s.prefix) << (x.depth - s.depth) //nolint:gosec // G115: below the directory's length
	for i := range span {
		x.dir[at+i] = s
	}
	if s.depth == x.depth {
		x.deeper++
	}
}
