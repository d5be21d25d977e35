package sender

// deque is a double-ended queue in a ring. The zero value is empty and ready.
type deque[T any] struct {
	ring []T
	head int
	n    int
}

func (d *deque[T]) len() int { return d.n }

func (d *deque[T]) pushBack(v T) {
	d.grow()
	d.ring[(d.head+d.n)%len(d.ring)] = v
	d.n++
}

func (d *deque[T]) pushFront(v T) {
	d.grow()
	d.head = (d.head + len(d.ring) - 1) % len(d.ring)
	d.ring[d.head] = v
	d.n++
}

func (d *deque[T]) popFront() (v T, ok bool) {
	if d.n == 0 {
		return v, false
	}
	v = d.ring[d.head]
	var zero T
	d.ring[d.head] = zero
	d.head = (d.head + 1) % len(d.ring)
	d.n--
	d.shrink()
	return v, true
}

func (d *deque[T]) popBack() (v T, ok bool) {
	if d.n == 0 {
		return v, false
	}
	d.n--
	i := (d.head + d.n) % len(d.ring)
	v = d.ring[i]
	var zero T
	d.ring[i] = zero
	return v, true
}

// front returns the first without taking it.
func (d *deque[T]) front() (v T, ok bool) {
	if d.n == 0 {
		return v, false
	}
	return d.ring[d.head], true
}

func (d *deque[T]) grow() {
	if d.n == len(d.ring) {
		d.resize(max(16, 2*d.n))
	}
}

// shrink gives memory back after a burst.
func (d *deque[T]) shrink() {
	if len(d.ring) > 4096 && d.n < len(d.ring)/4 {
		d.resize(len(d.ring) / 2)
	}
}

func (d *deque[T]) resize(size int) {
	ring := make([]T, size)
	for i := range d.n {
		ring[i] = d.ring[(d.head+i)%len(d.ring)]
	}
	d.ring, d.head = ring, 0
}

// timerHeap orders entries by when they are to be looked at.
type timerHeap []*entry

// setTimer arms, moves or, with 0, stops the entry's timer.
func (p *partition) setTimer(e *entry, at int64) {
	h := &p.timers
	switch {
	case at == 0 && e.timer == 0:
	case at == 0:
		h.remove(e.timer - 1)
	case e.timer == 0:
		e.timerAt = at
		*h = append(*h, e)
		e.timer = len(*h)
		h.up(len(*h) - 1)
	case at != e.timerAt:
		e.timerAt = at
		h.up(e.timer - 1)
		h.down(e.timer - 1)
	}
}

// next returns the entry whose timer is the earliest, nil when there is none.
func (h timerHeap) next() *entry {
	if len(h) == 0 {
		return nil
	}
	return h[0]
}

func (h *timerHeap) remove(i int) {
	old := *h
	last := len(old) - 1
	old[i].timer = 0
	if i != last {
		old[i] = old[last]
		old[i].timer = i + 1
	}
	old[last] = nil
	*h = old[:last]
	if i != last {
		h.up(i)
		h.down(i)
	}
}

func (h timerHeap) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].timer, h[j].timer = i+1, j+1
}

func (h timerHeap) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if h[parent].timerAt <= h[i].timerAt {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h timerHeap) down(i int) {
	for {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(h); c++ {
			if h[c].timerAt < h[least].timerAt {
				least = c
			}
		}
		if least == i {
			return
		}
		h.swap(i, least)
		i = least
	}
}
