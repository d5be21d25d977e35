// Package timerheap is a heap of what is to be looked at when its time comes: the first is found at once, and each may be
// moved or taken out from wherever it stands. Among those of the same time any may be the first. A Heap is not safe for
// concurrent use.
package timerheap

import (
	"container/heap"
	"time"
)

// Timer is what a Heap holds: a pointer to a struct that embeds Place.
type Timer interface {
	Due() time.Time
	place() *Place
}

// Place is where its struct stands in a heap. The zero value stands nowhere; a struct can be in one heap at a time.
type Place struct{ n int } // 1 is the first

func (p *Place) place() *Place { return p }

// Heap holds timers, the earliest first. The zero value is empty.
type Heap[T Timer] struct{ timers timers[T] }

// Len is how many there are.
func (h *Heap[T]) Len() int { return len(h.timers) }

// First is the earliest; there must be one.
func (h *Heap[T]) First() T { return h.timers[0] }

// Push adds t, which is in no heap.
func (h *Heap[T]) Push(t T) { heap.Push(&h.timers, t) }

// Pop takes the earliest out; there must be one.
func (h *Heap[T]) Pop() T {
	t := h.First()
	h.Remove(t)
	return t
}

// Remove takes t out; one that is not there is left alone.
func (h *Heap[T]) Remove(t T) {
	if n := t.place().n; n > 0 {
		heap.Remove(&h.timers, n-1)
	}
}

// Fix puts t, which is there and whose time has changed, where it belongs.
func (h *Heap[T]) Fix(t T) { heap.Fix(&h.timers, t.place().n-1) }

// timers is a [heap.Interface].
type timers[T Timer] []T

func (q timers[T]) Len() int           { return len(q) }
func (q timers[T]) Less(i, j int) bool { return q[i].Due().Before(q[j].Due()) }
func (q timers[T]) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place().n, q[j].place().n = i+1, j+1
}

func (q *timers[T]) Push(x any) {
	t := x.(T)
	*q = append(*q, t)
	t.place().n = len(*q)
}

func (q *timers[T]) Pop() any {
	last := len(*q) - 1
	t := (*q)[last]
	clear((*q)[last:])
	*q = (*q)[:last]
	t.place().n = 0
	return t
}
