package sender

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/stream"
	"github.com/znshub/znshub/pkg/virtual"
	controlv1 "github.com/znshub/znshub/proto/control/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/services/sender/control"
)

func testLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

func contextWithStop(t *testing.T) (context.Context, func()) {
	ctx, cancel := context.WithCancel(t.Context())
	return ctx, cancel
}

func (f *fakeCallbacks) open(_ context.Context, from time.Time) (callbackReader, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return nil, f.fail
	}
	f.opened = append(f.opened, from)
	f.readers++
	return fakeReader{f}, nil
}

func (f *fakeCallbacks) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.readers
}

// begun is from where readers began, oldest first.
func (f *fakeCallbacks) begun() []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.opened)
}

func (f *fakeCallbacks) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

type fakeReader struct{ f *fakeCallbacks }

func (r fakeReader) Poll(ctx context.Context) ([]kafka.Record, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
func (r fakeReader) Mark(context.Context) error { return nil }
func (r fakeReader) CaughtUp() bool {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	return !r.f.behind
}
func (r fakeReader) Close() {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	r.f.readers--
}

// TestClock: nothing is trusted before the first comparison, or while the clocks differ.
func TestClock(t *testing.T) {
	virtual.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		skew := time.Duration(0)
		c := newClock(func(context.Context, int32) (time.Time, error) {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Add(skew), nil
		}, func() {}, testLog())
		ctx, stop := contextWithStop(t)
		var wg sync.WaitGroup
		wg.Go(func() { c.run(ctx) })
		if c.trusted() || c.wrong() != "" {
			t.Error("before the first comparison: not trusted, but no reason not to be ready")
		}
		for _, tc := range []struct {
			skew time.Duration
			ok   bool
		}{{0, true}, {20 * time.Second, true}, {40 * time.Second, false}, {0, true}, {-40 * time.Second, false}, {-time.Second, true}} {
			mu.Lock()
			skew = tc.skew
			mu.Unlock()
			time.Sleep(measureEvery)
			c.committed(0, time.Now())
			synctest.Wait()
			if got := c.trusted(); got != tc.ok || (c.wrong() == "") != tc.ok {
				t.Errorf("skew %s: trusted %t, %q", tc.skew, got, c.wrong())
			}
		}
		// The clock was set a day ahead between a transaction's begin and the measurement: the broker's time is between them.
		for _, s := range []struct{ skew, took time.Duration }{{40 * time.Second, 0}, {-24 * time.Hour, 25 * time.Hour}} {
			mu.Lock()
			skew = s.skew
			mu.Unlock()
			time.Sleep(measureEvery)
			c.committed(0, time.Now().Add(-s.took))
			synctest.Wait()
		}
		if c.trusted() {
			t.Error("trusted after a measurement that proves nothing")
		}
		stop()
		wg.Wait()
	})
}

// TestUntrustedClockStopsTheWork: while the clock is wrong nothing is started, expired or forgotten; outcomes and new
// requests are still taken.
func TestUntrustedClockStopsTheWork(t *testing.T) {
	c := newCore(t)
	sentID, r := c.request()
	c.tick(true, r)
	soon, r := c.request(ttl(time.Minute), notBefore(c.now.Add(30*time.Second)))
	c.tick(true, r)
	c.h.clock.off = false // never compared
	c.answer(sentID, accepted("m"))
	fresh, r := c.request()
	c.tick(true, r)
	c.want(sentID, "done")
	c.want(fresh, "ACCEPTED")
	c.pass(100 * time.Hour)
	c.tick(true)
	c.want(soon, "HELD(not_before)")
	c.want(fresh, "ACCEPTED")
	if d := c.h.partition(0).finished.Len() + c.h.partition(1).finished.Len(); d != 1 || len(c.calls) != 0 {
		t.Fatalf("%d remembered, %d calls", d, len(c.calls))
	}
	c.h.clock.off = true
	c.tick(true)
	c.tick(true)
	c.want(soon, "done")
	c.want(fresh, "done")
	if len(c.failed(soon)) != 1 || c.ledgerOf(sentID) != nil {
		t.Error("what was due was not done once the clock is right")
	}
}

