package sender

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
)

// TestReceiptDue: zns.sent tells when the receipt is due and where the request stands, for zns.overdue; and neither when
// the request does not ask for it.
func TestReceiptDue(t *testing.T) {
	c := newCore(t)
	watched, r1 := c.request(func(r *notificationv1.NotificationRequested) { r.DeliverWithin = durationpb.New(90 * time.Second) })
	plain, r2 := c.request()
	c.tick(true, r1, r2)
	c.answer(watched, accepted("m1"))
	c.answer(plain, accepted("m2"))
	c.tick(true)
	sent := c.sent(watched)
	if len(sent) != 1 || !sent[0].GetReceiptDueTime().AsTime().Equal(sent[0].GetEventTime().AsTime().Add(90*time.Second)) {
		t.Errorf("zns.sent: %v", sent)
	}
	want := map[string]string{watched.String(): fmt.Sprintf("%s/%d@%d", r1.Topic, r1.Partition, r1.Offset), plain.String(): ""}
	for _, r := range c.out {
		if r.Topic != topic.Sent {
			continue
		}
		if got, _ := r.Header(topic.HeaderRequest); string(got) != want[string(r.Key)] {
			t.Errorf("the request of %s stands at %q, want %q", r.Key, got, want[string(r.Key)])
		}
	}
	if sent := c.sent(plain); len(sent) != 1 || sent[0].GetReceiptDueTime() != nil {
		t.Errorf("zns.sent without deliver_within: %v", sent)
	}
}
