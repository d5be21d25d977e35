package sender

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/znshub/znshub/pkg/kafka"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
)

// many publishes n requests, changed by f, and returns their ids.
func (w *world) many(n int, f func(i int, r *notificationv1.NotificationRequested)) []uuid.UUID {
	w.t.Helper()
	reqs := make([]*notificationv1.NotificationRequested, n)
	for i := range reqs {
		reqs[i] = request(fmt.Sprintf("%d", i), func(r *notificationv1.NotificationRequested) {
			if f != nil {
				f(i, r)
			}
		})
	}
	return w.publish(reqs...)
}

// wantAllSentOnce waits until each id has one zns.sent and then looks whether any has two, or was posted twice.
func (w *world) wantAllSentOnce(ids []uuid.UUID, within time.Duration) {
	w.t.Helper()
	left := ids
	w.eventually("everything sent", within, func() bool {
		for len(left) > 0 && len(w.sent(left[0])) > 0 {
			left = left[1:]
		}
		return len(left) == 0
	})
	for i, id := range ids {
		took := 0
		for _, p := range w.provider.got(fmt.Sprint(i)) {
			if p.Took {
				took++
			}
		}
		if n := len(w.sent(id)); n != 1 || took != 1 {
			w.t.Fatalf("notification %d: %d zns.sent, taken %d times", i, n, took)
		}
	}
}

// unknowns counts the steps UNKNOWN in the ledger.
func (w *world) unknowns() int {
	w.t.Helper()
	unknown := map[string]bool{}
	w.readAll(topic.LedgerOf(w.input), func(r kafka.Record) {
		if len(r.Value) == 0 || r.Key[0] == 0 {
			return
		}
		if g, err := look(r.Value); err == nil && g.state == int64(stateUnknown) {
			unknown[string(r.Key)] = true
		}
	})
	return len(unknown)
}

// TestKafkaOrder: one at a time and in order for each key, while Zalo asks to come again and senders come and go.
func TestKafkaOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4)
	w.provider.respond(func(p post) answer {
		a := answer{after: time.Duration(rand.IntN(15)) * time.Millisecond}
		if p.Attempt == 1 && rand.IntN(20) == 0 {
			a.code = -32
		}
		return a
	})
	a := w.run("a")
	ids := w.many(600, func(i int, r *notificationv1.NotificationRequested) { r.OrderingKey = fmt.Sprintf("key-%d", i%40) })
	time.Sleep(700 * time.Millisecond)
	b := w.run("b")
	time.Sleep(time.Second)
	a.stop()
	w.wantAllSentOnce(ids, 60*time.Second)
	b.stop()
	last := map[int]int{}
	for _, p := range w.provider.got("") {
		if !p.Took {
			continue
		}
		var i int
		_, _ = fmt.Sscan(p.Key, &i)
		if before, ok := last[i%40]; ok && before > i {
			t.Fatalf("key %d: %d went before %d", i%40, before, i)
		}
		last[i%40] = i
	}
	if n := w.unknowns(); n != 0 {
		t.Errorf("%d unknown outcomes after clean stops", n)
	}
}

// TestKafkaCleanStop: stopping in the middle of calls loses nothing, repeats nothing and leaves nothing unknown.
func TestKafkaCleanStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4, "SENDER_MAX_IN_FLIGHT=32")
	w.provider.respond(func(post) answer { return answer{after: 200 * time.Millisecond} })
	ids := w.many(400, nil)
	for n := range 4 {
		s := w.run(fmt.Sprintf("s%d", n))
		before := len(w.provider.got(""))
		w.eventually("calls", 40*time.Second, func() bool { return len(w.provider.got("")) > before+30 })
		s.stop()
		if s.err != nil {
			t.Fatal(s.err)
		}
	}
	w.run("last")
	w.wantAllSentOnce(ids, 60*time.Second)
	if n := w.unknowns(); n != 0 {
		t.Errorf("%d unknown outcomes after clean stops", n)
	}
}

