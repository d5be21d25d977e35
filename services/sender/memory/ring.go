package memory

import (
	"math"
	"unsafe"

	"github.com/google/uuid"
)

const (
	chunkBits = 8
	chunkLen  = 1 << chunkBits
)

type record struct {
	id     uuid.UUID
	hash   uint32
	offset uint32
}

// chunk is 256 places in a row. Which of them hold a record that is still known, only the index knows.
type chunk struct {
	records *[chunkLen]record // nil: none is known
	gaps    *[chunkLen]uint8  // see gap; the first is from base
	base    int64             // seconds
	known   int
}

const chunkBytes = chunkLen * int64(unsafe.Sizeof(record{})+1)

// ring holds the places head..tail-1, numbered on and on. The place seq is in chunk seq/256, which stands at that number
// modulo the directory's length.
type ring struct {
	dir        []chunk // a power of two of them
	head, tail uint64
	last       int64 // the time of place tail-1, seconds, as kept
	front      struct {
		seq uint64
		at  int64
		set bool
	} // the time of the first place, to save adding up gaps
	bytes int64
}

func (r *ring) chunk(seq uint64) *chunk { return &r.dir[seq>>chunkBits&uint64(len(r.dir)-1)] }

func (r *ring) at(seq uint64) *record { return &r.chunk(seq).records[seq&(chunkLen-1)] }

// finished is the time of a place that is known, in milliseconds.
func (r *ring) finished(seq uint64) int64 {
	if r.front.set && r.front.seq == seq {
		return r.front.at * 1000
	}
	c, i := r.chunk(seq), seq&(chunkLen-1)
	if seq == r.head && r.front.set && r.front.seq+1 == seq && i > 0 {
		r.front.seq, r.front.at = seq, r.front.at+gap(c.gaps[i])
		return r.front.at * 1000
	}
	at := c.base
	for _, g := range c.gaps[:i+1] {
		at += gap(g)
	}
	if seq == r.head {
		r.front.seq, r.front.at, r.front.set = seq, at, true
	}
	return at * 1000
}

// append takes the next place.
func (r *ring) append(rec record, finished int64) uint64 {
	seq, i := r.tail, r.tail&(chunkLen-1)
	r.reach(r.head, seq)
	c := r.chunk(seq)
	at := seconds(finished)
	if i > 0 && at-r.last > maxGap {
		// No byte stands for this: the rest of the chunk stays empty.
		if c.known == 0 && c.records != nil {
			r.close(c, seq)
		}
		r.tail += chunkLen - i
		return r.append(rec, finished)
	}
	if i == 0 || c.records == nil {
		// A chunk begins at its own time, so that one clock gone astray shifts no more than a chunk.
		r.open(c)
		c.base, r.last = at, at
	}
	g := gapFor(at - r.last)
	c.records[i], c.gaps[i] = rec, g
	r.last += gap(g)
	c.known++
	r.tail++
	return seq
}

// drop forgets a place. The last one is given away again; of any other the record stays where it is, for restore.
func (r *ring) drop(seq uint64) {
	c := r.chunk(seq)
	c.known--
	if seq == r.tail-1 {
		r.tail--
		r.front.set = r.front.set && r.front.seq < r.tail
	}
	// The chunk in which the next place is stays open, unless that is its first.
	if c.known == 0 && (seq>>chunkBits != r.tail>>chunkBits || r.tail&(chunkLen-1) == 0) {
		r.close(c, seq)
	}
	r.findLast()
}

// restore makes a dropped place known again. It reports false when another has it.
func (r *ring) restore(seq uint64, rec record, finished int64) bool {
	if seq >= r.tail {
		return false
	}
	r.reach(min(seq, r.head), r.tail)
	c, i := r.chunk(seq), seq&(chunkLen-1)
	if c.records == nil || c.records[i].id == uuid.Nil {
		r.open(c)
		c.base = max(c.base, seconds(finished))
		r.front.set = false
		r.findLast()
	} else if c.records[i].id != rec.id {
		return false
	}
	c.records[i] = rec
	c.known++
	if seq < r.head {
		r.head = seq
		r.front.set = false
	}
	return true
}

