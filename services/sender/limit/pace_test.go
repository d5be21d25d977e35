package limit

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 11, 22, 9, 0, 0, 0, vietnam)

// paceOwner is one process in a simulation: it starts calls as fast as its bucket lets it.
type paceOwner struct {
	share  share
	bucket bucket
	down   bool      // starts nothing
	zombie time.Time // until when it goes on with partitions that it does not know it has lost
	lost   []int32
}

func newPaceOwner(rate float64, partitions int, wait time.Duration) *paceOwner {
	return &paceOwner{bucket: bucket{rate: rate}, share: share{of: partitions, wait: wait, counted: map[int32]bool{}}}
}

func (o *paceOwner) settle(now time.Time) {
	o.bucket.settle(now, &o.share)
	o.share.count(now)
}

// paceRun simulates owners over which partitions move. late is how late a call may begin after its moment. It returns
// the times of all starts, and how many there could have been at the shares that counted.
func paceRun(t *rapid.T, rate float64, days float64, late time.Duration, churn time.Duration) (starts []time.Time, owners int, possible float64) {
	const partitions = 12
	const deadline = 5 * time.Second
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
	owners = rapid.IntRange(1, 6).Draw(t, "owners")
	all := make([]*paceOwner, owners)
	for i := range all {
		all[i] = newPaceOwner(rate, partitions, deadline)
	}
	owner := make([]int, partitions)
	now := epoch
	for p := range partitions {
		owner[p] = rng.IntN(owners)
		all[owner[p]].share.own(int32(p), now)
	}
	end := now.Add(time.Duration(days * float64(24*time.Hour)))
	nextChurn := now.Add(time.Duration(rng.ExpFloat64() * float64(churn)))
	for now.Before(end) {
		// What comes first: the churn, the end of a zombie's time, or somebody's next start.
		next, who := nextChurn, -1
		for i, o := range all {
			if !o.zombie.IsZero() && o.zombie.Before(next) {
				next, who = o.zombie, -2-i
			}
			if o.down {
				continue
			}
			if o.share.ripe(now) {
				o.settle(now)
			}
			due := o.bucket.next(now, &o.share)
			if !due.IsZero() {
				if !due.After(now) {
					due = now // a timer that fired late finds more than one
				} else {
					due = due.Add(time.Duration(rng.Int64N(int64(late) + 1)))
				}
				if due.Before(next) {
					next, who = due, i
				}
			}
		}
		for _, o := range all {
			if !o.down {
				possible += rate * o.share.between(now, next)
			}
		}
		now = next
		switch {
		case who >= 0:
			if o := all[who]; o.bucket.take(now, &o.share) {
				starts = append(starts, now)
			}
			continue
		case who <= -2:
			o := all[-2-who]
			o.settle(now)
			for _, p := range o.lost {
				o.share.lose(p)
			}
			o.lost, o.zombie = nil, time.Time{}
			continue
		}
		nextChurn = now.Add(time.Duration(rng.ExpFloat64() * float64(churn)))
		from := rng.IntN(owners)
		switch o := all[from]; rng.IntN(4) {
		case 0: // one partition moves, cleanly
			p := rng.IntN(partitions)
			from = owner[p]
			all[from].settle(now)
			all[from].share.lose(int32(p))
			owner[p] = rng.IntN(owners)
			all[owner[p]].settle(now)
			all[owner[p]].share.own(int32(p), now)
		case 1: // killed and restarted: its state is gone
			all[from] = newPaceOwner(rate, partitions, deadline)
			for p := range partitions {
				if owner[p] == from {
					owner[p] = rng.IntN(owners)
					all[owner[p]].settle(now)
					all[owner[p]].share.own(int32(p), now)
				}
			}
		case 2: // taken for dead: others take over while it still starts what it had committed
			if !o.zombie.IsZero() {
				continue
			}
			o.zombie = now.Add(deadline)
			for p := range partitions {
				if to := rng.IntN(owners); owner[p] == from && to != from {
					o.lost = append(o.lost, int32(p))
					owner[p] = to
					all[to].settle(now)
					all[to].share.own(int32(p), now)
				}
			}
		case 3:
			o.settle(now)
			o.down = !o.down
		}
	}
	return starts, owners, possible
}

// mostAbove is the largest number by which the calls in any window exceed what the rate allows in it. A window of one
// call has length 0.
func mostAbove(starts []time.Time, rate float64) float64 {
	least, most := math.Inf(1), 0.0
	for i, at := range starts {
		x := float64(i) - rate*at.Sub(epoch).Seconds()
		least = min(least, x)
		most = max(most, x-least+1)
	}
	return most
}

// TestPace: over simulated days in which partitions move, processes crash, and some go on for a while with what they
// have lost, no window has more than rate × W + owners calls, and while there is backlog the rate is used.
func TestPace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.SampledFrom([]float64{0.1, 1, 7.3, 50}).Draw(t, "rate")
		days := min(2, 40_000/rate/86400)
		churn := rapid.SampledFrom([]time.Duration{3 * time.Second, time.Minute, time.Hour}).Draw(t, "churn")
		late := rapid.SampledFrom([]time.Duration{0, slack, 200 * time.Millisecond}).Draw(t, "late")
		starts, owners, _ := paceRun(t, rate, days, late, churn)
		allowed := float64(owners)
		if late > 0 {
			allowed += rate * slack.Seconds() // two calls may come nearer by so much
		}
		if above := mostAbove(starts, rate); above > allowed+1e-6 {
			t.Fatalf("%.4f calls above rate × W in some window, %d owners", above, owners)
		}
		if len(starts) == 0 && days*86400*rate > 1000 && churn > time.Minute {
			t.Fatal("nothing was started")
		}
	})
}

// TestPaceIsUsed: at least 98 % of what the owners' shares allow is started, at rates high and low, when timers fire a
// few milliseconds late.
func TestPaceIsUsed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.SampledFrom([]float64{0.5, 20, 400, 3000}).Draw(t, "rate")
		late := rapid.SampledFrom([]time.Duration{0, slack - time.Microsecond}).Draw(t, "late")
		starts, _, possible := paceRun(t, rate, 20_000/rate/86400, late, 10_000*time.Hour)
		if used := float64(len(starts)) / possible; used < 0.98 {
			t.Fatalf("%d of %.0f calls were started, %.2f %%", len(starts), possible, 100*used)
		}
	})
}
