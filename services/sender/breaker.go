package sender

import (
	"errors"
	"time"

	"github.com/znshub/znshub/pkg/zalo"
)

// breaker decides how many calls a failing provider gets. A gateway that answers 503 makes every call's outcome
// unknown, so after a few of those in a row nothing is started for a while; then one probe at a time, each after a
// longer pause, and after the first good answer the number of calls at a time grows from a few. The same slow start
// applies when the program begins. The dispatcher's mutex guards it.
type breaker struct {
	max   int // calls at a time when all is well
	limit int // calls at a time now

	fails int // unknown or unsent in a row
	open  bool
	until time.Time     // no call before, while open
	pause time.Duration // the present one
}

const (
	breakAfter = 5
	firstLimit = 16
	firstPause = time.Second
	maxPause   = 30 * time.Second
)

func newBreaker(max int) breaker { return breaker{max: max, limit: min(max, firstLimit)} }

// allowed is how many calls may be under way now. probing: only to see whether the provider is well again.
func (b *breaker) allowed(now time.Time) (n int, probing bool) {
	switch {
	case !b.open:
		return b.limit, false
	case now.Before(b.until):
		return 0, true
	}
	return 1, true
}

// record takes note of how a call ended.
func (b *breaker) record(r *zalo.Result, now time.Time) {
	switch {
	case r.Outcome == zalo.Accepted, r.Outcome == zalo.Rejected,
		r.Outcome == zalo.Unknown && r.Cause == zalo.CauseAmbiguousCode: // Zalo itself answered
		b.fails = 0
		if b.open {
			b.open, b.pause = false, 0
			b.limit = min(b.max, 2)
			return
		}
		b.limit = min(b.max, b.limit+1)
	case r.Outcome == zalo.NotSent && (r.Hold || errors.Is(r.Err, zalo.ErrLate)):
		// A missing token or a machine that was stopped says nothing about the provider.
	default:
		b.fails++
		if b.open || b.fails >= breakAfter {
			b.trip(now)
		}
	}
}

func (b *breaker) trip(now time.Time) {
	if b.open && now.Before(b.until) {
		return // a straggler of those under way when it opened
	}
	b.open = true
	b.pause = min(max(2*b.pause, firstPause), maxPause)
	b.until = now.Add(b.pause)
}
