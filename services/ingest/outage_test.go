package ingest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/services/ingest/webhook"
)

// traffic posts callbacks from several connections until stop, and remembers what was answered.
type traffic struct {
	stop     func()
	mu       sync.Mutex
	answered map[string]message // by notification: answered 200
	other    map[int]int        // other answers
	slowest  time.Duration
}

func startTraffic(urls []string, workers int, every time.Duration) *traffic {
	tr := &traffic{answered: map[string]message{}, other: map[int]int{}}
	var wg sync.WaitGroup
	var stopped atomic.Bool
	for i := range workers {
		wg.Go(func() {
			for n := i; !stopped.Load(); n++ {
				m := newMessage()
				start := time.Now()
				code := post(urls[n%len(urls)], m.callback(), testSecret)
				took := time.Since(start)
				tr.mu.Lock()
				tr.slowest = max(tr.slowest, took)
				if code == http.StatusOK {
					tr.answered[m.id.String()] = m
				} else {
					tr.other[code]++
				}
				tr.mu.Unlock()
				time.Sleep(every)
			}
		})
	}
	tr.stop = sync.OnceFunc(func() {
		stopped.Store(true)
		wg.Wait()
	})
	return tr
}

// settle publishes the outcome of every answered callback and demands exactly one joined event for each.
func (w *world) settle(tr *traffic, within time.Duration) {
	w.tb.Helper()
	for _, r := range w.read(w.topics.Callback) {
		if home := kafka.Murmur2Partition(r.Key, w.partitions); r.Partition != home {
			w.tb.Errorf("the callback %s stands in partition %d, not in %d", r.Key, r.Partition, home)
		}
	}
	w.sentAll(tr.answered)
	got := w.deliveries(len(tr.answered), within)
	for id := range tr.answered {
		if got[id] == nil {
			w.tb.Errorf("%s was answered 200 and never published", id)
		} else if got[id].GetTemplateId() == "" {
			w.tb.Errorf("%s was published without its send", id)
		}
	}
}

// TestOutages takes one broker of its own through hangs, kills and restarts; each test leaves it running.
func TestOutages(t *testing.T) {
	server := kafkatest.Own(t, local.Options{Controller: true})
	for _, tt := range []struct {
		name string
		run  func(*testing.T, *kafkatest.Server)
	}{
		{"BrokerAway", brokerAway},
		{"KilledWithSpool", killedWithSpool},
		{"SpoolKeepsOrder", spoolKeepsOrder},
		{"StopEmptiesSpool", stopEmptiesSpool},
		{"NoRoomAnywhere", noRoomAnywhere},
		{"StartWithoutKafka", startWithoutKafka},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, server) })
	}
}

// While Kafka hangs, and then is dead, every callback is answered 200 within Zalo's two seconds; when it is back each
// of them becomes exactly one event.
func brokerAway(t *testing.T, server *kafkatest.Server) {
	w := newWorld(t, server, 4)
	r := w.start(w.config())
	tr := startTraffic([]string{r.url}, 8, 20*time.Millisecond)
	defer tr.stop()
	time.Sleep(time.Second)

	server.Pause(t)
	time.Sleep(4 * time.Second)
	hung := r.count("spool_records")
	server.Resume(t)
	eventually(t, "the spool is empty after the hang", func() bool { return r.count("spool_records") == 0 })

	server.Kill(t)
	time.Sleep(4 * time.Second)
	dead := r.count("spool_records")
	server.Restart(t)
	eventually(t, "the spool is empty after the restart", func() bool { return r.count("spool_records") == 0 })
	time.Sleep(500 * time.Millisecond)
	tr.stop()

	t.Logf("%d callbacks answered 200, slowest %v; on disk during the hang %v, while dead %v; raw records %d",
		len(tr.answered), tr.slowest, hung, dead, len(w.read(w.topics.Callback)))
	if len(tr.other) > 0 {
		t.Errorf("answers other than 200: %v", tr.other)
	}
	if hung == 0 || dead == 0 || r.count("appends_total", "direct") == 0 {
		t.Error("the test met no outage")
	}
	w.settle(tr, 60*time.Second)
}

