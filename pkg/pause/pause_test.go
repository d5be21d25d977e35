package pause

import (
	"context"
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/virtual"
)

func TestFor(t *testing.T) {
	virtual.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for _, c := range []struct {
			d, took time.Duration
			lives   bool
		}{{0, 0, true}, {40 * time.Minute, 40 * time.Minute, true}, {40 * time.Minute, 20 * time.Minute, false}, {0, 0, false}} {
			begin := time.Now()
			if lives := For(ctx, c.d); lives != c.lives || time.Since(begin) != c.took {
				t.Errorf("pause of %v: %v after %v, want %v after %v", c.d, lives, time.Since(begin), c.lives, c.took)
			}
		}
	})
}