// TestOperatorIsAnsweredWhileNothingWaits: a sender that has not written anything yet, and so never compared its clock,
// does so for an operator's command.
func TestOperatorIsAnsweredWhileNothingWaits(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	c.h.clock.off = false // never compared
	cmd := o.give(again, control.All())
	c.tick(false)
	c.pass(time.Second)
	c.tick(true)
	select {
	case r := <-c.h.clock.requests:
		if last := c.ledger[r.partition]; len(last) != 1 || string(last[0].Key) != control.AckKey {
			t.Errorf("the clock is compared with the last of %v", last)
		}
	default:
		t.Fatal("nothing was written to compare the clock with")
	}
	if ack := c.acks()[0]; ack.Position.Next != nil {
		t.Errorf("answered before the clock is known: %+v", ack)
	}
	c.h.clock.off = true
	c.tick(true)
	o.obeyed(cmd)
}

// TestAcceptedWhileTheClockIsAhead: what comes in while the clock is a day ahead waits no longer, and no shorter, than it
// would have otherwise, and so does what comes in afterwards.
func TestAcceptedWhileTheClockIsAhead(t *testing.T) {
	c := newCore(t)
	c.listen()
	c.pass(14 * time.Hour) // 23:00 in Vietnam
	now, half := c.now, c.now.Add(30*time.Minute)
	c.h.clock.off, c.h.clock.measured, c.h.clock.skew = false, c.now, 25*time.Hour
	var records []kafka.Record
	var ids []uuid.UUID
	come := func() {
		for _, change := range [][]func(*notificationv1.NotificationRequested){
			{ofCategory(plain)}, {notBefore(half)}, {ofCategory(promotion)}, {ofCategory(promotion), notBefore(now.Add(time.Second))},
		} {
			id, r := c.request(append(change, ttl(48*time.Hour))...)
			r.Time = now
			ids, records = append(ids, id), append(records, r)
		}
	}
	come()
	c.pass(25 * time.Hour)
	c.tick(true, records...)
	c.pass(-25 * time.Hour)
	c.h.clock.off = true
	records = nil
	come()
	c.tick(true, records...)
	c.engine(4 * tellAfter)
	for i, want := range []string{"SENDING(1)", "HELD(not_before)", "HELD(hours)", "HELD(hours)"} {
		c.want(ids[i], want)
		c.want(ids[i+4], want)
		if e := c.entryOf(ids[i]); e.accepted > ms(c.now) {
			t.Errorf("%s: accepted %s from now", want, fromMs(e.accepted).Sub(c.now))
		}
	}
	c.engine(half.Sub(c.now))
	c.want(ids[1], "SENDING(1)")
	c.want(ids[5], "SENDING(1)")
	for len(c.calls) > 0 {
		c.answer(c.calls[0].e.id, accepted("m"))
	}
	c.engine(8 * time.Hour)
	for _, i := range []int{2, 3, 6, 7} {
		c.want(ids[i], "SENDING(1)")
	}
}

