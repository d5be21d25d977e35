package status

import (
	"context"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
)

const (
	lookEvery  = 250 * time.Millisecond // at the watermark, while somebody waits
	awaitedFor = 5 * time.Second        // after somebody asked
)

// seenUpTo returns a moment: whatever was in the topics' partition p then is in its queue or was folded. It moves on
// only while it is asked for.
func (f *facts) seenUpTo(p int32) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.awaited = time.Now()
	part := f.parts[p]
	if part == nil || part.left {
		return time.Time{}
	}
	oldest := part.caughtUp[0]
	for _, t := range part.caughtUp[1:] {
		if t.Before(oldest) {
			oldest = t
		}
	}
	return oldest
}

// watch finds out again and again, while somebody asks, up to which moment the topic was seen.
func (f *facts) watch(ctx context.Context, k Kind, parts map[int32]*intake, r *kafka.Reader) {
	for pause(ctx, lookEvery) {
		f.mu.Lock()
		awaited := time.Since(f.awaited) < awaitedFor
		f.mu.Unlock()
		if !awaited {
			continue
		}
		call, cancel := context.WithTimeout(ctx, openTimeout)
		w, err := r.Watermark(call)
		cancel()
		if err != nil {
			continue // the reader says what is wrong
		}
		for !r.Reached(w) && pause(ctx, 20*time.Millisecond) {
		}
		// Poll has returned all that was below w; what it returned is queued once next says so.
		at := r.Positions()
		for !f.queuedUpTo(k, parts, at) && pause(ctx, time.Millisecond) {
		}
		if ctx.Err() != nil {
			return
		}
		f.mu.Lock()
		for _, part := range parts {
			part.caughtUp[k] = w.Time
		}
		f.mu.Unlock()
	}
}

func (f *facts) queuedUpTo(k Kind, parts map[int32]*intake, at map[int32]int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p, position := range at {
		if part := parts[p]; part != nil && part.next[k] < position {
			return false
		}
	}
	return true
}

// pause waits for d and reports whether ctx still lives.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
