package sender

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

const (
	fail   = notificationv1.OnUnknown_ON_UNKNOWN_FAIL
	hold   = notificationv1.OnUnknown_ON_UNKNOWN_HOLD
	resend = notificationv1.OnUnknown_ON_UNKNOWN_RESEND

	otp      = notificationv1.Category_CATEGORY_OTP
	care     = notificationv1.Category_CATEGORY_CUSTOMER_CARE
	unsolved = znsv1.FailureReason_FAILURE_REASON_UNRESOLVED
)

func TestUnknownSettledByCallback(t *testing.T) {
	c := newCore(t)
	id, r := c.request()
	c.tick(true, r)
	tracking := c.calls[0].trackingID
	c.answer(id, lost)
	c.tick(true)
	c.want(id, "UNKNOWN")
	c.pass(9 * time.Second)
	c.tick(true)
	if n := len(c.unresolved(id)); n != 0 {
		t.Fatalf("%d zns.unresolved before SENDER_UNRESOLVED_AFTER", n)
	}
	c.pass(2 * time.Second)
	c.tick(true)
	c.tick(true)
	u := c.unresolved(id)
	if len(u) != 1 || u[0].Cause != znsv1.UnknownCause_UNKNOWN_CAUSE_TIMEOUT || u[0].Policy != znsv1.UnknownPolicy_UNKNOWN_POLICY_HOLD ||
		u[0].Fallback["sms_text"] == "" || u[0].DecideBy == nil {
		t.Fatalf("zns.unresolved: %v", u)
	}
	c.callback(id, "foreign")
	c.tick(true)
	c.want(id, "UNKNOWN")
	c.callback(id, tracking)
	c.tick(false)
	c.want(id, "UNKNOWN")
	c.tick(true)
	c.want(id, "done")
	s := c.sent(id)
	if len(s) != 1 || s[0].OutcomeSource != znsv1.OutcomeSource_OUTCOME_SOURCE_CALLBACK || s[0].TrackingId != tracking || s[0].MsgId != "m-callback" || s[0].Corrects {
		t.Fatalf("zns.sent: %v", s)
	}
}

func TestCallbackBeforeTheLostAnswer(t *testing.T) {
	c := newCore(t)
	id, r := c.request()
	c.tick(true, r)
	c.callback(id, c.calls[0].trackingID)
	c.tick(true)
	c.want(id, "SENDING(1)")
	c.answer(id, lost)
	c.tick(true)
	c.want(id, "done")
	if s := c.sent(id); len(s) != 1 || s[0].OutcomeSource != znsv1.OutcomeSource_OUTCOME_SOURCE_CALLBACK {
		t.Fatalf("zns.sent: %v", s)
	}
}

// TestCallbackInTheTickOfTheLostAnswer: unknown and settled within one transaction.
func TestCallbackInTheTickOfTheLostAnswer(t *testing.T) {
	c := newCore(t)
	id, r := c.request()
	c.tick(true, r)
	tracking := c.calls[0].trackingID
	c.answer(id, lost)
	c.callback(id, tracking)
	c.tick(false)
	c.want(id, "SENDING(1)")
	c.callback(id, tracking)
	c.tick(true)
	c.want(id, "done")
	if len(c.sent(id)) != 1 || len(c.unresolved(id)) != 0 {
		t.Fatalf("zns.sent %v, zns.unresolved %v", c.sent(id), c.unresolved(id))
	}
}

// unknownAfter makes a request unknown and returns it after the given time.
func unknownAfter(t *testing.T, d time.Duration, change ...func(*notificationv1.NotificationRequested)) (*core, func(string)) {
	t.Helper()
	c := newCore(t)
	id, r := c.request(change...)
	c.tick(true, r)
	c.answer(id, lost)
	c.tick(true)
	c.pass(d)
	c.tick(true)
	return c, func(want string) { t.Helper(); c.want(id, want) }
}

func TestPolicyWaitsForTheReader(t *testing.T) {
	c, want := unknownAfter(t, 2*time.Hour+time.Second, ofCategory(care))
	want("UNKNOWN") // the window is over, but nobody knows whether a callback came
	c.readerPassed()
	c.h.callbacks.healthy = ms(c.now) - 59_000
	c.pass(time.Second)
	c.h.callbacks.healthy += 1000
	c.tick(true)
	want("UNKNOWN") // the reader works for 59 s only: callbacks may still sit in a spool
	c.pass(2 * time.Second)
	c.readerPassed()
	c.tick(true)
	want("FAILED(UNRESOLVED)")
}

