package sender

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/znshub/znshub/pkg/trackingid"
	"github.com/znshub/znshub/pkg/zalo"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

// launchWithin is how long after its intent a call may start. Later it is not begun: a process that was stopped in
// between may have been taken for dead, and its partitions given to another.
const launchWithin = 5 * time.Second

// call is one attempt. After start only the dispatcher's goroutines touch result; the rest does not change.
type call struct {
	p          *partition
	e          *entry
	attempt    int32
	trackingID string
	deadline   time.Time
	req        *notificationv1.NotificationRequested
	parent     trace.SpanContext
	permit     *limit.Permit // nil: nothing limits it

	withdrawn bool // never begun
	result    zalo.Result
}

// launch writes e's intent. Once that is confirmed the call begins, or waits in a short run for a free slot. False: it
// may not begin any more, and permit is given back.
func (h *handler) launch(u unit, e *entry, permit *limit.Permit) bool {
	now := u.Now()
	if ms(now) > e.expire {
		permit.Undo()
		return false // its timer ends it
	}
	p := e.p
	deadline := now.Add(launchWithin)
	if expire := fromMs(e.expire).Sub(now); expire < launchWithin {
		deadline = now.Add(expire)
	}
	if closes := h.limits.Closes(now, e.flow); !closes.IsZero() && closes.Sub(now) < deadline.Sub(now) {
		deadline = now.Add(closes.Sub(now))
	}
	parent := spanContext(e.traceparent, e.tracestate)
	c := &call{p: p, e: e, attempt: e.attempt + 1, deadline: deadline, req: e.request(), parent: parent, permit: permit}
	c.trackingID = trackingid.Encode(h.settings.cluster, e.id, parent.TraceID(), parent.IsSampled(), c.attempt)
	e.heard = nil
	h.update(u, e, func() {
		e.state, e.reason, e.until, e.attempt = stateSending, 0, 0, c.attempt
		e.open = append(e.open, openAttempt{
			number: c.attempt, trackingID: c.trackingID, intent: ms(now), deadline: ms(deadline), owner: h.settings.instance,
		})
		e.history.add(&ledgerv1.Step{TimeMs: ms(now), Kind: ledgerv1.StepKind_STEP_KIND_INTENT, Attempt: c.attempt, Owner: h.owner(e)})
	})
	h.uncommitted++
	p.uncommitted[c] = true
	p.calls.Add(1)
	u.OnAbort(func() {
		h.uncommitted--
		delete(p.uncommitted, c)
		p.calls.Add(-1)
		permit.Undo()
	})
	u.OnCommit(func() {
		h.uncommitted--
		delete(p.uncommitted, c)
		h.dispatch.start(c)
	})
	return true
}

// owner names this program in a step, unless the step with which the history begins does.
func (h *handler) owner(e *entry) string {
	if e.mine && len(e.open) == 1 && e.attempt == 1 {
		return ""
	}
	return h.settings.instance
}

// dispatcher makes calls, at most so many at a time as the limits say. A slot is free as soon as its call ends, not when
// the outcome is committed; the next call comes from a short run of committed intents. Calls of an OA that has a pace
// wait for their turn beside the run. Its methods may be called from any goroutine.
type dispatcher struct {
	limits *limit.Limits
	send   func(*call) zalo.Result
	wake   func()

	mu     sync.Mutex // guards what follows
	run    deque[*call]
	turns  map[string]*turns // by OA
	active int               // goroutines, each for a slot
	begun  int               // those of them that have yet to look at the run
	ended  deque[*call]
	rate   int // calls that ended since the last tick, smoothed: what the run must bridge
	since  int
	seen   uint64 // version of the limits at which all that waits was looked at

	wg    sync.WaitGroup // of the goroutines that make calls
	begin func(func())   // starts one of them
}

// turns are the committed calls of one OA that wait for their turn, most urgent lane first.
type turns struct {
	waiting []*call
	staged  bool        // one of them is in the run
	timer   *time.Timer // fires when the first is due
}

