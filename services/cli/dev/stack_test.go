package dev

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/znshub/znshub/pkg/config"
	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/proto/topic"
)

// cluster is somebody's Kafka: a fake that no Stack started.
func cluster(t *testing.T) (*kafka.Config, *kafka.Admin) {
	t.Helper()
	broker, err := StartBroker(0, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	conf := &kafka.Config{Brokers: []string{broker.Addr}}
	opts, err := conf.Options()
	if err != nil {
		t.Fatal(err)
	}
	admin, err := kafka.NewAdmin(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	return conf, admin
}

func start(t *testing.T, cfg Config) (*Stack, error) {
	t.Helper()
	s, err := Start(t.Context(), cfg)
	if err == nil {
		t.Cleanup(func() { stop(t, s) })
	}
	return s, err
}

func stop(t *testing.T, s *Stack) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

// A cluster whose requests are not a Stack's must not be touched: its waiting requests would go to the simulator.
func TestStackRefusesAClusterThatHoldsRequests(t *testing.T) {
	conf, admin := cluster(t)
	if _, err := admin.Ensure(t.Context(), topic.Table(), 2, 1); err != nil {
		t.Fatal(err)
	}
	opts, _ := conf.Options()
	writer, err := kafka.NewWriter(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	if err := writer.Write(t.Context(), kafka.Record{Topic: topic.Requested, Partition: 0, Value: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	if _, err := start(t, Config{Kafka: conf}); !errors.Is(err, ErrInUse) {
		t.Fatalf("error %v, want ErrInUse", err)
	}
	if g, err := admin.Group(t.Context(), "zns-ingest"); err != nil || len(g.Members) > 0 {
		t.Errorf("it joined a group all the same: %+v, %v", g, err)
	}
	if _, err := start(t, Config{Kafka: conf, Force: true}); err != nil {
		t.Errorf("forced: %v", err)
	}
}

// A cluster that a Stack has used may be used again: it was empty then.
func TestStackUsesItsClusterAgain(t *testing.T) {
	conf, admin := cluster(t)
	for range 2 {
		s, err := Start(t.Context(), Config{Kafka: conf, Sender: true})
		if err != nil {
			t.Fatal(err)
		}
		if !s.Real || s.SenderAdmin == "" {
			t.Errorf("real %v, sender's admin server %q", s.Real, s.SenderAdmin)
		}
		opts, _ := conf.Options()
		writer, err := kafka.NewWriter(opts...)
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Write(t.Context(), kafka.Record{Topic: topic.Requested, Partition: 0, Value: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
		writer.Close()
		stop(t, s)
		if g, err := admin.Group(t.Context(), "zns-sender"); err != nil || len(g.Members) > 0 {
			t.Errorf("after Close the group has members: %+v, %v", g, err)
		}
	}
}

func TestAProgramThatEndsByItselfIsTold(t *testing.T) {
	g := newGroup()
	broken := errors.New("the topic is gone")
	if _, err := g.start(t.Context(), service.New("sender", "", "test", nil, nil), "127.0.0.1:0", func(context.Context) error { return broken }); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-g.failed:
		if !errors.Is(err, broken) {
			t.Errorf("error %v, want the program's", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("nobody is told")
	}
	if err := g.close(t.Context()); !errors.Is(err, broken) {
		t.Errorf("close: %v, want the program's error", err)
	}
}

func TestProgramsStopInReverseOrder(t *testing.T) {
	g := newGroup()
	var order []string
	for _, name := range []string{"first", "second"} {
		run := func(ctx context.Context) error {
			<-ctx.Done()
			order = append(order, name) // one after the other, as close waits for each
			return ctx.Err()
		}
		if _, err := g.start(t.Context(), service.New(name, "", "test", nil, nil), "127.0.0.1:0", run); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.close(t.Context()); err != nil {
		t.Errorf("close: %v", err)
	}
	if !slices.Equal(order, []string{"second", "first"}) {
		t.Errorf("stopped in the order %v", order)
	}
	select {
	case err := <-g.failed:
		t.Errorf("an orderly stop is told as a failure: %v", err)
	default:
	}
}

func TestStartLeavesNothingBehindWhenItFails(t *testing.T) {
	conf := &kafka.Config{Brokers: []string{"127.0.0.1:1"}}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if s, err := Start(ctx, Config{Kafka: conf}); err == nil {
		stop(t, s)
		t.Fatal("it started without a broker")
	}
}

func TestKafkaVariablesAreReadBack(t *testing.T) {
	want := kafka.Config{
		Brokers: []string{"a:1", "b:2"}, TLS: true, TLSCA: "ca", TLSCert: "cert", TLSKey: "key", TLSServerName: "name", TLSInsecure: true,
		SASLMechanism: "PLAIN", SASLUsername: "me", SASLPassword: "secret",
	}
	var got kafka.Config
	if _, err := config.LoadFrom(kafkaVariables(want), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

func TestWithout(t *testing.T) {
	got := Without([]string{"ZALO_OA_ID=1", "PATH=/bin", "SENDER_RATE=1"}, "ZALO_", "SENDER_")
	if !slices.Equal(got, []string{"PATH=/bin"}) {
		t.Errorf("left: %v", got)
	}
}
