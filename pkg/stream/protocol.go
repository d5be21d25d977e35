package stream

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/pause"
)

// How a member takes part in its group: values of Config.GroupProtocol.
const (
	// ProtocolAuto is ProtocolConsumer where the brokers are fit for it, else ProtocolClassic.
	ProtocolAuto = "auto"
	// ProtocolClassic is the protocol in which members distribute the partitions and choose the session timeout.
	ProtocolClassic = "classic"
	// ProtocolConsumer is that of KIP-848: the brokers distribute the partitions, and choose the session timeout.
	ProtocolConsumer = "consumer"
)

// With longer ones a dead owner's partitions wait longer than with the classic protocol, and a partition that changes
// its owner cleanly waits for the next heartbeat.
const (
	longestSession   = 10 * time.Second
	longestHeartbeat = 2 * time.Second
)

// consumerLevel is the first metadata.version of Apache Kafka 4.3. Before it, an offset commit can be refused because
// the member's epoch moved on meanwhile, and a franz-go client cannot know.
const consumerLevel = 30

// chooseProtocol decides by which protocol to join the group, and logs it with the reason. It waits for brokers that do
// not answer: members that choose differently keep each other from changing over.
func (e *Engine) chooseProtocol(ctx context.Context) error {
	const classic = "joining the group by the classic protocol"
	if e.cfg.GroupProtocol == ProtocolClassic {
		e.log.Info(classic, "why", "it is configured")
		return nil
	}
	for tries := 0; ; tries++ {
		unfit, err := e.unfitForConsumer(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && unfit == "":
			e.consumer = true
			e.log.Info("joining the group by the consumer protocol (KIP-848)", "why", "the brokers are fit for it")
			return nil
		case err == nil && e.cfg.GroupProtocol == ProtocolConsumer:
			return fmt.Errorf("the consumer protocol (KIP-848) is configured for group %s, but %s", e.cfg.Group, unfit)
		case err == nil:
			e.log.Info(classic, "why", unfit)
			return nil
		}
		if e.quiet.pass("protocol " + err.Error()) {
			e.log.Warn("cannot find out yet by which protocol to join the group, trying again", "err", err)
		}
		pause.For(ctx, min(50*time.Millisecond<<min(tries, 5), time.Second))
	}
}

// unfitForConsumer says why the consumer protocol is not to be used; empty: nothing speaks against it.
func (e *Engine) unfitForConsumer(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	versions, err := e.adm.ApiVersions(ctx)
	if err != nil {
		return "", fmt.Errorf("ask the brokers for their versions: %w", err)
	}
	for _, v := range versions.Sorted() {
		if v.Err != nil {
			return "", fmt.Errorf("ask broker %d for its version: %w", v.NodeID, v.Err)
		}
		features := kafka.Features(v.Raw())
		switch {
		case features["metadata.version"].Supported < consumerLevel:
			return fmt.Sprintf("broker %d is older than Apache Kafka 4.3", v.NodeID), nil
		case features["group.version"].Finalized < 1:
			return "the feature group.version is not in force: run \"kafka-features.sh --bootstrap-server … upgrade --feature group.version=1\"", nil
		}
	}
	members, err := e.classicMembers(ctx)
	if err != nil {
		return "", err
	}
	if len(members) > 0 && e.cfg.GroupProtocol == ProtocolAuto {
		return "members of the group use the classic protocol; stop all of them, or configure it, to change over", nil
	}
	session, heartbeat, err := e.groupTimes(ctx)
	switch {
	case err != nil:
		return "", err
	case session == 0 || heartbeat == 0:
		return "the brokers do not tell the settings of the group; the right to describe them may be missing", nil
	case session > longestSession || heartbeat > longestHeartbeat:
		unfit := fmt.Sprintf("the brokers' session timeout for it is %v and their heartbeat interval %v: set group.consumer.session.timeout.ms=6000, group.consumer.min.session.timeout.ms=6000, group.consumer.heartbeat.interval.ms=1000 and group.consumer.min.heartbeat.interval.ms=1000",
			session, heartbeat)
		if e.cfg.GroupProtocol == ProtocolConsumer {
			e.log.Warn("partitions of a dead process will wait long", "why", unfit)
			return "", nil
		}
		return unfit, nil
	}
	return "", nil
}

// groupTimes asks for the session timeout and the heartbeat interval that the brokers have for the group; zero when
// they do not tell.
func (e *Engine) groupTimes(ctx context.Context) (session, heartbeat time.Duration, err error) {
	resource := kmsg.NewDescribeConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeGroupConfig, e.cfg.Group
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Resources = append(req.Resources, resource)
	resp, err := req.RequestWith(ctx, e.admin)
	if err != nil {
		return 0, 0, fmt.Errorf("ask for the group's settings: %w", err)
	}
	times := map[string]time.Duration{}
	for _, r := range resp.Resources {
		if err := kerr.ErrorForCode(r.ErrorCode); kerr.IsRetriable(err) {
			return 0, 0, fmt.Errorf("ask for the group's settings: %w", err)
		}
		for _, c := range r.Configs {
			if c.Value != nil {
				if n, err := strconv.Atoi(*c.Value); err == nil {
					times[c.Name] = time.Duration(n) * time.Millisecond
				}
			}
		}
	}
	return times["consumer.session.timeout.ms"], times["consumer.heartbeat.interval.ms"], nil
}