func TestPolicyOTPFailsFast(t *testing.T) {
	c, want := unknownAfter(t, 14*time.Second, ofCategory(otp))
	want("UNKNOWN")
	c.pass(2 * time.Second)
	c.readerPassed()
	c.tick(true)
	want("FAILED(UNRESOLVED)")
}

func TestPolicyHoldWaitsUntilExpiry(t *testing.T) {
	c, want := unknownAfter(t, 23*time.Hour)
	c.readerPassed()
	c.tick(true)
	want("UNKNOWN")
	c.pass(time.Hour + time.Second)
	c.readerPassed()
	c.tick(true)
	want("FAILED(UNRESOLVED)")
}

func TestPolicyResend(t *testing.T) {
	c, want := unknownAfter(t, 3*time.Hour, onUnknown(resend))
	c.readerPassed()
	c.tick(true)
	c.tick(true)
	want("SENDING(2)")

	c, want = unknownAfter(t, 3*time.Hour, onUnknown(resend), ttl(time.Hour))
	c.readerPassed()
	c.tick(true)
	c.tick(true)
	want("FAILED(UNRESOLVED)") // never past expiry
	if len(c.calls) != 0 {
		t.Error("sent again past its expiry")
	}
}

func TestFailureAfterResendIsStillUnresolved(t *testing.T) {
	c := newCore(t)
	id, r := c.request(onUnknown(resend))
	c.tick(true, r)
	first := c.calls[0].trackingID
	c.answer(id, lost)
	c.tick(true)
	c.pass(3 * time.Hour)
	c.readerPassed()
	c.tick(true)
	c.tick(true)
	c.answer(id, rejected(-118))
	c.tick(true)
	c.want(id, "FAILED(UNRESOLVED)")
	f := c.failed(id)
	if len(f) != 1 || !f[0].PossiblySent || f[0].ProviderCode != -118 {
		t.Fatalf("zns.failed: %v", f)
	}
	c.callback(id, first)
	c.tick(true)
	if s := c.sent(id); len(s) != 1 || !s[0].Corrects || s[0].Attempt != 1 {
		t.Fatalf("zns.sent: %v", s)
	}
}

func TestLateCallbackCorrects(t *testing.T) {
	c := newCore(t)
	id, r := c.request(ofCategory(otp))
	c.tick(true, r)
	tracking := c.calls[0].trackingID
	c.answer(id, lost)
	c.tick(true)
	c.pass(16 * time.Second)
	c.readerPassed()
	c.tick(true) // zns.unresolved
	c.tick(true)
	c.want(id, "FAILED(UNRESOLVED)")
	if f := c.failed(id); len(f) != 1 || f[0].Reason != unsolved || !f[0].PossiblySent || f[0].Fallback["sms_text"] == "" {
		t.Fatalf("zns.failed: %v", f)
	}
	c = func() *core { n := c.successor(); n.out = c.out; return n }() // it is watched by the next owner too
	c.pass(20 * time.Hour)
	c.tick(true)
	c.want(id, "FAILED(UNRESOLVED)")
	c.callback(id, tracking)
	c.tick(true)
	c.want(id, "done")
	if s := c.sent(id); len(s) != 1 || !s[0].Corrects {
		t.Fatalf("zns.sent: %v", s)
	}

	// Without a callback the watch ends, and the request leaves the ledger.
	c, want := unknownAfter(t, 16*time.Second, ofCategory(otp))
	c.readerPassed()
	c.tick(true)
	want("FAILED(UNRESOLVED)")
	c.pass(24*time.Hour + time.Minute)
	c.tick(true)
	want("done")
	for _, p := range c.h.parts {
		for id := range p.ledgerKeys(c) {
			if le := c.ledgerOf(id); le.Request != nil || le.FailureReason != int32(unsolved) {
				t.Errorf("after the watch: %v", le)
			}
		}
	}
}

