package timerheap

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

type timer struct {
	due time.Time
	Place
}

func (t *timer) Due() time.Time { return t.due }

// TestHeap compares a heap with a list.
func TestHeap(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	at := func() time.Time { return time.UnixMilli(random.Int64N(500)) }
	var h Heap[*timer]
	var in, out []*timer
	for range 300 {
		out = append(out, &timer{})
	}
	for step := range 20_000 {
		switch random.IntN(4) {
		case 0, 1:
			if len(out) > 0 {
				x := out[len(out)-1]
				out = out[:len(out)-1]
				x.due = at()
				h.Push(x)
				in = append(in, x)
			}
		case 2:
			if len(in) > 0 {
				i := random.IntN(len(in))
				x := in[i]
				in = slices.Delete(in, i, i+1)
				out = append(out, x)
				h.Remove(x)
				h.Remove(x) // is not there
			}
		case 3:
			if len(in) > 0 {
				x := in[random.IntN(len(in))]
				x.due = at()
				h.Fix(x)
			}
		}
		if h.Len() != len(in) {
			t.Fatalf("step %d: %d timers, want %d", step, h.Len(), len(in))
		}
		if len(in) == 0 {
			continue
		}
		first := slices.MinFunc(in, func(a, b *timer) int { return a.due.Compare(b.due) })
		if !h.First().due.Equal(first.due) {
			t.Fatalf("step %d: the first is due at %v, want %v", step, h.First().due, first.due)
		}
	}
	last := time.Time{}
	for h.Len() > 0 {
		x := h.Pop()
		if x.due.Before(last) {
			t.Errorf("%v after %v", x.due, last)
		}
		last = x.due
	}
}
