package sender

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/virtual"
	"github.com/znshub/znshub/pkg/zalo"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// An intent that is committed while the breaker is open, after the last call ended, must not be stranded.
func TestIntentCommittedWhileOpen(t *testing.T) {
	virtual.Test(t, func(t *testing.T) {
		l := testLimits(16)
		d := newDispatcher(l, func(*call) zalo.Result { return notSent }, func() {})
		p := &partition{}
		p.calls.Add(6)
		committing := limited(t, l) // its intent is being committed meanwhile
		for range 5 {
			d.start(&call{p: p, deadline: time.Now().Add(time.Minute), permit: limited(t, l)})
		}
		synctest.Wait()
		if _, closed := l.Closed(time.Now(), testFlow); !closed {
			t.Fatal("not open")
		}
		d.start(&call{p: p, deadline: time.Now().Add(5 * time.Second), permit: committing})
		time.Sleep(time.Hour)
		if n := p.calls.Load(); n != 0 {
			t.Errorf("%d calls neither begun nor given back after an hour; room is %d", n, d.room())
		}
	})
}

// haltedTick owns all partitions but one that the engine stopped.
type haltedTick struct {
	*fakeTick
	halted int32
}

func (t haltedTick) Partitions() []int32 {
	var ps []int32
	for _, p := range t.fakeTick.Partitions() {
		if p != t.halted {
			ps = append(ps, p)
		}
	}
	return ps
}
func (t haltedTick) Owns(p int32) bool    { return p != t.halted && t.fakeTick.Owns(p) }
func (t haltedTick) Closing(p int32) bool { return p == t.halted || t.fakeTick.Closing(p) }

// A partition that the engine stopped does not hold up the outcomes of the others.
func TestStoppedPartitionHoldsUpNobody(t *testing.T) {
	c := newCore(t)
	id0, r0 := c.request()
	for r0.Partition != 0 {
		id0, r0 = c.request()
	}
	id1, r1 := c.request()
	for r1.Partition != 1 {
		id1, r1 = c.request()
	}
	c.tick(true, r0, r1)
	c.want(id0, "SENDING(1)")
	c.want(id1, "SENDING(1)")
	c.answer(id0, accepted("m0"))
	c.answer(id1, accepted("m1"))
	for range 3 {
		tx := haltedTick{&fakeTick{c: c}, 0}
		c.h.work(tx)
	}
	c.want(id1, "done")
}

// A dead letter that was refused must get smaller, whatever made it large.
func TestPoisonedHeaders(t *testing.T) {
	c := newCore(t)
	_, r := c.request()
	r.Headers = append(r.Headers, kafka.Header{Key: "x", Value: []byte(strings.Repeat("x", 1_000_000))})
	u := &fakeUnit{c: c, p: r.Partition, key: "@1"}
	c.poison["@1"] = errors.New("too large")
	c.h.accept(u, r)
	n := 0
	for _, o := range u.out {
		n += len(o.Key) + len(o.Value)
		for _, h := range o.Headers {
			n += len(h.Key) + len(h.Value)
		}
	}
	if n > 900<<10 {
		t.Errorf("the dead letter of a refused record has %d bytes: refused again, and the partition stops", n)
	}
}

// A callback that proved an earlier attempt while a later one waited for its slot settles it: nothing is sent again.
func TestCallbackBeforeWithdrawal(t *testing.T) {
	c := newCore(t, func(cfg *Config) { cfg.OnUnknown[1] = 3 })
	id, r := c.request(onUnknown(notificationv1.OnUnknown_ON_UNKNOWN_RESEND))
	c.tick(true, r)
	first := c.calls[0].trackingID
	c.answer(id, lost)
	c.tick(true)
	c.want(id, "UNKNOWN")
	c.pass(2*time.Hour + time.Minute)
	for i := 0; c.state(id) == "UNKNOWN" && i < 10; i++ {
		c.readerPassed()
		c.tick(true)
	}
	t.Log(c.state(id))
	c.want(id, "SENDING(2)")
	c.callback(id, first)
	c.tick(true)
	x := c.calls[0]
	c.calls = nil
	x.withdrawn = true
	c.h.dispatch.mu.Lock()
	c.h.dispatch.active--
	c.h.dispatch.finish(x)
	c.h.dispatch.mu.Unlock()
	c.tick(true)
	t.Log(c.state(id))
	c.want(id, "done")
}

// A partition that is restored while the reader runs brings attempts whose callbacks the reader has passed: until it
// has read again, nothing counts as passed.
func TestRestoredPartitionIsNotPassed(t *testing.T) {
	r := newReconciler(nil, func() {}, slog.New(slog.DiscardHandler))
	r.need(time.Now(), false)
	r.begin()
	r.reached(time.Now())
	if r.passed() == 0 {
		t.Fatal("has passed nothing")
	}
	r.need(time.Now(), true)
	if at := r.passed(); at != 0 {
		t.Errorf("claims to have passed %d before it has read for the restored partition", at)
	}
	r.reached(time.Now()) // the end of a round that began before
	if at := r.passed(); at != 0 {
		t.Errorf("claims to have passed %d by a round that began before the restore", at)
	}
}

