package kafkatest_test

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
)

func TestSharedBrokerKeepsRecords(t *testing.T) {
	b := kafkatest.Broker(t)
	if b != kafkatest.Broker(t) {
		t.Error("two brokers for one test binary")
	}
	name := b.Topic(t, "kept", 2, "cleanup.policy=compact", "retention.ms=-1")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	writer := b.Client(t)
	if err := writer.ProduceSync(ctx, &kgo.Record{Topic: name, Key: []byte("k"), Value: []byte("v")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	reader := b.Client(t, kgo.ConsumeTopics(name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	got := reader.PollFetches(ctx).Records()
	if len(got) != 1 || string(got[0].Value) != "v" {
		t.Errorf("read %v, want the one record", got)
	}
}

func TestOwnBrokerComesBackWithItsData(t *testing.T) {
	b := kafkatest.Own(t, local.Options{})
	if !b.Real() {
		t.Fatal("a broker of one's own is real")
	}
	name := b.Topic(t, "kept", 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := b.Client(t, kgo.ConsumeTopics(name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err := client.ProduceSync(ctx, &kgo.Record{Topic: name, Value: []byte("before")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	b.Kill(t)
	b.Restart(t)
	got := client.PollFetches(ctx).Records()
	if len(got) != 1 || string(got[0].Value) != "before" {
		t.Errorf("read %v, want the record from before the kill", got)
	}
}
