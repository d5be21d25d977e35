package sender

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/znshub/znshub/pkg/virtual"
	"github.com/znshub/znshub/pkg/zalo"
)

// TestDispatcherSlots pins that no more goroutines are started than there are calls for them and slots, that a slot is
// free as soon as its call ends, and that the room for intents counts each call once.
func TestDispatcherSlots(t *testing.T) {
	virtual.Test(t, func(t *testing.T) {
		const slots, calls = 8, 100
		var running, most, made atomic.Int64
		d := newDispatcher(testLimits(slots), func(*call) zalo.Result {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			time.Sleep(time.Second)
			made.Add(1)
			return zalo.Result{Outcome: zalo.Accepted}
		}, func() {})
		begun := 0
		d.begin = func(f func()) {
			begun++ // under the dispatcher's mutex
			d.wg.Go(f)
		}
		p := &partition{}
		start := time.Now()
		for i := range calls {
			d.start(&call{p: p, deadline: start.Add(time.Hour)})
			if i == 2 && begun != 3 {
				t.Errorf("%d goroutines for 3 calls", begun)
			}
		}
		if room := d.room(); room != slots+2-calls {
			t.Errorf("room for %d intents with %d calls waiting, %d slots and a run of 2; want %d", room, calls, slots, slots+2-calls)
		}
		synctest.Wait()
		if room := d.room(); room != slots+2-calls || running.Load() != slots {
			t.Errorf("room for %d intents when %d calls run, want %d and %d", room, running.Load(), slots+2-calls, slots)
		}
		d.wg.Wait()
		if made.Load() != calls || most.Load() != slots || begun != slots || d.active != 0 || d.begun != 0 {
			t.Errorf("%d calls, %d at a time, by %d goroutines, %d and %d left", made.Load(), most.Load(), begun, d.active, d.begun)
		}
		if took, want := time.Since(start), (calls+slots-1)/slots*time.Second; took != want {
			t.Errorf("took %s, want %s: slots stood empty", took, want)
		}
	})
}
