package harness

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

func fake(t *testing.T) []string {
	t.Helper()
	cluster, err := kfake.NewCluster(kafkatest.FakeOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	if err := CreateTopics(within(t, 10*time.Second), cluster.ListenAddrs(), 3); err != nil {
		t.Fatal(err)
	}
	return cluster.ListenAddrs()
}

func TestLoadPublishesWhatItSays(t *testing.T) {
	brokers := fake(t)
	l := &Load{Seed: 7, Total: 500, Keys: 20, Duplicates: 0.05}
	requests, err := l.Publish(within(t, 30*time.Second), brokers)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff((&Load{Seed: 7, Total: 500, Keys: 20, Duplicates: 0.05}).Requests(), requests); diff != "" {
		t.Errorf("the same load makes other requests:\n%s", diff)
	}
	records := 0
	for _, q := range requests {
		records += q.Copies
	}
	if records == 500 || records > 550 {
		t.Errorf("%d records for 500 requests, want about 5 %% more", records)
	}

	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic.Requested), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	copies, order := map[string]int{}, map[string]int64{}
	byID := map[string]Request{}
	for _, q := range requests {
		byID[q.ID] = q
	}
	for n := 0; n < records; {
		fetches := client.PollFetches(within(t, 10*time.Second))
		if err := fetches.Err(); err != nil {
			t.Fatalf("after %d of %d records: %v", n, records, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			n++
			var m notificationv1.NotificationRequested
			if err := proto.Unmarshal(r.Value, &m); err != nil {
				t.Fatal(err)
			}
			q := byID[m.GetNotificationId()]
			if copies[q.ID]++; copies[q.ID] == 1 {
				if last, seen := order[q.Key]; seen && q.Rank < last {
					t.Errorf("key %s: rank %d comes after %d", q.Key, q.Rank, last)
				}
				order[q.Key] = q.Rank
			}
			if r.Partition != kafka.Murmur2Partition(r.Key, 3) || string(r.Key) != q.Key {
				t.Errorf("key %q on partition %d", r.Key, r.Partition)
			}
		})
	}
	for id, q := range byID {
		if copies[id] != q.Copies {
			t.Errorf("%s: %d copies, want %d", id, copies[id], q.Copies)
		}
	}
}

func TestCollectorReadsEventsAndRefusesOthers(t *testing.T) {
	brokers := fake(t)
	collector, err := NewCollector(brokers)
	if err != nil {
		t.Fatal(err)
	}
	defer collector.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	publish := func(r kafka.Record) {
		t.Helper()
		out := &kgo.Record{Topic: r.Topic, Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			out.Headers = append(out.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		}
		if err := client.ProduceSync(t.Context(), out).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	event := func(name string, m proto.Message) kafka.Record {
		t.Helper()
		r, err := kafka.NewRecord(name, []byte("n1"), kafka.Event{
			ID: "n1/x/1", Source: "/znshub/e2e/sender", Subject: "n1", Time: time.Unix(1, 0), Data: m,
		}, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "")
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	publish(event(topic.Sent, &znsv1.Sent{NotificationId: "n1", MsgId: "m1", Attempt: 1}))
	publish(event(topic.Failed, &znsv1.Failed{NotificationId: "n1", Reason: znsv1.FailureReason_FAILURE_REASON_UNRESOLVED}))
	publish(event(topic.Unresolved, &znsv1.Unresolved{NotificationId: "n1", Cause: znsv1.UnknownCause_UNKNOWN_CAUSE_RESET}))
	publish(event(topic.Delivered, &znsv1.Delivered{NotificationId: "n1", MsgId: "m1"}))
	publish(kafka.Record{Topic: topic.RequestedDLQ, Value: []byte("x")})
	want := Counts{Sent: 1, Failed: 1, Unresolved: 1, Delivered: 1, Ended: 1, Letters: 1}
	if err := collector.Wait(within(t, 10*time.Second), "one of each", func(n Counts) bool { return n == want }); err != nil {
		t.Fatal(err)
	}
	if err := collector.Err(); err != nil {
		t.Errorf("sound events: %v", err)
	}
	if e := collector.Events(topic.Sent)[0]; e.MsgID != "m1" || e.EventID != "n1/x/1" {
		t.Errorf("zns.sent read as %+v", e)
	}

	bare := event(topic.Sent, &znsv1.Sent{NotificationId: "n1"})
	bare.Headers = nil
	publish(bare)
	waitFor(t, "the record without headers", func() bool { return collector.Err() != nil })
	if err := collector.Err(); !strings.Contains(err.Error(), "ce_id") {
		t.Errorf("the record without headers: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := collector.Wait(short, "two", func(n Counts) bool { return n.Sent == 2 }); err == nil {
		t.Error("Wait returned before its condition held")
	}
}
