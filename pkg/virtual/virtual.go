// Package virtual runs tests in virtual time.
package virtual

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

// Test runs f in a [synctest] bubble. With the race detector everything runs on one processor meanwhile: a bubble's
// timers share one context of the detector, and when two processors fire timers at the same time the detector ends the
// whole test binary with "ThreadSanitizer: CHECK failed" (go.dev/issue/78156, seen with Go 1.26.8). Races are found on
// one processor too: the detector judges by what was synchronised, not by what ran at the same time.
func Test(t *testing.T, f func(*testing.T)) {
	t.Helper()
	if raceDetector {
		defer onOneProcessor()()
	}
	synctest.Test(t, f) //nolint:forbidigo // here it is
}

// processors is what to return to when the last of the parallel tests that need one processor ends.
var processors struct {
	sync.Mutex
	users, before int
}

func onOneProcessor() (done func()) {
	p := &processors
	p.Lock()
	defer p.Unlock()
	if p.users == 0 {
		p.before = runtime.GOMAXPROCS(1)
	}
	p.users++
	return func() {
		p.Lock()
		defer p.Unlock()
		if p.users--; p.users == 0 {
			runtime.GOMAXPROCS(p.before)
		}
	}
}
