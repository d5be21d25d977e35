package status

import (
	"time"
)

// awaitedFor is how long the moment moves on after somebody asked.
const awaitedFor = 5 * time.Second

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

func (f *facts) isAwaited() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.awaited) < awaitedFor
}

func (f *facts) caughtUp(k Kind, parts map[int32]*intake, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, part := range parts {
		part.caughtUp[k] = at
	}
}
