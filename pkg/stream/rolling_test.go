package stream_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
)

// restartIdle is the promise: in a rolling restart no partition is idle for longer than this, its restore and its
// slowest call.
const restartIdle = time.Second

// In a rolling restart of three every partition works on: the longest pause between two of its calls is told and
// bounded, with both protocols.
func TestRollingRestartIsShort(t *testing.T) {
	if !long() {
		t.Skip("it measures for a minute; set ZNS_TEST_LONG=1")
	}
	server := kafkatest.Real(t, "a group of processes")
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			const parts = 6
			w := newWorld(t, server, parts)
			w.cfg.Protocol = protocol
			w.provider.slow(20 * time.Millisecond)
			members := []*member{}
			for i := range 3 {
				members = append(members, w.start(fmt.Sprint("m", i)))
			}
			var want []string
			stop, publishing := make(chan struct{}), sync.WaitGroup{}
			publishing.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					case <-time.After(40 * time.Millisecond):
					}
					// One for each partition: partitionOf goes by the number at the end.
					more := ids(fmt.Sprintf("r%d", i), parts)
					want = append(want, more...)
					w.publish(more...)
				}
			})
			eventually(t, 30*time.Second, "all work", func() bool {
				owned := 0
				for _, m := range members {
					owned += m.count("restored") - m.count("dropped")
				}
				return owned == parts && w.provider.count() > 100
			})
			began := time.Now()
			for i, m := range members {
				m.stop()
				members[i] = w.start(fmt.Sprint("m", i))
				eventually(t, 30*time.Second, "it is back", func() bool { return members[i].count("restored") > 0 })
				time.Sleep(time.Second)
			}
			close(stop)
			publishing.Wait()
			w.finished(want, 30*time.Second)
			for _, m := range members {
				m.stop()
			}
			w.check(want, 0)
			longest := w.provider.longestPause(parts, began)
			t.Logf("the longest pause of a partition was %v", longest.Round(time.Millisecond))
			if most := restartIdle + 500*time.Millisecond; longest > most && !overloaded() {
				t.Errorf("a partition paused for %v, want at most %v", longest, most)
			}
		})
	}
}

// longestPause is the longest time between two calls of one partition since began.
func (p *provider) longestPause(parts int32, began time.Time) (longest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := map[int32]time.Time{}
	for _, c := range p.times {
		n := partitionOf(c.id, parts)
		if before, ok := last[n]; ok && before.After(began) {
			longest = max(longest, c.at.Sub(before))
		}
		last[n] = c.at
	}
	return longest
}
