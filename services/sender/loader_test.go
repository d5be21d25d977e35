package sender

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// stingy makes no entry stay in memory that can be read from the ledger.
func stingy(c *core) *core {
	c.h.settings.memory = 0
	return c
}

// loadedNow counts entries in memory.
func (c *core) loadedNow() (n int) {
	for _, p := range c.h.parts {
		n += len(p.entries)
	}
	return n
}

// ticks commits some ticks: what is read in one is used in the next.
func (c *core) ticks(n int) {
	c.t.Helper()
	for range n {
		c.tick(true)
	}
}

// What waits is dropped from memory and read back, many at a time, when its turn comes; it starts in the order of the
// schedule, with everything that it had.
func TestEntriesComeBack(t *testing.T) {
	c := stingy(newCore(t))
	c.occupy()
	const n = 1500
	var ids []uuid.UUID
	var records []kafka.Record
	for i := range n {
		id, r := c.request(ttl(time.Duration(2*n-i)*time.Minute), ofTemplate("1"), onUnknown(resend))
		ids, records = append(ids, id), append(records, r)
	}
	slices.Reverse(ids) // the last one has the least time left
	c.tick(true, records...)
	c.ticks(2)
	if got := c.loadedNow(); got > 20 {
		t.Fatalf("%d entries are in memory", got)
	}
	c.h.settings.memory = 8 << 20 // room for the next ones
	c.reads = 0
	var order []uuid.UUID
	for range 20 * n {
		for _, x := range slices.Clone(c.calls) {
			if x.req.GetTemplateId() == "1" {
				order = append(order, x.e.id)
				if x.req.GetFallback()["sms_text"] == "" || x.e.policy != znsv1.UnknownPolicy_UNKNOWN_POLICY_RESEND {
					t.Fatalf("what came back is not what was asked for: %v", x.req)
				}
			}
			c.answer(x.e.id, accepted("m"))
		}
		c.tick(true)
		if len(order) == n {
			break
		}
	}
	// Two partitions: each in its order.
	for _, p := range c.h.parts {
		var want, got []uuid.UUID
		for _, id := range ids {
			if kafka.Murmur2Partition([]byte(id.String()), 2) == p.id {
				want = append(want, id)
			}
		}
		for _, id := range order {
			if kafka.Murmur2Partition([]byte(id.String()), 2) == p.id {
				got = append(got, id)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("partition %d: %d started, %d wanted, or in another order", p.id, len(got), len(want))
		}
	}
	if c.reads > n/50 {
		t.Errorf("%d reads of the ledger for %d entries: they are not read ahead", c.reads, n)
	}
}

// Everything that concerns one that is not in memory happens all the same: expiry, the policy of an unknown outcome, its
// callback, an operator's job, the comparison with the broker's clock.
func TestNotInMemory(t *testing.T) {
	c := stingy(newCore(t))
	expiring, r := c.request(notBefore(c.now.Add(time.Hour)), ttl(time.Minute), func(r *notificationv1.NotificationRequested) { r.ExpireTime = nil })
	c.tick(true, r)
	unknown, r := c.request(onUnknown(fail))
	c.tick(true, r)
	c.answer(unknown, lost)
	settled, r := c.request(onUnknown(hold))
	c.tick(true, r)
	settledCall := c.calls[len(c.calls)-1]
	c.answer(settled, lost)
	cancelled, r := c.request(notBefore(c.now.Add(20 * time.Hour)))
	c.tick(true, r)
	c.ticks(4)
	if c.loadedNow() > 0 {
		t.Fatalf("%d entries are in memory", c.loadedNow())
	}
	if got := len(c.h.callbacks.watched); got != 2 {
		t.Errorf("%d are listened for, want 2", got)
	}

	c.pass(11 * time.Second)
	c.ticks(3)
	if len(c.unresolved(unknown)) != 1 || len(c.unresolved(settled)) != 1 {
		t.Error("zns.unresolved is missing")
	}
	c.callback(settled, settledCall.trackingID)
	c.ticks(3)
	c.want(settled, "done")
	if len(c.sent(settled)) != 1 || len(c.h.callbacks.watched) != 1 {
		t.Errorf("%d zns.sent, %d listened for", len(c.sent(settled)), len(c.h.callbacks.watched))
	}
	c.pass(3 * time.Hour)
	for range 5 {
		c.readerPassed()
		c.ticks(3)
	}
	if f := c.failed(unknown); len(f) != 1 || f[0].Reason != unsolved || f[0].Fallback["sms_text"] == "" {
		t.Errorf("zns.failed: %v", f)
	}
	if f := c.failed(expiring); len(f) != 1 || f[0].Reason != znsv1.FailureReason_FAILURE_REASON_EXPIRED || f[0].Fallback["sms_text"] == "" {
		t.Errorf("zns.failed: %v", f)
	}
	done := 0
	for _, p := range c.h.parts {
		p.begin(&job{do: func(u unit, e *entry) {
			if e.id == cancelled {
				c.h.fail(u, e, failure{reason: znsv1.FailureReason_FAILURE_REASON_CANCELLED})
			}
		}, done: func(tick) bool { done++; return true }})
	}
	c.ticks(4)
	if f := c.failed(cancelled); len(f) != 1 || done != 2 {
		t.Errorf("the job did nothing: %v, done %d times", f, done)
	}
}

// A ledger that cannot be read for a while delays, and loses nothing.
func TestLedgerCannotBeRead(t *testing.T) {
	c := stingy(newCore(t))
	read, broken := c.h.loader.read, true
	c.h.loader.read = func(ctx context.Context, p int32, offsets []int64) ([]kafka.Record, error) {
		if broken {
			return nil, errors.New("no broker")
		}
		return read(ctx, p, offsets)
	}
	id, r := c.request(notBefore(c.now.Add(time.Hour)))
	expiring, r2 := c.request(notBefore(c.now.Add(time.Hour)), ttl(time.Minute), func(r *notificationv1.NotificationRequested) { r.ExpireTime = nil })
	c.tick(true, r, r2)
	c.ticks(3)
	c.pass(2 * time.Hour)
	for range 5 {
		c.ticks(2)
		if len(c.calls) != 0 || c.wait.Before(c.now.Add(500*time.Millisecond)) {
			t.Fatalf("%d calls, looks again after %s", len(c.calls), c.wait.Sub(c.now))
		}
		c.pass(time.Second)
	}
	broken = false
	c.ticks(2)
	c.want(id, "SENDING(1)")
	c.want(expiring, "done")
}

// What has to stay in memory is never given up: when it fills SENDER_MEMORY nothing more is accepted until something of
// it is finished.
func TestMemoryIsFull(t *testing.T) {
	c := newCore(t)
	c.h.settings.memory = 1 << 20
	empty := int64(0)
	for _, p := range c.h.parts {
		empty += p.fixedBytes()
	}
	n := 0
	for ; !c.h.Full(0) && n < 20_000; n += 200 {
		var records []kafka.Record
		for range 200 {
			_, r := c.request(notBefore(c.now.Add(time.Hour)), ttl(time.Minute), func(r *notificationv1.NotificationRequested) { r.ExpireTime = nil })
			records = append(records, r)
		}
		c.tick(true, records...)
		c.ledger, c.out = map[int32][]kafka.Record{}, nil
	}
	if least := int(1<<20-empty) / 110; n < least || n > 12_000 {
		t.Errorf("full with %d notifications in 1 MiB", n)
	}
	if got := c.h.payload(); got > 256<<10 { // those of the last tick
		t.Errorf("%d bytes of entries are in memory beside the index", got)
	}
	if !c.h.Full(1) {
		t.Error("another partition still accepts")
	}
}

// TestFullLoaderIsNotAskedAgainAtOnce: while as much is being read as may be, and brokers do not answer, what became due
// meanwhile waits for a read to end: the ticks do not follow one another without a pause.
func TestFullLoaderIsNotAskedAgainAtOnce(t *testing.T) {
	c := stingy(newCore(t))
	c.occupy()
	var records []kafka.Record
	for range loadsMost[loadBulk] + 100 {
		_, r := c.request(ttl(time.Minute))
		records = append(records, r)
	}
	c.tick(true, records...)
	c.ticks(3)
	c.pass(2 * time.Minute)
	c.h.work(&fakeTick{c: c})
	tx := &fakeTick{c: c} // nothing was read since
	if next := c.h.work(tx); len(tx.units) > 0 || !next.After(c.now) {
		t.Errorf("the next tick is wanted %s after this one, which wrote %d", next.Sub(c.now), len(tx.units))
	}
}
