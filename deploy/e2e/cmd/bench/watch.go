package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/proto/topic"
)

// preload publishes the requests of load to the given topic and returns them once all are on the broker.
func preload(ctx context.Context, brokers []string, name string, load *harness.Load) ([]harness.Request, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.DefaultProduceTopic(name), kgo.MaxBufferedRecords(load.Total+1),
		kgo.ProducerLinger(5*time.Millisecond), kgo.UnknownTopicRetries(100))
	if err != nil {
		return nil, fmt.Errorf("open the publisher: %w", err)
	}
	defer client.Close()
	requests := load.Requests()
	records := make([]*kgo.Record, len(requests))
	for i, q := range requests {
		value, err := proto.Marshal(load.Message(i, q))
		if err != nil {
			return nil, fmt.Errorf("encode request %d: %w", i, err)
		}
		records[i] = &kgo.Record{Key: []byte(cmp.Or(q.Key, q.ID)), Value: value}
	}
	if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return nil, fmt.Errorf("preload %s: %w", name, err)
	}
	return requests, nil
}

// watch reads what a run publishes, as a read-committed consumer that only counts.
type watch struct {
	requests []harness.Request
	readers  []*kafka.Reader
	stop     context.CancelFunc
	done     sync.WaitGroup
	complete chan struct{} // closed when every notification has an event

	mu      sync.Mutex      // guards what follows
	open    map[string]bool // ids without an end
	events  map[string]bool // ids with zns.sent or zns.failed
	unknown map[string]bool // ids with zns.unresolved
	silent  int             // ids without any event
	begin   time.Time       // the first event's own time
	end     time.Time       // when the last silent one had its event
	failed  int
	err     error
}

// newWatch begins at the present ends of the topics.
func newWatch(ctx context.Context, brokers []string, requests []harness.Request) (*watch, error) {
	runCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	w := &watch{
		requests: requests, stop: stop, complete: make(chan struct{}),
		open: make(map[string]bool, len(requests)), events: make(map[string]bool, len(requests)), unknown: map[string]bool{},
		silent: len(requests),
	}
	for _, q := range requests {
		w.open[q.ID] = true
	}
	for _, name := range []string{topic.Sent, topic.Failed, topic.Unresolved} {
		r, err := kafka.NewReader(ctx, kafka.ReaderConfig{Client: []kgo.Opt{kgo.SeedBrokers(brokers...)}, Topic: name, Start: kafka.FromEnd()})
		if err != nil {
			w.close()
			return nil, err
		}
		w.readers = append(w.readers, r)
	}
	for _, r := range w.readers {
		w.done.Go(func() { w.read(runCtx, r) })
	}
	return w, nil
}

func (w *watch) close() {
	w.stop()
	w.done.Wait()
	for _, r := range w.readers {
		r.Close()
	}
}

func (w *watch) read(ctx context.Context, r *kafka.Reader) {
	for {
		records, err := r.Poll(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			w.mu.Lock()
			w.err = errors.Join(w.err, err)
			w.mu.Unlock()
			return
		}
		w.take(records)
	}
}

func (w *watch) take(records []kafka.Record) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range records {
		r := &records[i]
		id := string(r.Key)
		if !w.open[id] {
			continue
		}
		if !w.unknown[id] {
			w.silent--
		}
		if r.Topic == topic.Unresolved {
			w.unknown[id] = true
		} else {
			delete(w.open, id)
			w.events[id] = true
			if r.Topic == topic.Failed {
				w.failed++
			}
		}
		if w.begin.IsZero() || r.Time.Before(w.begin) {
			w.begin = r.Time
		}
		w.finished(now)
	}
}

