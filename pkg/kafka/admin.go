package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/pause"
	"github.com/znshub/znshub/proto/topic"
)

// Admin creates topics, checks them and asks about them. It is safe for concurrent use. Every call ends with its context.
type Admin struct {
	client *kgo.Client
	admin  *kadm.Client
}

// NewAdmin returns an Admin of the cluster that opts lead to. It reaches no broker yet.
func NewAdmin(opts ...kgo.Opt) (*Admin, error) {
	client, err := kgo.NewClient(append(patience(), opts...)...)
	if err != nil {
		return nil, fmt.Errorf("new admin: %w", err)
	}
	return AdminOf(client), nil
}

// AdminOf returns an Admin that asks through a client that somebody else closes.
func AdminOf(client *kgo.Client) *Admin { return &Admin{client, kadm.NewClient(client)} }

// Close ends the connections.
func (a *Admin) Close() { a.client.Close() }

// ErrReplication is wrapped by the error of [Admin.Ensure] when there are not as many brokers as replicas were asked for.
var ErrReplication error = kerr.InvalidReplicationFactor

// Ensure creates the topics that do not exist, waits until they have leaders, and returns their names. Topics that exist
// are left as they are: Check tells what is wrong with them. partitions 0 means topic.DefaultPartitions; replication 0
// means 3, or as many as there are brokers when they are fewer. With 3 replicas or more two of them must confirm every
// write (min.insync.replicas).
func (a *Admin) Ensure(ctx context.Context, specs []topic.Spec, partitions int32, replication int16) (created []string, err error) {
	if partitions == 0 {
		partitions = topic.DefaultPartitions
	}
	if replication == 0 {
		brokers, err := a.admin.ListBrokers(ctx)
		if err != nil {
			return nil, fmt.Errorf("count the brokers: %w", err)
		}
		replication = int16(min(3, len(brokers)))
	}
	for _, s := range specs {
		settings := make(map[string]*string)
		for _, c := range s.Settings() {
			settings[c.Key] = &c.Value
		}
		if replication >= 3 {
			settings["min.insync.replicas"] = new("2")
		}
		answer, err := a.admin.CreateTopic(ctx, partitions, replication, settings, s.Name)
		switch {
		case errors.Is(err, kerr.TopicAlreadyExists):
		case err != nil:
			return created, fmt.Errorf("create topic %s: %w", s.Name, errors.Join(err, errorText(answer.ErrMessage)))
		default:
			created = append(created, s.Name)
		}
	}
	return created, a.waitForLeaders(ctx, created, partitions)
}

// errorText is the broker's own explanation, nil when it gave none.
func errorText(s string) error {
	if s == "" {
		return nil
	}
	return errors.New(s)
}

// waitForLeaders waits until every partition of the topics can be written: right after their creation brokers refuse.
func (a *Admin) waitForLeaders(ctx context.Context, names []string, partitions int32) error {
	for len(names) > 0 {
		topics, err := a.admin.ListTopics(ctx, names...)
		if err != nil {
			return fmt.Errorf("wait for the new topics: %w", err)
		}
		missing := ""
		for _, name := range names {
			led := int32(0)
			for _, p := range topics[name].Partitions {
				if p.Leader >= 0 && p.Err == nil {
					led++
				}
			}
			if led < partitions {
				missing = name
			}
		}
		if missing == "" {
			return nil
		}
		if !pause.For(ctx, 50*time.Millisecond) {
			return fmt.Errorf("topic %s has partitions without a leader: %w", missing, context.Cause(ctx))
		}
	}
	return nil
}

// Delete removes topics and everything in them. Topics that do not exist are no error.
func (a *Admin) Delete(ctx context.Context, names ...string) error {
	answers, err := a.admin.DeleteTopics(ctx, names...)
	if err != nil {
		return fmt.Errorf("delete topics: %w", err)
	}
	var problems []error
	for name, r := range answers {
		if r.Err != nil && !errors.Is(r.Err, kerr.UnknownTopicOrPartition) {
			problems = append(problems, fmt.Errorf("delete topic %s: %w", name, r.Err))
		}
	}
	return errors.Join(problems...)
}

// TopicInfo is a topic as it is.
type TopicInfo struct {
	Name        string
	ID          [16]byte // another id under the same name is another topic
	Partitions  int32
	Replication int // of the partition with the fewest replicas
}

