package sender

// scope is an order: the live notifications of one OA and ordering_key.
type scope struct {
	hash    uint64
	head    ref // of the line: those that have a place, first to go first
	tail    ref
	busy    ref // the one under way
	offered ref // the one that promote let start
	members uint32
}

// scopes are the orders of a partition, by the hash of their key. An order lives as long as it has members.
type scopes struct {
	index map[uint64]uint32 // + 1
	all   []scope
	free  []uint32
}

const scopeBytes = 64 // about what an order costs, with its share of the map

func (x *scopes) init() { x.index = map[uint64]uint32{} }

func (x *scopes) at(i uint32) *scope { return &x.all[i-1] }

func (x *scopes) find(hash uint64) *scope {
	if i := x.index[hash]; i != 0 {
		return x.at(i)
	}
	return nil
}

func (x *scopes) enter(hash uint64) uint32 {
	i := x.index[hash]
	if i == 0 {
		if n := len(x.free); n > 0 {
			i = x.free[n-1]
			x.free = x.free[:n-1]
		} else {
			x.all = append(x.all, scope{})
			i = uint32(len(x.all)) //nolint:gosec // G115: fewer than slots
		}
		*x.at(i) = scope{hash: hash}
		x.index[hash] = i
	}
	x.at(i).members++
	return i
}

func (x *scopes) leave(i uint32) {
	s := x.at(i)
	if s.members--; s.members > 0 {
		return
	}
	delete(x.index, s.hash)
	if len(x.index) == 0 {
		*x = scopes{index: map[uint64]uint32{}}
		return
	}
	x.free = append(x.free, i)
}

func (s *scope) release(r ref) {
	if s.busy == r {
		s.busy = 0
	}
}

// joinLine gives r its place: by the time at which it was due, then by its offset. accepted never decreases with the
// offset, so the same order comes out again after a restore.
func (p *partition) joinLine(sc *scope, r ref, s *slot) {
	if s.has(flagInLine) {
		return
	}
	s.set(flagInLine, true)
	after := sc.tail
	for after != 0 && p.earlier(s, p.at(after)) {
		after = p.at(after).prev
	}
	s.prev = after
	if after == 0 {
		s.next, sc.head = sc.head, r
	} else {
		x := p.at(after)
		s.next, x.next = x.next, r
	}
	if s.next == 0 {
		sc.tail = r
	} else {
		p.at(s.next).prev = r
	}
}

func (p *partition) leaveLine(sc *scope, r ref, s *slot) {
	if !s.has(flagInLine) {
		return
	}
	s.set(flagInLine, false)
	if s.prev == 0 {
		sc.head = s.next
	} else {
		p.at(s.prev).next = s.next
	}
	if s.next == 0 {
		sc.tail = s.prev
	} else {
		p.at(s.next).prev = s.prev
	}
	s.next, s.prev = 0, 0
	if sc.offered == r {
		sc.offered = 0
	}
}

func (p *partition) earlier(a, b *slot) bool {
	if x, y := a.due.get(), b.due.get(); x != y {
		return x < y
	}
	return a.offset.get() < b.offset.get()
}

// promote lets the first in line start when nothing of its order is under way, and nobody else of it.
func (p *partition) promote(sc *scope) {
	want := ref(0)
	if sc.busy == 0 {
		want = sc.head
	}
	if old := sc.offered; old != want {
		sc.offered = want
		if old != 0 {
			p.reheap(old, p.at(old))
		}
	}
	if want != 0 {
		p.reheap(want, p.at(want))
	}
}