// skip moves head to a place whose chunk is there, and reports whether there is one.
func (r *ring) skip() bool {
	for r.head < r.tail {
		if r.chunk(r.head).records != nil {
			return true
		}
		*r.chunk(r.head) = chunk{}
		r.head = min(r.head>>chunkBits<<chunkBits+chunkLen, r.tail)
		r.reach(r.head, r.tail)
	}
	return false
}

func (r *ring) open(c *chunk) {
	if c.records == nil {
		c.records, c.gaps = new([chunkLen]record), new([chunkLen]uint8)
		r.bytes += chunkBytes
	}
}

// findLast sets last after places were given away or times changed. At the beginning of a chunk nobody asks for it.
func (r *ring) findLast() {
	if r.tail&(chunkLen-1) > 0 && r.chunk(r.tail-1).records != nil {
		r.last = r.finished(r.tail-1) / 1000
	}
}

// close gives back the memory of the chunk of seq. Its base becomes the latest of its times: should one of its records
// come back, it counts as finished then.
func (r *ring) close(c *chunk, seq uint64) {
	last := chunkLen - 1
	if (r.tail-1)>>chunkBits == seq>>chunkBits {
		last = int((r.tail - 1) & (chunkLen - 1)) //nolint:gosec // G115: below 256
	}
	for _, g := range c.gaps[:last+1] {
		c.base += gap(g)
	}
	c.records, c.gaps = nil, nil
	r.bytes -= chunkBytes
}

// reach makes the directory long enough for the places from..to, and shorter when two fifths of it would do.
func (r *ring) reach(from, to uint64) {
	need := int(to>>chunkBits-from>>chunkBits) + 1 //nolint:gosec // G115: below MaxLen
	size := max(len(r.dir), 4)
	for size < need {
		size *= 2
	}
	for size > 4 && need <= size*2/5 {
		size /= 2
	}
	if size == len(r.dir) {
		return
	}
	old := ring{dir: r.dir}
	r.dir = make([]chunk, size)
	if len(old.dir) > 0 {
		for n := r.head >> chunkBits; n < r.head>>chunkBits+uint64(len(old.dir)) && n <= r.tail>>chunkBits; n++ {
			if c := old.chunk(n << chunkBits); c.records != nil || c.base != 0 {
				*r.chunk(n << chunkBits) = *c
			}
		}
	}
	r.bytes += int64(len(r.dir)-len(old.dir)) * int64(unsafe.Sizeof(chunk{}))
}

// seconds rounds milliseconds up: nothing is forgotten early.
func seconds(ms int64) int64 {
	s := ms / 1000
	if ms%1000 > 0 {
		s++
	}
	return s
}

// Gaps up to 127 s are exact, longer ones are rounded up by at most 1/8, up to maxGap, three months.
const (
	exactGaps = 128
	maxGap    = 15 << 19
)

// gap is the number of seconds that a byte stands for.
func gap(g uint8) int64 {
	if g < exactGaps {
		return int64(g)
	}
	n := int64(g - exactGaps)
	return (8 + n%8) << (4 + n/8)
}

// gapFor is the byte for the least gap that is not shorter than the given one; 0 for one into the past.
func gapFor(seconds int64) uint8 {
	switch {
	case seconds <= 0:
		return 0
	case seconds < exactGaps:
		return uint8(seconds)
	}
	lo, hi := exactGaps, math.MaxUint8
	for lo < hi {
		if mid := (lo + hi) / 2; gap(uint8(mid)) >= seconds { //nolint:gosec // G115: at most 255
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return uint8(lo) //nolint:gosec // G115: at most 255
}
