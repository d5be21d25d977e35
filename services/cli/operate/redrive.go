package operate

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/notification"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/sender"
)

// Candidate is something that may be redriven, or why it may not.
type Candidate struct {
	ID      string // notification_id; empty when a dead letter does not tell
	Reason  string // why it failed, or became a dead letter
	Code    int32  // Zalo's, of a failure
	At      time.Time
	From    string // where it stands: "notification.requested.dlq[3]@17"
	Refused string // why it is not redriven; empty: it may be

	record kafka.Record // what would be published
	item   *Item        // of a failure
}

// Failures reads the requests of failed items from the input topic and says which of them may be redriven.
func Failures(ctx context.Context, log Log, input string, items []*Item, redrive uuid.UUID, now time.Time) ([]*Candidate, error) {
	out := make([]*Candidate, len(items))
	wanted := map[place]*Candidate{}
	for n, i := range items {
		c := &Candidate{
			ID: i.ID.String(), Reason: name(i.Failure.String(), "FAILURE_REASON_"), Code: i.Code, At: i.Finished, item: i,
			From: fmt.Sprintf("%s[%d]@%d", input, i.Partition, i.InputOffset),
		}
		out[n] = c
		if !sender.Reopenable(i.Failure) || i.Open > 0 {
			c.Refused = "perhaps sent: nobody knows"
			continue
		}
		c.Refused = "its request is no longer in " + input
		wanted[place{i.Partition, i.InputOffset}] = c
	}
	err := fetch(ctx, log, input, wanted, func(c *Candidate, r kafka.Record) {
		r.Topic = input
		c.record = sender.RedriveRecord(r, sender.Redrive{ID: redrive, Offset: c.item.InputOffset, Attempt: c.item.Attempt})
		c.Refused = c.unfit(r, now)
	})
	return out, err
}

// place is where a record stands in its topic.
type place struct {
	partition int32
	offset    int64
}

// fetch reads the records at the wanted places.
func fetch(ctx context.Context, log Log, name string, wanted map[place]*Candidate, f func(*Candidate, kafka.Record)) error {
	if len(wanted) == 0 {
		return nil
	}
	starts := map[int32]int64{}
	for at := range wanted {
		if start, ok := starts[at.partition]; !ok || at.offset < start {
			starts[at.partition] = at.offset
		}
	}
	_, err := log.Read(ctx, name, slices.Collect(maps.Keys(starts)), kafka.FromOffsets(starts), func(r kafka.Record) {
		if c := wanted[place{r.Partition, r.Offset}]; c != nil {
			f(c, r)
		}
	})
	return err
}

// unfit says why the request as it stands in the input cannot be redriven; empty: it can.
func (c *Candidate) unfit(r kafka.Record, now time.Time) string {
	req, err := notification.Decode(r)
	if err != nil {
		return "its request cannot be read"
	}
	id, ok := notification.ID(req)
	hash := notification.PayloadHash(req)
	switch {
	case !ok || id != c.item.ID || !bytes.Equal(hash[:], c.item.Hash):
		return "another request stands at its place in the input: the topic was made anew"
	case expired(req, now):
		return "it expired at " + req.GetExpireTime().AsTime().UTC().Format(time.RFC3339)
	}
	return ""
}

func expired(req *notificationv1.NotificationRequested, now time.Time) bool {
	return req.GetExpireTime() != nil && req.GetExpireTime().AsTime().Before(now)
}

// Headers of dead letters, see package sender.
const (
	dlqReason    = "zns-dlq-reason"
	dlqTopic     = "zns-dlq-topic"
	dlqPartition = "zns-dlq-partition"
	dlqOffset    = "zns-dlq-offset"
	dlqSize      = "zns-dlq-value-size"
)

// Letter is a dead letter, as far as a filter needs it.
type Letter struct {
	ID     string
	Source string
	Reason string
	At     time.Time
}

