package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// BrokerState is what one broker says of itself.
type BrokerState struct {
	ID      int32
	Version string // as guessed from what it understands: "v4.1"
	// Features holds, for each feature, the level that the cluster has in force and the highest that this broker knows.
	Features map[string]Feature
}

// Feature is a level of a cluster's feature, 0 for off.
type Feature struct{ Finalized, Supported int16 }

// Features returns the features that a broker's answer tells, by name.
func Features(answer *kmsg.ApiVersionsResponse) map[string]Feature {
	features := map[string]Feature{}
	for _, f := range answer.SupportedFeatures {
		features[f.Name] = Feature{Supported: f.MaxVersion}
	}
	for _, f := range answer.FinalizedFeatures {
		features[f.Name] = Feature{Finalized: f.MaxVersionLevel, Supported: features[f.Name].Supported}
	}
	return features
}

// BrokerStates asks every broker, in the order of their ids.
func (a *Admin) BrokerStates(ctx context.Context) ([]BrokerState, error) {
	versions, err := a.admin.ApiVersions(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the brokers for their versions: %w", err)
	}
	var states []BrokerState
	for _, v := range versions.Sorted() {
		if v.Err != nil {
			return nil, fmt.Errorf("ask broker %d for its version: %w", v.NodeID, v.Err)
		}
		states = append(states, BrokerState{ID: v.NodeID, Version: v.VersionGuess(), Features: Features(v.Raw())})
	}
	return states, nil
}

// BrokerSettings returns the settings of each broker, its defaults among them. A setting that it does not tell is
// absent.
func (a *Admin) BrokerSettings(ctx context.Context) (map[int32]map[string]string, error) {
	brokers, err := a.admin.ListBrokers(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the brokers: %w", err)
	}
	answers, err := a.admin.DescribeBrokerConfigs(ctx, brokers.NodeIDs()...)
	if err != nil {
		return nil, fmt.Errorf("ask for the brokers' settings: %w", err)
	}
	found := make(map[int32]map[string]string, len(answers))
	for _, answer := range answers {
		if answer.Err != nil {
			return nil, fmt.Errorf("ask for the settings of broker %s: %w", answer.Name, answer.Err)
		}
		id, err := strconv.ParseInt(answer.Name, 10, 32)
		if err != nil {
			continue
		}
		found[int32(id)] = make(map[string]string, len(answer.Configs))
		for _, c := range answer.Configs {
			if c.Value != nil {
				found[int32(id)][c.Key] = *c.Value
			}
		}
	}
	return found, nil
}

// GroupSettings returns the settings of a consumer group, those that it takes over from the brokers among them. It is
// empty where the brokers have no such settings.
func (a *Admin) GroupSettings(ctx context.Context, group string) (map[string]string, error) {
	resource := kmsg.NewDescribeConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeGroupConfig, group
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Resources = append(req.Resources, resource)
	resp, err := req.RequestWith(ctx, a.client)
	if err != nil {
		return nil, fmt.Errorf("ask for the settings of group %s: %w", group, err)
	}
	found := map[string]string{}
	for _, r := range resp.Resources {
		err := kerr.ErrorForCode(r.ErrorCode)
		if errors.Is(err, kerr.InvalidRequest) || errors.Is(err, kerr.UnsupportedVersion) {
			return found, nil
		}
		if err != nil {
			return nil, fmt.Errorf("ask for the settings of group %s: %w", group, err)
		}
		for _, c := range r.Configs {
			if c.Value != nil {
				found[c.Name] = *c.Value
			}
		}
	}
	return found, nil
}

// ErrNotTold is wrapped by the error of a question that these brokers do not answer.
var ErrNotTold = errors.New("these brokers do not tell")

// ControllerTime returns what the active controller's clock shows and how long the answer took: it was read within
// that time before the return. Nothing is written for it: the controller tells when each follower last fetched, and of
// itself the present time.
func (a *Admin) ControllerTime(ctx context.Context) (at time.Time, took time.Duration, err error) {
	req := kmsg.NewPtrDescribeQuorumRequest()
	partition := kmsg.NewDescribeQuorumRequestTopicPartition()
	quorum := kmsg.NewDescribeQuorumRequestTopic()
	quorum.Topic, quorum.Partitions = "__cluster_metadata", []kmsg.DescribeQuorumRequestTopicPartition{partition}
	req.Topics = append(req.Topics, quorum)
	versions, err := a.admin.ApiVersions(ctx)
	if err != nil {
		return at, 0, fmt.Errorf("ask the brokers for their versions: %w", err)
	}
	for _, v := range versions {
		if _, ok := v.KeyMaxVersion(req.Key()); !ok {
			return at, 0, fmt.Errorf("ask the controller for its time: %w", ErrNotTold)
		}
	}
	began := time.Now()
	resp, err := req.RequestWith(ctx, a.client)
	took = time.Since(began)
	if err != nil {
		return at, took, fmt.Errorf("ask the controller for its time: %w", err)
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return at, took, fmt.Errorf("ask the controller for its time: %w", err)
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			for _, voter := range p.CurrentVoters {
				if voter.ReplicaID == p.LeaderID && voter.LastFetchTimestamp > 0 {
					return time.UnixMilli(voter.LastFetchTimestamp), took, nil
				}
			}
		}
	}
	return at, took, fmt.Errorf("ask the controller for its time: %w", ErrNotTold)
}

