package explain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
)

// KafkaLog is a Log on a cluster.
type KafkaLog struct {
	admin *kafka.Admin
	opts  []kgo.Opt

	mu     sync.Mutex // guards counts
	counts map[string]int32
}

// NewLog returns a Log on the cluster of admin and opts.
func NewLog(admin *kafka.Admin, opts []kgo.Opt) *KafkaLog {
	return &KafkaLog{admin: admin, opts: opts, counts: map[string]int32{}}
}

// OpenLog returns a Log with connections of its own. Close it.
func OpenLog(c kafka.Config) (*KafkaLog, error) {
	opts, err := c.Options()
	if err != nil {
		return nil, err
	}
	admin, err := kafka.NewAdmin(opts...)
	if err != nil {
		return nil, err
	}
	return NewLog(admin, opts), nil
}

// Close ends the connections.
func (l *KafkaLog) Close() { l.admin.Close() }

// Partitions implements Log.
func (l *KafkaLog) Partitions(ctx context.Context, name string) (int32, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n, ok := l.counts[name]; ok {
		return n, nil
	}
	found, err := l.admin.Topics(ctx, name)
	if err != nil {
		return 0, err
	}
	if found[name].Partitions == 0 {
		return 0, fmt.Errorf("there is no topic %s", name)
	}
	l.counts[name] = found[name].Partitions
	return l.counts[name], nil
}

// Read implements Log.
func (l *KafkaLog) Read(ctx context.Context, name string, partitions []int32, start kafka.Start, f func(kafka.Record)) ([]Range, error) {
	return ReadRange(ctx, kafka.ReaderConfig{Client: l.opts, Topic: name, Partitions: partitions, Start: start}, f)
}

// stall is how long a read waits for the next record before the end of the log: whatever holds it back longer than
// that is an open transaction.
const stall = 2 * time.Second

// ReadRange calls f with every record of cfg up to where the topic ends when ReadRange is called, and says what was
// read. A read that an open transaction holds back ends before; its Range says so.
func ReadRange(ctx context.Context, cfg kafka.ReaderConfig, f func(kafka.Record)) ([]Range, error) {
	r, err := kafka.NewReader(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	from := r.Positions()
	end, err := r.Watermark(ctx)
	if err != nil {
		return nil, err
	}
	counts := make(map[int32]int64, len(from))
	incomplete := ""
	for !r.Reached(end) {
		pollCtx, cancel := context.WithTimeout(ctx, stall)
		records, err := r.Poll(pollCtx)
		cancel()
		if err != nil {
			if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
				incomplete = "a transaction that is still open holds back what comes after"
				break
			}
			return nil, err
		}
		for _, rec := range records {
			counts[rec.Partition]++
			f(rec)
		}
	}
	to := r.Positions()
	ranges := make([]Range, 0, len(from))
	for p := range from {
		ranges = append(ranges, Range{Topic: cfg.Topic, Partition: p, From: from[p], To: to[p], Records: counts[p], Incomplete: incomplete})
	}
	slices.SortFunc(ranges, func(a, b Range) int { return int(a.Partition - b.Partition) })
	return ranges, nil
}
