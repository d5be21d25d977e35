package stream

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/pause"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
)

const (
	restoresAtOnce = 8                     // partitions that are read at the same time
	restoreBytes   = 4 << 20               // in one fetch
	restoreWait    = 20 * time.Millisecond // between two looks while an open transaction is waited for
)

// restore reads the ledger of p to its end and lets p take part in ticks. It goes on trying while the broker is
// away; what cannot be mended by trying stops p.
func (e *Engine) restore(p *part) {
	began := time.Now()
	r := &reader{e: e, p: p} // an attempt goes on where the one before was cut off: the Handler gets each record once
	for tries := 0; ; tries++ {
		select {
		case e.slots <- struct{}{}:
		case <-p.ctx.Done():
			return
		}
		next, err := r.try()
		<-e.slots
		if err == nil {
			e.log.Info("partition restored", "partition", p.id, "records", r.records, "took", time.Since(began), "next", next)
			e.Wake()
			return
		}
		if p.ctx.Err() != nil {
			return
		}
		if stop, ok := errors.AsType[*stopError](err); ok {
			e.mu.Lock()
			e.halt(p, stop.err)
			e.mu.Unlock()
			return
		}
		p.holdsUp(err)
		if e.quiet.pass("restore " + err.Error()) {
			e.log.Warn("restoring a partition failed, trying again", "partition", p.id, "err", err)
		}
		pause.For(p.ctx, min(100*time.Millisecond<<min(tries, 4), time.Second))
	}
}

// stopError stops a partition.
type stopError struct{ err error }

func (s *stopError) Error() string { return s.err.Error() }

func stopf(format string, args ...any) error { return &stopError{fmt.Errorf(format, args...)} }

// reader reads a ledger partition.
type reader struct {
	e        *Engine
	p        *part
	topics   topics
	offset   int64
	end      int64
	position *ledgerv1.Position
	records  int
}

