package stream_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/stream"
)

// takeover is the promise: a new owner works within the session and four seconds, also with a transaction open.
const takeover = 6*time.Second + 4*time.Second

// overloaded reports whether so many processes wait for a processor that times say nothing.
func overloaded() bool {
	b, _ := os.ReadFile("/proc/loadavg")
	var load float64
	_, _ = fmt.Sscan(string(b), &load)
	return load > 4*float64(runtime.NumCPU())
}

// turn lets the cases of a test take turns with the protocols of the group, unless the environment says which.
func (w *world) turn(n int) {
	if w.cfg.Protocol == "" {
		w.cfg.Protocol = protocols[n%len(protocols)]
	}
}

// kill -9 at each step: nothing is lost or done twice, and only calls that were under way, or whose intent was
// committed, are unknown afterwards.
func TestKillAtEachStep(t *testing.T) {
	t.Parallel()
	server := kafkatest.Real(t, "kill -9")
	for i, c := range []struct {
		at      stream.Step
		nth     int
		unknown bool // intents may have been committed without their calls' outcomes
	}{
		{stream.StepBuilt, 15, true},
		{stream.StepProduced, 15, true},
		{stream.StepOffsets, 15, true},
		{stream.StepCommitted, 15, true},
		{stream.StepApplied, 15, true},
		{stream.StepAssigned, 1, false},
		{stream.StepRestoring, 1, false},
		{stream.StepRestored, 2, true},
		{stream.StepClosing, 1, true},
		{stream.StepIdle, 1, true},
		{stream.StepDropped, 1, true},
		{stream.StepDraining, 1, true},
	} {
		t.Run(strings.ReplaceAll(string(c.at), ": ", " "), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, server, 4)
			w.turn(i)
			w.provider.slow(5 * time.Millisecond)
			want := ids("a", 1200)
			victim := w.start("victim", func(a *appConfig) { a.At, a.Nth, a.Act = string(c.at), c.nth, "kill" })
			w.publish(want[:1000]...)
			if c.at == stream.StepRestored || c.at == stream.StepAssigned || c.at == stream.StepRestoring {
				<-victim.done
			} else {
				eventually(t, 20*time.Second, "the victim works", func() bool { return w.provider.count() > 0 })
			}
			if c.at == stream.StepDraining {
				victim.signal(syscall.SIGTERM)
			}
			heir := w.start("heir")
			<-victim.done
			died := time.Now()
			w.publish(want[1000:]...)
			eventually(t, takeover, "the heir owns everything", func() bool { return heir.count("restored") == 4 })
			if took := time.Since(died); took > takeover && !overloaded() {
				t.Errorf("the heir owned everything after %v, want %v", took, takeover)
			}
			t.Logf("the heir owned everything %v after the kill; transactions of the dead that it ended: %d",
				time.Since(died).Round(10*time.Millisecond), heir.count(string(stream.StepTakeover)))
			w.finished(want, 30*time.Second)
			heir.stop()
			unknown := 0
			if c.unknown {
				unknown = 4 * w.cfg.MaxInFlight
			}
			w.check(want, unknown)
		})
	}
}

// A member that is stopped for longer than its session, in the middle of a transaction, and then goes on, cannot
// commit what it had begun: its partitions' state is intact at their new owner.
func TestStoppedMember(t *testing.T) {
	t.Parallel()
	server := kafkatest.Real(t, "a stopped process")
	for i, at := range []stream.Step{stream.StepBuilt, stream.StepProduced, stream.StepOffsets, stream.StepCommitted} {
		t.Run(strings.ReplaceAll(string(at), ": ", " "), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, server, 4)
			w.turn(i)
			w.provider.slow(5 * time.Millisecond)
			want := ids("a", 1200)
			victim := w.start("victim", func(a *appConfig) { a.At, a.Nth, a.Act = string(at), 15, "stop" })
			w.publish(want[:1000]...)
			eventually(t, 20*time.Second, "the victim stops", func() bool { return victim.count("acting") > 0 })
			heir := w.start("heir")
			eventually(t, 2*takeover, "the heir owns everything", func() bool { return heir.count("restored") == 4 })
			victim.signal(syscall.SIGCONT)
			eventually(t, 20*time.Second, "the victim notices", func() bool { return victim.count("dropped") >= 4 })
			if at == stream.StepProduced || at == stream.StepOffsets {
				if victim.count(string(stream.StepAborted)) == 0 && victim.count(string(stream.StepUnconfirmed)) == 0 {
					t.Error("the victim's transaction was not refused")
				}
			}
			w.publish(want[1000:]...)
			w.finished(want, 40*time.Second)
			victim.stop()
			heir.stop()
			w.check(want, 4*w.cfg.MaxInFlight)
		})
	}
}
