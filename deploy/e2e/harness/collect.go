package harness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// Collector reads the result topics and the dead letters from their beginning, as a read-committed consumer. It works
// in the background from NewCollector to Close, and outlives outages of the broker.
type Collector struct {
	client *kgo.Client
	done   sync.WaitGroup
	stop   context.CancelFunc

	mu      sync.Mutex // guards what follows
	events  map[string][]Event
	ids     map[string]map[string]bool // topic: ids seen
	failed  []*kgo.Record
	letters []*kgo.Record
	bad     []string
}

// NewCollector begins to read.
func NewCollector(brokers []string) (*Collector, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		kgo.ConsumeTopics(topic.Sent, topic.Failed, topic.Unresolved, topic.Delivered, topic.RequestedDLQ),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(250*time.Millisecond),
		kgo.MetadataMinAge(50*time.Millisecond),
	)
	if err != nil {
		return nil, fmt.Errorf("open the collector: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Collector{client: client, stop: cancel, events: map[string][]Event{}, ids: map[string]map[string]bool{}}
	c.done.Go(func() { c.run(ctx) })
	return c, nil
}

// Close ends reading.
func (c *Collector) Close() {
	c.stop()
	c.done.Wait()
	c.client.Close()
}

func (c *Collector) run(ctx context.Context) {
	for ctx.Err() == nil {
		fetches := c.client.PollFetches(ctx)
		c.mu.Lock()
		fetches.EachRecord(c.take)
		c.mu.Unlock()
	}
}

// take keeps one record. mu is held.
func (c *Collector) take(r *kgo.Record) {
	if r.Topic == topic.RequestedDLQ {
		c.letters = append(c.letters, r)
		return
	}
	e, err := decodeEvent(r)
	if err != nil {
		c.bad = append(c.bad, fmt.Sprintf("%s %d/%d: %v", r.Topic, r.Partition, r.Offset, err))
		return
	}
	if r.Topic == topic.Failed {
		c.failed = append(c.failed, r)
	}
	c.events[r.Topic] = append(c.events[r.Topic], e)
	if c.ids[r.Topic] == nil {
		c.ids[r.Topic] = map[string]bool{}
	}
	c.ids[r.Topic][e.ID] = true
}

func decodeEvent(r *kgo.Record) (Event, error) {
	e := Event{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}
	var problems error
	headers := map[string]string{}
	for _, h := range r.Headers {
		headers[h.Key] = string(h.Value)
	}
	e.EventID = headers["ce_id"]
	switch r.Topic {
	case topic.Sent:
		var m znsv1.Sent
		problems = proto.Unmarshal(r.Value, &m)
		e.ID, e.Attempt, e.MsgID, e.Time, e.Corrects = m.GetNotificationId(), m.GetAttempt(), m.GetMsgId(), m.GetEventTime().AsTime(), m.GetCorrects()
		e.Lateness = m.GetEventTime().AsTime().Sub(m.GetRequestedTime().AsTime())
	case topic.Failed:
		var m znsv1.Failed
		problems = proto.Unmarshal(r.Value, &m)
		e.ID, e.Attempt, e.Time, e.Reason, e.PossiblySent = m.GetNotificationId(), m.GetAttempt(), m.GetEventTime().AsTime(), m.GetReason(), m.GetPossiblySent()
	case topic.Unresolved:
		var m znsv1.Unresolved
		problems = proto.Unmarshal(r.Value, &m)
		e.ID, e.Attempt, e.Time, e.Cause, e.UnknownSince = m.GetNotificationId(), m.GetAttempt(), m.GetEventTime().AsTime(), m.GetCause(), m.GetUnknownSince().AsTime()
	case topic.Delivered:
		var m znsv1.Delivered
		problems = proto.Unmarshal(r.Value, &m)
		e.ID, e.Attempt, e.MsgID, e.Time = m.GetNotificationId(), m.GetAttempt(), m.GetMsgId(), m.GetEventTime().AsTime()
	}
	spec, _ := topic.Find(r.Topic)
	for name, want := range map[string]string{
		"ce_type": spec.Type, "ce_specversion": "1.0", "ce_subject": e.ID, "content-type": "application/protobuf",
	} {
		if headers[name] != want {
			problems = errors.Join(problems, fmt.Errorf("header %s is %q, want %q", name, headers[name], want))
		}
	}
	for _, name := range []string{"ce_id", "ce_source", "ce_time", "traceparent"} {
		if headers[name] == "" {
			problems = errors.Join(problems, fmt.Errorf("header %s is missing", name))
		}
	}
	if string(r.Key) != e.ID {
		problems = errors.Join(problems, fmt.Errorf("key is %q, want the notification_id %q", r.Key, e.ID))
	}
	return e, problems
}

// Counts is how many different ids each topic has shown so far.
type Counts struct {
	Sent, Failed, Unresolved, Delivered int
	Ended                               int // sent or failed
	Open                                int // unresolved and neither sent nor failed
	Letters                             int // records, not ids
}

// Counts returns the current numbers.
func (c *Collector) Counts() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := Counts{
		Sent: len(c.ids[topic.Sent]), Failed: len(c.ids[topic.Failed]), Unresolved: len(c.ids[topic.Unresolved]),
		Delivered: len(c.ids[topic.Delivered]), Letters: len(c.letters),
	}
	n.Ended = n.Sent
	for id := range c.ids[topic.Failed] {
		if !c.ids[topic.Sent][id] {
			n.Ended++
		}
	}
	for id := range c.ids[topic.Unresolved] {
		if !c.ids[topic.Sent][id] && !c.ids[topic.Failed][id] {
			n.Open++
		}
	}
	return n
}

// Wait returns nil as soon as done says so of the counts, and an error with the last counts when ctx ends.
func (c *Collector) Wait(ctx context.Context, what string, done func(Counts) bool) error {
	for {
		n := c.Counts()
		if done(n) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w; so far %+v", what, context.Cause(ctx), n)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Events returns a copy of what a topic showed so far.
func (c *Collector) Events(topic string) []Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events[topic])
}

// Has reports whether a topic showed an event of that id.
func (c *Collector) Has(topic, id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ids[topic][id]
}

// Letters returns the records of the dead letter topic so far.
func (c *Collector) Letters() []*kgo.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.letters)
}

// Failed returns the records of zns.failed so far, as they are.
func (c *Collector) Failed() []*kgo.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.failed)
}

// Err tells of records that no consumer could use: undecodable, or without the promised headers.
func (c *Collector) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.bad) == 0 {
		return nil
	}
	return fmt.Errorf("%d result records break the contract, the first: %s", len(c.bad), c.bad[0])
}