// DeadLetters reads the dead letters of an input topic that keep accepts, and says which may be published again.
func DeadLetters(ctx context.Context, log Log, input string, since time.Time, keep func(Letter) bool, redrive uuid.UUID) ([]*Candidate, error) {
	start := kafka.FromStart()
	if !since.IsZero() {
		start = kafka.FromTime(since)
	}
	var out []*Candidate
	missing := map[string]map[place]*Candidate{} // by topic: those whose value was not kept
	_, err := log.Read(ctx, topic.DLQOf(input), nil, start, func(r kafka.Record) {
		l := Letter{Reason: text(r, dlqReason), At: r.Time}
		req := orPartial(notification.Decode(r))
		l.Source = req.GetSource()
		if id, ok := notification.ID(req); ok && req != nil {
			l.ID = id.String()
		}
		if !keep(l) {
			return
		}
		c := &Candidate{ID: l.ID, Reason: l.Reason, At: l.At, From: fmt.Sprintf("%s[%d]@%d", r.Topic, r.Partition, r.Offset)}
		out = append(out, c)
		origin, at, ok := originOf(r)
		if !ok {
			c.Refused = "it does not tell where it came from"
			return
		}
		publish := func(c *Candidate, value kafka.Record) {
			value.Topic = origin
			c.record = sender.RedriveRecord(value, sender.Redrive{ID: redrive, Offset: at.offset})
			c.Refused = ""
		}
		if _, cut := r.Header(dlqSize); !cut {
			publish(c, r)
			return
		}
		c.Refused = fmt.Sprintf("its value was too large to be kept, and %s[%d]@%d is gone", origin, at.partition, at.offset)
		if missing[origin] == nil {
			missing[origin] = map[place]*Candidate{}
		}
		missing[origin][at] = c
	})
	if err != nil {
		return nil, err
	}
	for origin, wanted := range missing {
		err := fetch(ctx, log, origin, wanted, func(c *Candidate, r kafka.Record) {
			r.Topic = origin
			c.record = sender.RedriveRecord(r, sender.Redrive{ID: redrive, Offset: r.Offset})
			c.Refused = ""
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(out, func(a, b *Candidate) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.From, b.From)) })
	return out, nil
}

// orPartial is what could be read of a request that breaks the rules.
func orPartial(req *notificationv1.NotificationRequested, err error) *notificationv1.NotificationRequested {
	if broken, ok := errors.AsType[*notification.Error](err); ok && broken.Partial != nil {
		return broken.Partial
	}
	return req
}

// originOf is where the request of a dead letter was written.
func originOf(r kafka.Record) (name string, at place, ok bool) {
	name = text(r, dlqTopic)
	_, pErr := fmt.Sscanf(text(r, dlqPartition), "%d", &at.partition)
	_, oErr := fmt.Sscanf(text(r, dlqOffset), "%d", &at.offset)
	return name, at, name != "" && pErr == nil && oErr == nil
}

func text(r kafka.Record, header string) string {
	value, _ := r.Header(header)
	return string(value)
}

// Publisher publishes what is redriven.
type Publisher struct {
	Client   []kgo.Opt
	Rate     float64             // a second; 0: as fast as Kafka takes it
	Progress func(done, all int) // may be nil
}

// publishBatch is how many are written together.
const publishBatch = 200

// Publish writes the candidates that are not refused and returns how many. After an error running it again is safe: no
// failure is reopened twice.
func (p *Publisher) Publish(ctx context.Context, candidates []*Candidate) (int, error) {
	var records []kafka.Record
	for _, c := range candidates {
		if c.Refused == "" {
			records = append(records, c.record)
		}
	}
	w, err := kafka.NewWriter(p.Client...)
	if err != nil {
		return 0, err
	}
	defer w.Close()
	size := publishBatch
	if p.Rate > 0 {
		size = max(1, min(size, int(p.Rate/10)))
	}
	began, done := time.Now(), 0
	for part := range slices.Chunk(records, size) {
		if p.Rate > 0 {
			due := began.Add(time.Duration(float64(done) / p.Rate * float64(time.Second)))
			select {
			case <-time.After(time.Until(due)):
			case <-ctx.Done():
				return done, ctx.Err()
			}
		}
		if err := write(ctx, w, part); err != nil {
			return done, fmt.Errorf("publish to %s: %w", part[0].Topic, err)
		}
		done += len(part)
		if p.Progress != nil {
			p.Progress(done, len(records))
		}
	}
	return done, nil
}

func write(ctx context.Context, w *kafka.Writer, records []kafka.Record) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return w.Write(ctx, records...)
}

// name is an enum's name without its prefix.
func name(full, prefix string) string {
	if len(full) > len(prefix) && full[:len(prefix)] == prefix {
		return full[len(prefix):]
	}
	return full
}
