package limit

import (
	"math"
	"time"
)

// quota is what is left of a quota that Zalo counts, as last told, for one period. Every owner learns from the answers
// that it gets, which count everybody's messages; between two of them it counts its own for all.
type quota struct {
	month bool // else per day

	known     bool
	total     int64 // 0: not told
	remaining int64 // as told last
	at        time.Time
	used      int64     // own messages since, taken and not told of
	resets    time.Time // when the period ends
	reset     time.Time // when the present one began, where the one before was spent; else zero
}

// Word is what Zalo said about a quota, nil where it did not.
type Word struct {
	Total, Remaining *int32
	At               time.Time // by Zalo's clock, which orders words that overtake each other; zero: unknown
}

// roll begins a new period when it is time. Until Zalo says otherwise, all of it is left.
func (q *quota) roll(now time.Time, reserve float64) (rolled bool) {
	if !q.known || now.Before(q.resets) {
		return false
	}
	q.reset = time.Time{}
	if q.remaining-q.used <= q.reserve(reserve) {
		q.reset = q.resets
	}
	q.remaining, q.used = q.total, 0
	// Zalo's clock may run behind: a word from before the reset must not count as one from after it.
	q.at = q.resets.Add(maxLate)
	if q.total == 0 {
		q.known = false // how many there are was never told
	}
	q.resets = q.end(now)
	return true
}

// maxLate is how long after the reset an answer may still tell what was left before it.
const maxLate = 2 * time.Second

func (q *quota) end(now time.Time) time.Time {
	if q.month {
		return monthEnd(now)
	}
	return midnight(now)
}

// learn takes Zalo's word. Answers overtake each other: only what is later by Zalo's clock counts, and of two at once
// the lower. So it may also grow: after a reset at another hour than expected, or when Zalo raised the quota.
// raised: the quota itself has.
func (q *quota) learn(w Word, now time.Time) (news, raised bool) {
	if w.Remaining == nil && w.Total == nil {
		return false, false
	}
	at := w.At
	if at.IsZero() {
		at = wall(now)
	}
	if at.After(now.Add(time.Hour)) {
		return false, false
	}
	if q.known && q.at.After(now.Add(time.Minute)) {
		q.known = false // this machine's clock was ahead once, and nothing of that holds
	}
	if q.known && at.Before(q.at) {
		return false, false
	}
	before := *q
	if !q.known {
		q.known, q.remaining = true, math.MaxInt64
		if w.Total != nil {
			q.remaining = int64(*w.Total)
		}
		q.resets = q.end(now)
	}
	if w.Total != nil {
		q.total = int64(*w.Total)
	}
	raised = before.known && before.total > 0 && q.total > before.total
	if w.Remaining == nil && raised {
		q.remaining += q.total - before.total
	}
	if w.Remaining != nil {
		left := max(0, int64(*w.Remaining))
		if at.Equal(q.at) {
			left = min(left, q.remaining)
		}
		q.remaining, q.used = left, 0
	}
	q.at = at
	return q.remaining != before.remaining || q.total != before.total || !before.known, raised
}

// left estimates what is left, with inFlight own calls whose answers are still to come, when this process is the given
// part of all owners and the others do as it does.
func (q *quota) left(inFlight int, part float64) int64 {
	if !q.known {
		return math.MaxInt64
	}
	mine := float64(q.used) + float64(inFlight)
	return max(0, q.remaining-int64(math.Ceil(mine/max(part, 0.01))))
}

// reserve is what of it is kept for those that somebody waits for.
func (q *quota) reserve(part float64) int64 { return int64(math.Ceil(float64(q.total) * part)) }
