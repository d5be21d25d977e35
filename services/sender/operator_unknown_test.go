package sender

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/zalo"
	controlv1 "github.com/znshub/znshub/proto/control/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/sender/control"
)

// someUnknown makes n unknown ones of a campaign.
func (c *core) someUnknown(n int, change ...func(*notificationv1.NotificationRequested)) []uuid.UUID {
	c.t.Helper()
	ids := c.many(n, change...)
	for _, id := range ids {
		c.answer(id, lost)
	}
	c.tick(true)
	return ids
}

func TestResendUnknown(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	ids := c.someUnknown(3, ofCampaign("tet"))
	first := c.ledgerOf(ids[0]).OpenAttempts[0].TrackingId
	c.pass(time.Minute)
	wrong := o.give(again, control.Campaign("tet"), func(cmd *controlv1.Command) {
		cmd.Unknown = &controlv1.UnknownFilter{Causes: []controlv1.UnknownCause{controlv1.UnknownCause_UNKNOWN_CAUSE_OWNER_DIED}}
	})
	c.tick(true)
	c.tick(true)
	if r := o.obeyed(wrong); r.Changed != 0 || r.Left != 3 || len(c.calls) != 0 {
		t.Fatalf("another cause: %+v, %d calls", r, len(c.calls))
	}
	cmd := o.give(again, control.Campaign("tet"), func(cmd *controlv1.Command) {
		cmd.Unknown = &controlv1.UnknownFilter{Causes: []controlv1.UnknownCause{controlv1.UnknownCause_UNKNOWN_CAUSE_TIMEOUT}}
	})
	c.tick(false)
	c.want(ids[0], "UNKNOWN")
	c.tick(true)
	c.tick(true)
	for _, id := range ids {
		c.want(id, "SENDING(2)")
	}
	if r := o.obeyed(cmd); r.Changed != 3 {
		t.Fatalf("%+v", r)
	}
	c.answer(ids[0], accepted("m"))
	c.answer(ids[1], lost)
	c.tick(true)
	c.callback(ids[2], first) // somebody else's
	c.answer(ids[2], rejected(-118))
	c.tick(true)
	c.want(ids[0], "done")
	c.want(ids[1], "UNKNOWN")
	if len(c.sent(ids[0])) != 1 {
		t.Fatalf("zns.sent: %v", c.sent(ids[0]))
	}
	// Refused now, but the first attempt may have got through.
	if f := c.failed(ids[2]); len(f) != 1 || f[0].Reason != unsolved || !f[0].PossiblySent {
		t.Fatalf("zns.failed: %v", f)
	}
	// Read again by whoever comes next, it does nothing: unknown anew is not what it was about.
	n := c.successor()
	o.to(n)
	n.tick(true)
	n.tick(true)
	n.want(ids[1], "UNKNOWN")
}

// TestResendIsObeyedOnceThoughTheOwnerDies: it sent again, and died before the ledger said that all was done.
func TestResendIsObeyedOnceThoughTheOwnerDies(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	c.tick(true)
	id := c.someUnknown(1)[0]
	c.pass(time.Second)
	o.give(again, control.All())
	c.tick(true)
	c.tick(true)
	c.want(id, "SENDING(2)")
	for p := range c.ledger { // cut off what the partition answered
		for i, r := range c.ledger[p] {
			if string(r.Key) == control.AckKey {
				if ack, _ := control.DecodeAck(r.Value); ack.Position.Reached(0, 0) {
					c.ledger[p] = append(append([]kafka.Record(nil), c.ledger[p][:i]...), c.ledger[p][i+1:]...)
					break
				}
			}
		}
	}
	n := c.successor()
	o.to(n)
	for range 4 {
		n.tick(true)
	}
	n.want(id, "UNKNOWN")
	if len(n.calls) != 0 {
		t.Fatal("sent a third time, and an operator asked for one more")
	}
}

// TestTwoResendsInOneRound: two commands about the same one are obeyed together, and its owner dies before the ledger says
// so. Each was obeyed once at most, and neither because of what became unknown after it was given, as far as clocks tell.
func TestTwoResendsInOneRound(t *testing.T) {
	for name, tc := range map[string]struct {
		answer   zalo.Result
		ahead    time.Duration // of the broker's clock
		attempts int32
	}{
		"lost":                           {lost, 0, 2},
		"a code that is in no table":     {rejected(-99999), 0, 2},
		"the broker's clock runs before": {lost, time.Minute, 3},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCore(t)
			o := c.listen()
			c.tick(true)
			id := c.many(1)[0]
			c.answer(id, tc.answer)
			c.tick(true)
			o.give(holdIt, control.Campaign("h"))
			c.tick(true)
			c.many(1200, ofCampaign("h")) // so many that a command takes several ticks
			for range 2 {
				c.pass(time.Second)
				o.give(again, control.All())
				o.records[len(o.records)-1].Time = c.now.Add(tc.ahead)
			}
			for range 20 {
				c.pass(time.Second)
				c.tick(true)
				for _, x := range slices.Clone(c.calls) {
					c.answer(x.e.id, tc.answer)
				}
			}
			if n := c.ledgerOf(id).Attempt; n != tc.attempts {
				t.Fatalf("attempt %d, want %d", n, tc.attempts)
			}
			for p, records := range c.ledger { // nobody could say that the commands were obeyed
				c.ledger[p] = slices.DeleteFunc(slices.Clone(records), func(r kafka.Record) bool {
					ack, err := control.DecodeAck(r.Value)
					return string(r.Key) == control.AckKey && err == nil && ack.Position.Reached(0, 2)
				})
			}
			n := c.successor()
			o.to(n)
			for range 20 {
				n.tick(true)
			}
			if len(n.calls) != 0 {
				t.Errorf("its next owner called %d times", len(n.calls))
			}
		})
	}
}

