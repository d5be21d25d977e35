package stream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/pause"
	"github.com/znshub/znshub/proto/topic"
)

// guarded is what the guard found when Run began.
type guarded struct {
	input, ledger [16]byte // topic ids
}

// topics is what it finds at an assignment.
type topics struct {
	input, ledger struct {
		id      [16]byte
		leaders map[int32]int32
	}
}

// ledgerSettings are what the one table of topics wants of a ledger, which is the only copy of the state: they keep
// Kafka from losing parts of it, and from keeping it in a shape that cannot be read back in time.
var ledgerSettings = topic.Spec{
	Policy: topic.Compact, Retention: topic.Forever, AppendTime: true, Ledger: true,
}.Settings()

// mend is the command that every refusal names.
const mend = `run "zns topics ensure"`

// checkAtStart refuses brokers and topics that cannot keep the engine's promises. It waits for a broker that is away.
func (e *Engine) checkAtStart(ctx context.Context) error {
	for tries := 0; ; tries++ {
		err := e.checkBroker(ctx)
		var found topics
		if err == nil {
			found, err = e.checkTopics(ctx)
		}
		if err == nil {
			e.guard = guarded{input: found.input.id, ledger: found.ledger.id}
			return nil
		}
		if stop, ok := errors.AsType[*stopError](err); ok {
			return stop.err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if e.quiet.pass("guard " + err.Error()) {
			e.log.Warn("cannot look at the broker and its topics yet, trying again", "err", err)
		}
		pause.For(ctx, min(100*time.Millisecond<<min(tries, 4), time.Second))
	}
}

// checkAgain is the guard at an assignment: the topics must still be those that Run found.
func (e *Engine) checkAgain(ctx context.Context) (topics, error) {
	found, err := e.checkTopics(ctx)
	switch {
	case err != nil:
		return found, fmt.Errorf("look at the topics: %w", err)
	case found.ledger.id != e.guard.ledger:
		return found, stopf("ledger topic %s was made anew while this program runs: topic id %x was found, %x is wanted; starting from it would send everything again",
			e.cfg.Ledger, found.ledger.id, e.guard.ledger)
	case found.input.id != e.guard.input:
		return found, stopf("topic %s was made anew while this program runs: topic id %x was found, %x is wanted; restart the program if that was meant",
			e.cfg.Input, found.input.id, e.guard.input)
	}
	return found, nil
}

// checkBroker refuses a cluster without the second version of transactions (KIP-890): before it, a transaction that
// hung could take records of a later one along.
func (e *Engine) checkBroker(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := kmsg.NewPtrApiVersionsRequest().RequestWith(ctx, e.admin)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("ask for the broker's version: %w", err)
	}
	switch transactions := kafka.Features(resp)["transaction.version"]; {
	case transactions.Finalized >= 2:
		return nil
	case transactions.Supported >= 2:
		return stopf("the brokers know transaction.version 2 but it is not in force: run \"kafka-features.sh --bootstrap-server … upgrade --feature transaction.version=2\"")
	}
	return stopf("the brokers are older than Apache Kafka 4.0: transaction.version 2 (KIP-890) is wanted, and they do not know it")
}

// checkTopics looks at the input and the ledger topic. A *stopError tells what is wrong with them, any other error
// that they could not be looked at.
func (e *Engine) checkTopics(ctx context.Context) (found topics, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	meta, err := e.adm.Metadata(ctx, e.cfg.Input, e.cfg.Ledger)
	if err != nil {
		return found, err
	}
	input, ledger := meta.Topics[e.cfg.Input], meta.Topics[e.cfg.Ledger]
	for _, t := range []struct {
		role string
		name string
		kadm.TopicDetail
	}{{"input", e.cfg.Input, input}, {"ledger", e.cfg.Ledger, ledger}} {
		switch {
		case errors.Is(t.Err, kerr.UnknownTopicOrPartition) || t.Err == nil && len(t.Partitions) == 0:
			return found, stopf("%s topic %s does not exist: %s", t.role, t.name, mend)
		case errors.Is(t.Err, kerr.TopicAuthorizationFailed):
			return found, stopf("%s topic %s may not be read by this program: %w", t.role, t.name, t.Err)
		case t.Err != nil:
			return found, t.Err
		}
	}
	if len(input.Partitions) < len(ledger.Partitions) {
		return found, stopf("topic %s has %d partitions, its ledger %s has %d: partition i of the ledger belongs to partition i of the topic, so at least %d are wanted: %s",
			e.cfg.Input, len(input.Partitions), e.cfg.Ledger, len(ledger.Partitions), len(ledger.Partitions), mend)
	}
	n := int32(len(ledger.Partitions))
	if known := e.LedgerPartitions(); known != 0 && known != n {
		return found, stopf("ledger topic %s has %d partitions, %d are wanted: their number is fixed for good, it decides where each id belongs",
			e.cfg.Ledger, n, known)
	}
	if err := e.checkSettings(ctx); err != nil {
		return found, err
	}
	found.input.id, found.ledger.id = input.ID, ledger.ID
	found.ledger.leaders = map[int32]int32{}
	replicas := len(meta.Brokers)
	for _, p := range ledger.Partitions {
		found.ledger.leaders[p.Partition] = p.Leader
		replicas = min(replicas, len(p.Replicas))
	}
	if want := min(3, len(meta.Brokers)); replicas < want && e.quiet.pass("replicas") {
		e.log.Warn("the ledger is the only copy of the state and has too few replicas", "topic", e.cfg.Ledger, "replicas", replicas, "wanted", want)
	}
	e.leaders.Store(&found.ledger.leaders)
	e.ledgerParts.Store(n)
	return found, nil
}

// checkSettings compares the ledger's settings with what they must be.
func (e *Engine) checkSettings(ctx context.Context) error {
	answers, err := e.adm.DescribeTopicConfigs(ctx, e.cfg.Ledger)
	if err != nil {
		return err
	}
	answer, err := answers.On(e.cfg.Ledger, nil)
	if err == nil {
		err = answer.Err
	}
	if err != nil {
		return err
	}
	found := map[string]string{}
	for _, c := range answer.Configs {
		if c.Value != nil {
			found[c.Key] = *c.Value
		}
	}
	var wrong []string
	for _, s := range ledgerSettings {
		value, told := found[s.Key]
		if !told && s.Key != "cleanup.policy" {
			continue // an embedded broker for development does not know every setting
		}
		if !sameSetting(value, s.Value) {
			wrong = append(wrong, fmt.Sprintf("%s is %q, %q is wanted", s.Key, value, s.Value))
		}
	}
	if len(wrong) > 0 {
		return stopf("ledger topic %s has settings that could lose state: %s: %s", e.cfg.Ledger, strings.Join(wrong, "; "), mend)
	}
	return nil
}

// sameSetting compares as numbers what are numbers: a broker may write 0.1 in several ways.
func sameSetting(a, b string) bool {
	if a == b {
		return true
	}
	x, err1 := strconv.ParseFloat(a, 64)
	y, err2 := strconv.ParseFloat(b, 64)
	return err1 == nil && err2 == nil && x == y
}
