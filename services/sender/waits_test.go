package sender

import (
	"testing"
	"time"

	"github.com/google/uuid"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// Waits of seconds and of a month end in their second, whether their owner stays, dies or has no memory to spare.
func TestLongWaits(t *testing.T) {
	for name, next := range map[string]func(*core) *core{
		"one owner": func(c *core) *core { return c },
		"stingy":    stingy,
		"many": func(c *core) *core {
			n := c.successor()
			n.out = c.out
			return n
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := next(newCore(t))
			waits := []time.Duration{3 * time.Second, 90 * time.Minute, 26 * time.Hour, 30 * 24 * time.Hour}
			began := c.now
			var ids []uuid.UUID
			for _, d := range waits {
				id, r := c.request(notBefore(began.Add(d)), ttl(time.Hour), func(r *notificationv1.NotificationRequested) { r.CampaignId = name })
				c.tick(true, r)
				ids = append(ids, id)
			}
			for i, d := range waits {
				c = next(c)
				c.now = began.Add(d - time.Second)
				c.ticks(3)
				c.want(ids[i], "HELD(not_before)")
				if c.wait.IsZero() || c.wait.After(began.Add(d)) {
					t.Errorf("a second before %s it wants to be woken at %s", began.Add(d), c.wait)
				}
				c = next(c)
				c.now = began.Add(d)
				c.ticks(3)
				c.want(ids[i], "SENDING(1)")
				c.answer(ids[i], accepted("m"))
				c.ticks(2)
				c.want(ids[i], "done")
			}
		})
	}
}
