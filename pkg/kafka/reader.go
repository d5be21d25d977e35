package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/pause"
)

// Start says where a Reader begins. The zero value is the start of the log.
type Start struct {
	kind    startKind
	time    time.Time
	offsets map[int32]int64
}

type startKind int

const (
	fromStart startKind = iota
	fromEnd
	fromTime
	fromOffsets
)

// FromStart begins with the oldest record.
func FromStart() Start { return Start{} }

// FromEnd begins with what comes after the Reader was made.
func FromEnd() Start { return Start{kind: fromEnd} }

// FromTime begins with the first record whose time is not before t. That finds every such record only on topics with
// LogAppendTime; elsewhere records carry the time that their producers chose.
func FromTime(t time.Time) Start { return Start{kind: fromTime, time: t} }

// FromOffsets begins at the offset given for each partition, and at the start of partitions without one.
func FromOffsets(offsets map[int32]int64) Start {
	return Start{kind: fromOffsets, offsets: maps.Clone(offsets)}
}

// ReaderConfig says what a Reader reads.
type ReaderConfig struct {
	Client     []kgo.Opt // how to reach the brokers
	Topic      string
	Partitions []int32 // nil: all that the topic has when the Reader is made
	Start      Start
}

// maxPoll bounds the records of one Poll.
const maxPoll = 10_000

// Reader reads partitions as a read-committed consumer without a group: in offset order within a partition, each record
// once, nothing of aborted transactions. It knows when it has passed a given end of the log, also where that end is a
// transaction marker, an aborted transaction, or an empty partition.
//
// A Reader outlives brokers that go and come back. When records that it had still to read were deleted by retention it
// goes on with the oldest that is left; when the topic was deleted and made again it reads the new one from its start.
//
// Poll is for one goroutine; every other method may be called from any.
type Reader struct {
	cfg   ReaderConfig
	admin *kadm.Client // answers questions about the topic

	mu        sync.Mutex // guards what follows; never held over a call to a broker
	client    *kgo.Client
	topicID   kadm.TopicID
	positions map[int32]int64 // per partition: everything below was returned, or is no record
	stale     bool            // the positions must be looked at before more is read
	closed    bool
}

// NewReader finds where each partition begins and returns a Reader there. It fails when the topic or a partition does
// not exist, or no broker answers before ctx ends.
func NewReader(ctx context.Context, cfg ReaderConfig) (*Reader, error) {
	r := &Reader{cfg: cfg}
	client, err := r.newClient(nil)
	if err != nil {
		return nil, err
	}
	r.admin = kadm.NewClient(client)
	if err := r.open(ctx); err != nil {
		client.Close()
		return nil, err
	}
	return r, nil
}

func (r *Reader) open(ctx context.Context) error {
	l, err := look(ctx, r.admin, r.cfg.Topic, r.cfg.Partitions)
	if err != nil {
		return err
	}
	positions, err := r.cfg.Start.resolve(ctx, r.admin, r.cfg.Topic, l)
	if err != nil {
		return err
	}
	return r.begin(l.id, positions)
}

// Poll returns the next records, at least one or none when only the positions moved, and waits for them until ctx ends;
// then it returns ctx's error. After any other error it may be called again.
func (r *Reader) Poll(ctx context.Context) ([]Record, error) {
	for {
		r.mu.Lock()
		client, stale, closed := r.client, r.stale, r.closed
		r.mu.Unlock()
		if closed {
			return nil, ErrClosed
		}
		if stale {
			moved, err := r.resume(ctx)
			if err != nil {
				return nil, err
			}
			if moved {
				return nil, nil
			}
			// A broker that does not know a new topic yet: the same question again at once gets the same answer.
			if !pause.For(ctx, 200*time.Millisecond) {
				return nil, context.Cause(ctx)
			}
			continue
		}
		fetches := client.PollRecords(ctx, maxPoll)
		if fetches.IsClientClosed() {
			return nil, ErrClosed
		}
		records, moved := r.take(fetches)
		if len(records) > 0 || moved {
			return records, nil
		}
		if err := r.failed(fetches); err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
}

// ErrClosed is returned by Poll after Close.
var ErrClosed = errors.New("the reader is closed")

// take moves the positions past everything that was read and returns what are records.
func (r *Reader) take(fetches kgo.Fetches) (records []Record, moved bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if p.Err != nil && errors.Is(p.Err, kerr.OffsetOutOfRange) || errors.Is(p.Err, kerr.UnknownTopicID) {
			r.stale = true
		}
		for _, rec := range p.Records {
			if rec.Offset < r.positions[p.Partition] {
				continue
			}
			r.positions[p.Partition] = rec.Offset + 1
			moved = true
			if !rec.Attrs.IsControl() {
				records = append(records, fromClient(rec))
			}
		}
	})
	return records, moved
}

