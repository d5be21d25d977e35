package sender

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/sender/control"
)

// A job does its work once for each that matches, in bounded steps and over aborted ticks, and then says so.
func TestJob(t *testing.T) {
	c := newCore(t)
	c.occupy()
	cancelled, done := map[uuid.UUID]bool{}, 0
	var records []kafka.Record
	for i := range 3000 {
		id, r := c.request(func(r *notificationv1.NotificationRequested) { r.CampaignId = fmt.Sprint(i % 2) })
		if i%2 == 1 {
			cancelled[id] = true
		}
		records = append(records, r)
	}
	c.tick(true, records...)
	var calls int
	for _, p := range c.h.parts {
		p.begin(&job{
			match: func(v slotView) bool { return v.Flow.Campaign == "1" },
			do: func(u unit, e *entry) {
				calls++
				c.h.fail(u, e, failure{reason: znsv1.FailureReason_FAILURE_REASON_CANCELLED})
			},
			done: func(tick) bool {
				done++
				return done > 1 // the first answer is "not now"
			},
		})
	}
	before := calls
	c.tick(true)
	if n := calls - before; n != 2*jobSteps {
		t.Errorf("%d in one tick, want %d", n, 2*jobSteps)
	}
	for i := range 20 {
		c.tick(i%3 > 0)
	}
	for id := range cancelled {
		if f := c.failed(id); len(f) != 1 || f[0].Reason != znsv1.FailureReason_FAILURE_REASON_CANCELLED {
			t.Fatalf("zns.failed: %v", f)
		}
	}
	if got := c.h.waiting()[waitReady]; got < 1500 || done != 3 {
		t.Errorf("%d still wait, done was called %d times", got, done)
	}

	one, r := c.request()
	c.tick(true, r)
	p := c.h.partition(r.Partition)
	p.begin(&job{
		ids:  []uuid.UUID{uuid.New(), one},
		do:   func(u unit, e *entry) { c.h.fail(u, e, failure{reason: znsv1.FailureReason_FAILURE_REASON_CANCELLED}) },
		done: func(tick) bool { return true },
	})
	c.tick(false)
	c.want(one, "ACCEPTED")
	c.tick(true)
	c.want(one, "done")
	c.tick(true)
	if p.jobs.len() != 0 {
		t.Error("the job is still there")
	}
}

// A job passes over nothing that is put back behind it because a transaction is undone: here what operators cancelled is
// about to start as the job passes, ends for that reason, lives again, and its flow closes.
func TestJobAndWhatComesBack(t *testing.T) {
	for name, scope := range map[string]func(uuid.UUID) control.Scope{
		"all": func(uuid.UUID) control.Scope { return control.All() }, "one": control.ID,
	} {
		t.Run(name, func(t *testing.T) {
			c := newCore(t)
			g := gated(c)
			o := c.listen()
			f := flowFor("643118", plain)
			g.close(f, ledgerv1.HoldReason_HOLD_REASON_QUOTA)
			id := c.many(1)[0]
			c.want(id, "HELD(quota)")
			c.tick(true)
			for range 3 {
				g.open(f)
				if len(o.records) == 0 {
					o.give(cancel, scope(id))
				}
				c.tick(false)
				g.close(f, ledgerv1.HoldReason_HOLD_REASON_QUOTA)
			}
			for range 4 {
				c.tick(true)
			}
			if f := c.failed(id); len(f) != 1 || f[0].Reason != znsv1.FailureReason_FAILURE_REASON_CANCELLED {
				t.Errorf("%s, zns.failed %v", c.state(id), f)
			}
		})
	}
}
