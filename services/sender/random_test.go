package sender

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/zalo"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// track is what the test knows about one request.
type track struct {
	order   string
	resend  bool
	calls   int
	maybe   int      // attempts that may have reached Zalo
	reached []string // tracking ids that reached
	offered kafka.Record
}

// snapshot is everything about a notification that an aborted transaction must leave as it was.
func snapshot(c *core, id uuid.UUID) string {
	if e := c.entryOf(id); e != nil {
		return fmt.Sprintf("%s att=%d open=%d unres=%v dec=%d until=%d res=%d", describeState(e), e.attempt, len(e.open), e.unresolved, e.decideBy, e.until, len(e.results))
	}
	for _, p := range c.h.parts {
		if known, hash, offset := p.known(id); known {
			return fmt.Sprintf("done %d %d", hash, offset)
		}
	}
	return "none"
}

// Requests, answers, callbacks, aborts, restarts and re-sends at random: nothing is sent again without RESEND, an abort
// leaves no trace, and every notification ends once.
func TestAnythingAtRandom(t *testing.T) {
	for seed := range uint64(30) {
		runRandom(t, seed, seed%2 == 1)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// liveSlots counts what is not finished.
func liveSlots(h *handler) (n int) {
	for _, p := range h.parts {
		n += p.live()
	}
	return n
}

// stingy: no entry stays in memory that can be read from the ledger.
func runRandom(t *testing.T, seed uint64, stingy bool) {
	r := rand.New(rand.NewPCG(seed, 7))
	c := newCore(t, func(cfg *Config) { cfg.MaxInFlight = 6 })
	if stingy {
		c.h.settings.memory = 0
	}
	ids := map[uuid.UUID]*track{}
	var pending []kafka.Record
	var all []uuid.UUID
	tick := func(commit bool) {
		if commit {
			c.tick(true, pending...)
			pending = nil
			return
		}
		before := map[uuid.UUID]string{}
		for id := range ids {
			before[id] = snapshot(c, id)
		}
		var calls, ended int32
		for _, p := range c.h.parts {
			calls += p.calls.Load()
			ended += p.ended.Load()
		}
		un, live := c.h.uncommitted, liveSlots(c.h)
		c.tick(false, pending...)
		for id := range ids {
			if after := snapshot(c, id); after != before[id] {
				t.Errorf("abort changed %s: %s -> %s", id, before[id], after)
			}
		}
		var calls2, ended2 int32
		for _, p := range c.h.parts {
			calls2 += p.calls.Load()
			ended2 += p.ended.Load()
		}
		// withdraw moves from calls to ended outside the transaction
		if calls+ended != calls2+ended2 || un != c.h.uncommitted || live != liveSlots(c.h) {
			t.Errorf("abort: calls+ended %d -> %d, uncommitted %d -> %d, live %d -> %d", calls+ended, calls2+ended2, un, c.h.uncommitted, live, liveSlots(c.h))
		}
	}
	seen := map[*call]bool{}
	noteCalls := func() {
		for _, x := range c.calls {
			if seen[x] {
				continue
			}
			seen[x] = true
			tr := ids[x.e.id]
			tr.calls++
			tr.maybe++ // until it provably did not
			if tr.maybe > 1 && !tr.resend {
				t.Errorf("%s called while an earlier attempt may have reached Zalo", x.e.id)
			}
			for _, y := range c.calls {
				if y != x && y.e.id == x.e.id {
					t.Errorf("%s: two calls under way", x.e.id)
				}
				if y != x && tr.order != "" && ids[y.e.id].order == tr.order && y.e.p == x.e.p {
					t.Errorf("order %s: two under way", tr.order)
				}
			}
		}
	}
	for range 300 {
		switch n := r.IntN(100); {
		case n < 30 && len(all) < 60:
			tr := &track{resend: r.IntN(3) == 0}
			var change []func(*notificationv1.NotificationRequested)
			if r.IntN(2) == 0 {
				tr.order = fmt.Sprint("k", r.IntN(3))
				change = append(change, ordered(tr.order))
			}
			if tr.resend {
				change = append(change, onUnknown(notificationv1.OnUnknown_ON_UNKNOWN_RESEND))
			} else if r.IntN(2) == 0 {
				change = append(change, onUnknown(notificationv1.OnUnknown_ON_UNKNOWN_HOLD))
			}
			if r.IntN(3) == 0 {
				change = append(change, ofCategory(notificationv1.Category_CATEGORY_OTP))
			}
			if r.IntN(4) == 0 {
				change = append(change, ttl(time.Duration(1+r.IntN(600))*time.Second))
			}
			if r.IntN(5) == 0 {
				change = append(change, notBefore(c.now.Add(time.Duration(r.IntN(120))*time.Second)))
			}
			id, rec := c.request(change...)
			ids[id] = tr
			tr.offered = rec
			all = append(all, id)
			pending = append(pending, rec)
		case n < 35 && len(all) > 0: // again
			rec := ids[all[r.IntN(len(all))]].offered
			c.offset++
			rec.Offset = c.offset
			pending = append(pending, rec)
		case n < 65 && len(c.calls) > 0:
			x := c.calls[r.IntN(len(c.calls))]
			tr := ids[x.e.id]
			kind := r.IntN(8)
			if slices.Contains(tr.reached, x.trackingID) && kind >= 3 && kind <= 5 {
				kind = 6
			}
			switch kind {
			case 0, 1, 2:
				tr.reached = append(tr.reached, x.trackingID)
				c.answer(x.e.id, accepted("m"))
			case 3:
				tr.maybe--
				c.answer(x.e.id, notSent)
			case 4:
				tr.maybe--
				c.answer(x.e.id, throttled)
			case 5:
				tr.maybe--
				c.answer(x.e.id, rejected(-115))
			case 6:
				tr.reached = append(tr.reached, x.trackingID)
				c.answer(x.e.id, lost)
			case 7:
				c.answer(x.e.id, lost)
			}
		case n < 70 && len(all) > 0:
			id := all[r.IntN(len(all))]
			if tr := ids[id]; len(tr.reached) > 0 {
				c.callback(id, tr.reached[r.IntN(len(tr.reached))])
			}
		case n < 72 && len(c.calls) > 0: // a callback before the answer
			x := c.calls[r.IntN(len(c.calls))]
			ids[x.e.id].reached = append(ids[x.e.id].reached, x.trackingID)
			c.callback(x.e.id, x.trackingID)
		case n < 80:
			c.pass(time.Duration(r.IntN(30)) * time.Second)
		case n < 82:
			c.pass(time.Duration(r.IntN(180)) * time.Minute)
		case n < 85:
			c.readerPassed()
		case n < 86: // all is dropped and restored by another
			// calls under way are the dead owner's: their outcome is lost
			c.tick(true, pending...)
			pending = nil
			noteCalls()
			next := c.successor()
			next.out = c.out
			c = next
		default:
			tick(r.IntN(3) > 0)
		}
		noteCalls()
	}
	// to the end
	for range 400 {
		for len(c.calls) > 0 {
			noteCalls()
			c.answer(c.calls[0].e.id, accepted("m"))
		}
		tick(r.IntN(3) > 0)
		noteCalls()
		c.pass(time.Duration(1+r.IntN(40)) * time.Minute)
		c.readerPassed()
	}
	for _, id := range all {
		s, f := c.sent(id), c.failed(id)
		if len(s) > 1 || len(f) > 1 || len(s)+len(f) == 0 {
			t.Errorf("%s: %d sent, %d failed, %s", id, len(s), len(f), snapshot(c, id))
		}
		if len(s) == 1 && len(f) == 1 && (f[0].Reason != znsv1.FailureReason_FAILURE_REASON_UNRESOLVED || !s[0].Corrects) {
			t.Errorf("%s: sent and failed %v", id, f[0].Reason)
		}
		if len(ids[id].reached) > 0 && len(f) == 1 && len(s) == 0 && f[0].Reason != znsv1.FailureReason_FAILURE_REASON_UNRESOLVED {
			t.Errorf("%s: reached the phone and FAILED %v", id, f[0].Reason)
		}
	}
	for _, p := range c.h.parts {
		if p.live() != 0 || p.places() != 0 || p.bytes != 0 || p.calls.Load() != 0 || p.ended.Load() != 0 || len(p.uncommitted) != 0 {
			t.Errorf("left: live %d places %d bytes %d calls %d ended %d", p.live(), p.places(), p.bytes, p.calls.Load(), p.ended.Load())
			for e := range maps.Values(p.entries) {
				t.Log(snapshot(c, e.id))
			}
		}
		for i := range p.waiting {
			if p.waiting[i].Load() != 0 {
				t.Errorf("waiting[%d] %d", i, p.waiting[i].Load())
			}
		}
	}
	if c.h.loading != [2]int{} || c.h.uncommitted != 0 || len(c.h.callbacks.watched) != 0 || c.h.callbacks.wanting != 0 {
		t.Errorf("left: loading %v uncommitted %d watched %d wanting %d", c.h.loading, c.h.uncommitted, len(c.h.callbacks.watched), c.h.callbacks.wanting)
	}
	_ = slices.Sorted[int]
	_ = zalo.Accepted
}
