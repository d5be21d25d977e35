package kafka_test

import (
	"errors"
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
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