// TestClockIsComparedWhileNothingWaits: a sender that has nothing to send, and no traffic that shows the broker's time,
// compares its clock for what depends on it: what is to be forgotten fills the memory, and who is not ready gets nothing
// to do. Else it writes nothing.
func TestClockIsComparedWhileNothingWaits(t *testing.T) {
	for name, tc := range map[string]struct {
		wanted bool
		given  func(c *core)
	}{
		"nothing to do": {false, func(*core) {}},
		"nothing to forget yet": {false, func(c *core) {
			c.h.partition(1).finished.Add(uuid.New(), 0, 1, ms(c.now.Add(-time.Hour)))
		}},
		"memory full of what is to be forgotten": {true, func(c *core) {
			c.h.settings.memory = 1 << 20
			for i := range int64(40_000) {
				c.h.partition(1).finished.Add(uuid.New(), 0, i, ms(c.now.Add(-c.h.settings.dedupe-time.Hour)))
			}
			c.h.measure()
			if !c.h.Full(1) {
				t.Fatal("the memory is not full")
			}
		}},
		"it was wrong": {true, func(c *core) { c.h.clock.measured, c.h.clock.skew = c.now, time.Hour }},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCore(t)
			c.listen()
			c.h.clock.off = false // never compared
			tc.given(c)
			c.tick(true) // says what was obeyed of zns.control
			compared := false
			for range 3 {
				c.pass(time.Second)
				c.tick(true)
				select {
				case <-c.h.clock.requests:
					compared = true
				default:
				}
			}
			if compared != tc.wanted {
				t.Errorf("the clock is compared: %t, want %t", compared, tc.wanted)
			}
			c.h.clock.off = true // it is right
			c.ticks(100)
			if c.h.Full(1) {
				t.Errorf("nothing is accepted: %d are remembered", c.h.partition(1).finished.Len())
			}
		})
	}
}

// TestStandbyIsReady: a sender without a ledger partition has nothing that could be wrong by its clock, and could not
// compare it.
func TestStandbyIsReady(t *testing.T) {
	c := newCore(t)
	s := &Sender{h: c.h, control: control.New(control.Config{})}
	c.h.clock.off, c.h.clock.measured, c.h.clock.skew = false, time.Now(), time.Hour
	rules := s.control.Ready(time.Now())
	for _, tc := range []struct {
		parts []stream.PartitionStatus
		ready bool
	}{{nil, true}, {[]stream.PartitionStatus{{Partition: 2, FrontDoor: true, Ready: true}}, true}, {[]stream.PartitionStatus{{Ready: true}}, false}} {
		err := s.ready(stream.Status{Joined: true, Partitions: tc.parts})
		if ready := err.Error() == rules.Error(); ready != tc.ready { // the rules were not read here
			t.Errorf("%+v: %v", tc.parts, err)
		}
	}
}

// TestPolicyAfterAClockWasAhead: what was noted while the clock was a day ahead delays no policy when it is right again.
func TestPolicyAfterAClockWasAhead(t *testing.T) {
	r := newReconciler((&fakeCallbacks{}).open, func() {}, testLog())
	now := time.Now()
	r.reached(now.Add(25 * time.Hour))
	r.reached(now)
	if ahead := fromMs(r.healthySince()).Sub(now); ahead > 0 {
		t.Errorf("the reader counts as at work %s from now", ahead)
	}
	h := &handler{callbacks: r, clock: newClock(nil, nil, testLog())}
	e := &entry{p: &partition{upSince: ms(now.Add(25 * time.Hour))}, category: care}
	if at := ms(now); h.mayDecide(e, at) || !h.mayDecide(e, at+settleIn.Milliseconds()) {
		t.Errorf("a minute after the clock was right again the policy does not act")
	}
}

// TestPolicyWhileAClockIsSet: what was noted while the clock was wrong lets no policy act before its time when it is right
// again: not before the reader has passed the end of the window, and not before this owner was at work for a while.
func TestPolicyWhileAClockIsSet(t *testing.T) {
	virtual.Test(t, func(t *testing.T) {
		now, skew := time.Now(), time.Duration(0)
		r := newReconciler((&fakeCallbacks{}).open, func() {}, testLog())
		c := newClock(func(context.Context, int32) (time.Time, error) { return time.Now().Add(skew), nil }, func() {}, testLog())
		h := &handler{callbacks: r, clock: c}
		measure := func() { c.measure(t.Context(), clockRequest{began: time.Now()}) }
		measure()
		r.reached(now.Add(-time.Second))

		// The end of the topic was looked for while the clock was a little ahead.
		r.reached(now.Add(15 * time.Second))
		for category, settled := range map[notificationv1.Category]time.Duration{otp: 0, care: settleIn} {
			e := &entry{p: &partition{upSince: ms(now)}, category: category, mut: mut{decideBy: ms(now.Add(10 * time.Second))}}
			if h.mayDecide(e, ms(now.Add(10*time.Second))) {
				t.Errorf("%s: the policy acts by what was read before the end of the window", category)
			}
			r.reached(now.Add(15 * time.Second))
			if at := ms(now.Add(15*time.Second + settled)); !h.mayDecide(e, at) {
				t.Errorf("%s: the policy does not act", category)
			}
		}

		// This owner began, and read, while its clock was an hour behind.
		e := &entry{p: &partition{upSince: ms(now.Add(-time.Hour))}, category: care, mut: mut{decideBy: ms(now.Add(-2 * time.Hour))}}
		r.healthy, r.caughtUp = ms(now.Add(-time.Hour)), ms(now.Add(-time.Hour))
		skew = time.Hour
		measure()
		skew = 0
		measure()
		if at := ms(now); h.mayDecide(e, at) || !h.mayDecide(e, at+settleIn.Milliseconds()) {
			t.Error("the policy does not wait until this owner was at work for a minute")
		}
	})
}

