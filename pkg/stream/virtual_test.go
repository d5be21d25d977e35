package stream_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/stream"
	"github.com/znshub/znshub/pkg/virtual"
)

// alarm takes requests and writes each again an hour later, to the second.
type alarm struct {
	due  []time.Time
	rang []time.Duration // how late
}

func (*alarm) Assigned(int32)                    {}
func (*alarm) Restore(int32, kafka.Record) error { return nil }
func (*alarm) Restored(int32)                    {}
func (*alarm) Full(int32) bool                   { return false }
func (*alarm) InFlight(int32) int                { return 0 }
func (*alarm) Pending(int32) bool                { return false }
func (*alarm) Dropped(int32)                     {}

func (a *alarm) Accept(u *stream.Unit, r kafka.Record) {
	u.Ledger(string(r.Key), []byte("waiting"))
	// Not a whole number of seconds: nothing but the alarm itself may make the engine tick then.
	u.OnCommit(func() { a.due = append(a.due, u.Now().Add(time.Hour+370*time.Millisecond)) })
}

func (a *alarm) Work(tx *stream.Tx) time.Time {
	for len(a.due) > 0 && !a.due[0].After(tx.Now()) {
		u := tx.Unit(0, "alarm")
		u.Ledger("alarm", []byte("rang"))
		late := tx.Now().Sub(a.due[0])
		u.OnCommit(func() { a.rang = append(a.rang, late) })
		a.due = a.due[1:]
	}
	if len(a.due) == 0 {
		return time.Time{}
	}
	return a.due[0]
}

// virtualKafka is a fake on a network of its own, with the topics in and ledger of one partition each. opts lead to it.
func virtualKafka(t *testing.T) (fake *kfake.Cluster, client *kgo.Client, opts []kgo.Opt) {
	t.Helper()
	var network kfake.VirtualNetwork
	fake, err := kfake.NewCluster(append(kafkatest.FakeOptions(), kfake.ListenFn(network.Listen))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	opts = []kgo.Opt{kgo.SeedBrokers(fake.ListenAddrs()...), kgo.Dialer(network.DialContext)}
	client, err = kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	settings := map[string]*string{}
	for _, s := range ledgerSettings {
		k, v, _ := strings.Cut(s, "=")
		settings[k] = &v
	}
	adm := kadm.NewClient(client)
	if _, err := adm.CreateTopic(t.Context(), 1, 1, nil, "in"); err != nil {
		t.Fatal(err)
	}
	if _, err := adm.CreateTopic(t.Context(), 1, 1, settings, "ledger"); err != nil {
		t.Fatal(err)
	}
	return fake, client, opts
}

// Work is called when it wants to be, and an idle member keeps its membership for hours. In virtual time, on the fake.
func TestWorkIsCalledOnTime(t *testing.T) {
	virtual.Test(t, func(t *testing.T) {
		_, client, opts := virtualKafka(t)
		a := &alarm{}
		e, err := stream.New(stream.Config{Client: opts, Group: "g", Input: "in", Ledger: "ledger", Handler: a})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- e.Run(ctx) }()
		for i := range 3 {
			client.ProduceSync(t.Context(), &kgo.Record{Topic: "in", Key: []byte{'a' + byte(i)}})
			time.Sleep(10 * time.Minute)
		}
		time.Sleep(2 * time.Hour)
		e.Do(func() {
			if len(a.rang) != 3 {
				t.Errorf("%d alarms rang, want 3", len(a.rang))
			}
			for _, late := range a.rang {
				if late > 100*time.Millisecond {
					t.Errorf("an alarm was %v late", late)
				}
			}
		})
		if s := e.Status(); !s.Joined || len(s.Partitions) != 1 || !s.Partitions[0].Ready {
			t.Errorf("after hours: %+v", s)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A program that may not look for what hangs, because it lacks a right that it did not need before, works as before.
func TestWorksWithoutTheRightToLook(t *testing.T) {
	virtual.Test(t, func(t *testing.T) {
		fake, client, opts := virtualKafka(t)
		refused := 0
		fake.ControlKey(int16(kmsg.DescribeProducers), func(r kmsg.Request) (kmsg.Response, error, bool) {
			fake.KeepControl()
			refused++
			resp := r.ResponseKind().(*kmsg.DescribeProducersResponse)
			for _, asked := range r.(*kmsg.DescribeProducersRequest).Topics {
				topic := kmsg.NewDescribeProducersResponseTopic()
				topic.Topic = asked.Topic
				for _, n := range asked.Partitions {
					p := kmsg.NewDescribeProducersResponseTopicPartition()
					p.Partition, p.ErrorCode = n, kerr.TopicAuthorizationFailed.Code
					topic.Partitions = append(topic.Partitions, p)
				}
				resp.Topics = append(resp.Topics, topic)
			}
			return resp, nil, true
		})
		var log bytes.Buffer
		e, err := stream.New(stream.Config{
			Client: opts, Group: "g", Input: "in", Ledger: "ledger", Handler: &alarm{}, Log: slog.New(slog.NewTextHandler(&log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- e.Run(ctx) }()
		for range 3 {
			client.ProduceSync(t.Context(), &kgo.Record{Topic: "in", Key: []byte("a")})
			time.Sleep(time.Minute)
		}
		s := e.Status()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if s.Commits < 3 || refused == 0 || !strings.Contains(log.String(), "topic=ledger") {
			t.Errorf("%d commits, %d looks were refused\n%s", s.Commits, refused, log.String())
		}
	})
}
