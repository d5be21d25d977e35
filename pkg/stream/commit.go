package stream

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// write commits tx. When it fails, tx is undone, or unsettled when nobody knows how its end went. mu is held.
func (e *Engine) write(ctx context.Context, tx *Tx) (err error) {
	e.step(StepBuilt)
	e.ticks++
	tx.by = e.turn
	e.turn = e.producers.next(tx.by)
	tx.meta = e.incarnation + "/" + strconv.FormatUint(e.ticks, 10)
	tx.began = time.Now()
	if member, generation := e.client.GroupMetadata(); member == "" || generation < 0 {
		e.revert(tx) // the offsets could not be committed: do not even begin
		return errNotMember
	}
	if err := e.readyProducer(ctx, tx.by); err != nil {
		e.revert(tx)
		return err
	}
	if err := e.alone(ctx, tx); err != nil {
		e.revert(tx)
		return e.failed(tx.by, "look for earlier transactions", err)
	}
	defer func() { tx.by.over(tx, err) }()
	if err := tx.by.client.BeginTransaction(); err != nil {
		e.discard(tx.by)
		e.revert(tx)
		return e.failed(tx.by, "begin the transaction", err)
	}
	if refused, err := e.produce(ctx, tx); err != nil {
		e.abort(ctx, tx.by)
		e.revert(tx)
		e.refuse(tx, refused)
		return e.failed(tx.by, "produce", err)
	}
	e.step(StepProduced)
	if err := e.commitOffsets(ctx, tx); err != nil {
		e.abort(ctx, tx.by)
		e.revert(tx)
		return e.failed(tx.by, "commit offsets", err)
	}
	e.step(StepOffsets)
	if err := e.end(ctx, tx.by, kgo.TryCommit); errors.Is(err, kerr.OperationNotAttempted) {
		e.abort(ctx, tx.by)
		e.revert(tx)
		return e.failed(tx.by, "end the transaction", err)
	} else if err != nil {
		// The commit may have been done, and only its answer lost. Doing it again would publish everything twice.
		e.unsettled = tx
		e.step(StepUnconfirmed)
		return e.failed(tx.by, "end the transaction", err)
	}
	e.step(StepCommitted)
	e.committed(tx)
	e.step(StepApplied)
	return nil
}

// committed notes that tx is committed and makes its effects visible. mu is held.
func (e *Engine) committed(tx *Tx) {
	e.tally.commits++
	e.search.succeeded(tx.units)
	for _, p := range tx.touched {
		p.committed = p.next
		p.carried = time.Time{}
	}
	for _, u := range tx.owners {
		if u != nil && u.poison != nil {
			delete(e.poison, poisonKey{u.p.id, u.key})
		}
	}
	e.confirm(tx)
}

// produce sends the records of tx and waits for their acknowledgement. refused holds the units of which a record was
// refused for its own sake.
func (e *Engine) produce(ctx context.Context, tx *Tx) (refused map[*Unit]error, err error) {
	var (
		mu     sync.Mutex // guards what follows: promises run on the client's goroutine, also after a flush that timed out
		first  error
		own    = map[*Unit]error{}
		closed bool
	)
	for i, r := range tx.records {
		tx.by.client.Produce(ctx, r, func(r *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case closed:
			case err == nil:
				if p := tx.touched[r.Partition]; p != nil && r.Topic == e.cfg.Ledger {
					p.ledgerEnd = r.Offset + 1
				}
			case isRecordsOwn(r, err):
				own[tx.owners[i]] = err
			case first == nil:
				first = err
			}
		})
	}
	flushCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = tx.by.client.Flush(flushCtx)
	mu.Lock()
	defer mu.Unlock()
	closed = true
	switch {
	case err != nil:
		return nil, fmt.Errorf("no acknowledgement: %w", err)
	case first != nil:
		return nil, first
	}
	for _, err := range own {
		return own, err
	}
	return nil, nil
}

// commitOffsets puts the next offsets of the touched partitions into the transaction. It is the fence: the broker
// refuses it from a member of an older generation, and with it everything else in the transaction.
func (e *Engine) commitOffsets(ctx context.Context, tx *Tx) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	member, generation := e.client.GroupMetadata()
	if member == "" || generation < 0 {
		// The broker would take an offset commit without a member and check nothing.
		return errNotMember
	}
	for n, p := range tx.touched {
		if p.member != member {
			return fmt.Errorf("partition %d: %w", n, errNotMember) // another may have owned it since
		}
	}
	id, epoch, err := tx.by.client.ProducerID(ctx)
	if err != nil {
		return err
	}
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.Group, req.MemberID, req.Generation = tx.by.txnID, e.cfg.Group, member, generation
	req.ProducerID, req.ProducerEpoch = id, epoch
	topic := kmsg.NewTxnOffsetCommitRequestTopic()
	topic.Topic, topic.TopicID = e.cfg.Input, e.guard.input
	for n, p := range tx.touched {
		part := kmsg.NewTxnOffsetCommitRequestTopicPartition()
		part.Partition, part.Offset = n, p.next
		part.Metadata = new(e.metadata(tx, p))
		topic.Partitions = append(topic.Partitions, part)
	}
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, tx.by.client)
	if err != nil {
		return err
	}
	answered := 0
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return fmt.Errorf("partition %d: %w", p.Partition, err)
			}
			answered++
		}
	}
	if answered != len(tx.touched) {
		return fmt.Errorf("%d partitions were sent, %d answered", len(tx.touched), answered)
	}
	return nil
}

