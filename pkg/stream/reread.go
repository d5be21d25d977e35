package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/pause"
)

const (
	readsAtOnce = 8                // fetches of ReadLedger that are under way at the same time, over all its callers
	readWithin  = 30 * time.Second // for callers whose context has no deadline
	// Reading past so many records costs less than another request.
	readGap      = 256
	readPerEntry = 512      // bytes that a record of the ledger is expected to take
	readLeast    = 64 << 10 // bytes of one fetch
	readMost     = 4 << 20
)

// ReadLedger returns the records at these offsets of the ledger of partition p, in ascending order; the offsets may
// come in any order. Records that are not there are left out: compaction has removed them, so that a later record of
// the same key exists. Offsets come from [Written.Offset] and Restore; what is above the end of the log is an error.
//
// Offsets that lie close together are read by one request. At most eight requests are under way, over all callers.
// A record whose transaction was confirmed a moment ago, and one behind an open transaction of another program, is
// waited for. ReadLedger repeats what failed until ctx ends, or after 30 s when ctx has no deadline; then it returns
// the latest error. It takes no tick lock, and may be called from any goroutine while Run is working.
func (e *Engine) ReadLedger(ctx context.Context, p int32, offsets []int64) ([]kafka.Record, error) {
	if e.LedgerPartitions() == 0 || p >= e.LedgerPartitions() {
		return nil, fmt.Errorf("stream: there is no ledger partition %d", p)
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, readWithin)
		defer cancel()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	spans := spansOf(offsets)
	found := make([][]kafka.Record, len(spans))
	var reading sync.WaitGroup
	for i, s := range spans {
		select {
		case e.reads <- struct{}{}:
		case <-ctx.Done():
			continue // none of the rest is read
		}
		reading.Go(func() { // also when ctx ends just now: it is what gives the place back
			defer func() { <-e.reads }()
			var err error
			if found[i], err = e.readSpan(ctx, p, s); err != nil {
				cancel(err)
			}
		})
	}
	reading.Wait()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("read ledger topic %s partition %d: %w", e.cfg.Ledger, p, context.Cause(ctx))
	}
	return slices.Concat(found...), nil
}

// spansOf cuts offsets into runs whose neighbours are at most readGap apart.
func spansOf(offsets []int64) [][]int64 {
	sorted := slices.Compact(slices.Sorted(slices.Values(offsets)))
	var spans [][]int64
	for i := range sorted {
		if i == 0 || sorted[i]-sorted[i-1] > readGap {
			spans = append(spans, sorted[i:i:len(sorted)])
		}
		last := len(spans) - 1
		spans[last] = spans[last][:len(spans[last])+1]
	}
	return spans
}

// readSpan reads one run of offsets, ascending.
func (e *Engine) readSpan(ctx context.Context, p int32, wanted []int64) (found []kafka.Record, err error) {
	for tries := 0; len(wanted) > 0; {
		most := min(max((wanted[len(wanted)-1]-wanted[0]+1)*readPerEntry, readLeast), readMost)
		got, err := e.fetchOwn(ctx, p, wanted[0], int32(most))
		switch {
		case errors.Is(err, kerr.OffsetOutOfRange):
			start, end, lookErr := e.bounds(ctx, e.cfg.Ledger, p)
			if lookErr != nil || wanted[0] >= end {
				return nil, errors.Join(fmt.Errorf("offset %d: %w", wanted[0], err), lookErr)
			}
			wanted = after(wanted, start) // everything below was removed as a whole
			continue
		case isStop(err):
			return nil, err
		case err != nil:
			if !pause.For(ctx, min(20*time.Millisecond<<min(tries, 5), 500*time.Millisecond)) {
				return nil, fmt.Errorf("offset %d: %w", wanted[0], err)
			}
			tries++
			continue
		}
		for _, rec := range got.records {
			if i, ok := slices.BinarySearch(wanted, rec.Offset); ok {
				wanted = wanted[i+1:]
				// The whole batch shares one buffer: a copy, or one record that is kept keeps them all.
				out := record(rec)
				out.Key, out.Value = bytes.Clone(out.Key), bytes.Clone(out.Value)
				found = append(found, out)
			}
			if len(wanted) == 0 {
				return found, nil
			}
		}
		switch {
		case got.next > wanted[0]:
			wanted = after(wanted, got.next)
		case got.nothing && got.stable > wanted[0]:
			wanted = after(wanted, got.stable) // compaction has removed everything up to there
		default: // the markers of its transaction are on their way
			if !pause.For(ctx, restoreWait/4) {
				return nil, fmt.Errorf("offset %d: an open transaction holds readers back at %d: %w", wanted[0], got.stable, ctx.Err())
			}
		}
	}
	return found, nil
}

