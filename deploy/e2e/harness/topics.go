package harness

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/proto/topic"
)

// CreateTopics creates every topic of the table with the given number of partitions and one replica, as an operator
// with a one-broker cluster does, and returns when all of them can be used.
func CreateTopics(ctx context.Context, brokers []string, partitions int32) error {
	admin, err := kafka.NewAdmin(kgo.SeedBrokers(brokers...), kgo.MetadataMinAge(20*time.Millisecond))
	if err != nil {
		return err
	}
	defer admin.Close()
	if _, err := admin.Ensure(ctx, topic.Table(), partitions, 1); err != nil {
		return err
	}
	for {
		ready := true
		for _, spec := range topic.Table() {
			ends, err := admin.EndOffsets(ctx, spec.Name) // asks the leaders
			ready = ready && err == nil && len(ends) == int(partitions)
		}
		if ready {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the topics are created and have no leaders: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// ResetGroup sets a group's committed offsets of a topic back to its beginning, as kafka-consumer-groups.sh
// --reset-offsets --to-earliest does. The group must have no members.
func ResetGroup(ctx context.Context, brokers []string, group, name string) error {
	return withAdmin(brokers, func(admin *kadm.Client) error {
		start, err := admin.ListStartOffsets(ctx, name)
		if err != nil {
			return fmt.Errorf("list the start offsets of %s: %w", name, err)
		}
		if err := admin.CommitAllOffsets(ctx, group, start.Offsets()); err != nil {
			return fmt.Errorf("reset group %s: %w", group, err)
		}
		return nil
	})
}

// Lag is how many records of a topic, markers of transactions included, a group has not yet committed.
func Lag(ctx context.Context, brokers []string, group, name string) (lag int64, err error) {
	return lag, withAdmin(brokers, func(admin *kadm.Client) error {
		committed, err := admin.FetchOffsetsForTopics(ctx, group, name)
		if err != nil {
			return fmt.Errorf("fetch the offsets of group %s: %w", group, err)
		}
		ends, err := admin.ListEndOffsets(ctx, name)
		if err != nil {
			return fmt.Errorf("list the end offsets of %s: %w", name, err)
		}
		ends.Each(func(end kadm.ListedOffset) {
			at := int64(0)
			if o, ok := committed.Lookup(name, end.Partition); ok && o.At > 0 {
				at = o.At
			}
			lag += end.Offset - at
		})
		return nil
	})
}

func withAdmin(brokers []string, f func(*kadm.Client) error) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return fmt.Errorf("open the admin client: %w", err)
	}
	defer client.Close()
	return f(kadm.NewClient(client))
}