func newDispatcher(limits *limit.Limits, send func(*call) zalo.Result, wake func()) *dispatcher {
	d := &dispatcher{limits: limits, send: send, wake: wake, turns: map[string]*turns{}}
	d.begin = d.wg.Go
	return d
}

// room is how many further intents may be written now.
func (d *dispatcher) room() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	allowed, probing := d.limits.Slots()
	if probing {
		return allowed - d.underWay()
	}
	// The run bridges the time of a commit or two, so that slots do not stand empty meanwhile.
	prefetch := min(allowed, 2+d.rate*5/4)
	return allowed + prefetch - d.underWay()
}

// underWay is how many calls run or wait for a slot. mu is held.
func (d *dispatcher) underWay() int { return d.active - d.begun + d.run.len() }

// observe is called once in every tick.
func (d *dispatcher) observe() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rate = max(d.since, d.rate*7/8)
	d.since = 0
}

// start begins c as soon as a slot is free.
func (d *dispatcher) start(c *call) {
	now := time.Now()
	c.permit.Committed(now)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case c.permit.Overtaken():
		d.giveBack(c) // it was being committed while the provider began to fail
		d.wake()
		return
	case c.permit.Paced():
		d.queue(c, now)
		return
	}
	d.run.pushBack(c)
	d.spawn()
}

// queue makes c wait for its turn. mu is held.
func (d *dispatcher) queue(c *call, now time.Time) {
	t := d.turns[c.permit.OA()]
	if t == nil {
		t = &turns{}
		d.turns[c.permit.OA()] = t
	}
	i := len(t.waiting)
	for i > 0 && laneOf(t.waiting[i-1].e.category) > laneOf(c.e.category) {
		i--
	}
	t.waiting = slices.Insert(t.waiting, i, c)
	d.stage(t, now)
}

// stage puts the first of those that wait into the run when its turn has come, else sees to it that it will. mu is held.
func (d *dispatcher) stage(t *turns, now time.Time) {
	if t.staged || len(t.waiting) == 0 {
		return
	}
	c := t.waiting[0]
	due := c.permit.Due(now)
	if due.IsZero() {
		due = now.Add(100 * time.Millisecond) // this process has no share yet
	}
	if wait := due.Sub(now); wait > 0 {
		if t.timer == nil {
			t.timer = time.AfterFunc(wait, func() {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.stage(t, time.Now())
			})
		} else {
			t.timer.Reset(wait)
		}
		return
	}
	t.staged, t.waiting = true, slices.Delete(t.waiting, 0, 1)
	d.run.pushFront(c)
	d.spawn()
}

// unstage says that the staged call of an OA has left the run: the next one's turn may have come. mu is held.
func (d *dispatcher) unstage(c *call, now time.Time) {
	if t := d.turns[c.permit.OA()]; t != nil {
		t.staged = false
		d.stage(t, now)
	}
}

// spawn starts goroutines for free slots, as far as the run has calls that none was started for. mu is held.
func (d *dispatcher) spawn() {
	allowed, _ := d.limits.Slots()
	for n := min(d.run.len()-d.begun, allowed-d.active); n > 0; n-- {
		d.active++
		d.begun++
		d.begin(d.work)
	}
}

// work makes calls until there are none.
func (d *dispatcher) work() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.begun--
	for {
		c := d.next(time.Now())
		if c == nil {
			d.active--
			return
		}
		d.mu.Unlock()
		c.result = d.send(c)
		c.permit.Answered(time.Now(), &c.result)
		d.mu.Lock()
		d.since++
		d.recall()
		d.finish(c)
		d.spawn() // the window may have grown
		d.mu.Unlock()
		d.wake()
		d.mu.Lock()
	}
}

