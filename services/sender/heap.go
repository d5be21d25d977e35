package sender

// slotHeap is a binary heap of the slots of one partition. Each slot knows its place, so that it can be taken out from
// anywhere.
type slotHeap[O slotOrder] struct {
	refs []ref
	by   O
}

// slotOrder says which slot comes first and where a slot keeps its place in the heap.
type slotOrder interface {
	before(a, b *slot) bool
	place(s *slot) *uint32
}

// byExpiry is earliest deadline first, and the first to arrive among those with the same.
type byExpiry struct{}

func (byExpiry) before(a, b *slot) bool {
	if x, y := a.expire.get(), b.expire.get(); x != y {
		return x < y
	}
	return a.offset.get() < b.offset.get()
}

func (byExpiry) place(s *slot) *uint32 { return &s.heap }

// byTimer is by when a slot is to be looked at.
type byTimer struct{}

func (byTimer) before(a, b *slot) bool { return a.at.get() < b.at.get() }

func (byTimer) place(s *slot) *uint32 { return &s.timer }

func (h *slotHeap[O]) len() int { return len(h.refs) }

// first returns the slot that comes first; 0: the heap is empty.
func (h *slotHeap[O]) first() ref {
	if len(h.refs) == 0 {
		return 0
	}
	return h.refs[0]
}

func (h *slotHeap[O]) push(a *arena, r ref) {
	h.refs = append(h.refs, r)
	*h.by.place(a.at(r)) = uint32(len(h.refs))
	h.up(a, len(h.refs)-1)
}

func (h *slotHeap[O]) remove(a *arena, r ref) {
	place := h.by.place(a.at(r))
	i, last := int(*place)-1, len(h.refs)-1
	*place = 0
	if i != last {
		h.refs[i] = h.refs[last]
		*h.by.place(a.at(h.refs[i])) = uint32(i + 1)
	}
	h.refs = h.refs[:last]
	if i != last {
		h.up(a, i)
		h.down(a, i)
	}
	if c := cap(h.refs); c > 4096 && last < c/4 {
		h.refs = append(make([]ref, 0, c/2), h.refs...)
	}
}

// fix puts r, whose key has changed, where it belongs.
func (h *slotHeap[O]) fix(a *arena, r ref) {
	h.up(a, int(*h.by.place(a.at(r)))-1)
	h.down(a, int(*h.by.place(a.at(r)))-1)
}

func (h *slotHeap[O]) up(a *arena, i int) {
	r := h.refs[i]
	s := a.at(r)
	start := i
	for i > 0 {
		parent := (i - 1) / 2
		x := a.at(h.refs[parent])
		if !h.by.before(s, x) {
			break
		}
		h.refs[i] = h.refs[parent]
		*h.by.place(x) = uint32(i + 1)
		i = parent
	}
	if i != start {
		h.refs[i] = r
		*h.by.place(s) = uint32(i + 1)
	}
}

func (h *slotHeap[O]) down(a *arena, i int) {
	r := h.refs[i]
	s := a.at(r)
	start := i
	for {
		c := 2*i + 1
		if c >= len(h.refs) {
			break
		}
		x := a.at(h.refs[c])
		if c+1 < len(h.refs) {
			if y := a.at(h.refs[c+1]); h.by.before(y, x) {
				c, x = c+1, y
			}
		}
		if !h.by.before(x, s) {
			break
		}
		h.refs[i] = h.refs[c]
		*h.by.place(x) = uint32(i + 1)
		i = c
	}
	if i != start {
		h.refs[i] = r
		*h.by.place(s) = uint32(i + 1)
	}
}
