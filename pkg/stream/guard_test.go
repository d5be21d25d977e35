package stream_test

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/stream"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
)

// Each setting of the ledger is guarded: a valid ledger is broken in one thing per case.
func TestGuardRefusesLedgerSettings(t *testing.T) {
	t.Parallel()
	server := kafkatest.Real(t, "topic settings")
	for _, wrong := range []string{
		"cleanup.policy=compact,delete", "cleanup.policy=delete", "retention.ms=604800000", "segment.ms=604800000",
		"segment.bytes=1073741824", "min.cleanable.dirty.ratio=0.5", "max.compaction.lag.ms=9223372036854775807",
		"message.timestamp.type=CreateTime", "unclean.leader.election.enable=true",
	} {
		t.Run(wrong, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, server, 1)
			name, value, _ := strings.Cut(wrong, "=")
			var settings []string
			for _, s := range ledgerSettings {
				if !strings.HasPrefix(s, name+"=") {
					settings = append(settings, s)
				}
			}
			w.cfg.Ledger = server.Topic(t, "wrong", 1, append(settings, wrong)...)
			w.run("one").refused(t, w.cfg.Ledger, name, fmt.Sprintf("%q", value), "is wanted", "zns topics ensure")
		})
	}
}

func TestGuardRefusesTopics(t *testing.T) {
	t.Parallel()
	server := kafkatest.Real(t, "topic settings")
	w := newWorld(t, server, 3)
	t.Run("no ledger", func(t *testing.T) {
		w := *w
		w.t, w.cfg.Ledger = t, "never-made"
		w.run("one").refused(t, "never-made", "does not exist", "zns topics ensure")
	})
	t.Run("no input", func(t *testing.T) {
		w := *w
		w.t, w.cfg.Input = t, "never-made"
		w.run("one").refused(t, "never-made", "does not exist", "zns topics ensure")
	})
	t.Run("fewer input than ledger partitions", func(t *testing.T) {
		w := *w
		w.t, w.cfg.Input = t, server.Topic(t, "narrow", 2)
		w.run("one").refused(t, w.cfg.Input, w.cfg.Ledger, "2 partitions", "at least 3")
	})
}

