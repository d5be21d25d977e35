package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
)

// Kafka 4.3.1 drops the markers of a transaction for partitions that have no leader when its coordinator decides: it
// takes them for deleted. The transaction then hangs there: it is over for its coordinator and open for readers. Worse,
// the next transaction of the same producer that writes to such a partition joins it, and its end becomes that of
// both: committed records vanish when the later one is aborted.

const (
	// mendTime bounds looking for what hangs under the tick lock, and reading the coordinators' log.
	mendTime = 3 * callTimeout
	// Brokers give up the partitions of one that was silent for 9 s (broker.session.timeout.ms), and take its successor no
	// sooner. A lost connection may show only when the next transaction writes, and then its writes are repeated for
	// callTimeout. Both together are shorter than those 9 s: what began so soon after the one before never meets a
	// partition that has lost its leader since.
	quietFor = 3 * time.Second
)

// errHangs says that an earlier transaction must end first.
var errHangs = errors.New("an earlier transaction of this producer is open on a partition")

// place is where records go: a topic's partition, or the topic (-1) where the client chooses the partition.
type place struct {
	topic     string
	partition int32
}

// endHanging ends a transaction that hangs as its coordinator decided. An error may be mended by trying again; what
// only a person can do is logged, and looked at again a while later.
func (e *Engine) endHanging(ctx context.Context, t kafka.OpenTransaction) (ended bool, err error) {
	person := "hangs " + t.String()
	if e.quiet.recent(person) {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, mendTime)
	defer cancel()
	admin := kafka.AdminOf(e.admin)
	id, decision := "", "unknown"
	found, err := admin.Decisions(ctx, []kafka.OpenTransaction{t})
	if err == nil && found[0] != nil {
		id, decision = found[0].ID, found[0].String()
		err = admin.EndTransaction(ctx, t, *found[0])
	}
	log := e.log.With("topic", t.Topic, "partition", t.Partition, "start_offset", t.Start, "transactional_id", id, "decision", decision)
	switch {
	case err == nil && decision != "unknown":
		log.Warn("the brokers had dropped the marker of a transaction: ended it as its coordinator had decided")
		return true, nil
	case err != nil && !mayNot(err):
		return false, err
	}
	e.quiet.pass(person)
	log.Error("a transaction whose markers the brokers have dropped holds up a partition: it must be ended as its coordinator decided; aborting one that was committed sends messages twice",
		"producer_id", t.ProducerID, "err", err, "fix", "zns transactions end")
	return false, nil
}

// mayNot reports whether err says that this program has not the right to do what was asked.
func mayNot(err error) bool {
	for _, no := range []error{
		kafka.ErrMayNotEnd, kerr.TopicAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed, kerr.UnknownTopicOrPartition,
	} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// alone makes sure that no earlier transaction of the producer of tx is open on the topics that tx writes to. It asks
// the brokers only where there is a reason: the producer is new, a connection was lost, a call failed, or the one
// before began long ago. mu is held.
func (e *Engine) alone(ctx context.Context, tx *Tx) error {
	p := tx.by
	if losses := e.losses.Load(); losses != p.losses || time.Since(p.began) > quietFor {
		p.losses = losses
		clear(p.sure)
	}
	var places []place
	add := func(at place) {
		if !p.sure[at] {
			p.sure[at], p.wrote[at] = true, true
			places = append(places, at)
		}
	}
	var latest place
	for _, r := range tx.records {
		if at := (place{r.Topic, r.Partition}); at != latest {
			latest = at
			add(at)
		}
	}
	add(place{kafka.ConsumerOffsets, -1}) // offsets that were aborted would be committed beside those of tx
	if len(places) == 0 {
		return nil
	}
	return e.ownEnded(ctx, p, places)
}

// aloneWhileIdle does so after a loss of connections for producers that have nothing to write: who reads their topics
// waits. It holds the tick lock while brokers that are away do not answer: not at every tick.
func (e *Engine) aloneWhileIdle(ctx context.Context) {
	const failed = "look for earlier transactions while idle"
	if e.quiet.recent(failed) {
		return
	}
	for _, p := range e.producers {
		losses := e.losses.Load()
		if p.client == nil || losses == p.losses || len(p.wrote) == 0 || time.Since(p.ended) < e.cfg.Pulse {
			continue
		}
		if err := e.ownEnded(ctx, p, slices.Collect(maps.Keys(p.wrote))); err != nil {
			e.quiet.pass(failed)
			e.note(p, "look for earlier transactions", err)
			return
		}
		p.losses = losses
	}
}

// over notes that a transaction of p has ended, committed or not.
func (p *producer) over(tx *Tx, err error) {
	p.began, p.ended = tx.began, time.Now()
	if err != nil {
		clear(p.sure)
	}
}

// ownEnded looks whether transactions of p are open there, and ends those that hang. mu is held.
func (e *Engine) ownEnded(ctx context.Context, p *producer, places []place) (err error) {
	defer func() {
		if err != nil {
			clear(p.sure)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, mendTime)
	defer cancel()
	id, _, err := p.client.ProducerID(ctx)
	if err != nil {
		return err
	}
	topics := map[string][]int32{} // none: all partitions
	for _, at := range places {
		partitions, known := topics[at.topic]
		switch {
		case at.topic == kafka.ConsumerOffsets:
			group, err := e.offsetsPartition(ctx)
			switch {
			case errors.Is(err, kerr.TopicAuthorizationFailed):
				e.mayNotLook(at.topic, err)
			case errors.Is(err, kerr.UnknownTopicOrPartition): // a stand-in for Kafka without this topic
			case err != nil:
				return err
			default:
				topics[at.topic] = []int32{group}
			}
		case at.partition < 0 || known && len(partitions) == 0:
			topics[at.topic] = nil
		default:
			topics[at.topic] = append(partitions, at.partition)
		}
	}
	for name, partitions := range topics {
		if err := e.endedOn(ctx, id, name, partitions); err != nil {
			return err
		}
	}
	return nil
}

// endedOn does that for one topic.
func (e *Engine) endedOn(ctx context.Context, producer int64, name string, partitions []int32) error {
	for mended := false; ; mended = true {
		look, cancel := context.WithTimeout(ctx, callTimeout)
		open, err := kafka.AdminOf(e.admin).OpenBy(look, producer, name, partitions...)
		cancel()
		switch {
		case errors.Is(err, kerr.TopicAuthorizationFailed):
			e.mayNotLook(name, err)
			return nil
		case err != nil:
			return fmt.Errorf("look for open transactions: %w", err)
		case len(open) == 0:
			return nil
		case mended || !open[0].Hangs(): // its markers are being written
			return fmt.Errorf("%s: %w", open[0], errHangs)
		}
		for _, t := range open {
			if !t.Hangs() {
				continue
			}
			ended, err := e.endHanging(ctx, t)
			if err != nil {
				return err
			}
			if !ended {
				return fmt.Errorf("%s: %w", t, errHangs)
			}
		}
	}
}

func (e *Engine) mayNotLook(name string, err error) {
	if e.quiet.pass("may not look " + name) {
		e.log.Warn("cannot look whether transactions of this program hang on a topic that it writes to: it needs READ there", "topic", name, "err", err)
	}
}

// lossCounter counts lost connections.
type lossCounter struct{ e *Engine }

var _ kgo.HookBrokerDisconnect = lossCounter{}

// OnBrokerDisconnect implements [kgo.HookBrokerDisconnect].
func (c lossCounter) OnBrokerDisconnect(kgo.BrokerMetadata, net.Conn) { c.e.losses.Add(1) }
