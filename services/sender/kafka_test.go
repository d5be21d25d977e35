package sender

import (
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/proto/topic"
)

func TestKafkaHappyPath(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4)
	s := w.run("a")
	ids := w.publish(request("one"))
	sent := w.wantSent(ids[0], 20*time.Second)
	if sent.MsgId == "" || sent.TrackingId != w.provider.got("one")[0].TrackingID {
		t.Errorf("zns.sent: %v", sent)
	}
	r := w.events[ids[0]][0]
	for key, want := range map[string]string{
		kafka.HeaderID: ids[0].String() + "/sent/1", kafka.HeaderSource: "/znshub/test/sender", kafka.HeaderType: "zns.v1.Sent", kafka.HeaderSubject: ids[0].String(),
	} {
		if got, _ := r.Header(key); string(got) != want {
			t.Errorf("header %s is %q, want %q", key, got, want)
		}
	}
	if r.Topic != topic.Sent {
		t.Errorf("topic %s", r.Topic)
	}
	s.stop()
	if s.err != nil {
		t.Error(s.err)
	}
}