func isStop(err error) bool {
	_, stop := errors.AsType[*stopError](err)
	return stop
}

// after drops the offsets below at.
func after(offsets []int64, at int64) []int64 {
	i, _ := slices.BinarySearch(offsets, at)
	return offsets[i:]
}

// fetchOwn fetches from the leader that was seen last, and looks for a new one when that is not it any more.
func (e *Engine) fetchOwn(ctx context.Context, p int32, offset int64, most int32) (fetched, error) {
	leaders := e.leaders.Load()
	got, err := e.fetchLedger(ctx, e.reader, (*leaders)[p], e.guard.ledger, p, offset, most)
	if err == nil || errors.Is(err, kerr.OffsetOutOfRange) || ctx.Err() != nil {
		return got, err
	}
	if _, lookErr := e.checkAgain(ctx); lookErr != nil { // notes the leaders
		err = errors.Join(err, lookErr)
	}
	return got, err
}

// fetched is the answer to one fetch of a ledger partition.
type fetched struct {
	records []*kgo.Record
	next    int64 // where to go on; the offset asked for when nothing was passed
	nothing bool  // the answer was empty, and not because the broker throttles
	stable  int64 // the last stable offset
}

// fetchLedger asks the leader of a ledger partition for what follows offset, once, read-committed. It works on fetch
// responses because only there it is visible that a marker, an aborted transaction or a batch that compaction has
// emptied was passed.
func (e *Engine) fetchLedger(ctx context.Context, client *kgo.Client, leader int32, id [16]byte, p int32, offset int64, most int32) (fetched, error) {
	req := kmsg.NewPtrFetchRequest()
	// No waiting at the broker: requests of several partitions share one connection to it, and would wait for each other.
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 0, 0, most
	req.IsolationLevel = 1
	req.SessionEpoch = -1 // no fetch session
	topic := kmsg.NewFetchRequestTopic()
	topic.Topic, topic.TopicID = e.cfg.Ledger, id
	part := kmsg.NewFetchRequestTopicPartition()
	part.Partition, part.FetchOffset, part.PartitionMaxBytes = p, offset, most
	topic.Partitions = append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	ctx, cancel := context.WithTimeout(ctx, 2*callTimeout)
	defer cancel()
	answer, err := client.Broker(int(leader)).RetriableRequest(ctx, req)
	if err != nil {
		return fetched{}, err
	}
	resp := answer.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return fetched{}, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		if resp.ThrottleMillis > 0 {
			return fetched{next: offset}, nil
		}
		return fetched{}, errors.New("the answer is not about the partition")
	}
	log := &resp.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(log.ErrorCode); err != nil {
		return fetched{}, err
	}
	got := fetched{next: offset, stable: log.LastStableOffset, nothing: len(log.RecordBatches) == 0 && resp.ThrottleMillis == 0}
	processed, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		Offset: offset, IsolationLevel: kgo.ReadCommitted(), Topic: e.cfg.Ledger, Partition: p,
	}, log, kgo.DefaultDecompressor(), nil)
	if processed.Err != nil {
		return got, fmt.Errorf("decode what is there: %w", processed.Err)
	}
	got.records, got.next = processed.Records, max(next, offset)
	return got, nil
}
