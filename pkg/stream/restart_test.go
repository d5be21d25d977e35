package stream_test

import (
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/stream"
)

// protocols are those of the group on the test's broker, whose session timeouts are low.
var protocols = []string{stream.ProtocolClassic, stream.ProtocolConsumer}

// A process that is started again after kill -9 does not wait for the end of its own session: it works within two
// seconds.
func TestOwnRestart(t *testing.T) {
	t.Parallel()
	server := kafkatest.Real(t, "kill -9")
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, server, 4)
			w.cfg.Protocol = protocol
			w.provider.slow(20 * time.Millisecond)
			want := ids("a", 600)
			one := w.start("one")
			w.publish(want[:400]...)
			eventually(t, 20*time.Second, "it works", func() bool { return w.provider.count() > 100 })
			one.signal(syscall.SIGKILL)
			<-one.done
			began := time.Now()
			again := w.start("one")
			eventually(t, takeover, "it owns everything again", func() bool { return again.count("restored") == 4 })
			took := time.Since(began)
			t.Logf("it owned everything again after %v", took.Round(time.Millisecond))
			if took > 2*time.Second && !overloaded() {
				t.Errorf("it took %v, want 2s", took)
			}
			if !strings.Contains(again.errors(), "evicted the member") {
				t.Error("it evicted nobody")
			}
			w.publish(want[400:]...)
			w.finished(want, 30*time.Second)
			again.stop()
			w.check(want, 4*w.cfg.MaxInFlight)
		})
	}
}

// Only a member that bears this instance's name is evicted, and only when no process here holds that name. An
// ordinary client stands for the member.
func TestEviction(t *testing.T) {
	t.Parallel()
	server := kafkatest.Real(t, "a group")
	for _, protocol := range protocols {
		for _, c := range []struct {
			name, client string
			held, stays  bool
		}{
			{"dead", "two", false, false},
			{"held", "two", true, true},
			{"similar name", "two2", false, true},
		} {
			t.Run(protocol+" "+c.name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, server, 2)
				opts := []kgo.Opt{
					kgo.ClientID(w.cfg.Group + "-" + c.client), kgo.ConsumerGroup(w.cfg.Group), kgo.ConsumeTopics(w.cfg.Input),
					kgo.DisableAutoCommit(), kgo.HeartbeatInterval(time.Second), kgo.Balancers(kgo.CooperativeStickyBalancer()),
				}
				if protocol == stream.ProtocolConsumer {
					opts = append(opts, kgo.ServerSideBalancer())
				}
				cl := server.Client(t, opts...)
				member := func() string {
					id, generation := cl.GroupMetadata()
					if generation <= 0 {
						return ""
					}
					return id
				}
				eventually(t, 20*time.Second, "the client is a member", func() bool { return member() != "" })
				before := member()
				if c.held {
					meta, err := w.adm.BrokerMetadata(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					l, err := net.Listen("unix", "@znshub/"+meta.Cluster+"/"+w.cfg.Group+"-two")
					if err != nil {
						t.Skipf("no abstract sockets here: %v", err)
					}
					defer l.Close()
				}
				w.cfg.Protocol = protocol
				two := w.run("two")
				eventually(t, 30*time.Second, "it has joined", func() bool { return two.Status().Joined })
				eventually(t, 10*time.Second, "its place is kept or lost", func() bool {
					now := member()
					return now != "" && (now == before) == c.stays
				})
				if said := strings.Contains(two.log.String(), "evicted the member"); said == c.stays {
					t.Errorf("evicted: %v, want %v", said, !c.stays)
				}
			})
		}
	}
}

// The protocol is chosen by what the brokers and the other members are fit for, and the reason is told.
func TestGroupProtocol(t *testing.T) {
	t.Parallel()
	server := kafkatest.Real(t, "the consumer protocol")
	joined := func(t *testing.T, w *world, name, protocol, want string) *inProcess {
		t.Helper()
		m := w.run(name, func(_ *appConfig, sc *stream.Config) { sc.GroupProtocol = protocol })
		eventually(t, 30*time.Second, name+" has joined", func() bool { return m.Status().Joined })
		if !strings.Contains(m.log.String(), want) {
			t.Errorf("%s did not say %q", name, want)
		}
		return m
	}
	const consumer, classic = "by the consumer protocol (KIP-848)", "by the classic protocol"
	t.Run("auto", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, server, 2)
		joined(t, w, "one", "", consumer)
		joined(t, w, "two", stream.ProtocolAuto, consumer)
	})
	t.Run("classic", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, server, 2)
		joined(t, w, "one", stream.ProtocolClassic, classic)
		joined(t, w, "two", stream.ProtocolAuto, "members of the group use the classic protocol")
	})
	t.Run("slow brokers", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, server, 2)
		w.groupSetting("consumer.session.timeout.ms", "30000")
		joined(t, w, "one", stream.ProtocolAuto, "the brokers' session timeout for it is 30s")
	})
}
