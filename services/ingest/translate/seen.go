package translate

import (
	"iter"
	"time"
)

// seen remembers which receipts were taken. They are kept in generations by the time at which the callback was stored,
// so that a whole generation expires at once and nothing but the key is held for each.
type seen map[int64]map[key]struct{}

// generation is the span of time whose receipts expire together.
const generation = 6 * time.Hour

// expiryMargin keeps a receipt longer than callbacks are taken: one that was stored a moment after its duplicate must
// still find it.
const expiryMargin = 24 * time.Hour

func generationOf(stored time.Time) int64 { return stored.UnixMilli() / generation.Milliseconds() }

func (s seen) has(k key) bool {
	for _, g := range s {
		if _, ok := g[k]; ok {
			return true
		}
	}
	return false
}

func (s seen) add(k key, stored time.Time) {
	n := generationOf(stored)
	if s[n] == nil {
		s[n] = map[key]struct{}{}
	}
	s[n][k] = struct{}{}
}

func (s seen) remove(k key) {
	for n, g := range s {
		if _, ok := g[k]; ok {
			delete(g, k)
			if len(g) == 0 {
				delete(s, n)
			}
			return
		}
	}
}

// expired yields the receipts that nothing can repeat any more. The caller may remove them while it iterates.
func (s seen) expired(now time.Time, window time.Duration) iter.Seq2[key, time.Time] {
	return func(yield func(key, time.Time) bool) {
		for n, g := range s {
			end := time.UnixMilli((n + 1) * generation.Milliseconds())
			if now.Sub(end) <= window+expiryMargin {
				continue
			}
			for k := range g {
				if !yield(k, end.Add(-generation)) {
					return
				}
			}
		}
	}
}

// nextExpiry is when expired will yield something; zero when seen is empty.
func (s seen) nextExpiry(window time.Duration) time.Time {
	var first time.Time
	for n := range s {
		end := time.UnixMilli((n + 1) * generation.Milliseconds()).Add(window + expiryMargin)
		if first.IsZero() || end.Before(first) {
			first = end
		}
	}
	return first
}
