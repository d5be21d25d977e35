package sender

import "iter"

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

// front returns the first without taking it.
func (d *deque[T]) front() (v T, ok bool) {
	if d.n == 0 {
		return v, false
	}
	return d.ring[d.head], true
}

// all goes from the first to the last. The deque must not change meanwhile.
func (d *deque[T]) all() iter.Seq[T] {
	return func(yield func(T) bool) {
		for i := range d.n {
			if !yield(d.ring[(d.head+i)%len(d.ring)]) {
				return
			}
		}
	}
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
