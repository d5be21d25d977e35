package harness

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/proto/topic"
)

// CreateTopics creates every topic of the table with the given number of partitions and one replica, as an operator
// with a one-broker cluster does. A topic that exists is an error: a System wants a cluster of its own.
func CreateTopics(ctx context.Context, brokers []string, partitions int32) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return fmt.Errorf("open the admin client: %w", err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	var problems []error
	for _, spec := range topic.Table() {
		settings := map[string]*string{}
		for _, s := range spec.Settings() {
			settings[s.Key] = &s.Value
		}
		if _, err := admin.CreateTopic(ctx, partitions, 1, settings, spec.Name); err != nil {
			problems = append(problems, fmt.Errorf("create topic %s: %w", spec.Name, err))
		}
	}
	return errors.Join(problems...)
}

// EndOffsets is the number of records and markers in each partition of a topic.
func EndOffsets(ctx context.Context, brokers []string, name string) (map[int32]int64, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return nil, fmt.Errorf("open the admin client: %w", err)
	}
	defer client.Close()
	listed, err := kadm.NewClient(client).ListEndOffsets(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("list the end offsets of %s: %w", name, err)
	}
	ends := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
	return ends, listed.Error()
}

// ResetGroup sets a group's committed offsets of a topic back to its beginning, as kafka-consumer-groups.sh
// --reset-offsets --to-earliest does. The group must have no members.
func ResetGroup(ctx context.Context, brokers []string, group, name string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return fmt.Errorf("open the admin client: %w", err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	start, err := admin.ListStartOffsets(ctx, name)
	if err != nil {
		return fmt.Errorf("list the start offsets of %s: %w", name, err)
	}
	if err := admin.CommitAllOffsets(ctx, group, start.Offsets()); err != nil {
		return fmt.Errorf("reset group %s: %w", group, err)
	}
	return nil
}

// Lag is how many records of a topic a group has not yet committed.
func Lag(ctx context.Context, brokers []string, group, name string) (int64, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return 0, fmt.Errorf("open the admin client: %w", err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	committed, err := admin.FetchOffsetsForTopics(ctx, group, name)
	if err != nil {
		return 0, fmt.Errorf("fetch the offsets of group %s: %w", group, err)
	}
	ends, err := admin.ListEndOffsets(ctx, name)
	if err != nil {
		return 0, fmt.Errorf("list the end offsets of %s: %w", name, err)
	}
	var lag int64
	ends.Each(func(end kadm.ListedOffset) {
		at := int64(0)
		if o, ok := committed.Lookup(name, end.Partition); ok && o.At > 0 {
			at = o.At
		}
		lag += end.Offset - at
	})
	return lag, nil
}
