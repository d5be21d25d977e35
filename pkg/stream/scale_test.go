package stream_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
)

func TestOneMember(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "the engine"), 4)
	want := ids("a", 200)
	m := w.start("one")
	w.publish(want...)
	w.publish(want[:20]...) // repeated requests
	w.finished(want, 30*time.Second)
	eventually(t, 5*time.Second, "the repeated requests are seen", func() bool { return m.count("duplicate") == 20 })
	w.caughtUp(10 * time.Second)
	m.stop()
	w.check(want, 0)
}

// Members come and go cleanly: nothing is left unknown, and the offsets committed for a partition never go back.
func TestScaleOutAndIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "a group of processes"), 6)
	w.provider.slow(20 * time.Millisecond)
	stop := w.watchOffsets()
	want := ids("a", 9000)
	one := w.start("one")
	w.publish(want[:2000]...)
	eventually(t, 20*time.Second, "one works", func() bool { return w.provider.count() > 100 })
	two, three := w.start("two"), w.start("three")
	for _, m := range []*member{two, three} {
		eventually(t, 30*time.Second, m.name+" owns a partition", func() bool { return m.count("restored") > 0 })
	}
	w.publish(want[2000:4000]...)
	eventually(t, 20*time.Second, "they work", func() bool { return w.provider.count() > 2200 })
	two.stop()
	w.publish(want[4000:6000]...)
	eventually(t, 20*time.Second, "one and three work", func() bool { return w.provider.count() > 4200 })
	one.stop()
	again := w.start("one") // a rolling restart
	eventually(t, 30*time.Second, "one is back", func() bool { return again.count("restored") > 0 })
	w.publish(want[6000:]...)
	eventually(t, 20*time.Second, "both work", func() bool { return w.provider.count() > 6200 })
	three.stop()
	w.finished(want, 60*time.Second)
	again.stop()
	w.check(want, 0)
	if stop() < 50 {
		t.Error("the watch over the offsets hardly looked")
	}
}

// A call that takes longer than the session is waited for while the member keeps its place in the group.
func TestDrainLongerThanTheSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "a group of processes"), 2)
	w.provider.slow(9 * time.Second)
	want := ids("a", 8)
	long := func(c *appConfig) { c.CallTimeout = 20 * time.Second }
	one := w.start("one", long)
	w.publish(want...)
	eventually(t, 20*time.Second, "the calls are under way", func() bool { return w.provider.count() == len(want) })
	two := w.start("two", long) // takes one partition over
	eventually(t, 40*time.Second, "two owns a partition", func() bool { return two.count("restored") > 0 })
	if one.count("dropped") != 1 {
		t.Errorf("one gave up %d partitions, want 1: it was evicted while it drained", one.count("dropped"))
	}
	more := ids("b", 8)
	w.publish(more...)
	eventually(t, 20*time.Second, "calls are under way again", func() bool { return w.provider.count() == len(want)+len(more) })
	one.stop()
	two.stop()
	w.check(append(want, more...), 0)
}

// A stop waits for calls no longer than DrainTimeout, once; what did not end is unknown to the next owner.
func TestDrainIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "a group of processes"), 2)
	w.provider.slow(40 * time.Second)
	want := ids("a", 4)
	slow := func(c *appConfig) { c.Drain, c.CallTimeout = 5*time.Second, 60*time.Second }
	one := w.start("one", slow)
	w.publish(want...)
	eventually(t, 20*time.Second, "the calls are under way", func() bool { return w.provider.count() == len(want) })
	began := time.Now()
	one.stop()
	if took := time.Since(began); took < 5*time.Second || took > 9*time.Second && !overloaded() || took > 25*time.Second {
		t.Errorf("the stop took %v, want little more than 5 s", took)
	}
	two := w.start("two", slow)
	w.finished(want, 20*time.Second)
	two.stop()
	w.check(want, len(want))
}

// Input partitions beyond the ledger's are front doors: what arrives there is moved to its canonical partition.
func TestFrontDoors(t *testing.T) {
	t.Parallel()
	server := kafkatest.Real(t, "the engine")
	w := newWorld(t, server, 2)
	w.cfg.Input = server.Topic(t, "wide", 5)
	want := ids("a", 300)
	one := w.start("one")
	var rs []*kgo.Record
	for i, id := range want {
		p := int32(i % 5)
		if p < 2 {
			p = kafka.Murmur2Partition([]byte(id), 2) // canonical
		}
		rs = append(rs, &kgo.Record{Topic: w.cfg.Input, Partition: p, Key: []byte(id), Value: []byte("x")})
	}
	w.write(rs...)
	w.finished(want, 30*time.Second)
	w.caughtUp(10 * time.Second)
	one.stop()
	// Its successor takes up where it stood, at the front doors too.
	two := w.start("two")
	more := ids("b", 50)
	rs = nil
	for i, id := range more {
		rs = append(rs, &kgo.Record{Topic: w.cfg.Input, Partition: int32(2 + i%3), Key: []byte(id), Value: []byte("x")})
	}
	w.write(rs...)
	w.finished(more, 30*time.Second)
	if n := two.count("duplicate"); n != 0 {
		t.Errorf("%d records of the front doors were moved twice", n)
	}
	two.stop()
	w.check(append(want, more...), 0)
}

// caughtUp waits until the group has committed everything in the input.
func (w *world) caughtUp(within time.Duration) {
	w.t.Helper()
	within *= patience
	for deadline := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		lag, err := w.lag()
		if err == nil && lag == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the group has not caught up within %v: lag %d, err %v", within, lag, err)
		}
	}
}

// lag is how many offsets of the input lie between what the group has committed and the end, not counting markers
// at the end.
func (w *world) lag() (lag int64, err error) {
	offsets, err := w.adm.FetchOffsets(w.t.Context(), w.cfg.Group)
	if err != nil {
		return 0, err
	}
	last := map[int32]int64{}
	for _, r := range w.read(w.cfg.Input) {
		last[r.Partition] = max(last[r.Partition], r.Offset)
	}
	for p, o := range last {
		at, _ := offsets.Lookup(w.cfg.Input, p)
		lag += max(0, o+1-at.At)
	}
	return lag, nil
}

// watchOffsets asserts until the returned function is called that committed offsets never go back. That function
// returns how often it looked.
func (w *world) watchOffsets() func() int {
	done, ended, looks := make(chan struct{}), make(chan struct{}), 0
	go func() {
		defer close(ended)
		at := map[int32]int64{}
		for {
			select {
			case <-done:
				return
			case <-time.After(50 * time.Millisecond):
			}
			offsets, err := w.adm.FetchOffsets(w.t.Context(), w.cfg.Group)
			if err != nil {
				continue
			}
			looks++
			for p, o := range offsets[w.cfg.Input] {
				if o.Err == nil && o.At < at[p] {
					w.t.Errorf("the committed offset of partition %d went back from %d to %d", p, at[p], o.At)
				}
				if o.Err == nil {
					at[p] = o.At
				}
			}
		}
	}()
	return func() int {
		close(done)
		<-ended
		return looks
	}
}