// A process that is killed with callbacks on its disk and Kafka away loses none: its successor hands them on.
func killedWithSpool(t *testing.T, server *kafkatest.Server) {
	w := newWorld(t, server, 4)
	cfg := w.config()
	p := w.process(cfg)
	w.mustPost(p.url, newMessage().callback())
	server.Kill(t)
	all := &traffic{answered: map[string]message{}}
	for range 3 { // killed three times, each time with callbacks under way
		tr := startTraffic([]string{p.url}, 8, 5*time.Millisecond)
		time.Sleep(1500 * time.Millisecond)
		p.kill()
		tr.stop()
		maps.Copy(all.answered, tr.answered)
		p = w.process(cfg)
	}
	server.Restart(t)
	eventually(t, "every callback that was answered 200 is in Kafka", func() bool {
		raw := map[string]bool{}
		for _, r := range w.read(w.topics.Callback) {
			raw[string(r.Key)] = true
		}
		for id := range all.answered {
			if !raw[id] {
				return false
			}
		}
		return true
	})
	t.Logf("%d callbacks answered 200 around 3 kills", len(all.answered))
	if len(all.answered) < 100 {
		t.Error("too few to tell")
	}
	w.sentAll(all.answered)
	eventually(t, "every callback is published", func() bool {
		published := map[string]int{}
		for _, r := range w.read(w.topics.Delivered) {
			published[string(r.Key)]++
		}
		for id := range all.answered {
			if published[id] > 1 {
				t.Fatalf("%s was published %d times", id, published[id])
			}
			if published[id] == 0 {
				return false
			}
		}
		return true
	})
}

// Callbacks that one client sent one after the other reach Kafka in that order, through an outage too: raw repetitions
// may follow, nothing overtakes.
func spoolKeepsOrder(t *testing.T, server *kafkatest.Server) {
	w := newWorld(t, server, 1)
	r := w.start(w.config())
	n := 0
	send := func(times int) {
		for range times {
			n++
			w.mustPost(r.url, fmt.Appendf(nil, `{"event_name":"follow","oa_id":%q,"n":%d,"timestamp":"1787209817225"}`, testOA, n))
		}
	}
	send(20)
	server.Pause(t)
	send(20)
	server.Resume(t)
	send(20) // while the disk is being emptied
	server.Kill(t)
	send(20)
	server.Restart(t)
	for r.count("spool_records") > 0 {
		send(1)
	}
	send(20)
	seen, last := map[int]bool{}, 0
	for _, rec := range w.read(w.topics.Callback) {
		var body struct{ N int }
		if err := json.Unmarshal(rec.Value, &body); err != nil {
			t.Fatal(err)
		}
		if seen[body.N] {
			continue
		}
		seen[body.N] = true
		if body.N != last+1 {
			t.Errorf("%d came after %d", body.N, last)
		}
		last = body.N
	}
	if last != n || r.count("appends_total", "spooled") < 20 {
		t.Errorf("%d of %d arrived, %v through the disk", last, n, r.count("appends_total", "spooled"))
	}
}

