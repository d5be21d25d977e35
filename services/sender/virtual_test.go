package sender

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/config"
	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/pkg/virtual"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// inVirtualTime runs f with a sender, a fake broker and a provider on a network in memory: hours pass in seconds, and
// times can be asserted to the tick.
func inVirtualTime(t *testing.T, f func(t *testing.T, w *world, s *Sender), env ...string) {
	inVirtualDays(t, 2*time.Second, f, env...)
}

// inVirtualDays is inVirtualTime in which nobody who is idle speaks more often than once a pulse. What is
// learned from Kafka may come half a pulse late.
func inVirtualDays(t *testing.T, pulse time.Duration, f func(t *testing.T, w *world, s *Sender), env ...string) {
	inVirtualWorld(t, Extras{Pulse: pulse}, f, env...)
}

// inVirtualWorld is inVirtualDays with what a program adds that embeds a sender.
func inVirtualWorld(t *testing.T, extras Extras, f func(t *testing.T, w *world, s *Sender), env ...string) {
	virtual.Test(t, func(t *testing.T) {
		var network kfake.VirtualNetwork
		broker, err := kfake.NewCluster(append(kafkatest.FakeOptions(), kfake.Ports(19092), kfake.ListenFn(network.Listen))...)
		if err != nil {
			t.Fatal(err)
		}
		listener, err := network.Listen("tcp", "localhost:80")
		if err != nil {
			t.Fatal(err)
		}
		p := &provider{script: func(post) answer { return answer{} }, seen: map[string]int{}}
		server := &http.Server{Handler: http.HandlerFunc(p.serve)}
		var all sync.WaitGroup
		all.Go(func() { _ = server.Serve(listener) })

		client := []kgo.Opt{
			kgo.SeedBrokers("localhost:19092"), kgo.Dialer(network.DialContext), kgo.FetchMaxWait(extras.Pulse / 2), kgo.DisableClientMetrics(), kgo.MetadataMaxAge(time.Hour),
			kgo.ConnIdleTimeout(15 * time.Minute),
		}
		w := &world{t: t, provider: p, input: topic.Requested, events: map[uuid.UUID][]kafka.Record{}, logs: &logBuffer{}}
		if w.admin, err = kafka.NewAdmin(client...); err != nil {
			t.Fatal(err)
		}
		if _, err := w.admin.Ensure(t.Context(), topic.Table(), 4, 1); err != nil {
			t.Fatal(err)
		}
		if w.writer, err = kafka.NewWriter(client...); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var readers []*kafka.Reader
		for _, name := range []string{topic.Sent, topic.Failed, topic.Unresolved} {
			r, err := kafka.NewReader(ctx, kafka.ReaderConfig{Client: client, Topic: name})
			if err != nil {
				t.Fatal(err)
			}
			readers = append(readers, r)
			all.Go(func() {
				for ctx.Err() == nil {
					records, _ := r.Poll(ctx)
					w.take(records)
				}
			})
		}
		var cfg Config
		if _, err := config.LoadFrom(append([]string{"KAFKA_BROKERS=localhost:19092", "ZALO_API_URL=http://localhost:80", "ZALO_ACCESS_TOKEN=" + testOA + "=t"}, env...), &cfg); err != nil {
			t.Fatal(err)
		}
		extras.Client, extras.Dial = client, network.DialContext
		w.extras = extras
		s, err := New(service.New("sender", "virtual", "test", nil, nil), cfg, extras)
		if err != nil {
			t.Fatal(err)
		}
		var running sync.WaitGroup
		runCtx, stopSender := context.WithCancel(t.Context())
		running.Go(func() {
			if err := s.Run(runCtx); err != nil {
				t.Error(err)
			}
		})
		// Also when f gives up: a bubble that keeps a goroutine ends the whole process.
		defer func() {
			stopSender()
			running.Wait()
			stop()
			for _, r := range readers {
				r.Close()
			}
			w.writer.Close()
			w.admin.Close()
			server.Close()
			broker.Close()
			all.Wait()
		}()
		f(t, w, s)
	})
}

// at is the time at which an event was published.
func (w *world) at(id uuid.UUID, to string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.events[id] {
		if r.Topic == to {
			return kafka.DecodeHeaders(r).Time
		}
	}
	return time.Time{}
}

func (w *world) wantAfter(id uuid.UUID, to string, since time.Time, least, most time.Duration) {
	w.t.Helper()
	if got := w.at(id, to).Sub(since); got < least || got > most {
		w.t.Errorf("%s came after %s, want %s to %s", to, got, least, most)
	}
}