func TestOwnerDied(t *testing.T) {
	c := newCore(t)
	id, r := c.request()
	c.tick(true, r)
	tracking := c.calls[0].trackingID
	old := c
	c = c.successor()
	c.want(id, "UNKNOWN")
	c.tick(true)
	if le := c.ledgerOf(id); le.State != stateUnknown || le.UnknownCause != int32(znsv1.UnknownCause_UNKNOWN_CAUSE_OWNER_DIED) || len(le.OpenAttempts) != 1 {
		t.Fatalf("ledger: %v", le)
	}
	if len(c.calls) != 0 {
		t.Fatal("called again")
	}
	from := c.h.callbacks.from
	if want := old.now.Add(-reconcileMargin); from.Sub(want).Abs() > time.Second {
		t.Errorf("callbacks are read from %s, want %s", from, want)
	}
	c.callback(id, tracking)
	c.tick(true)
	c.want(id, "done")
}

// TestHistoryNamesTheOwner: who has taken a request, and who called, can be told from its history over changes of owner.
func TestHistoryNamesTheOwner(t *testing.T) {
	c := newCore(t)
	c.h.settings.instance = "first"
	here, r := c.request()
	c.tick(true, r)
	later, r := c.request(notBefore(c.now.Add(time.Minute)))
	c.tick(true, r)
	intents := func(id uuid.UUID) (owners []string) {
		accepted := ""
		for _, s := range c.ledgerOf(id).History {
			switch s.Kind {
			case ledgerv1.StepKind_STEP_KIND_ACCEPTED:
				accepted = s.Owner
			case ledgerv1.StepKind_STEP_KIND_INTENT:
				owners = append(owners, cmp.Or(s.Owner, accepted))
			}
		}
		return owners
	}
	c = c.successor()
	c.h.settings.instance = "second"
	c.pass(2 * time.Minute)
	c.tick(true) // it is read again
	c.tick(true)
	if a, b := intents(here), intents(later); !slices.Equal(a, []string{"first"}) || !slices.Equal(b, []string{"second"}) {
		t.Errorf("the first called for one, the second for the other; their histories say %q and %q", a, b)
	}
}

// TestCallAnsweredForALostPartition: the result of a call whose partition went to another owner changes nothing.
func TestCallAnsweredForALostPartition(t *testing.T) {
	c := newCore(t)
	id, r := c.request()
	c.tick(true, r)
	second, r2 := c.request(func(q *notificationv1.NotificationRequested) { q.OrderingKey = string(r.Key) })
	c.tick(true, r2)
	c.answer(id, accepted("m"))
	c.h.Dropped(r.Partition)
	c.answer(second, accepted("m"))
	c.tick(true)
	c.own(r.Partition) // it comes back at once: what it was called for before is unknown all the same
	c.tick(true)
	c.want(id, "UNKNOWN")
	c.want(second, "UNKNOWN")
	if len(c.sent(id))+len(c.sent(second)) != 0 {
		t.Fatal("published for a partition that was another's meanwhile")
	}
	c.h.Dropped(r.Partition)
	if c.h.payload() != 0 || c.h.uncommitted != 0 || len(c.h.callbacks.watched) != 0 {
		t.Fatalf("left of a dropped partition: %d bytes, %d uncommitted, %d watched", c.h.payload(), c.h.uncommitted, len(c.h.callbacks.watched))
	}
}

func TestClosingStartsNothing(t *testing.T) {
	c := newCore(t, func(cfg *Config) { cfg.MaxInFlight = 1 })
	a, ra := c.request()
	c.tick(true, ra)
	b, rb := c.request(func(r *notificationv1.NotificationRequested) {
		// On a's partition.
		r.OrderingKey = string(ra.Key)
	})
	c.tick(true, rb) // committed, and waits for a's slot
	c.want(b, "SENDING(1)")
	if c.h.InFlight(ra.Partition) != 2 {
		t.Fatalf("%d in flight, want 2", c.h.InFlight(ra.Partition))
	}
	c.close[ra.Partition] = true
	c.tick(true)
	c.tick(true)
	c.want(b, "ACCEPTED") // its call never began: that is certain
	c.want(a, "SENDING(1)")
	c.answer(a, accepted("m"))
	if !c.h.Pending(ra.Partition) || c.h.InFlight(ra.Partition) != 0 {
		t.Error("an outcome waits to be written, but Pending says no")
	}
	c.tick(true)
	c.want(a, "done")
	if len(c.calls) != 0 || c.h.Pending(ra.Partition) {
		t.Error("something was started while closing")
	}
}