// Topics describes the topics of these names, without those that do not exist.
func (a *Admin) Topics(ctx context.Context, names ...string) (map[string]TopicInfo, error) {
	if len(names) == 0 {
		return map[string]TopicInfo{}, nil // kadm would list all
	}
	details, err := a.admin.ListTopics(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("look up topics: %w", err)
	}
	found := make(map[string]TopicInfo, len(details))
	for name, d := range details {
		if errors.Is(d.Err, kerr.UnknownTopicOrPartition) {
			continue
		}
		if d.Err != nil {
			return nil, fmt.Errorf("look up topic %s: %w", name, d.Err)
		}
		info := TopicInfo{Name: name, ID: d.ID, Partitions: int32(len(d.Partitions))}
		for _, p := range d.Partitions {
			if n := len(p.Replicas); info.Replication == 0 || n < info.Replication {
				info.Replication = n
			}
		}
		found[name] = info
	}
	return found, nil
}

// StartOffsets returns the oldest offset of each partition of a topic.
func (a *Admin) StartOffsets(ctx context.Context, name string) (map[int32]int64, error) {
	l, err := look(ctx, a.admin, name, nil)
	return l.starts, err
}

// EndOffsets returns the high watermark of each partition of a topic: the offset that the next record gets. Records of
// open transactions are below it.
func (a *Admin) EndOffsets(ctx context.Context, name string) (map[int32]int64, error) {
	l, err := look(ctx, a.admin, name, nil)
	return l.ends, err
}

// OffsetsAt returns for each partition of a topic the offset of the first record whose time is not before t, and the end
// where there is none.
func (a *Admin) OffsetsAt(ctx context.Context, name string, t time.Time) (map[int32]int64, error) {
	l, err := look(ctx, a.admin, name, nil)
	if err != nil {
		return nil, err
	}
	return FromTime(t).resolve(ctx, a.admin, name, l)
}

// Group is a consumer group as it is.
type Group struct {
	Name    string
	State   string // Stable, Empty, PreparingRebalance …; Dead for one that does not exist
	Next    bool   // it uses the group protocol of KIP-848: the brokers decide session timeout and heartbeats
	Members []Member
	// Committed holds the group's offsets per topic and partition.
	Committed map[string]map[int32]int64
}

// Member is one member of a Group.
type Member struct {
	ID         string
	ClientID   string
	Host       string
	Partitions map[string][]int32 // per topic
}

// Group describes a consumer group of either protocol. While no coordinator is there, as on a cluster whose first group
// this is, it asks again until ctx ends.
func (a *Admin) Group(ctx context.Context, name string) (Group, error) {
	for {
		g, err := a.group(ctx, name)
		if !errors.Is(err, kerr.CoordinatorNotAvailable) && !errors.Is(err, kerr.CoordinatorLoadInProgress) && !errors.Is(err, kerr.NotCoordinator) {
			return g, err
		}
		if !pause.For(ctx, 200*time.Millisecond) {
			return g, err
		}
	}
}

func (a *Admin) group(ctx context.Context, name string) (Group, error) {
	g := Group{Name: name, Committed: make(map[string]map[int32]int64)}
	offsets, err := a.admin.FetchOffsets(ctx, name)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return g, fmt.Errorf("fetch the offsets of group %s: %w", name, err)
	}
	offsets.Each(func(o kadm.OffsetResponse) {
		if o.Err != nil || o.At < 0 {
			return
		}
		if g.Committed[o.Topic] == nil {
			g.Committed[o.Topic] = make(map[int32]int64)
		}
		g.Committed[o.Topic][o.Partition] = o.At
	})
	// A group of the consumer protocol (KIP-848) answers this one only; a classic group refuses it.
	next, err := a.admin.DescribeConsumerGroups(ctx, name)
	if d, ok := next[name]; err == nil && ok && d.Err == nil {
		g.State, g.Next = d.State, true
		for _, m := range d.Members {
			g.Members = append(g.Members, Member{ID: m.MemberID, ClientID: m.ClientID, Host: m.ClientHost, Partitions: lists(m.Assignment)})
		}
		return g, nil
	}
	classic, err := a.admin.DescribeGroups(ctx, name)
	if err != nil {
		return g, fmt.Errorf("describe group %s: %w", name, err)
	}
	d := classic[name]
	if d.Err != nil && !errors.Is(d.Err, kerr.GroupIDNotFound) {
		return g, fmt.Errorf("describe group %s: %w", name, d.Err)
	}
	g.State = d.State
	if g.State == "" {
		g.State = "Dead"
	}
	for _, m := range d.Members {
		member := Member{ID: m.MemberID, ClientID: m.ClientID, Host: m.ClientHost}
		if assigned, ok := m.Assigned.AsConsumer(); ok {
			member.Partitions = make(map[string][]int32)
			for _, t := range assigned.Topics {
				member.Partitions[t.Topic] = t.Partitions
			}
		}
		g.Members = append(g.Members, member)
	}
	return g, nil
}

func lists(s kadm.TopicsSet) map[string][]int32 {
	out := make(map[string][]int32, len(s))
	for name, set := range s {
		out[name] = slices.Sorted(maps.Keys(set))
	}
	return out
}
