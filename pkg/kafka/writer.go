package kafka

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/pause"
	"github.com/znshub/znshub/proto/topic"
)

// defaultBatchBytes is franz-go's default: what a broker with default settings (max.message.bytes) takes.
const defaultBatchBytes = 1_000_012

// maxBuffered bounds the records that wait in a Writer, those of writes that gave up included.
const maxBuffered = 10_000

// Writer appends records outside transactions, acknowledged by all in-sync replicas, once each as long as the caller
// does not repeat a Write. It is safe for concurrent use; concurrent writes share requests.
type Writer struct{ client *kgo.Client }

// NewWriter returns a Writer on the cluster that opts lead to. It reaches no broker yet.
func NewWriter(opts ...kgo.Opt) (*Writer, error) {
	client, err := kgo.NewClient(append(append(patience(),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.BasicConsistentPartitioner(func(string) func(*kgo.Record, int) int { return partitionOf })),
		kgo.ProducerBatchMaxBytesFn(batchBytes),
		kgo.ProducerLinger(0), // while one request is under way the next one gathers
		kgo.MaxBufferedRecords(maxBuffered),
		kgo.ProduceRequestTimeout(5*time.Second),
	), opts...)...)
	if err != nil {
		return nil, fmt.Errorf("new writer: %w", err)
	}
	return &Writer{client}, nil
}

// partitionOf keeps an explicit partition; -1 means murmur2 of the key, or any partition without a key.
func partitionOf(r *kgo.Record, partitions int) int {
	switch {
	case r.Partition >= 0:
		return int(r.Partition)
	case r.Key == nil:
		return rand.IntN(partitions)
	default:
		return int(Murmur2Partition(r.Key, int32(partitions)))
	}
}

func batchBytes(name string) int32 {
	if spec, ok := topic.Find(name); ok && spec.MaxMessageBytes > 0 {
		return int32(spec.MaxMessageBytes)
	}
	return defaultBatchBytes
}

// Reason says why a Write failed; it is meant for metric labels.
type Reason string

// The reasons.
const (
	ReasonDeadline Reason = "deadline"  // the context ended before Kafka answered
	ReasonTooLarge Reason = "too_large" // a record is larger than its topic allows: it will never be taken
	ReasonNoTopic  Reason = "no_topic"  // the topic does not exist
	ReasonRefused  Reason = "refused"   // Kafka answered with another error
	ReasonClosed   Reason = "closed"    // the Writer was closed
)

// WriteError is the error of Write.
type WriteError struct {
	Reason Reason
	// Failed are the indexes of the records that are not confirmed, ascending. The others are in Kafka.
	Failed []int
	// Unknown says that a failed record may be in Kafka all the same, or get there later: it was on its way when the
	// context ended. A caller that writes it again may write it twice.
	Unknown bool
	Err     error // of the first failed record
}

func (e *WriteError) Error() string {
	state := "not written"
	if e.Unknown {
		state = "not confirmed"
	}
	return fmt.Sprintf("%d records %s (%s): %v", len(e.Failed), state, e.Reason, e.Err)
}

// Unwrap returns the first failed record's error.
func (e *WriteError) Unwrap() error { return e.Err }

// Write appends the records and returns when Kafka has confirmed all of them, or with a *WriteError when the context
// ends or a record fails, whichever is first; a hung broker does not hold it. A record's Partition is taken as it is
// unless it is -1, which means murmur2 of its key; its Offset is ignored, a zero Time means now. Records of one Write to
// the same partition keep their order, except when another caller's write to that partition gives up at that moment.
func (w *Writer) Write(ctx context.Context, records ...Record) error {
	if len(records) == 0 {
		return nil
	}
	results := w.produce(ctx, records)
	out := &WriteError{}
	for i, err := range results {
		if err == nil {
			continue
		}
		out.Failed = append(out.Failed, i)
		out.Unknown = out.Unknown || errors.Is(err, errUnanswered)
		if out.Err == nil {
			out.Reason, out.Err = classify(ctx, err)
		}
	}
	if out.Err == nil {
		return nil
	}
	return out
}

// errUnanswered stands for a record whose outcome did not arrive before the context ended.
var errUnanswered = errors.New("no answer from kafka")

// produce returns one result per record. When the context of the first record that waits for a partition ends,
// franz-go fails all that wait there, those of other callers too; it does so only with records that surely were not
// written. They are produced again.
func (w *Writer) produce(ctx context.Context, records []Record) []error {
	results := make([]error, len(records))
	todo := make([]int, len(records))
	for i := range todo {
		todo[i] = i
	}
	for {
		w.attempt(ctx, records, todo, results)
		todo = slices.DeleteFunc(todo, func(i int) bool { return final(results[i]) })
		if len(todo) == 0 || !pause.For(ctx, 20*time.Millisecond) {
			return results
		}
	}
}

// final reports whether a result is Kafka's or the client's last word, and not another caller's lack of patience.
func final(err error) bool {
	if err == nil || errors.Is(err, errUnanswered) || errors.Is(err, kgo.ErrClientClosed) {
		return true
	}
	answer, ok := errors.AsType[*kerr.Error](err)
	return ok && (!answer.Retriable || isMissingTopic(err))
}

func (w *Writer) attempt(ctx context.Context, records []Record, todo []int, results []error) {
	type result struct {
		index int
		err   error
	}
	// Room for all: a late answer never blocks franz-go's goroutine.
	answers := make(chan result, len(todo))
	// Produce blocks while the buffer is full, until ctx ends.
	for _, i := range todo {
		results[i] = errUnanswered
		w.client.Produce(ctx, toClient(records[i]), func(_ *kgo.Record, err error) { answers <- result{i, err} })
	}
	for range todo {
		select {
		case a := <-answers:
			results[a.index] = a.err
			continue
		default:
		}
		select {
		case a := <-answers:
			results[a.index] = a.err
		case <-ctx.Done():
			return
		}
	}
}

func isMissingTopic(err error) bool {
	return errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID)
}

func classify(ctx context.Context, err error) (Reason, error) {
	switch {
	case errors.Is(err, errUnanswered), !final(err):
		return ReasonDeadline, fmt.Errorf("write: %w: %w", context.Cause(ctx), err)
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return ReasonTooLarge, err
	case isMissingTopic(err):
		return ReasonNoTopic, err
	case errors.Is(err, kgo.ErrClientClosed):
		return ReasonClosed, err
	default:
		return ReasonRefused, err
	}
}

// Ping reports whether a broker answers before ctx ends.
func (w *Writer) Ping(ctx context.Context) error { return w.client.Ping(ctx) }

// Close gives up what writes that ended without an answer left behind.
func (w *Writer) Close() { w.client.Close() }
