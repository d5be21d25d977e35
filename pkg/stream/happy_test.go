package stream_test

import (
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
)

func TestOneMember(t *testing.T) {
	w := newWorld(t, kafkatest.Real(t, "the engine"), 4)
	want := ids("a", 200)
	m := w.start("one")
	w.publish(want...)
	w.publish(want[:20]...) // repeated requests
	w.finished(want, 30*time.Second)
	m.stop()
	w.check(want, 0)
}