// An old broker is refused: the fake answers like Kafka 3.9.
func TestGuardRefusesOldBroker(t *testing.T) {
	t.Parallel()
	old, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.MaxVersions(kversion.V3_9_0()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(old.Close)
	w := &world{t: t, cfg: appConfig{Brokers: strings.Join(old.ListenAddrs(), ","), Group: "g", Input: "in", Ledger: "ledger"}}
	w.run("one").refused(t, "older than Apache Kafka 4.0", "transaction.version")
}

// Wrong configuration is told without reaching a broker, all at once.
func TestNewWantsEverything(t *testing.T) {
	_, err := stream.New(stream.Config{})
	mentions(t, err, "Group", "Input", "Ledger", "Handler")
}

// A ledger that was deleted and made anew is recognised by the group's offsets: the partitions stop, and nothing is
// sent again.
func TestLedgerMadeAnew(t *testing.T) {
	t.Parallel()
	server := kafkatest.Real(t, "topic ids")
	w := newWorld(t, server, 2)
	want := ids("a", 40)
	m := w.run("one")
	w.publish(want...)
	w.finished(want, 30*time.Second)
	w.caughtUp(10 * time.Second)
	if err := m.stop(t); err != nil {
		t.Fatal(err)
	}
	w.recreate(w.cfg.Ledger, 2)
	m = w.run("two")
	for p := range int32(2) {
		mentions(t, m.stopped(t, p), w.cfg.Ledger, "made anew", "is wanted")
	}
	// The same after the input was replayed.
	w.publish(want...)
	time.Sleep(2 * time.Second)
	for _, id := range want {
		if n := w.provider.calls(id); n != 1 {
			t.Errorf("%s was called %d times", id, n)
		}
	}
}

func (w *world) recreate(topic string, n int32) {
	w.t.Helper()
	if _, err := w.adm.DeleteTopic(w.t.Context(), topic); err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(time.Second)
	w.server.CreateTopic(w.t, topic, n, ledgerSettings...)
}

// What the group's offset says about the ledger is compared with the ledger.
func TestOffsetsTellOfAnotherLedger(t *testing.T) {
	t.Parallel()
	server := kafkatest.Real(t, "topic ids")
	w := newWorld(t, server, 1)
	topics, err := w.adm.ListTopics(t.Context(), w.cfg.Input, w.cfg.Ledger)
	if err != nil {
		t.Fatal(err)
	}
	in, ledger := topics[w.cfg.Input].ID, topics[w.cfg.Ledger].ID
	other := strings.Repeat("ab", 16)
	for _, c := range []struct {
		name, metadata string
		words          []string
	}{
		{"shorter", fmt.Sprintf("x/1 in=%s ledger=%s@77/1", hex.EncodeToString(in[:]), hex.EncodeToString(ledger[:])), []string{"shorter", "at least 77"}},
		{"another", fmt.Sprintf("x/1 in=%s ledger=%s@0/1", hex.EncodeToString(in[:]), other), []string{"made anew", other}},
		{"fewer partitions then", fmt.Sprintf("x/1 in=%s ledger=%s@0/3", hex.EncodeToString(in[:]), hex.EncodeToString(ledger[:])), []string{"1 partitions", "3 are wanted"}},
		{"another input", fmt.Sprintf("x/1 in=%s ledger=%s@0/1", other, hex.EncodeToString(ledger[:])), []string{w.cfg.Input, "made anew"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := *w
			w.t, w.cfg.Group = t, kafkatest.Name("outbox")
			var o kadm.Offsets
			o.Add(kadm.Offset{Topic: w.cfg.Input, Partition: 0, At: 1, LeaderEpoch: -1, Metadata: c.metadata})
			if err := w.adm.CommitAllOffsets(t.Context(), w.cfg.Group, o); err != nil {
				t.Fatal(err)
			}
			m := w.run("one")
			mentions(t, m.stopped(t, 0), c.words...)
			if err := m.stop(t); err != nil {
				t.Errorf("a stopped partition is no reason to fail: %v", err)
			}
		})
	}
	t.Run("cut input", func(t *testing.T) {
		w := *w
		w.t, w.cfg.Group = t, kafkatest.Name("outbox")
		var o kadm.Offsets
		o.Add(kadm.Offset{Topic: w.cfg.Input, Partition: 0, At: 500, LeaderEpoch: -1})
		if err := w.adm.CommitAllOffsets(t.Context(), w.cfg.Group, o); err != nil {
			t.Fatal(err)
		}
		mentions(t, w.run("one").stopped(t, 0), "was cut", "500")
	})
}

// A position or an entry that needs a newer reader stops its partition; the others work on.
func TestNewerFormat(t *testing.T) {
	t.Parallel()
	server := kafkatest.Real(t, "the engine")
	w := newWorld(t, server, 2)
	topics, err := w.adm.ListTopics(t.Context(), w.cfg.Ledger)
	if err != nil {
		t.Fatal(err)
	}
	id := topics[w.cfg.Ledger].ID
	newer, _ := proto.Marshal(&ledgerv1.Position{MinReader: stream.FormatVersion + 1, LedgerTopicId: id[:]})
	w.write(&kgo.Record{Topic: w.cfg.Ledger, Partition: 0, Key: []byte(stream.PositionKey), Value: newer})
	m := w.run("one")
	mentions(t, m.stopped(t, 0), w.cfg.Ledger, "newer program", fmt.Sprint(stream.FormatVersion+1))
	want := []string{"a-1", "a-3"} // of partition 1
	w.publish(append(want, "a-2")...)
	w.finished(want, 20*time.Second)
	if w.provider.calls("a-2") != 0 {
		t.Error("the stopped partition worked")
	}
	if err := m.stop(t); err != nil {
		t.Fatal(err)
	}
	m = w.run("two", func(a *appConfig, _ *stream.Config) { a.NewerReader = true })
	mentions(t, m.stopped(t, 1), "needs reader 9")
}

// A ledger that was copied from another cluster holds its positions: what happened after the copy is not in it.
func TestCopiedLedger(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "the engine"), 1)
	b, _ := proto.Marshal(&ledgerv1.Position{MinReader: 1, NextOffset: 3, LedgerTopicId: []byte("another topic id")})
	w.write(&kgo.Record{Topic: w.cfg.Ledger, Partition: 0, Key: []byte(stream.PositionKey), Value: b})
	mentions(t, w.run("one").stopped(t, 0), "another ledger", "copy")
}
