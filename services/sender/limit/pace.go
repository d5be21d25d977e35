package limit

import (
	"cmp"
	"slices"
	"time"
)

// slack is how late after its moment a call may start and still count as started at it. A timer that fires a little
// late would otherwise cost a part of every interval.
const slack = 5 * time.Millisecond

// share is which part of every rate this process may use: its partitions, of all. A partition that it gained counts
// after a wait, for until then a call of its former owner may still start. The sum over all owners is never above one.
type share struct {
	of      int
	wait    time.Duration
	counted map[int32]bool // owned, and the wait is over
	gained  []gain         // owned, ascending by when they count
}

type gain struct {
	partition int32
	at        time.Time
}

func (s *share) own(p int32, now time.Time) {
	if !s.counted[p] && !slices.ContainsFunc(s.gained, func(g gain) bool { return g.partition == p }) {
		s.gained = append(s.gained, gain{p, now.Add(s.wait)})
		slices.SortStableFunc(s.gained, func(a, b gain) int { return a.at.Compare(b.at) })
	}
}

func (s *share) lose(p int32) {
	delete(s.counted, p)
	s.gained = slices.DeleteFunc(s.gained, func(g gain) bool { return g.partition == p })
}

// ripe reports whether count would change something.
func (s *share) ripe(now time.Time) bool { return len(s.gained) > 0 && !s.gained[0].at.After(now) }

// count makes those count whose wait is over. Every bucket must be filled up to now before.
func (s *share) count(now time.Time) {
	for len(s.gained) > 0 && !s.gained[0].at.After(now) {
		s.counted[s.gained[0].partition] = true
		s.gained = s.gained[1:]
	}
}

// part is what this process may use at present of a rate, 0 to 1.
func (s *share) part() float64 { return float64(len(s.counted)) / float64(s.of) }

// owned is the part of all partitions that this process owns, counted or not; 1 when it owns none yet.
func (s *share) owned() float64 {
	if n := len(s.counted) + len(s.gained); n > 0 {
		return float64(n) / float64(s.of)
	}
	return 1
}

// between is the integral of the part over a span of time, in seconds.
func (s *share) between(from, to time.Time) float64 {
	sum := float64(len(s.counted)) * to.Sub(from).Seconds()
	for _, g := range s.gained {
		if g.at.Before(from) {
			g.at = from
		}
		sum += max(0, to.Sub(g.at).Seconds())
	}
	return sum / float64(s.of)
}

// until is when the integral from a moment on reaches sum; zero: never, as things are.
func (s *share) until(from time.Time, sum float64) time.Time {
	n := float64(len(s.counted))
	sum *= float64(s.of)
	for _, g := range s.gained {
		if g.at.After(from) {
			span := g.at.Sub(from).Seconds()
			if n*span >= sum {
				break
			}
			sum -= n * span
			from = g.at
		}
		n++
	}
	if n == 0 {
		return time.Time{}
	}
	// Rounded up: at the moment that this returns, the sum is there.
	return from.Add(time.Duration(sum/n*float64(time.Second)) + 1)
}

// bucket is a token bucket of depth one, filled at a rate that all owners share: in any window W its process starts at
// most one call more than its part of rate × W.
type bucket struct {
	rate  float64 // calls a second over all owners; 0: no limit
	level float64 // tokens at the moment at
	at    time.Time
	due   time.Time // when a call that waits may start; zero: none was told
}

func (b *bucket) fill(now time.Time, s *share) {
	if b.at.IsZero() {
		b.at = now // a new bucket is empty: its process may just have been restarted
	}
	if !now.After(b.at) {
		return
	}
	b.level = min(1, b.level+b.rate*s.between(b.at, now))
	b.at = now
}

// when tells when the bucket will have held n tokens since now, not counting that it overflows; zero: never, as things
// are. At or before now: at once.
func (b *bucket) when(now time.Time, n float64, s *share) time.Time {
	f := *b // filling the bucket itself would let it overflow before the call that waits takes its token
	f.fill(now, s)
	b.at = cmp.Or(b.at, f.at)
	if f.level >= n {
		return now
	}
	return s.until(f.at, (n-f.level)/f.rate)
}

// next tells when a call may start, for one that waits for it: it may then start within slack of that moment without a
// loss for those behind it. Zero: not as things are.
func (b *bucket) next(now time.Time, s *share) time.Time {
	if b.rate == 0 {
		return now
	}
	if b.due.IsZero() {
		b.at = cmp.Or(b.at, now)
		b.due = b.at
		if b.level < 1 {
			b.due = s.until(b.at, (1-b.level)/b.rate)
		}
	}
	return b.due
}

// take takes a token for a call that starts now; false: it may not.
func (b *bucket) take(now time.Time, s *share) bool {
	if b.rate == 0 {
		return true
	}
	due := b.next(now, s)
	if due.IsZero() || due.After(now) {
		return false
	}
	b.due = time.Time{}
	if late := now.Sub(due); late <= slack && !due.Before(b.at) {
		b.fill(due, s)
		b.level = 0
		return true
	}
	b.fill(now, s)
	if b.level < 1 {
		return false // the share shrank since the moment was told
	}
	b.level--
	return true
}

// settle fills the bucket before the share or the rate changes.
func (b *bucket) settle(now time.Time, s *share) {
	if b.rate > 0 {
		b.fill(now, s)
		b.due = time.Time{}
	}
}
