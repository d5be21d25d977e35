package sender

import (
	"testing"
	"time"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

func TestHappyPath(t *testing.T) {
	c := newCore(t)
	id, r := c.request()
	c.tick(true, r)
	c.want(id, "SENDING(1)")
	if n := len(c.ledger[r.Partition]); n != 1 {
		t.Errorf("%d ledger records, want 1: a request that starts at once needs no ACCEPTED record", n)
	}
	c.answer(id, accepted("m1"))
	c.tick(true)
	c.want(id, "done")
	sent := c.sent(id)
	if len(sent) != 1 || sent[0].MsgId != "m1" || sent[0].OutcomeSource != znsv1.OutcomeSource_OUTCOME_SOURCE_RESPONSE ||
		sent[0].Recipient.GetPhone() != "+84987654321" || sent[0].TraceId == "" || sent[0].TrackingId == "" {
		t.Fatalf("zns.sent: %v", sent)
	}
	le := c.ledgerOf(id)
	if le.Request != nil || le.MsgId != "m1" || len(le.History) != 3 {
		t.Errorf("terminal ledger entry: %v", le)
	}
	c.tick(true, r) // replay of the very record
	if len(c.sent(id)) != 1 || len(c.calls) != 0 {
		t.Error("a replayed record did something")
	}
}

func TestAbortUndoesEverything(t *testing.T) {
	c := newCore(t)
	id, r := c.request(ordered("k"))
	_, r2 := c.request(ordered("k"))
	c.tick(false, r, r2)
	c.want(id, "none")
	p := c.h.partition(r.Partition)
	if len(c.calls) != 0 || c.h.uncommitted != 0 || p.calls.Load() != 0 || p.places() != 0 {
		t.Fatalf("left after an abort: %d calls, %d uncommitted, %d places", len(c.calls), c.h.uncommitted, p.places())
	}
	c.tick(true, r, r2)
	c.want(id, "SENDING(1)")
	c.answer(id, accepted("m1"))
	c.tick(false)
	c.want(id, "SENDING(1)")
	if len(c.sent(id)) != 0 || p.ended.Load() != 1 {
		t.Fatal("an outcome was lost or published by an aborted tick")
	}
	c.tick(true)
	c.want(id, "done")
	if len(c.sent(id)) != 1 {
		t.Fatal("the outcome is missing after the abort")
	}
}

func TestRefusals(t *testing.T) {
	for _, tc := range []struct {
		code   int
		state  string
		advice znsv1.Advice
		class  znsv1.ErrorClass
	}{
		{-118, "done", znsv1.Advice_ADVICE_TRY_OTHER_CHANNEL, znsv1.ErrorClass_ERROR_CLASS_RECIPIENT_PERMANENT},
		{-114, "done", znsv1.Advice_ADVICE_TRY_OTHER_CHANNEL, znsv1.ErrorClass_ERROR_CLASS_RECIPIENT_TEMPORARY},
		{-1122, "done", znsv1.Advice_ADVICE_FIX_REQUEST, znsv1.ErrorClass_ERROR_CLASS_TEMPLATE},
		{-32, "HELD(rate)", 0, 0},
		{-129, "HELD(retry)", 0, 0},
		{-124, "HELD(token)", 0, 0},
		{-115, "HELD(account)", 0, 0},
		{-144, "HELD(quota)", 0, 0},
		{-133, "HELD(hours)", 0, 0},
		{-131, "HELD(template_review)", 0, 0},
		{-99999, "HELD(operator)", 0, 0},
	} {
		c := newCore(t)
		id, r := c.request()
		c.tick(true, r)
		c.answer(id, rejected(tc.code))
		c.tick(true)
		if got := c.state(id); got != tc.state {
			t.Errorf("%d: %s, want %s", tc.code, got, tc.state)
			continue
		}
		if tc.state != "done" {
			// Never in a tight loop.
			for range 3 {
				c.tick(true)
			}
			if len(c.calls) != 0 || c.wait.Sub(c.now) < 500*time.Millisecond {
				t.Errorf("%d: asked again after %s", tc.code, c.wait.Sub(c.now))
			}
			continue
		}
		f := c.failed(id)
		if len(f) != 1 || f[0].Reason != znsv1.FailureReason_FAILURE_REASON_REJECTED || f[0].Advice != tc.advice || f[0].ErrorClass != tc.class ||
			f[0].ProviderCode != int32(tc.code) || f[0].Fallback["sms_text"] == "" || len(f[0].Attempts) != 1 || f[0].PossiblySent {
			t.Errorf("%d: zns.failed %v", tc.code, f)
		}
	}
}

func TestRetryBackoff(t *testing.T) {
	c := newCore(t)
	id, r := c.request(ttl(time.Hour))
	c.tick(true, r)
	last := time.Duration(0)
	for range 5 {
		c.answer(id, throttled)
		c.tick(true)
		c.want(id, "HELD(retry)")
		wait := c.wait.Sub(c.now)
		if wait < last {
			t.Errorf("waits %s after %s", wait, last)
		}
		last = wait
		c.pass(wait + time.Millisecond)
		c.tick(true)
	}
	c.want(id, "SENDING(6)")
	c.answer(id, throttled)
	c.tick(true)
	c.pass(time.Hour)
	c.tick(true)
	f := c.failed(id)
	if len(f) != 1 || f[0].Reason != znsv1.FailureReason_FAILURE_REASON_EXPIRED || len(f[0].Attempts) != 6 {
		t.Fatalf("zns.failed: %v", f)
	}
}

func TestExpiry(t *testing.T) {
	c := newCore(t)
	id, r := c.request(notBefore(c.now.Add(time.Hour)), ttl(time.Minute))
	c.tick(true, r)
	c.want(id, "HELD(not_before)")
	if got := c.wait.Sub(c.now); got < 59*time.Minute {
		t.Fatalf("looks again after %s", got)
	}
	c.pass(time.Hour)
	c.tick(true)
	c.want(id, "SENDING(1)")

	held, r := c.request(notBefore(c.now.Add(time.Hour)), func(r *notificationv1.NotificationRequested) { r.ExpireTime = nil }, ttl(time.Minute))
	c.tick(true, r)
	c.pass(2 * time.Hour)
	c.tick(true)
	c.want(held, "done")
	if f := c.failed(held); len(f) != 1 || f[0].Reason != znsv1.FailureReason_FAILURE_REASON_EXPIRED || f[0].Attempt != 0 {
		t.Fatalf("zns.failed: %v", f)
	}

	poor, r := c.request(ttl(2 * time.Minute)) // held for longer than it lives
	c.tick(true, r)
	c.answer(poor, rejected(-115))
	c.tick(true)
	if wait := c.wait.Sub(c.now); wait > 2*time.Minute+time.Second {
		t.Errorf("looks again after %s", wait)
	}
	c.pass(2*time.Minute + time.Second)
	c.tick(true)
	if f := c.failed(poor); len(f) != 1 || f[0].Reason != znsv1.FailureReason_FAILURE_REASON_EXPIRED || f[0].ErrorClass != znsv1.ErrorClass_ERROR_CLASS_ACCOUNT {
		t.Fatalf("zns.failed: %v", f)
	}

	old, r := c.request(ofCategory(notificationv1.Category_CATEGORY_PROMOTION)) // it would live for a week
	c.pass(25 * time.Hour)
	c.tick(true, r)
	c.want(old, "done")
	if f := c.failed(old); len(f) != 1 || f[0].Reason != znsv1.FailureReason_FAILURE_REASON_EXPIRED {
		t.Fatalf("a request older than SENDER_MAX_AGE: %v", f)
	}
	for _, x := range c.calls {
		if x.e.id == old || x.e.id == held {
			t.Error("an expired request was called")
		}
	}
}

func TestDuplicatesAndReuse(t *testing.T) {
	c := newCore(t)
	id, r := c.request()
	c.tick(true, r)
	again := r
	again.Offset = 100
	c.tick(true, again)
	c.answer(id, accepted("m"))
	c.tick(true)
	again.Offset = 101
	c.tick(true, again)
	if len(c.calls) != 0 || len(c.sent(id)) != 1 || len(c.failed(id)) != 0 {
		t.Fatal("a duplicate did something")
	}
	_, other := c.request(func(r *notificationv1.NotificationRequested) {
		r.NotificationId = id.String()
		r.TemplateData = map[string]string{"order_code": "another"}
	})
	c.tick(true, other)
	dlq := c.deadLetters()
	if len(dlq) != 1 || dlq[0][headerDLQReason] != dlqIDReused {
		t.Fatalf("dead letters: %v", dlq)
	}
	if len(c.failed(id)) != 0 {
		t.Error("zns.failed was published for an id that was sent")
	}
}

// deadLetters returns the headers of what went to the dead letters.
func (c *core) deadLetters() []map[string]string {
	var out []map[string]string
	for _, r := range c.out {
		if r.Topic != topic.RequestedDLQ {
			continue
		}
		m := map[string]string{}
		for _, h := range r.Headers {
			m[h.Key] = string(h.Value)
		}
		out = append(out, m)
	}
	return out
}