// TestKafkaOffsetsReset: reading the whole topic again calls nobody.
func TestKafkaOffsetsReset(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4)
	s := w.run("a")
	ids := w.many(60, nil)
	w.wantAllSentOnce(ids, 30*time.Second)
	s.stop()
	adm := kadm.NewClient(w.server.Client(t))
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	if _, err := adm.DeleteGroup(ctx, w.group); err != nil {
		t.Fatal(err)
	}
	// Another group, too: it has no offsets and reads from the earliest.
	for i, group := range []string{w.group, w.group + "-other"} {
		again := w.run(fmt.Sprintf("again%d", i), "SENDER_GROUP="+group)
		w.eventually("restored", 40*time.Second, func() bool { return again.Status().Joined && len(again.Status().Partitions) == 4 && again.ready() })
		extra := w.publish(request(fmt.Sprintf("extra %d", i)))[0]
		w.wantSent(extra, 40*time.Second)
		again.stop()
	}
	if n := len(w.provider.got("")); n != 62 {
		t.Errorf("%d posts for 62 notifications", n)
	}
	for _, id := range ids {
		if n := len(w.sent(id)); n != 1 {
			t.Fatalf("%d zns.sent", n)
		}
	}
}

func (r *running) ready() bool {
	for _, p := range r.Status().Partitions {
		if !p.Ready {
			return false
		}
	}
	return true
}

// TestKafkaBreaker: a gateway that fails while much waits makes a handful of unknowns, and everything else is sent
// once it is well.
func TestKafkaBreaker(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4, "SENDER_MAX_IN_FLIGHT=200")
	broken := answer{status: 503, body: "<html>Service Unavailable</html>"}
	w.provider.respond(func(post) answer { return broken })
	ids := w.many(3000, nil)
	s := w.run("a")
	w.eventually("the breaker opens", 40*time.Second, func() bool { return s.h.circuitOpen() })
	time.Sleep(4 * time.Second)
	w.provider.respond(func(post) answer { return answer{} })
	var waiting [waitReasons]int64
	defer func() { t.Logf("waiting at the end: %v, limits %+v", waiting, s.h.limits.State(time.Now(), 10)) }()
	w.eventually("nothing waits but what is unknown", 90*time.Second, func() bool {
		waiting = s.h.waiting()
		sum := int64(0)
		for i, n := range waiting {
			if i != waitUnknown {
				sum += n
			}
		}
		return sum == 0
	})
	bad := int(waiting[waitUnknown])
	w.eventually("everything but the unknown sent", 40*time.Second, func() bool {
		left := 0
		for _, id := range ids {
			if len(w.sent(id)) == 0 {
				left++
			}
		}
		return left == bad
	})
	if bad > 30 || bad == 0 {
		t.Errorf("%d unknown outcomes, want a handful", bad)
	}
	t.Logf("%d of 3000 are unknown after some seconds of 503", bad)
	for _, id := range ids {
		if n := len(w.sent(id)); n > 1 {
			t.Fatalf("%d zns.sent", n)
		}
	}
}

// TestKafkaMemory: the input pauses when what has to stay in memory fills its room, and goes on when that is sent.
func TestKafkaMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4)
	at := time.Now().Add(6 * time.Second)
	s := w.run("a")
	const room = 300 << 10
	s.engine.Do(func() { s.h.settings.memory = room })
	ids := w.many(3000, func(_ int, r *notificationv1.NotificationRequested) {
		notBefore(at)(r)
		r.TemplateData["text"] = strings.Repeat("x", 500)
	})
	w.eventually("a full partition", 40*time.Second, func() bool {
		for _, p := range s.Status().Partitions {
			if p.Full {
				return true
			}
		}
		return false
	})
	var used, payload int64
	s.engine.Do(func() { used, payload = s.h.fixed, s.h.payload() })
	if used > 2*room || payload > 4<<20 {
		t.Errorf("%d bytes of index and %d of entries are held with room for %d", used, payload, room)
	}
	w.wantAllSentOnce(ids, 3*time.Minute)
}

func incompressible(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.IntN(256))
	}
	return b
}

// TestKafkaPoison: what the broker refuses for its own sake goes to the dead letters without its value, and the rest
// goes on.
func TestKafkaPoison(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	adm := kadm.NewClient(w.server.Client(t))
	if _, err := adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: new("20000")}}, topic.DLQOf(w.input)); err != nil {
		t.Fatal(err)
	}
	w.run("a")
	before := w.publish(request("before"))[0]
	w.write(kafka.Record{Topic: w.input, Partition: 0, Key: []byte("k"), Value: incompressible(100_000)})
	after := w.publish(request("after"))[0]
	w.wantSent(before, 40*time.Second)
	w.wantSent(after, 30*time.Second)
	w.eventually("a dead letter without its value", 40*time.Second, func() bool {
		r := w.deadLetter(dlqTooLarge)
		return r != nil && len(r.Value) == 0
	})
}
