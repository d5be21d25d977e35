package sender

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/znshub/znshub/pkg/trackingid"
	"github.com/znshub/znshub/pkg/zalo"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
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

	withdrawn bool // never begun
	result    zalo.Result
}

// launch writes e's intent. Once that is confirmed the call begins, or waits in a short run for a free slot.
func (h *handler) launch(u unit, e *entry) bool {
	now := u.Now()
	if ms(now) > e.expire {
		return false // its timer ends it
	}
	p := e.p
	deadline := now.Add(launchWithin)
	if expire := fromMs(e.expire).Sub(now); expire < launchWithin {
		deadline = now.Add(expire)
	}
	parent := spanContext(e.traceparent, e.tracestate)
	c := &call{p: p, e: e, attempt: e.attempt + 1, deadline: deadline, req: e.request(), parent: parent}
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
	p.uncommitted++
	p.calls.Add(1)
	u.OnAbort(func() {
		h.uncommitted--
		p.uncommitted--
		p.calls.Add(-1)
	})
	u.OnCommit(func() {
		h.uncommitted--
		p.uncommitted--
		h.dispatch.start(c)
	})
	return true
}

// owner names this program in a step when the step before was another's.
func (h *handler) owner(e *entry) string {
	if len(e.open) > 1 || e.attempt > 1 {
		return h.settings.instance
	}
	return ""
}

// dispatcher makes calls, at most so many at a time. A slot is free as soon as its call ends, not when the outcome is
// committed; the next call comes from a short run of committed intents. Its methods may be called from any goroutine.
type dispatcher struct {
	send func(*call) zalo.Result
	wake func()

	mu      sync.Mutex // guards what follows
	run     deque[*call]
	active  int // goroutines, each for a slot
	begun   int // those of them that have yet to look at the run
	ended   deque[*call]
	breaker breaker
	rate    int // calls that ended since the last tick, smoothed: what the run must bridge
	since   int

	wg    sync.WaitGroup // of the goroutines that make calls
	begin func(func())   // starts one of them
}

func newDispatcher(maxInFlight int, send func(*call) zalo.Result, wake func()) *dispatcher {
	d := &dispatcher{send: send, wake: wake, breaker: newBreaker(maxInFlight)}
	d.begin = d.wg.Go
	return d
}

// room is how many further intents may be written now.
func (d *dispatcher) room(now time.Time) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	allowed, probing := d.breaker.allowed(now)
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
	d.mu.Lock()
	defer d.mu.Unlock()
	d.run.pushBack(c)
	d.spawn()
	d.unstrand()
}

// spawn starts goroutines for free slots, as far as the run has calls that none was started for. mu is held.
func (d *dispatcher) spawn() {
	allowed, _ := d.breaker.allowed(time.Now())
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
		allowed, _ := d.breaker.allowed(time.Now())
		if d.active > allowed || d.run.len() == 0 {
			d.active--
			d.unstrand()
			return
		}
		c, _ := d.run.popFront()
		d.mu.Unlock()

		// By the monotonic clock, which stands still while a machine sleeps, and by the wall clock, which does not.
		if now := time.Now(); now.After(c.deadline) || now.Round(0).After(c.deadline.Round(0)) {
			c.withdrawn = true
		} else {
			c.result = d.send(c)
		}

		d.mu.Lock()
		d.since++
		if !c.withdrawn {
			d.breaker.record(&c.result, time.Now())
			if d.breaker.open {
				d.withdrawAll()
			}
		}
		d.finish(c)
		d.spawn() // the breaker may allow one more than before
		d.mu.Unlock()
		d.wake()
		d.mu.Lock()
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

// withdrawAll gives back what has not begun: the provider is failing. mu is held.
func (d *dispatcher) withdrawAll() {
	for c, ok := d.run.popFront(); ok; c, ok = d.run.popFront() {
		c.withdrawn = true
		d.finish(c)
	}
}

// unstrand gives back intents that were being committed while the breaker opened: no goroutine is left to take them,
// and while they wait there is no room for the probe that would close it. mu is held.
func (d *dispatcher) unstrand() {
	if d.breaker.open && d.active == 0 && d.run.len() > 0 {
		d.withdrawAll()
		d.wake()
	}
}

// withdraw gives back what has not begun for p, which is being given up.
func (d *dispatcher) withdraw(p *partition) {
	d.filter(p, func(c *call) {
		c.withdrawn = true
		d.finish(c)
	})
}

// forget drops what has not begun for p, which is no longer this member's.
func (d *dispatcher) forget(p *partition) { d.filter(p, func(*call) {}) }

func (d *dispatcher) filter(p *partition, f func(*call)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for range d.run.len() {
		c, _ := d.run.popFront()
		if c.p == p {
			f(c)
		} else {
			d.run.pushBack(c)
		}
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

// reopens returns until when nothing is started because the provider is failing; zero: it is not.
func (d *dispatcher) reopens(now time.Time) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.breaker.open && d.breaker.until.After(now) {
		return d.breaker.until
	}
	return time.Time{}
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
