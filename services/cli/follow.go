package cli

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/services/cli/event"
)

// follower reads several topics at once, as they grow.
type follower struct {
	readers []*kafka.Reader
	batches chan batch
	cancel  context.CancelFunc
	readAll sync.WaitGroup
}

type batch struct {
	events []event.Event
	err    error
}

// follow opens the topics from start. When it returns, every record that is written from now on will be seen.
func (c *cluster) follow(ctx context.Context, topics []string, start kafka.Start) (*follower, error) {
	if err := c.require(ctx, topics...); err != nil {
		return nil, err
	}
	f := &follower{batches: make(chan batch), readers: make([]*kafka.Reader, len(topics))}
	errs := make([]error, len(topics))
	var opened sync.WaitGroup
	for i, name := range topics {
		opened.Go(func() {
			f.readers[i], errs[i] = kafka.NewReader(ctx, kafka.ReaderConfig{Client: c.opts, Topic: name, Start: start})
		})
	}
	opened.Wait()
	if err := errors.Join(errs...); err != nil {
		f.closeReaders()
		return nil, err
	}
	readCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	f.cancel = stop
	for _, r := range f.readers {
		f.readAll.Go(func() { f.read(readCtx, r) })
	}
	return f, nil
}

func (f *follower) read(ctx context.Context, r *kafka.Reader) {
	for {
		records, err := r.Poll(ctx)
		b := batch{err: err}
		for _, rec := range records {
			b.events = append(b.events, event.Decode(rec))
		}
		if len(b.events) == 0 && err == nil {
			continue
		}
		select {
		case f.batches <- b:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// together is how long Next gathers what several topics tell at about the same time.
const together = 50 * time.Millisecond

// Next waits for events and returns those of all topics that come together, in the order of their times; within one
// partition they stay in order of their offsets.
func (f *follower) Next(ctx context.Context) ([]event.Event, error) {
	var events []event.Event
	var over <-chan time.Time // nil until there is a first event
	for {
		select {
		case b := <-f.batches:
			if b.err != nil {
				return nil, b.err
			}
			if over == nil {
				over = time.After(together)
			}
			events = append(events, b.events...)
			continue
		case <-over:
		case <-ctx.Done():
			if len(events) == 0 {
				return nil, context.Cause(ctx)
			}
		}
		slices.SortStableFunc(events, func(a, b event.Event) int { return a.Record.Time.Compare(b.Record.Time) })
		return events, nil
	}
}

// Close stops reading.
func (f *follower) Close() {
	f.cancel()
	f.readAll.Wait()
	f.closeReaders()
}

func (f *follower) closeReaders() {
	for _, r := range f.readers {
		if r != nil {
			r.Close()
		}
	}
}
