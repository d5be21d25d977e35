package sender

import (
	"testing"
	"time"

	"github.com/google/uuid"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/sender/control"
)

// collapsing is a request of a source with a collapse_key. Those with one ordering_key are of one partition.
func collapsing(key string) func(*notificationv1.NotificationRequested) {
	return func(r *notificationv1.NotificationRequested) {
		r.Source, r.CollapseKey, r.OrderingKey = "login", key, "customer-7"
	}
}

func TestCollapse(t *testing.T) {
	for name, prepare := range map[string]func(*core) *core{
		"in memory":   func(c *core) *core { return c },
		"not in it":   stingy,
		"other owner": func(c *core) *core { c.tick(true); return c.successor() },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCore(t)
			superseded := func(id uuid.UUID) bool {
				f := c.failed(id)
				if len(f) > 0 && f[0].Reason != znsv1.FailureReason_FAILURE_REASON_SUPERSEDED {
					t.Fatalf("zns.failed: %v", f[0])
				}
				return len(f) == 1
			}
			first, r := c.request(collapsing("otp"))
			c.tick(true, r)
			c.want(first, "SENDING(1)")
			held, r := c.request(collapsing("otp"), notBefore(c.now.Add(time.Hour)))
			c.tick(true, r)
			other, r := c.request(collapsing("another"), notBefore(c.now.Add(time.Hour)))
			c.tick(true, r)
			source, r := c.request(collapsing("otp"), notBefore(c.now.Add(time.Hour)), func(r *notificationv1.NotificationRequested) { r.Source = "shop" })
			c.tick(true, r)
			if superseded(first) || superseded(held) {
				t.Fatal("superseded by an older one or one of another key")
			}
			out, calls := c.out, c.calls
			if c = prepare(c); name == "other owner" {
				c.out = out
			}
			c.ticks(3)
			newer, r := c.request(collapsing("otp"))
			c.tick(false, r)
			if superseded(held) {
				t.Fatal("superseded by one that was not taken")
			}
			c.tick(true, r)
			c.ticks(3)
			if !superseded(held) {
				t.Errorf("the older one waits still: %s", c.state(held))
			}
			if superseded(first) || superseded(other) || superseded(source) {
				t.Error("superseded: one under way, or of another key or source")
			}
			if name == "other owner" {
				c.want(first, "UNKNOWN") // its call may have reached Zalo
				return
			}
			// The one under way turns out unsent: it is not tried again, also not by another owner.
			c.calls = calls
			c.answer(first, throttled)
			c.ticks(3)
			if !superseded(first) {
				t.Errorf("the one that was turned away waits still: %s", c.state(first))
			}
			c.ticks(3)
			c.want(newer, "SENDING(1)")
			c.answer(newer, accepted("m"))
			c.ticks(2)
			c.want(newer, "done")
			if p := c.h.parts[r.Partition]; len(p.collapse) != 2 || len(p.collapseOf) != 2 {
				t.Errorf("%d keys of %d requests are remembered, want 2 of 2", len(p.collapse), len(p.collapseOf))
			}
		})
	}
}

// One under way is superseded for good: its next owner does not try it again either, also when the newer one has ended.
// TestCollapseOfOneThatIsSentAgain: no policy sends the older one again once a newer one was taken, whether it waits for
// its policy or for its next call; only an operator does.
func TestCollapseOfOneThatIsSentAgain(t *testing.T) {
	for _, name := range []string{"unknown", "turned away when it was sent again", "an operator wants it"} {
		t.Run(name, func(t *testing.T) {
			c := newCore(t)
			o := c.listen()
			older, r := c.request(collapsing("otp"), onUnknown(resend))
			c.tick(true, r)
			c.answer(older, lost)
			c.tick(true)
			windowEnds := func() {
				c.pass(2*time.Hour + time.Minute)
				for range 10 {
					c.readerPassed()
					c.tick(true)
				}
			}
			if name == "turned away when it was sent again" {
				windowEnds()
				c.want(older, "SENDING(2)")
				c.answer(older, throttled)
				c.tick(true)
			}
			newer, r := c.request(collapsing("otp"))
			c.tick(true, r)
			c.ticks(3)
			if name == "an operator wants it" {
				o.give(again, control.All())
				c.ticks(3)
				c.want(older, "SENDING(2)")
				return
			}
			windowEnds()
			if f := c.failed(older); len(f) != 1 || f[0].Reason != unsolved || !f[0].PossiblySent || f[0].Advice != znsv1.Advice_ADVICE_UNSPECIFIED {
				t.Errorf("zns.failed: %v, it is %s", f, c.state(older))
			}
			c.want(newer, "SENDING(1)")
			if n := len(c.calls); n != 1 {
				t.Errorf("%d calls under way, want that of the newer one", n)
			}
		})
	}
}

func TestCollapseSurvivesRestart(t *testing.T) {
	for name, ended := range map[string]bool{"the newer one waits": false, "the newer one has ended": true} {
		t.Run(name, func(t *testing.T) {
			c := newCore(t)
			first, r := c.request(collapsing("otp"))
			c.tick(true, r)
			newer, r := c.request(collapsing("otp"), ttl(time.Minute))
			c.tick(true, r)
			if le := c.ledgerOf(first); !le.Superseded || le.State != stateSending {
				t.Fatalf("ledger: %v", le)
			}
			if ended {
				c.pass(2 * time.Minute)
				c.ticks(2)
				c.want(newer, "done")
			}
			p := c.h.parts[r.Partition]
			e := p.entry(first)
			c.h.update(&fakeUnit{c: c, p: p.id}, e, func() {}) // never committed
			c.calls = nil
			// As if its call had been given back and its owner had died before the next tick.
			tx := &fakeTick{c: c}
			u := tx.Unit(p.id, first.String()).(*fakeUnit)
			c.h.withdrawn(u, e, ms(c.now))
			c.ledger[p.id] = append(c.ledger[p.id], u.ledger...)
			out := c.out
			c = c.successor()
			c.out = out
			c.ticks(4)
			if f := c.failed(first); len(f) != 1 || f[0].Reason != znsv1.FailureReason_FAILURE_REASON_SUPERSEDED {
				t.Errorf("%s, zns.failed %v", c.state(first), f)
			}
			if !ended {
				c.want(newer, "SENDING(1)")
			}
		})
	}
}

// TestManyWithOneCollapseKey: that many requests have the same collapse_key, while none of them can be ended yet, costs no
// more memory than that many of different ones.
func TestManyWithOneCollapseKey(t *testing.T) {
	c := newCore(t)
	c.h.clock.off = false // never compared: nothing is ended
	var ids []uuid.UUID
	for range 4 {
		ids = append(ids, c.many(500, collapsing("promo"))...)
	}
	waiting := 0
	for _, p := range c.h.parts {
		waiting += p.superseded.len()
	}
	if waiting >= len(ids) {
		t.Errorf("%d are to be ended, %d stand in memory for that", len(ids)-1, waiting)
	}
	// The next one is undone before it is taken, and so is what it would end; another comes in its place.
	_, undone := c.request(collapsing("promo"))
	last, r := c.request(collapsing("promo"))
	c.tick(false, undone)
	c.h.clock.off = true
	c.tick(false, r)
	c.tick(true, r)
	c.ticks(3)
	for _, id := range ids {
		if f := c.failed(id); len(f) != 1 || f[0].Reason != znsv1.FailureReason_FAILURE_REASON_SUPERSEDED {
			t.Fatalf("%s, zns.failed: %v", c.state(id), f)
		}
	}
	c.want(last, "SENDING(1)")
}