// wait returns when every notification has an event: that of its end, or zns.unresolved.
func (w *watch) wait(ctx context.Context) (time.Time, error) {
	select {
	case <-w.complete:
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.err
	if w.silent > 0 {
		err = errors.Join(err, fmt.Errorf("%d of %d notifications have no event", w.silent, len(w.requests)))
	}
	if w.failed > 0 {
		err = errors.Join(err, fmt.Errorf("%d notifications failed", w.failed))
	}
	return w.end, err
}

// first is the time that the first event names as its own.
func (w *watch) first() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.begin
}

// only says that no more than the first n requests were published.
func (w *watch) only(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, q := range w.requests[n:] {
		if w.open[q.ID] {
			delete(w.open, q.ID)
			w.silent--
		}
	}
	w.requests = w.requests[:n]
	w.finished(time.Now())
}

// finished closes complete when nothing is silent any more. mu is held.
func (w *watch) finished(now time.Time) {
	if w.silent == 0 && w.end.IsZero() {
		w.end = now
		close(w.complete)
	}
}

// unsettled counts those of the unresolved that the provider has accepted: a callback of theirs was not heard by now.
func (w *watch) unsettled(calls []harness.Call) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[string]bool{}
	for _, c := range calls {
		if w.open[c.ID] && !seen[c.ID] {
			seen[c.ID] = true
			n++
		}
	}
	return n
}

// doubted is the number of notifications that zns.unresolved ever spoke of.
func (w *watch) doubted() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.unknown)
}

// told returns the ids that any event speaks of.
func (w *watch) told() map[string]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make(map[string]bool, len(w.events))
	for _, set := range []map[string]bool{w.events, w.unknown} {
		for id := range set {
			all[id] = true
		}
	}
	return all
}

// unresolved is the number of notifications that zns.unresolved was their last event of.
func (w *watch) unresolved() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.open)
}

// inversions counts the first acceptances of notifications before which a later one of the same key was accepted.
func inversions(calls []harness.Call, requests []harness.Request) (n int) {
	rank, key := make(map[string]int64, len(requests)), make(map[string]string, len(requests))
	for _, q := range requests {
		rank[q.ID], key[q.ID] = q.Rank, q.Key
	}
	calls = slices.Clone(calls)
	slices.SortFunc(calls, func(a, b harness.Call) int { return cmp.Compare(a.Sequence, b.Sequence) })
	seen, latest := map[string]bool{}, map[string]int64{}
	for _, c := range calls {
		k, known := key[c.ID]
		if seen[c.ID] || !known || k == "" {
			continue
		}
		seen[c.ID] = true
		if last, ok := latest[k]; ok && rank[c.ID] < last {
			n++
			continue
		}
		latest[k] = rank[c.ID]
	}
	return n
}

// copies counts the messages beyond each notification's first, and the notifications of which there is neither a message
// nor an event.
func copies(calls []harness.Call, requests []harness.Request, told map[string]bool) (duplicates, lost int) {
	seen := map[string]int{}
	for _, c := range calls {
		if seen[c.ID]++; seen[c.ID] > 1 {
			duplicates++
		}
	}
	for _, q := range requests {
		if seen[q.ID] == 0 && !told[q.ID] {
			lost++
		}
	}
	return duplicates, lost
}

// named gives calls their ids that carry them as Parallel Consumer's arm does: as tracking_id, without dashes.
func named(calls []harness.Call) {
	for i := range calls {
		if c := &calls[i]; c.ID == "" && len(c.TrackingID) == 32 {
			if id, err := uuid.Parse(c.TrackingID); err == nil {
				c.ID = id.String()
			}
		}
	}
}

// inTheSocket is how long after a kill the simulator may still read what the killed process has written.
const inTheSocket = 250 * time.Millisecond

// pauseAfter is the time from the kill to the first message of the process that was started after it.
func pauseAfter(calls []harness.Call, killed time.Time) time.Duration {
	first := time.Duration(0)
	for _, c := range calls {
		if d := c.Time.Sub(killed); d > inTheSocket && (first == 0 || d < first) {
			first = d
		}
	}
	return first
}
