// Package pause waits between two tries, no longer than a context lives.
package pause

import (
	"context"
	"time"
)

// For waits for d, and ends before when ctx does. It reports whether ctx still lives.
func For(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
