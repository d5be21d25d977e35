package sender

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/services/sender/control"
)

// engine ticks as the engine does for a while: when the handler has asked for it, and no oftener.
func (c *core) engine(d time.Duration) {
	c.t.Helper()
	end := c.now.Add(d)
	for range 10_000 {
		reads := c.reads
		c.tick(true)
		switch next := c.wait; {
		case c.reads != reads: // what was read wakes it
		case next.IsZero() || next.After(end):
			c.now = end
			return
		case next.After(c.now):
			c.now = next
		}
	}
	c.t.Fatal("it never comes to rest")
}

// The ledger tells soon why each waits, also when the reason changes before all of them were told of the one before, and
// nothing but the handler's own wish makes it work.
func TestReasonOfAClosedFlowChanges(t *testing.T) {
	const first, second = ledgerv1.HoldReason_HOLD_REASON_QUOTA, ledgerv1.HoldReason_HOLD_REASON_TEMPLATE_REVIEW
	for name, prepare := range map[string]func(*core) *core{
		"in memory": func(c *core) *core { return c },
		"not in it": stingy,
	} {
		t.Run(name, func(t *testing.T) {
			c := newCore(t)
			g := gated(c)
			c.occupy()
			ids := c.many(400, ofTemplate("1"))
			c = prepare(c)
			g.close(flowFor("1", plain), first)
			c.vacate()
			c.pass(2 * tellAfter)
			c.tick(true)
			c.tick(true)
			g.close(flowFor("1", plain), second)
			ids = append(ids, c.many(5, ofTemplate("1"))...) // are told the second reason at once
			c.engine(10 * time.Second)
			wrong := map[string]int{}
			for _, id := range ids {
				if s := c.state(id); s != "HELD("+holdName(second)+")" {
					wrong[s]++
				}
			}
			if len(wrong) > 0 {
				t.Errorf("of %d: %v", len(ids), wrong)
			}
		})
	}
}

// Whatever closes a flow and how often that changes, in the end the ledger tells of each what closes it now.
func TestReasonOfAClosedFlowAtRandom(t *testing.T) {
	reasons := []ledgerv1.HoldReason{
		ledgerv1.HoldReason_HOLD_REASON_QUOTA, ledgerv1.HoldReason_HOLD_REASON_TEMPLATE_REVIEW,
		ledgerv1.HoldReason_HOLD_REASON_OPERATOR, ledgerv1.HoldReason_HOLD_REASON_CIRCUIT,
	}
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // G404: a test's
		c := newCore(t)
		g := gated(c)
		c.occupy()
		ids := c.many(150, ofTemplate("1"))
		last := reasons[0]
		g.close(flowFor("1", plain), last)
		c.vacate()
		for range 12 {
			last = reasons[rng.IntN(len(reasons))]
			g.close(flowFor("1", plain), last)
			for i := range rng.IntN(40) {
				if i%3 == 0 {
					ids = append(ids, c.many(1, ofTemplate("1"), ordered(fmt.Sprint(rng.IntN(3))))...)
				} else {
					ids = append(ids, c.many(1, ofTemplate("1"))...)
				}
			}
			c.pass(time.Duration(rng.IntN(1500)) * time.Millisecond)
			c.tick(rng.IntN(4) > 0)
			if rng.IntN(6) == 0 {
				c = c.successor()
				c.h.gates = []gate{g}
			}
		}
		c.engine(10 * time.Second)
		var wrong []uuid.UUID
		told := 0
		for _, id := range ids {
			p, r := c.h.lookup(id)
			if p == nil || !p.mayStart(r, p.at(r)) {
				continue // it waits for another one of its order
			}
			told++
			if c.state(id) != "HELD("+holdName(last)+")" {
				wrong = append(wrong, id)
			}
		}
		if told < len(ids)/2 {
			t.Fatalf("seed %d: only %d of %d were told: the test does not test", seed, told, len(ids))
		}
		if len(wrong) > 0 {
			t.Fatalf("seed %d: %d of %d are not told that %s closes their flow; one is %s", seed, len(wrong), len(ids), last, c.state(wrong[0]))
		}
	}
}

// TestRetryWhileNothingWaits: what came to an end while it was refused leaves the gate closed; the next request is tried
// at once after the command, and not when the gate would have looked again.
func TestRetryWhileNothingWaits(t *testing.T) {
	for name, tc := range map[string]struct {
		scope  control.Scope
		code   int
		reason string
		opened bool
	}{
		"oa": {control.OA("2893352839501541173"), -115, "account", true}, "all": {control.All(), -115, "account", true},
		"template":   {control.Template("643118"), -131, "template_review", true},
		"another oa": {control.OA("1"), -115, "account", false}, "another template": {control.Template("1"), -131, "template_review", false},
	} {
		c := newCore(t)
		c.h.releaseFlows = c.h.limits.Release
		o := c.listen()
		id := c.many(1, ttl(time.Minute))[0]
		c.answer(id, rejected(tc.code))
		c.tick(true)
		c.want(id, "HELD("+tc.reason+")")
		c.pass(2 * time.Minute)
		c.tick(true)
		c.want(id, "done")
		cmd := o.give(retry, tc.scope)
		c.ticks(2)
		o.obeyed(cmd)
		next := c.many(1)[0]
		c.tick(true)
		if opened := c.state(next) == "SENDING(1)"; opened != tc.opened {
			t.Errorf("%s: the next one is %s", name, c.state(next))
		}
	}
}