// try restores the partition and returns its next input offset.
func (r *reader) try() (next int64, err error) {
	e, p := r.e, r.p
	stored, err := e.committedOffset(p.ctx, p.id)
	if err != nil {
		return 0, fmt.Errorf("fetch the group's offset: %w", err)
	}
	now, err := e.checkAgain(p.ctx)
	if err != nil {
		return 0, err
	}
	if stored.input != "" && stored.offset > 0 && stored.input != hex.EncodeToString(now.input.id[:]) {
		return 0, stopf("topic %s was made anew since group %s committed offset %d of partition %d: that offset means nothing in it; delete the group's offsets of this topic to start at its beginning",
			e.cfg.Input, e.cfg.Group, stored.offset, p.id)
	}
	r.topics = now
	if p.ledgered {
		if err := r.read(stored); err != nil {
			return 0, err
		}
	}
	if b, ok := e.cfg.Handler.(Rebuilder); ok {
		b.Rebuild(p.id)
	}
	next = max(stored.offset, 0)
	if pos := r.position; pos != nil && bytes.Equal(pos.InputTopicId, now.input.id[:]) {
		if stored.offset > pos.NextOffset {
			e.log.Warn("the group's offset is ahead of the ledger: somebody moved it, and the records between are skipped",
				"partition", p.id, "group", stored.offset, "ledger", pos.NextOffset)
		}
		next = max(next, pos.NextOffset)
	}
	_, end, err := e.bounds(p.ctx, e.cfg.Input, p.id)
	if err != nil {
		return 0, fmt.Errorf("look for the end of the input: %w", err)
	}
	if next > end {
		return 0, stopf("topic %s partition %d ends at offset %d, but everything below %d was already accepted from it: the topic was cut, and new records below that offset would be taken for old ones",
			e.cfg.Input, p.id, end, next)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if p.ctx.Err() != nil {
		return 0, p.ctx.Err()
	}
	p.next, p.committed, p.ledgerEnd, p.ready = next, max(stored.offset, 0), r.end, true
	p.holdsUp(nil)
	e.cfg.Handler.Restored(p.id)
	e.adjustAll()
	e.publish()
	e.step(StepRestored)
	return next, nil
}

// read hands the ledger of the partition to the Handler, up to the high watermark. It reads at the level of fetch
// requests because only there it is visible that a marker, an aborted transaction or a batch that compaction has
// emptied was passed.
func (r *reader) read(stored storedOffset) error {
	e, p := r.e, r.p
	start, end, err := e.bounds(p.ctx, e.cfg.Ledger, p.id)
	if err != nil {
		return fmt.Errorf("look for the end of the ledger: %w", err)
	}
	id := hex.EncodeToString(r.topics.ledger.id[:])
	switch {
	case stored.ledger != "" && stored.ledger != id:
		return stopf("ledger topic %s is not the one that group %s used: topic id %s was found, %s is wanted; it was made anew, and starting from it would send everything again",
			e.cfg.Ledger, e.cfg.Group, id, stored.ledger)
	case stored.ledger != "" && stored.end > end:
		return stopf("ledger topic %s partition %d is shorter than it was: it ends at offset %d, at least %d is wanted; what is missing would be sent again",
			e.cfg.Ledger, p.id, end, stored.end)
	case stored.parts != 0 && stored.parts != e.LedgerPartitions():
		return stopf("ledger topic %s has %d partitions, %d are wanted: their number is fixed for good, it decides where each id belongs",
			e.cfg.Ledger, e.LedgerPartitions(), stored.parts)
	}
	r.offset, r.end = max(r.offset, start), end
	e.step(StepRestoring)
	leader := r.topics.ledger.leaders[p.id]
	for r.offset < r.end {
		if err := r.fetch(leader); err != nil {
			return err
		}
	}
	return nil
}

// fetch reads on. When nothing is to be had because a transaction is open it waits a moment.
func (r *reader) fetch(leader int32) error {
	got, err := r.e.fetchLedger(r.p.ctx, r.e.admin, leader, r.topics.ledger.id, r.p.id, r.offset, restoreBytes)
	if err != nil {
		return fmt.Errorf("read the ledger at offset %d: %w", r.offset, err)
	}
	for _, rec := range got.records {
		if err := r.take(rec); err != nil {
			return err
		}
	}
	switch {
	case got.next > r.offset:
		r.offset = got.next
		r.p.holdsUp(nil)
	case got.nothing && got.stable >= r.end:
		r.offset = r.end // compaction has removed what was between here and the end
	default:
		r.p.holdsUp(fmt.Errorf("an open transaction on ledger topic %s holds readers back at offset %d", r.e.cfg.Ledger, got.stable))
		pause.For(r.p.ctx, restoreWait)
	}
	return nil
}

// take hands one record on.
func (r *reader) take(rec *kgo.Record) error {
	if err := r.p.ctx.Err(); err != nil {
		return err // given up: whoever gives it up waits for this
	}
	r.records++
	if string(rec.Key) != PositionKey {
		if err := r.e.cfg.Handler.Restore(r.p.id, record(rec)); err != nil {
			return stopf("restore offset %d of ledger topic %s partition %d: %w", rec.Offset, rec.Topic, rec.Partition, err)
		}
		return nil
	}
	pos := new(ledgerv1.Position)
	if err := proto.Unmarshal(rec.Value, pos); err != nil {
		return stopf("the position at offset %d of ledger topic %s partition %d cannot be decoded: %w", rec.Offset, rec.Topic, rec.Partition, err)
	}
	if pos.MinReader > FormatVersion {
		return stopf("ledger topic %s partition %d was written by a newer program: format %d is needed to own it, this program reads %d; run the newer program",
			rec.Topic, rec.Partition, pos.MinReader, FormatVersion)
	}
	if want := r.topics.ledger.id; len(pos.LedgerTopicId) > 0 && !bytes.Equal(pos.LedgerTopicId, want[:]) {
		return stopf("ledger topic %s partition %d holds records of another ledger (topic id %x, this one is %x): it is a copy, and what happened after it was made is not in it",
			rec.Topic, rec.Partition, pos.LedgerTopicId, want)
	}
	r.position = pos
	return nil
}

// bounds returns the first offset of a partition and its high watermark.
func (e *Engine) bounds(ctx context.Context, topic string, partition int32) (start, end int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	one := func(at int64) (int64, error) {
		req := kmsg.NewPtrListOffsetsRequest()
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = topic
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = partition, at
		t.Partitions = append(t.Partitions, p)
		req.Topics = append(req.Topics, t)
		resp, err := req.RequestWith(ctx, e.admin)
		if err != nil {
			return 0, err
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				return p.Offset, kerr.ErrorForCode(p.ErrorCode)
			}
		}
		return 0, errors.New("no broker answered for the partition")
	}
	if start, err = one(-2); err == nil {
		end, err = one(-1)
	}
	return start, end, err
}