func TestResendAfterExpiryIsTooLate(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	id := c.someUnknown(1, ttl(time.Minute))[0]
	c.pass(time.Minute + time.Second)
	cmd := o.give(again, control.ID(id))
	c.tick(true)
	c.tick(true)
	if r := o.obeyed(cmd); r.TooLate != 1 || r.Changed != 0 || len(c.calls) != 0 {
		t.Fatalf("%+v, %d calls", r, len(c.calls))
	}
}

func TestFailUnknown(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	id := c.someUnknown(1)[0]
	tracking := c.ledgerOf(id).OpenAttempts[0].TrackingId
	cmd := o.give(failIt, control.All())
	c.tick(false)
	c.tick(true)
	c.tick(true)
	c.want(id, "FAILED(UNRESOLVED)")
	if r := o.obeyed(cmd); r.Changed != 1 {
		t.Fatalf("%+v", r)
	}
	f := c.failed(id)
	if len(f) != 1 || f[0].Reason != unsolved || !f[0].PossiblySent {
		t.Fatalf("zns.failed: %v", f)
	}
	c.callback(id, tracking)
	c.tick(true)
	if s := c.sent(id); len(s) != 1 || !s[0].Corrects || len(c.failed(id)) != 1 {
		t.Fatalf("after its callback: zns.sent %v, zns.failed %v", s, c.failed(id))
	}
}

// TestUnlistedCodeWaitsForAPerson: a code that is in no table may mean that the message was sent.
func TestUnlistedCodeWaitsForAPerson(t *testing.T) {
	unlisted := rejected(-99999)
	begin := func(t *testing.T) (*core, *operators, uuid.UUID) {
		c := newCore(t)
		o := c.listen()
		id := c.many(1)[0]
		c.answer(id, unlisted)
		c.tick(true)
		c.want(id, "HELD(operator)")
		return c, o, id
	}
	for action, want := range map[controlv1.Action]control.Result{
		retry: {Left: 1}, cancel: {TooLate: 1},
	} {
		c, o, id := begin(t)
		cmd := o.give(action, control.All())
		c.tick(true)
		c.tick(true)
		c.want(id, "HELD(operator)")
		if r := o.obeyed(cmd); r != want {
			t.Errorf("%s: %+v", action, r)
		}
	}
	c, o, id := begin(t)
	o.give(holdIt, control.ID(id))
	o.give(release, control.ID(id))
	c.tick(true)
	c.tick(true)
	c.want(id, "HELD(operator)") // a release is no word about what was perhaps sent
	o.give(again, control.All(), func(cmd *controlv1.Command) {
		cmd.Unknown = &controlv1.UnknownFilter{Causes: []controlv1.UnknownCause{controlv1.UnknownCause_UNKNOWN_CAUSE_AMBIGUOUS_CODE}}
	})
	c.tick(true)
	c.tick(true)
	c.want(id, "SENDING(2)")

	c, o, id = begin(t)
	o.give(failIt, control.All())
	c.tick(true)
	c.tick(true)
	if f := c.failed(id); len(f) != 1 || f[0].Reason != unsolved || !f[0].PossiblySent {
		t.Fatalf("zns.failed: %v", f)
	}
}

// TestNothingIsSentAgainAfterACancel: whether the first attempt was sent nobody knows, but there is no second one.
func TestNothingIsSentAgainAfterACancel(t *testing.T) {
	for _, cancelled := range []bool{false, true} {
		c := newCore(t)
		o := c.listen()
		id := c.many(1, ofCampaign("tet"), onUnknown(notificationv1.OnUnknown_ON_UNKNOWN_RESEND))[0]
		c.answer(id, lost)
		c.tick(true)
		c.want(id, "UNKNOWN")
		if cancelled {
			o.give(cancel, control.Campaign("tet"))
		}
		c.pass(2*time.Hour + time.Minute)
		for i := 0; c.state(id) == "UNKNOWN" && i < 10; i++ {
			c.readerPassed()
			c.tick(true)
		}
		if !cancelled {
			c.want(id, "SENDING(2)")
			continue
		}
		f := c.failed(id)
		if len(f) != 1 || f[0].Reason != znsv1.FailureReason_FAILURE_REASON_UNRESOLVED || !f[0].PossiblySent || f[0].Advice != znsv1.Advice_ADVICE_ASK_OPERATOR {
			t.Errorf("zns.failed: %v, it is %s", f, c.state(id))
		}
	}
}

