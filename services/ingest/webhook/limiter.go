package webhook

import (
	"log/slog"
	"sync"
	"time"
)

// limiter logs each message at most once in an interval and says how many it left out: what strangers post must not
// fill the log.
type limiter struct {
	log   *slog.Logger
	every time.Duration

	mu   sync.Mutex // guards seen
	seen map[string]*repeat
}

type repeat struct {
	last    time.Time
	skipped int
}

func newLimiter(log *slog.Logger, every time.Duration) *limiter {
	return &limiter{log: log, every: every, seen: map[string]*repeat{}}
}

// Warn logs msg, a constant.
func (l *limiter) Warn(msg string, args ...any) {
	if skipped, ok := l.due(msg); ok {
		l.log.Warn(msg, append(args, "not_logged", skipped)...) //nolint:sloglint // it is constant at every caller
	}
}

// Error logs msg, a constant.
func (l *limiter) Error(msg string, args ...any) {
	if skipped, ok := l.due(msg); ok {
		l.log.Error(msg, append(args, "not_logged", skipped)...) //nolint:sloglint // it is constant at every caller
	}
}

func (l *limiter) due(msg string) (skipped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.seen[msg]
	if r == nil {
		r = &repeat{}
		l.seen[msg] = r
	}
	now := time.Now()
	if now.Sub(r.last) < l.every {
		r.skipped++
		return 0, false
	}
	skipped, r.last, r.skipped = r.skipped, now, 0
	return skipped, true
}
