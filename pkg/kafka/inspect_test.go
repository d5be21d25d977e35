package kafka_test

import (
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/proto/topic"
)

func TestBrokerStates(t *testing.T) {
	a := newAdmin(t, kafkatest.Broker(t).Brokers()...)
	states, err := a.BrokerStates(t.Context())
	if err != nil || len(states) == 0 {
		t.Fatalf("%v, %v", states, err)
	}
	if f := states[0].Features["transaction.version"]; f.Supported < 2 || f.Finalized < 2 || states[0].Version == "" {
		t.Errorf("broker %+v", states[0])
	}
}

func TestSettingsOfBrokersAndGroups(t *testing.T) {
	a := newAdmin(t, kafkatest.Real(t, "settings of groups").Brokers()...)
	brokers, err := a.BrokerSettings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for id, settings := range brokers {
		if settings["group.consumer.session.timeout.ms"] == "" || settings["group.min.session.timeout.ms"] == "" {
			t.Errorf("broker %d tells neither of the session timeouts", id)
		}
	}
	group, err := a.GroupSettings(t.Context(), kafkatest.Name("group"))
	if err != nil || group["consumer.session.timeout.ms"] == "" {
		t.Errorf("group settings %v, %v", group, err)
	}
}

func TestControllerTime(t *testing.T) {
	s := kafkatest.Broker(t)
	a := newAdmin(t, s.Brokers()...)
	at, took, err := a.ControllerTime(t.Context())
	if !s.Real() {
		if !errors.Is(err, kafka.ErrNotTold) {
			t.Errorf("a fake tells %v, %v", at, err)
		}
		return
	}
	// It runs on this machine.
	if since := time.Since(at); err != nil || since < -time.Second || since > took+time.Second {
		t.Errorf("the controller's time is %s (%s ago), %v", at, time.Since(at), err)
	}
}

func TestOpenTransactions(t *testing.T) {
	s := kafkatest.Broker(t)
	a := newAdmin(t, s.Brokers()...)
	input := ensured(t, s, a, 2)[0].Name
	id := kafkatest.Name("txn")
	producer, err := kgo.NewClient(kgo.SeedBrokers(s.Brokers()...), kgo.TransactionalID(id), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	if err := producer.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := producer.ProduceSync(t.Context(), &kgo.Record{Topic: input, Partition: 1, Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	stable, err := a.StableOffsets(t.Context(), input)
	if err != nil || stable[1] != 0 {
		t.Errorf("stable offsets %v, %v; want 0 in partition 1", stable, err)
	}
	open, err := a.OpenTransactions(t.Context(), input, 0, 1)
	if err != nil || len(open) != 1 || open[0].ID != id || open[0].Partition != 1 || open[0].Start != 0 || time.Since(open[0].LastWrite) > time.Minute {
		t.Errorf("open: %+v, %v", open, err)
	}
	if err := producer.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) { // the markers are written afterwards
		open, err = a.OpenTransactions(t.Context(), input, 0, 1)
		if err == nil && len(open) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("open after the commit: %+v, %v", open, err)
		}
	}
	if latest, err := a.LatestTime(t.Context(), input); err != nil || time.Since(latest).Abs() > time.Minute {
		t.Errorf("latest time %s, %v", latest, err)
	}
	if latest, err := a.LatestTime(t.Context(), topic.DLQOf(input)); err != nil || !latest.IsZero() {
		t.Errorf("latest time of an empty topic %s, %v", latest, err)
	}
}

func TestHealthAndCopies(t *testing.T) {
	s := kafkatest.Broker(t)
	a := newAdmin(t, s.Brokers()...)
	input := ensured(t, s, a, 3)[0].Name
	health, err := a.Health(t.Context(), input, kafkatest.Name("absent"))
	if err != nil || len(health) != 1 {
		t.Fatalf("health %+v, %v", health, err)
	}
	if h := health[input]; len(h.Leaderless)+len(h.UnderMin)+len(h.Behind) != 0 {
		t.Errorf("health %+v", h)
	}
	replicas, _, exists, err := a.Copies(t.Context(), input)
	if err != nil || !exists || replicas < 1 {
		t.Errorf("copies %d, %t, %v", replicas, exists, err)
	}
	if _, _, exists, err := a.Copies(t.Context(), kafkatest.Name("absent")); exists || err != nil {
		t.Errorf("a topic that is not there: %t, %v", exists, err)
	}
}