// next takes the next call that may begin now out of the run; nil: there is none, or no slot. mu is held.
func (d *dispatcher) next(now time.Time) *call {
	for {
		if allowed, _ := d.limits.Slots(); d.active > allowed {
			return nil
		}
		c, ok := d.run.popFront()
		if !ok {
			return nil
		}
		paced := c.permit.Paced()
		verdict := limit.Withdraw
		// By the monotonic clock, which stands still while a machine sleeps, and by the wall clock, which does not.
		if !now.After(c.deadline) && !now.Round(0).After(c.deadline.Round(0)) {
			verdict = c.permit.Start(now)
		}
		switch verdict {
		case limit.Go:
			if paced {
				d.unstage(c, now)
			}
			return c
		case limit.Wait:
			t := d.turns[c.permit.OA()]
			t.staged, t.waiting = false, slices.Insert(t.waiting, 0, c)
			d.stage(t, now)
		case limit.Withdraw:
			d.giveBack(c)
			d.wake()
			if paced {
				d.unstage(c, now)
			}
		}
	}
}

// finish hands c over to the next tick. mu is held.
func (d *dispatcher) finish(c *call) {
	if c.p.dropped.Load() {
		return
	}
	d.ended.pushBack(c)
	c.p.ended.Add(1)
	c.p.calls.Add(-1)
}

// giveBack hands over a call that was not begun. mu is held.
func (d *dispatcher) giveBack(c *call) {
	c.permit.Undo()
	c.withdrawn = true
	d.finish(c)
}

// recall gives back what waits and may not begin any more: the provider is failing, or refuses their like. mu is held.
func (d *dispatcher) recall() {
	if version := d.limits.Version(); version != d.seen {
		d.seen = version
		d.filter(func(c *call) bool { return c.permit.Overtaken() }, d.giveBack)
	}
}

// withdraw gives back what has not begun for p, which is being given up.
func (d *dispatcher) withdraw(p *partition) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.filter(func(c *call) bool { return c.p == p }, d.giveBack)
}

// forget drops what has not begun for p, which is no longer this member's.
func (d *dispatcher) forget(p *partition) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.filter(func(c *call) bool { return c.p == p }, func(c *call) { c.permit.Undo() })
}

// filter takes those that match out of all that waits, and does f to them. mu is held.
func (d *dispatcher) filter(match func(*call) bool, f func(*call)) {
	for range d.run.len() {
		c, _ := d.run.popFront()
		if !match(c) {
			d.run.pushBack(c)
			continue
		}
		f(c)
		if c.permit.Paced() {
			d.turns[c.permit.OA()].staged = false
		}
	}
	now := time.Now()
	for oa, t := range d.turns {
		t.waiting = slices.DeleteFunc(t.waiting, func(c *call) bool {
			if !match(c) {
				return false
			}
			f(c)
			return true
		})
		if len(t.waiting) == 0 && !t.staged {
			if t.timer != nil {
				t.timer.Stop()
			}
			delete(d.turns, oa)
			continue
		}
		d.stage(t, now)
	}
}

// finished takes a call that ended; nil: none.
func (d *dispatcher) finished() *call {
	d.mu.Lock()
	defer d.mu.Unlock()
	c, _ := d.ended.popFront()
	return c
}

// unfinish undoes finished.
func (d *dispatcher) unfinish(c *call) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended.pushFront(c)
}

// wait returns when no call is under way any more, or ctx ends.
func (d *dispatcher) wait(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		d.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// sendRequest is what Zalo is asked for.
func (c *call) sendRequest(development bool) zalo.SendRequest {
	r := c.req
	return zalo.SendRequest{
		OAID: r.GetOaId(), Phone: r.GetRecipient().GetPhone(), PhoneSHA256: hashedPhone(r.GetRecipient()),
		TemplateID: r.GetTemplateId(), TemplateData: r.GetTemplateData(), TrackingID: c.trackingID,
		Development: development || r.GetMode() == notificationv1.Mode_MODE_DEVELOPMENT, LaunchBy: c.deadline,
	}
}

// hashedPhone is the recipient's hash when there is no number.
func hashedPhone(r *notificationv1.Recipient) string {
	if r.GetPhone() != "" {
		return ""
	}
	return r.GetPhoneSha256()
}