// TestCancelWhileSentAgain: a cancel comes while the policy's second call is under way, or is about to begin. Should that
// call turn out unsent, nothing is called any more; and a cancel does not keep an operator from having it sent again.
func TestCancelWhileSentAgain(t *testing.T) {
	begin := func(t *testing.T) (*core, *operators, uuid.UUID) {
		c := newCore(t)
		o := c.listen()
		id := c.many(1, ofCampaign("tet"), onUnknown(resend))[0]
		c.answer(id, lost)
		c.tick(true)
		c.pass(2*time.Hour + time.Minute)
		for i := 0; c.state(id) == "UNKNOWN" && i < 10; i++ {
			c.readerPassed()
			c.tick(true)
		}
		c.want(id, "SENDING(2)")
		return c, o, id
	}
	for name, answer := range map[string]zalo.Result{"not sent": notSent, "refused for a while": throttled, "the operator's own": notSent} {
		t.Run(name, func(t *testing.T) {
			c, o, id := begin(t)
			if name == "the operator's own" {
				c.answer(id, lost)
				c.tick(true)
				c.pass(time.Second)
				o.give(again, control.All())
				for range 3 {
					c.tick(true)
				}
				c.want(id, "SENDING(3)")
				c.pass(time.Second)
			}
			cmd := o.give(cancel, control.Campaign("tet"))
			c.tick(true)
			c.tick(true)
			if r := o.obeyed(cmd); r.TooLate != 1 {
				t.Fatalf("%+v", r)
			}
			c.answer(id, answer)
			for range 20 {
				c.pass(time.Minute)
				c.tick(true)
			}
			if f := c.failed(id); len(c.calls) != 0 || len(f) != 1 || f[0].Reason != unsolved || !f[0].PossiblySent {
				t.Errorf("%d calls, zns.failed: %v, it is %s", len(c.calls), f, c.state(id))
			}
		})
	}
	t.Run("an operator wants it again", func(t *testing.T) {
		c, o, id := begin(t)
		c.answer(id, lost)
		c.tick(true)
		c.want(id, "UNKNOWN")
		o.give(cancel, control.Campaign("tet"))
		c.tick(true)
		c.pass(time.Minute)
		o.give(again, control.Campaign("tet"))
		for range 3 {
			c.tick(true)
		}
		c.want(id, "SENDING(3)")
	})
}

// TestReleaseOfOneThatIsSentAgain: a rule for one that may have been sent, and is to be sent again, ends like any other.
func TestReleaseOfOneThatIsSentAgain(t *testing.T) {
	resent := func(c *core, o *operators, id uuid.UUID) {
		c.pass(time.Second)
		o.give(again, control.All())
		c.tick(true)
	}
	for name, begin := range map[string]func(c *core, o *operators, id uuid.UUID){
		"by its policy": func(c *core, o *operators, id uuid.UUID) {
			c.answer(id, lost)
			c.tick(true)
			o.give(holdIt, control.ID(id))
			c.pass(2*time.Hour + time.Minute)
			for i := 0; c.state(id) == "UNKNOWN" && i < 10; i++ {
				c.readerPassed()
				c.tick(true)
			}
		},
		"by an operator": func(c *core, o *operators, id uuid.UUID) {
			c.answer(id, lost)
			c.tick(true)
			o.give(holdIt, control.ID(id))
			resent(c, o, id)
		},
		"by an operator, after a code that is in no table": func(c *core, o *operators, id uuid.UUID) {
			c.answer(id, rejected(-99999))
			c.tick(true)
			o.give(holdIt, control.ID(id))
			resent(c, o, id)
		},
		"after it was refused for a while": func(c *core, o *operators, id uuid.UUID) {
			c.answer(id, lost)
			c.tick(true)
			resent(c, o, id)
			c.tick(true)
			c.answer(id, throttled)
			c.tick(true)
			o.give(holdIt, control.ID(id))
			c.tick(true)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCore(t)
			o := c.listen()
			id := c.many(1, onUnknown(resend))[0]
			begin(c, o, id)
			c.tick(true)
			c.tick(true)
			c.want(id, "HELD(operator)")
			c.pass(time.Second)
			o.give(release, control.ID(id))
			for range 4 {
				c.pass(time.Minute)
				c.tick(true)
			}
			if len(c.calls) != 1 {
				t.Errorf("%d calls, it is %s", len(c.calls), c.state(id))
			}
		})
	}
}
