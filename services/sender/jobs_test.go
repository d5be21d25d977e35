package sender

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
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