// SIGTERM: requests under way are answered and the disk is emptied before the process ends.
func stopEmptiesSpool(t *testing.T, server *kafkatest.Server) {
	w := newWorld(t, server, 2)
	r := w.start(w.config())
	server.Pause(t) // at once: callbacks are taken before anything is known of Kafka
	for range 30 {
		w.mustPost(r.url, newMessage().callback())
	}
	if err := r.ingest.Ready(); err != nil {
		t.Errorf("not ready while Kafka hangs: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- r.stop() }()
	time.Sleep(time.Second)
	if r.ingest.Ready() == nil {
		t.Error("still ready a second after it was asked to stop")
	}
	time.Sleep(time.Second)
	server.Resume(t)
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(40 * time.Second):
		t.Fatal("it does not stop")
	}
	keys := map[string]bool{}
	for _, rec := range w.read(w.topics.Callback) {
		keys[string(rec.Key)] = true
	}
	if len(keys) != 30 {
		t.Errorf("%d callbacks in Kafka after the stop, want 30", len(keys))
	}
}

// Neither Kafka nor room on the disk: 503, and nothing is stored twice or lost once there is room again.
func noRoomAnywhere(t *testing.T, server *kafkatest.Server) {
	w := newWorld(t, server, 2)
	cfg := w.config()
	cfg.SpoolSize = 1 << 20
	cfg.KafkaBudget = 200 * time.Millisecond
	r := w.start(cfg)
	server.Pause(t)
	stored := 0
	big := fmt.Sprintf(`{"event_name":"follow","oa_id":%q,"x":"%0100000d","timestamp":"1787209817225"}`, testOA, 0)
	code := http.StatusOK
	for code == http.StatusOK {
		if code = post(r.url, []byte(big), testSecret); code == http.StatusOK {
			stored++
		}
	}
	if code != http.StatusServiceUnavailable || stored < 5 || stored > 12 {
		t.Errorf("answered %d after %d", code, stored)
	}
	if n := r.count("requests_total", string(webhook.NotStored), "503"); n != 1 {
		t.Errorf("%v answers counted as not stored", n)
	}
	server.Resume(t)
	eventually(t, "the spool is empty", func() bool { return r.count("spool_records") == 0 })
	w.mustPost(r.url, []byte(big))
	if n := len(w.read(w.topics.Callback)); n < stored+1 {
		t.Errorf("%d raw callbacks, want %d or more", n, stored+1)
	}
}

// A process starts without Kafka and takes callbacks; when Kafka comes they arrive and are translated.
func startWithoutKafka(t *testing.T, server *kafkatest.Server) {
	w := newWorld(t, server, 2)
	m := newMessage()
	w.sent(m)
	server.Kill(t)
	r := w.start(w.config())
	eventually(t, "ready without Kafka", func() bool { return r.ingest.Ready() == nil })
	w.mustPost(r.url, m.callback())
	server.Restart(t)
	if got := w.deliveries(1, time.Minute)[m.id.String()]; got.GetTemplateId() == "" {
		t.Errorf("event %v", got)
	}
}

// Two replicas behind a balancer, one of them killed and replaced: every receipt becomes one event.
func TestTwoReplicas(t *testing.T) {
	w := newWorld(t, kafkatest.Broker(t), 6)
	if !w.server.Real() {
		t.Skip("a takeover needs a real Kafka")
	}
	a, cfg := w.start(w.config()), w.config()
	p := w.process(cfg)
	tr := startTraffic([]string{a.url, p.url}, 8, 20*time.Millisecond)
	time.Sleep(3 * time.Second)
	p.kill()
	time.Sleep(time.Second)
	q := w.process(cfg) // the same name and directory
	more := startTraffic([]string{a.url, q.url}, 8, 20*time.Millisecond)
	tr.stop()
	time.Sleep(2 * time.Second)
	more.stop()
	if n := len(slices.DeleteFunc([]int{200, 0}, func(c int) bool { return more.other[c] == 0 })); n > 0 {
		t.Errorf("after the restart: %v", more.other)
	}
	maps.Copy(tr.answered, more.answered)
	t.Logf("%d receipts, slowest answer %v", len(tr.answered), max(tr.slowest, more.slowest))
	w.sentAll(tr.answered)
	// What the killed process had stored without answering counts too: one event each, none twice.
	eventually(t, "every answered receipt is published", func() bool {
		published := map[string]int{}
		for _, rec := range w.read(w.topics.Delivered) {
			published[string(rec.Key)]++
		}
		for id := range tr.answered {
			if published[id] > 1 {
				t.Fatalf("%s was published %d times", id, published[id])
			}
			if published[id] == 0 {
				return false
			}
		}
		return true
	})
}

// Topics whose partition counts differ are refused before a callback is taken, with what to run.
func TestUnequalPartitions(t *testing.T) {
	server := kafkatest.Broker(t)
	w := newWorld(t, server, 2)
	other := newWorld(t, server, 3)
	w.topics.Sent = other.topics.Sent
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := Run(ctx, service.New("webhook-ingest", "", testCluster, nil, nil), w.config())
	if err == nil {
		t.Fatal("it ran")
	}
	t.Log(err)
	w.topics.Sent = "no-such-topic"
	if err := Run(ctx, service.New("webhook-ingest", "", testCluster, nil, nil), w.config()); err == nil {
		t.Fatal("it ran without zns.sent")
	}
}
