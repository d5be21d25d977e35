package virtual

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

// TestTimersUnderTheRaceDetector fires timers as fast as a processor can. On two processors the race detector ends this
// binary within a second.
func TestTimersUnderTheRaceDetector(t *testing.T) {
	Test(t, func(*testing.T) {
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				for range 1000 {
					timer := time.NewTimer(time.Millisecond)
					time.Sleep(time.Millisecond)
					select {
					case <-timer.C:
					default:
					}
					<-time.After(time.Microsecond)
					time.AfterFunc(time.Microsecond, func() {})
				}
			})
		}
		all.Wait()
	})
}

// TestProcessorsComeBack: the last of the tests that run at the same time gives the processors back.
func TestProcessorsComeBack(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	first, second := onOneProcessor(), onOneProcessor()
	if n := runtime.GOMAXPROCS(0); n != 1 {
		t.Errorf("%d processors", n)
	}
	first()
	if n := runtime.GOMAXPROCS(0); n != 1 {
		t.Errorf("%d processors while another needs one", n)
	}
	second()
	if n := runtime.GOMAXPROCS(0); n != before {
		t.Errorf("%d processors afterwards, %d before", n, before)
	}
}