// LatestTime returns the greatest time that a record of the topic carries; zero when it is empty.
func (a *Admin) LatestTime(ctx context.Context, name string) (time.Time, error) {
	listed, err := a.admin.ListMaxTimestampOffsets(ctx, name)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask for the latest time in %s: %w", name, err)
	}
	var latest int64
	for _, o := range listed[name] {
		if o.Err != nil {
			return time.Time{}, fmt.Errorf("ask for the latest time in %s/%d: %w", name, o.Partition, o.Err)
		}
		latest = max(latest, o.Timestamp)
	}
	if latest <= 0 {
		return time.Time{}, nil
	}
	return time.UnixMilli(latest), nil
}

// StableOffsets returns the last stable offset of each partition of a topic: how far a read-committed consumer sees.
func (a *Admin) StableOffsets(ctx context.Context, name string) (map[int32]int64, error) {
	listed, err := a.admin.ListCommittedOffsets(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("ask for the stable offsets of %s: %w", name, err)
	}
	found := make(map[int32]int64, len(listed[name]))
	for _, o := range listed[name] {
		if o.Err != nil {
			return nil, fmt.Errorf("ask for the stable offset of %s/%d: %w", name, o.Partition, o.Err)
		}
		found[o.Partition] = o.Offset
	}
	return found, nil
}

// Health is how well a topic's partitions are.
type Health struct {
	Leaderless []int32 // nobody can read or write them
	UnderMin   []int32 // fewer copies in sync than min.insync.replicas: writes are refused
	Behind     []int32 // copies are missing or behind
}

// Health looks at the partitions of each topic that exists. Internal topics are among what can be asked for.
func (a *Admin) Health(ctx context.Context, names ...string) (map[string]Health, error) {
	if len(names) == 0 {
		return map[string]Health{}, nil
	}
	details, err := a.admin.ListTopicsWithInternal(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("look up topics: %w", err)
	}
	var exist []string
	for name, d := range details {
		if d.Err == nil {
			exist = append(exist, name)
		}
	}
	least := map[string]int{}
	if len(exist) > 0 {
		answers, err := a.configs(ctx, exist...)
		if err != nil {
			return nil, err
		}
		for _, answer := range answers {
			for _, c := range answer.Configs {
				if c.Key == "min.insync.replicas" && c.Value != nil {
					least[answer.Name], _ = strconv.Atoi(*c.Value) // 0: not told, nothing is below it
				}
			}
		}
	}
	found := make(map[string]Health, len(exist))
	for _, name := range exist {
		var h Health
		for _, p := range details[name].Partitions.Sorted() {
			switch {
			case p.Leader < 0:
				h.Leaderless = append(h.Leaderless, p.Partition)
			case len(p.ISR) < least[name]:
				h.UnderMin = append(h.UnderMin, p.Partition)
			case len(p.ISR) < len(p.Replicas):
				h.Behind = append(h.Behind, p.Partition)
			}
		}
		found[name] = h
	}
	return found, nil
}

// Copies returns replicas and min.insync.replicas of a topic, which may be one of Kafka's own, and false when it does
// not exist yet.
func (a *Admin) Copies(ctx context.Context, name string) (replicas, least int, exists bool, err error) {
	details, err := a.admin.ListTopicsWithInternal(ctx, name)
	if err != nil {
		return 0, 0, false, fmt.Errorf("look up %s: %w", name, err)
	}
	d, ok := details[name]
	switch {
	case !ok || errors.Is(d.Err, kerr.UnknownTopicOrPartition) || d.Err == nil && len(d.Partitions) == 0:
		return 0, 0, false, nil
	case d.Err != nil:
		return 0, 0, false, fmt.Errorf("look up %s: %w", name, d.Err)
	}
	for _, p := range d.Partitions {
		if n := len(p.Replicas); replicas == 0 || n < replicas {
			replicas = n
		}
	}
	answers, err := a.admin.DescribeTopicConfigs(ctx, name)
	if err != nil {
		return replicas, 0, true, fmt.Errorf("ask for the settings of %s: %w", name, err)
	}
	for _, answer := range answers {
		for _, c := range answer.Configs {
			if c.Key == "min.insync.replicas" && c.Value != nil {
				least, _ = strconv.Atoi(*c.Value)
			}
		}
	}
	return replicas, least, true, nil
}

// Command is a line for a shell with one of Kafka's own tools, for this cluster.
func (a *Admin) Command(tool, args string) string { return a.command(tool, args) }
