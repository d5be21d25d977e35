package kafkatest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Name returns prefix with a random suffix: a topic, group or transactional id that no other test uses.
func Name(prefix string) string {
	return prefix + "-" + strings.ToLower(rand.Text()[:10])
}

// Topic creates a topic of a name that begins with prefix, waits until it has its leaders, and deletes it with the
// test. configs are topic settings, "cleanup.policy=compact".
func (s *Server) Topic(tb testing.TB, prefix string, partitions int32, configs ...string) string {
	tb.Helper()
	name := Name(prefix)
	s.CreateTopic(tb, name, partitions, configs...)
	return name
}

// CreateTopic creates the topic name, waits until it has its leaders, and deletes it with the test.
func (s *Server) CreateTopic(tb testing.TB, name string, partitions int32, configs ...string) {
	tb.Helper()
	admin := s.admin(tb)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	settings := make(map[string]*string, len(configs))
	for _, c := range configs {
		k, v, ok := strings.Cut(c, "=")
		if !ok {
			tb.Fatalf("create topic %s: config %q is not key=value", name, c)
		}
		settings[k] = &v
	}
	if _, err := admin.CreateTopic(ctx, partitions, 1, settings, name); err != nil {
		tb.Fatalf("create topic %s: %v", name, err)
	}
	tb.Cleanup(func() {
		// A broker that the test left paused or dead goes with its topics; the short deadline is for that.
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if s.local == nil || s == shared.server {
			_, _ = s.admin(tb).DeleteTopics(ctx, name)
		}
	})
	if err := waitLeaders(ctx, admin, name, partitions); err != nil {
		tb.Fatalf("create topic %s: %v", name, err)
	}
}

// DeleteTopic deletes the topic name and waits until the broker does not know it any more: it deletes behind its answer.
func (s *Server) DeleteTopic(tb testing.TB, name string) {
	tb.Helper()
	admin := s.admin(tb)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := admin.DeleteTopic(ctx, name); err != nil {
		tb.Fatalf("delete topic %s: %v", name, err)
	}
	for {
		topics, err := admin.ListTopics(ctx, name)
		if err == nil && errors.Is(topics[name].Err, kerr.UnknownTopicOrPartition) {
			return
		}
		select {
		case <-ctx.Done():
			tb.Fatalf("delete topic %s: it is still there: %v", name, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func waitLeaders(ctx context.Context, admin *kadm.Client, name string, partitions int32) error {
	for {
		topics, err := admin.ListTopics(ctx, name)
		if err == nil {
			led := 0
			for _, p := range topics[name].Partitions {
				if p.Err == nil && p.Leader >= 0 {
					led++
				}
			}
			if led == int(partitions) {
				return nil
			}
			err = fmt.Errorf("%d of %d partitions have a leader", led, partitions)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Client returns a client of the broker with further options, closed with the test.
func (s *Server) Client(tb testing.TB, opts ...kgo.Opt) *kgo.Client {
	tb.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(s.Brokers()...),
		// A new topic is known within moments, not after the default wait of up to 5 s.
		kgo.MetadataMinAge(20 * time.Millisecond),
	}, opts...)...)
	if err != nil {
		tb.Fatalf("new client: %v", err)
	}
	tb.Cleanup(c.Close)
	return c
}

func (s *Server) admin(tb testing.TB) *kadm.Client {
	tb.Helper()
	return kadm.NewClient(s.Client(tb))
}