// An intent that is committed while the breaker is open is given back also when the last call under way turns out too
// late to begin.
func TestIntentBehindALateCall(t *testing.T) {
	virtual.Test(t, func(t *testing.T) {
		l := testLimits(16)
		d := newDispatcher(l, func(*call) zalo.Result { return notSent }, func() {})
		p := &partition{}
		p.calls.Add(2)
		hold := make(chan struct{})
		d.begin = func(f func()) { d.wg.Go(func() { <-hold; f() }) }
		late := &call{p: p, deadline: time.Now().Add(-time.Second), permit: limited(t, l)}
		d.start(late) // its goroutine has a slot and has not looked yet
		committing := limited(t, l)
		for range 5 { // calls that fail at that moment
			limited(t, l).Answered(time.Now(), &notSent)
		}
		d.start(&call{p: p, deadline: time.Now().Add(5 * time.Second), permit: committing})
		close(hold)
		time.Sleep(time.Hour)
		d.mu.Lock()
		n := d.run.len()
		d.mu.Unlock()
		if n != 0 || d.room() <= 0 {
			t.Errorf("%d intents neither begun nor given back after an hour; room is %d", n, d.room())
		}
	})
}

// A code that is in no table may mean that the message went out: the program does not call again by itself.
func TestUnlistedCodeIsNotRepeated(t *testing.T) {
	c := newCore(t)
	id, r := c.request()
	c.tick(true, r)
	c.answer(id, rejected(-98765))
	c.tick(true)
	c.want(id, "HELD(operator)")
	for range 8 {
		c.pass(20 * time.Minute)
		c.tick(true)
		if len(c.calls) > 0 {
			t.Fatalf("called again by itself: %s", c.state(id))
		}
	}
	c.callback(id, c.entryOf(id).open[0].trackingID)
	c.tick(true)
	c.want(id, "done")
}

// While the clock is known to be wrong nothing expires, at its acceptance neither.
func TestWrongClockExpiresNothingAtAcceptance(t *testing.T) {
	for _, wrong := range []time.Duration{10 * time.Minute, -10 * time.Minute, 25 * time.Hour} {
		c := newCore(t)
		id, r := c.request(ofCategory(notificationv1.Category_CATEGORY_OTP))
		right := c.now.Add(time.Minute)
		c.pass(wrong)
		c.h.clock.off, c.h.clock.measured, c.h.clock.skew = false, c.now, wrong.Abs()
		if c.h.clock.trusted() {
			t.Fatal("the clock is trusted")
		}
		c.tick(true, r)
		if s := c.state(id); s == "done" {
			t.Errorf("clock wrong by %s: %v", wrong, c.failed(id)[0].Reason)
			continue
		}
		c.now = right.Add(time.Second) // it is set right
		c.h.clock.measured, c.h.clock.skew = c.now, 0
		c.tick(true)
		c.tick(true)
		if s := c.state(id); s != "SENDING(1)" {
			t.Errorf("clock was wrong by %s and is right again: %s", wrong, s)
		}
	}
}

// One request that was accepted under a clock that was ahead does not hold up those after it.
func TestClockOnceAheadHoldsNothingUp(t *testing.T) {
	c := newCore(t)
	right := c.now
	c.pass(time.Hour)
	id, r := c.request()
	c.tick(true, r)
	c.answer(id, accepted("m"))
	c.tick(true)
	c.now = right.Add(time.Second) // set right; or a takeover by a machine whose clock is right
	n := c.successor()
	for range 3 {
		id, r := n.request()
		n.tick(true, r)
		if s := n.state(id); s != "SENDING(1)" {
			t.Errorf("partition %d: %s", r.Partition, s)
		}
	}
}

// What an earlier owner left in a call is written as UNKNOWN when the clock is right: windows that a wrong clock began
// would be over at once, or last for days.
func TestOrphansWaitForTheClock(t *testing.T) {
	c := newCore(t)
	id, r := c.request(ofCategory(otp))
	c.tick(true, r)
	c.want(id, "SENDING(1)")
	c = c.successor()
	right := c.now
	c.h.clock.off = false // never compared
	c.now = right.Add(-25 * time.Hour)
	c.ticks(3)
	c.h.clock.off, c.now = true, right
	c.tick(true)
	c.want(id, "UNKNOWN")
	if le := c.ledgerOf(id); le.UnknownSinceMs != ms(right) || le.DecideByMs != ms(right)+15_000 || len(le.AttemptResults) != 1 {
		t.Errorf("ledger: unknown since %d, decided by %d, now %d, %d attempts", le.UnknownSinceMs, le.DecideByMs, ms(right), len(le.AttemptResults))
	}
}

// A template that waits for a person because of codes that are in no table does so over a restart: whoever comes next
// calls once to see, and not until it has learnt it anew.
func TestUnlistedCodesOverARestart(t *testing.T) {
	c := newCore(t)
	ids := c.many(20)
	calls := func() (n int) {
		for c.ticks(3); len(c.calls) > 0; c.ticks(3) {
			n++
			c.answer(c.calls[0].e.id, rejected(-99999))
		}
		c.engine(3 * tellAfter)
		return n
	}
	first := calls()
	for range 3 {
		c = c.successor()
		if n := calls(); n > 1 {
			t.Errorf("%d calls, %d more after a restart", first, n)
		}
	}
	for _, id := range ids {
		c.want(id, "HELD(operator)")
	}
}
