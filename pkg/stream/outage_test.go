package stream_test

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
)

// long reports whether the tests that take minutes are wanted too.
func long() bool { return os.Getenv("ZNS_TEST_LONG") == "1" }

// The broker is killed, and later it hangs; both heal without anybody restarting a member. With ZNS_TEST_LONG=1 it is
// away for 60 s, else for 10 s, longer than the session either way.
func TestBrokerAway(t *testing.T) {
	t.Parallel()
	server := kafkatest.Own(t, local.Options{Controller: true})
	w := newWorld(t, server, 4)
	w.provider.slow(5 * time.Millisecond)
	away := 10 * time.Second
	if long() {
		away = time.Minute
	}
	want := ids("a", 6000)
	one, two := w.start("one"), w.start("two")
	w.publish(want[:2000]...)
	eventually(t, 30*time.Second, "they work", func() bool { return w.provider.count() > 300 })
	server.Kill(t)
	time.Sleep(away)
	server.Restart(t)
	w.publish(want[2000:4000]...)
	w.finished(want[:4000], 60*time.Second)
	back := time.Now()
	w.publish(want[4000:]...)
	eventually(t, 30*time.Second, "they work again", func() bool { return w.provider.count() > 4300 })
	server.Pause(t)
	time.Sleep(away)
	server.Resume(t)
	w.finished(want, 60*time.Second)
	t.Logf("everything was done %v after the second outage began", time.Since(back).Round(time.Second))
	one.stop()
	two.stop()
	t.Logf("%d calls became unknown, %d times partitions were lost", one.count("unknown")+two.count("unknown"), one.count("dropped")+two.count("dropped")-4)
	// Calls go on while the broker is away, their outcomes are kept: nothing is unknown but what a member that was
	// thrown out of the group had under way.
	w.check(want, 4*4*w.cfg.MaxInFlight)
}

// A member that is told to stop while the broker is away ends in bounded time.
func TestStopWhileTheBrokerIsAway(t *testing.T) {
	t.Parallel()
	server := kafkatest.Own(t, local.Options{Controller: true})
	w := newWorld(t, server, 2)
	m := w.start("one", func(c *appConfig) { c.Drain = 5 * time.Second })
	want := ids("a", 200)
	w.provider.slow(50 * time.Millisecond)
	w.publish(want...)
	eventually(t, 30*time.Second, "it works", func() bool { return w.provider.count() > 20 })
	server.Kill(t)
	time.Sleep(time.Second)
	began := time.Now()
	m.signal(syscall.SIGTERM)
	select {
	case <-m.done:
		t.Logf("ended after %v", time.Since(began).Round(100*time.Millisecond))
	case <-time.After(45 * time.Second):
		t.Error("it still runs")
	}
}