// failed returns the error of a fetch that the Reader cannot mend: franz-go repeats what is worth repeating.
func (r *Reader) failed(fetches kgo.Fetches) error {
	var err error
	fetches.EachError(func(_ string, p int32, e error) {
		if isContextError(e) || errors.Is(e, kerr.OffsetOutOfRange) || errors.Is(e, kerr.UnknownTopicID) {
			return
		}
		if _, ok := errors.AsType[*kgo.ErrDataLoss](e); ok {
			// The log is shorter than what was read: only an unclean election does that. resume goes on at its end.
			r.mu.Lock()
			r.stale = true
			r.mu.Unlock()
			return
		}
		if err == nil {
			err = fmt.Errorf("read %s/%d: %w", r.cfg.Topic, p, e)
		}
	})
	return err
}

// resume looks at the topic again and goes on where it can: at the same offsets, at the nearest ones that exist, or at
// the start of a topic that was made anew.
func (r *Reader) resume(ctx context.Context) (moved bool, err error) {
	r.mu.Lock()
	id, positions, old := r.topicID, maps.Clone(r.positions), r.client
	r.mu.Unlock()
	l, err := look(ctx, r.admin, r.cfg.Topic, nil)
	if err != nil {
		return false, err
	}
	if l.id != id {
		if positions, err = l.from(r.cfg); err != nil {
			return false, err
		}
	}
	for p, at := range positions {
		positions[p] = min(max(at, l.starts[p]), l.ends[p])
	}
	r.mu.Lock()
	moved = l.id != id || !maps.Equal(positions, r.positions)
	r.mu.Unlock()
	old.Close()
	return moved, r.begin(l.id, positions)
}

// begin reads from the positions with a client of its own.
func (r *Reader) begin(id kadm.TopicID, positions map[int32]int64) error {
	client, err := r.newClient(positions)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		client.Close()
		return ErrClosed
	}
	r.client, r.topicID, r.positions, r.stale = client, id, positions, false
	return nil
}

func (r *Reader) newClient(positions map[int32]int64) (*kgo.Client, error) {
	// Whoever simulates weeks asks for longer waits.
	opts := append(append(patience(), kgo.FetchMaxWait(time.Second)), r.cfg.Client...)
	if positions != nil {
		offsets := make(map[int32]kgo.Offset, len(positions))
		for p, o := range positions {
			offsets[p] = kgo.NoResetOffset().At(o)
		}
		opts = append(opts,
			kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{r.cfg.Topic: offsets}),
			kgo.ConsumeResetOffset(kgo.NoResetOffset()),
			kgo.FetchIsolationLevel(kgo.ReadCommitted()),
			// Without the markers a reader never learns that it has passed one at the end of the log.
			kgo.KeepControlRecords(),
		)
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("new reader of %s: %w", r.cfg.Topic, err)
	}
	return client, nil
}

// Positions returns the next offset of each partition: everything below it was returned by Poll, or is no record.
func (r *Reader) Positions() map[int32]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.positions)
}

// TopicID is the id of the topic that the positions belong to. It changes when the topic is deleted and made again.
func (r *Reader) TopicID() [16]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.topicID
}

// Close ends the Reader and a Poll that waits.
func (r *Reader) Close() {
	r.mu.Lock()
	r.closed = true
	client := r.client
	r.mu.Unlock()
	client.Close()
	r.admin.Close()
}

func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
