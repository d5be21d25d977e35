package demo

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/cli/event"
)

// book keeps what the topics tell about the cases, as a read-committed consumer sees it.
type book struct {
	source  string
	changed chan struct{} // one slot: something was added
	failed  chan error    // the first reader that could not go on

	cancel  context.CancelFunc
	readAll sync.WaitGroup
	readers []*kafka.Reader

	mu       sync.Mutex // guards outcomes
	outcomes map[string]*Outcome
}

// openBook begins to read the topics where they end now.
func openBook(ctx context.Context, opts []kgo.Opt, source string, cases []scenario) (*book, error) {
	b := &book{source: source, changed: make(chan struct{}, 1), failed: make(chan error, len(bookTopics)), outcomes: map[string]*Outcome{}}
	for i := range cases {
		b.outcomes[cases[i].id(source).String()] = &Outcome{}
	}
	readCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b.cancel = cancel
	for _, name := range bookTopics {
		r, err := kafka.NewReader(ctx, kafka.ReaderConfig{Client: opts, Topic: name, Start: kafka.FromEnd()})
		if err != nil {
			b.close()
			return nil, err
		}
		b.readers = append(b.readers, r)
		b.readAll.Go(func() { b.read(readCtx, r) })
	}
	return b, nil
}

func (b *book) read(ctx context.Context, r *kafka.Reader) {
	for {
		records, err := r.Poll(ctx)
		if err != nil {
			if ctx.Err() == nil {
				b.failed <- err
			}
			return
		}
		for _, rec := range records {
			b.add(rec)
		}
		select {
		case b.changed <- struct{}{}:
		default:
		}
	}
}

func (b *book) add(r kafka.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.Topic == topic.RequestedLedger {
		if o := b.outcomes[string(r.Key)]; o != nil && r.Value != nil {
			entry := &ledgerv1.Entry{}
			if proto.Unmarshal(r.Value, entry) == nil {
				o.Entry = entry
			}
		}
		return
	}
	e := event.Decode(r)
	if o := b.outcomes[e.ID]; o != nil {
		o.add(e)
	}
}

// outcome is a copy of what is known about c.
func (b *book) outcome(c *scenario) Outcome {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := *b.outcomes[c.id(b.source).String()]
	o.Requests, o.Sent, o.Failed = slices.Clone(o.Requests), slices.Clone(o.Sent), slices.Clone(o.Failed)
	o.Unresolved, o.Delivered = slices.Clone(o.Unresolved), slices.Clone(o.Delivered)
	return o
}

func (b *book) done(c *scenario) bool {
	o := b.outcome(c)
	return o.done(c.want)
}

// killed notes when the sender of c was killed.
func (b *book) killed(c *scenario) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.outcomes[c.id(b.source).String()].Killed = time.Now()
}

func (b *book) close() {
	b.cancel()
	b.readAll.Wait()
	for _, r := range b.readers {
		r.Close()
	}
}