// TestVirtualOutage: five minutes of 503 with much waiting make a handful of unknowns, and then everything is sent.
func TestVirtualOutage(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world, s *Sender) {
		const n = 10_000
		w.provider.respond(func(post) answer { return answer{after: 20 * time.Millisecond} })
		ids := w.many(n, nil)
		time.Sleep(100 * time.Millisecond)
		for len(w.provider.got("")) < n/20 {
			time.Sleep(10 * time.Millisecond)
		}
		w.provider.respond(func(post) answer { return answer{status: 503, body: "<html>", after: 20 * time.Millisecond} })
		before := len(w.provider.got(""))
		time.Sleep(5 * time.Minute)
		during := len(w.provider.got("")) - before
		w.provider.respond(func(post) answer { return answer{after: 20 * time.Millisecond} })
		time.Sleep(3 * time.Minute)
		unknown := int(s.h.waiting()[waitUnknown])
		sent := 0
		for _, id := range ids {
			sent += len(w.sent(id))
		}
		t.Logf("%d calls during the outage, %d unknown, %d sent", during, unknown, sent)
		if during > 2*64+30 || unknown > during || sent+unknown != n {
			t.Errorf("%d calls during the outage, %d unknown, %d of %d sent", during, unknown, sent, n)
		}
	}, "SENDER_MAX_IN_FLIGHT=64")
}

// TestVirtualTimes: what is due is done on the second, hours later.
func TestVirtualTimes(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world, _ *Sender) {
		w.provider.respond(func(p post) answer {
			switch p.Key {
			case "lost care", "lost otp":
				return answer{lose: true}
			case "no money":
				return answer{code: -115}
			case "throttled":
				return answer{code: -32}
			}
			return answer{}
		})
		time.Sleep(time.Second)
		start := time.Now()
		ids := w.publish(
			request("later", notBefore(start.Add(2*time.Hour))),
			request("lost care", ofCategory(care)),
			request("lost otp", ofCategory(otp)),
			request("no money", ttl(3*time.Hour), ofOA("1111111111111111111")),
			request("throttled", ttl(3*time.Hour), ofOA("2222222222222222222")),
		)
		later, lostCare, lostOTP, noMoney, throttled := ids[0], ids[1], ids[2], ids[3], ids[4]
		time.Sleep(3*time.Hour + time.Minute)
		w.wantAfter(later, topic.Sent, start, 2*time.Hour, 2*time.Hour+time.Second)
		w.wantAfter(lostCare, topic.Unresolved, start, 10*time.Second, 11*time.Second)
		w.wantAfter(lostCare, topic.Failed, start, 2*time.Hour, 2*time.Hour+3*time.Second)
		w.wantAfter(lostOTP, topic.Failed, start, 15*time.Second, 18*time.Second)
		w.wantAfter(noMoney, topic.Failed, start, 3*time.Hour, 3*time.Hour+time.Second)
		w.wantAfter(throttled, topic.Failed, start, 3*time.Hour, 3*time.Hour+time.Second)
		for name, most := range map[string]int{"later": 1, "lost care": 1, "lost otp": 1, "no money": 9, "throttled": 200} {
			if n := len(w.provider.got(name)); n < 1 || n > most || most > 10 && n < most/3 {
				t.Errorf("%s: %d calls in three hours", name, n)
			}
		}
		if f := w.failed(throttled); f[0].Reason != znsv1.FailureReason_FAILURE_REASON_EXPIRED || f[0].ErrorClass != znsv1.ErrorClass_ERROR_CLASS_TRANSIENT {
			t.Errorf("zns.failed: %v", f)
		}
	}, "ZALO_ACCESS_TOKEN="+testOA+"=t,1111111111111111111=t,2222222222222222222=t")
}

// TestVirtualModes: simulate calls nobody and says so; development reaches Zalo's development mode.
func TestVirtualModes(t *testing.T) {
	for mode, posts := range map[string]int{"simulate": 0, "development": 1} {
		inVirtualTime(t, func(t *testing.T, w *world, _ *Sender) {
			id := w.publish(request("x"))[0]
			time.Sleep(20 * time.Second)
			sent, got := w.sent(id), w.provider.got("x")
			if len(sent) != 1 || len(got) != posts {
				t.Fatalf("%s: zns.sent %v, %d posts", mode, sent, len(got))
			}
			if simulated := sent[0].ChannelReason != ""; simulated != (mode == "simulate") {
				t.Errorf("%s: channel_reason %q", mode, sent[0].ChannelReason)
			}
			if mode == "development" && (got[0].Mode != "development" || sent[0].Mode != znsv1.Mode_MODE_DEVELOPMENT) {
				t.Errorf("mode %q, event %s", got[0].Mode, sent[0].Mode)
			}
		}, "SENDER_MODE="+mode)
	}
}