// TestCommandWhileTheClockIsAhead: a command that seems to have expired while the clock is far ahead is obeyed when it is
// right, also by a sender that has nothing else to do.
func TestCommandWhileTheClockIsAhead(t *testing.T) {
	for _, idle := range []bool{false, true} {
		c := newCore(t)
		o := c.listen()
		c.tick(true)
		var id uuid.UUID
		if !idle {
			id = c.someUnknown(1)[0]
			c.pass(time.Minute)
		}
		cmd := o.give(failIt, control.All(), func(cmd *controlv1.Command) { cmd.ExpireTime = timestamppb.New(c.now.Add(7 * 24 * time.Hour)) })
		c.h.clock.off = false // never compared
		c.pass(8 * 24 * time.Hour)
		for range 3 {
			c.pass(time.Second)
			c.tick(true)
		}
		if len(c.h.clock.requests) != 1 {
			t.Error("the clock is not compared")
		}
		c.pass(-8 * 24 * time.Hour)
		c.h.clock.off = true
		for range 3 {
			c.tick(true)
		}
		if r := o.obeyed(cmd); idle != (r.Changed == 0) {
			t.Errorf("idle %t: %+v, it is %s", idle, r, c.state(id))
		}
	}
}

// TestEndedWhileTheClockIsBehind: what ends while the clock is days behind is remembered for as long as anything else.
func TestEndedWhileTheClockIsBehind(t *testing.T) {
	c := newCore(t)
	id, r := c.request()
	c.tick(true, r)
	tracking := c.calls[0].trackingID
	invalid, wrong := c.request(func(r *notificationv1.NotificationRequested) { r.TemplateId = "" })
	c = c.successor()
	right := c.now
	c.h.clock.off = false // never compared
	c.pass(-100 * 24 * time.Hour)
	c.callback(id, tracking)
	c.tick(true, wrong)
	c.want(id, "done")
	c.want(invalid, "done")
	c.now, c.h.clock.off = right, true
	c.ticks(3)
	c.pass(c.h.settings.dedupe - time.Minute)
	c.ticks(3)
	for _, again := range []kafka.Record{r, wrong} {
		c.offset++
		again.Offset, again.Time = c.offset, c.now
		c.tick(true, again)
	}
	if len(c.calls) != 0 || len(c.failed(invalid)) != 1 {
		t.Errorf("%d calls, zns.failed: %v: forgotten before its time", len(c.calls), c.failed(invalid))
	}
}

// TestDeadLetterHasTheTickTime: a dead letter is written with the time that ticks go by. With that of a wall clock that is
// ahead the broker would refuse it, and with it everything else of its transaction.
func TestDeadLetterHasTheTickTime(t *testing.T) {
	c := newCore(t)
	_, r := c.request()
	r.Value = []byte("{")
	c.tick(true, r)
	if len(c.out) != 1 || !c.out[0].Time.Equal(c.now) {
		t.Errorf("at %s: %+v", c.now, c.out)
	}
}