var errNotMember = errors.New("not a member of the group at present")

// end ends the transaction of p.
func (e *Engine) end(ctx context.Context, p *producer, how kgo.TransactionEndTry) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return p.client.EndTransaction(ctx, how)
}

// abort gives the open transaction of p up. A client that cannot is replaced before its next one.
func (e *Engine) abort(ctx context.Context, p *producer) {
	flushCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := p.client.AbortBufferedRecords(flushCtx); err != nil {
		e.discard(p)
		return
	}
	if err := e.end(ctx, p, kgo.TryAbort); err != nil {
		e.discard(p)
		e.note(p, "abort the transaction", err)
	}
}

// settle finds out whether the unsettled transaction was committed. It reports whether it is known now. mu is held.
func (e *Engine) settle(ctx context.Context) bool {
	tx := e.unsettled
	if !tx.by.broken {
		if err := e.end(ctx, tx.by, kgo.TryAbort); err != nil {
			e.discard(tx.by)
		}
	}
	// A producer id that the coordinator has given out means that the transaction before it has ended either way.
	if err := e.readyProducer(ctx, tx.by); err != nil {
		return false
	}
	witness := int32(-1)
	for id, p := range tx.touched {
		if !p.gone {
			witness = id
			break
		}
	}
	if witness < 0 {
		// Every partition was given up; their new owners read the outcome from the ledgers.
		e.unsettled = nil
		e.step(StepSettled)
		return true
	}
	stored, err := e.committedOffset(ctx, witness)
	if err != nil {
		e.note(tx.by, "look whether the transaction was committed", err)
		return false
	}
	e.unsettled = nil
	done := stored.tick == tx.meta
	e.log.Warn("the end of a transaction was not confirmed; the group's offsets tell", "tick", tx.meta, "committed", done)
	if done {
		e.committed(tx)
	} else {
		e.revert(tx)
	}
	e.step(StepSettled)
	e.adjustAll()
	e.publish()
	return true
}

// storedOffset is what the group holds about a partition.
type storedOffset struct {
	offset int64  // -1: nothing
	tick   string // which transaction committed it: "<incarnation>/<tick>"
	input  string // topic id, hex; empty when another program committed the offset
	ledger string // topic id, hex; empty for a front door
	end    int64  // the ledger was at least this long
	parts  int32  // of the ledger
}

// metadata stands in the group's offset of p: it recognises the transaction after an unconfirmed end, and an input
// or ledger topic that was made anew or cut since.
func (e *Engine) metadata(tx *Tx, p *part) string {
	s := tx.meta + " in=" + hex.EncodeToString(e.guard.input[:])
	if p.ledgered {
		s += fmt.Sprintf(" ledger=%s@%d/%d", hex.EncodeToString(e.guard.ledger[:]), p.ledgerEnd, e.LedgerPartitions())
	}
	return s
}

func parseMetadata(offset int64, metadata *string) storedOffset {
	s := storedOffset{offset: offset}
	if metadata == nil {
		return s
	}
	fields := strings.Fields(*metadata)
	for i, f := range fields {
		name, value, _ := strings.Cut(f, "=")
		switch {
		case i == 0:
			s.tick = f
		case name == "in":
			s.input = value
		case name == "ledger":
			var rest string
			s.ledger, rest, _ = strings.Cut(value, "@")
			end, n, _ := strings.Cut(rest, "/")
			s.end, _ = strconv.ParseInt(end, 10, 64)
			count, _ := strconv.ParseInt(n, 10, 32)
			s.parts = int32(count)
		}
	}
	return s
}

// committedOffset asks for the group's offset of a partition, not counting transactions that are still open: those
// answer UNSTABLE_OFFSET_COMMIT.
func (e *Engine) committedOffset(ctx context.Context, partition int32) (storedOffset, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req := kmsg.NewPtrOffsetFetchRequest()
	req.RequireStable = true
	group := kmsg.NewOffsetFetchRequestGroup()
	group.Group = e.cfg.Group
	topic := kmsg.NewOffsetFetchRequestGroupTopic()
	topic.Topic, topic.TopicID, topic.Partitions = e.cfg.Input, e.guard.input, []int32{partition}
	group.Topics = append(group.Topics, topic)
	req.Groups = append(req.Groups, group)
	resp, err := req.RequestWith(ctx, e.admin)
	if err != nil {
		return storedOffset{}, err
	}
	for _, g := range resp.Groups {
		if err := kerr.ErrorForCode(g.ErrorCode); err != nil {
			return storedOffset{}, err
		}
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return storedOffset{}, err
				}
				return parseMetadata(p.Offset, p.Metadata), nil
			}
		}
	}
	return storedOffset{}, errors.New("the coordinator did not answer for the partition")
}
