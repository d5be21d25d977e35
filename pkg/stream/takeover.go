package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/pause"
)

const (
	takeoverWait = 1500 * time.Millisecond // a partition waits so long before somebody else's transaction is ended
	seenFor      = time.Second             // and that transaction was open so long
	// On the group's offsets the transactions of all members pass, and a slow broker makes healthy ones long: fencing
	// those would make a slow group a dead one.
	offsetsSeenFor = callTimeout + time.Second
	// A transaction in the ledger whose producer has written nothing for so long is a dead owner's: a living one ends
	// its tick or gives it up. The brokers' clock tells, so a wrong one of this machine makes it wait, or fence early,
	// which costs the living a tick.
	abandonedFor = callTimeout / 2
)

// openTxn is a transaction that somebody has open on a partition.
type openTxn struct {
	id    int64
	epoch int16
	start int64 // its first offset in that partition
}

// watch ends the transactions of dead owners that keep partitions from being restored, and reports transactions that
// hold back the input. It reads through the admin client and holds no lock over a call.
func (e *Engine) watch(ctx context.Context) {
	seen := map[openTxn]time.Time{}
	ended := map[openTxn]bool{}
	var inputChecked time.Time
	stable := map[int32]heldBack{}
	for ctx.Err() == nil {
		pause.For(ctx, e.cfg.Pulse/2)
		if waiting := e.waiting(); len(waiting) == 0 {
			clear(seen)
			clear(ended)
		} else if err := e.endDeadOwners(ctx, waiting, seen, ended); err != nil && e.quiet.pass("takeover") {
			e.log.Warn("cannot look for transactions of dead owners, trying again", "err", err)
		}
		e.tellHeldUp()
		if time.Since(inputChecked) >= e.cfg.inputEvery {
			inputChecked = time.Now()
			if err := e.checkInput(ctx, stable); err != nil && ctx.Err() == nil && e.quiet.pass("input") {
				e.log.Warn("cannot look whether a transaction holds back the input, trying again", "err", err)
			}
		}
	}
}

// wait is what keeps a partition from being restored.
type wait struct {
	since   time.Time
	offsets bool // the group's offsets are not stable yet
}

// waiting lists the partitions that should be restored by now; -1 stands for a transaction of this process whose end the
// group's offsets do not tell.
func (e *Engine) waiting() map[int32]wait {
	e.mu.Lock()
	defer e.mu.Unlock()
	waiting := map[int32]wait{}
	if tx := e.unsettled; tx != nil {
		waiting[-1] = wait{tx.began, true}
	}
	for id, p := range e.parts {
		if !p.ready && p.err == nil && time.Since(p.assigned) > e.cfg.Pulse/4 {
			waiting[id] = wait{p.assigned, p.restored == nil}
		}
	}
	return waiting
}

// endDeadOwners looks which transactions are open on the ledger of the waiting partitions, and ends those of this
// group's own producers that stay open. While the group's offsets are not stable it looks there too; the transactions
// of all members pass there, but none that is well stays open for so long.
func (e *Engine) endDeadOwners(ctx context.Context, waiting map[int32]wait, seen map[openTxn]time.Time, ended map[openTxn]bool) error {
	late, offsets := false, false
	var where kadm.TopicsSet
	for p, w := range waiting {
		late = late || time.Since(w.since) >= takeoverWait
		offsets = offsets || w.offsets
		if p >= 0 && p < e.LedgerPartitions() {
			where.Add(e.cfg.Ledger, p)
		}
	}
	look, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if offsets {
		p, err := e.offsetsPartition(look)
		if err != nil {
			return err
		}
		where.Add(kafka.ConsumerOffsets, p)
	}
	if len(where) == 0 {
		return nil
	}
	described, err := e.adm.DescribeProducers(look, where)
	if err != nil {
		return err
	}
	for _, t := range described.Sorted() {
		for _, p := range t.Partitions.Sorted() {
			patience := seenFor
			if t.Topic != e.cfg.Ledger {
				patience = offsetsSeenFor
			}
			for _, producer := range p.ActiveProducers.Sorted() {
				if producer.CurrentTxnStartOffset < 0 {
					continue
				}
				tx := openTxn{producer.ProducerID, producer.ProducerEpoch, producer.CurrentTxnStartOffset}
				if seen[tx].IsZero() {
					seen[tx] = time.Now()
				}
				abandoned := t.Topic == e.cfg.Ledger && time.Since(time.UnixMilli(producer.LastTimestamp)) >= abandonedFor
				if !abandoned && (!late || time.Since(seen[tx]) < patience) || ended[tx] {
					continue
				}
				over, err := e.endTransactionOf(ctx, tx, t.Topic, p.Partition)
				if err != nil {
					return err
				}
				// Whatever came of it: a second InitProducerID could fence a process that lives.
				ended[tx] = over
			}
		}
	}
	return nil
}

// endTransactionOf fences the producer that holds tx open, if it is one of this group's, and writes the markers of one
// that hangs. It reports whether there is nothing more to do about tx.
func (e *Engine) endTransactionOf(ctx context.Context, tx openTxn, topic string, partition int32) (over bool, err error) {
	look, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	open, err := kafka.AdminOf(e.admin).OpenTransactions(look, topic, partition)
	if err != nil {
		return false, err
	}
	i := slices.IndexFunc(open, func(t kafka.OpenTransaction) bool {
		return tx == openTxn{t.ProducerID, t.ProducerEpoch, t.Start}
	})
	if i < 0 {
		return true, nil
	}
	found := open[i]
	if found.Decided {
		return false, nil // its markers are being written
	}
	if found.Hangs() {
		return e.endHanging(ctx, found)
	}
	if own := e.producers.find(found.ID); own != nil {
		// A client of this very process left it; under the lock no transaction of ours is under way.
		e.Do(func() {
			if e.unsettled == nil {
				e.discard(own)
			}
		})
		e.Wake()
		return true, nil
	}
	ours, err := e.isOurs(look, found.ID)
	if err != nil {
		return false, err
	}
	if !ours {
		e.log.Warn("a transaction of another program holds up a partition; it ends by its own timeout",
			"transactional_id", found.ID, "producer_id", found.ProducerID)
		return true, nil
	}
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID = &found.ID
	req.TransactionTimeoutMillis = int32(e.cfg.TransactionTimeout.Milliseconds())
	req.ProducerID, req.ProducerEpoch = -1, -1
	resp, err := req.RequestWith(look, e.admin)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if errors.Is(err, kerr.ConcurrentTransactions) {
		err = nil // the coordinator has begun to end it
	}
	e.log.Warn("ended the transaction that a dead owner left open", "transactional_id", found.ID, "err", err)
	e.step(StepTakeover)
	return true, nil
}

// isOurs reports whether a transaction belongs to a producer of this group: by its name, and because the name of
// another group may begin like ours, by what it wrote to.
func (e *Engine) isOurs(ctx context.Context, txnID string) (bool, error) {
	if !strings.HasPrefix(txnID, e.cfg.Group+"-") {
		return false, nil
	}
	described, err := e.adm.DescribeTransactions(ctx, txnID)
	if err != nil {
		return false, err
	}
	d, err := described.On(txnID, nil)
	if err == nil {
		err = d.Err
	}
	if err != nil {
		return false, fmt.Errorf("describe transaction %s: %w", txnID, err)
	}
	for _, t := range d.Topics.Sorted() {
		if t.Topic == e.cfg.Ledger || t.Topic == e.cfg.Input {
			return true, nil
		}
	}
	return false, nil
}

// offsetsPartition is the partition of __consumer_offsets that holds the group. Their number never changes.
func (e *Engine) offsetsPartition(ctx context.Context) (int32, error) {
	if n := e.offsetsParts.Load(); n > 0 {
		return kafka.GroupPartition(e.cfg.Group, n), nil
	}
	meta, err := e.adm.Metadata(ctx, kafka.ConsumerOffsets)
	if err != nil {
		return 0, err
	}
	found := meta.Topics[kafka.ConsumerOffsets]
	if found.Err != nil {
		return 0, fmt.Errorf("look up topic %s: %w", kafka.ConsumerOffsets, found.Err)
	}
	n := len(found.Partitions)
	if n == 0 {
		return 0, fmt.Errorf("%s is not there yet", kafka.ConsumerOffsets)
	}
	e.offsetsParts.Store(int32(n))
	return kafka.GroupPartition(e.cfg.Group, int32(n)), nil
}

// heldBack is how far read-committed readers of an input partition get.
type heldBack struct {
	stable int64
	since  time.Time
}

// checkInput looks for transactions that keep the group from the end of the input. A caller's hung transaction does
// that up to the timeout that the caller chose; it is not ours to end.
func (e *Engine) checkInput(ctx context.Context, stable map[int32]heldBack) error {
	e.mu.Lock()
	owned := map[int32]bool{}
	for id := range e.parts {
		owned[id] = true
	}
	e.mu.Unlock()
	if len(owned) == 0 {
		clear(stable)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ends, err := e.adm.ListEndOffsets(ctx, e.cfg.Input)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return err
	}
	committed, err := e.adm.ListCommittedOffsets(ctx, e.cfg.Input)
	if err == nil {
		err = committed.Error()
	}
	if err != nil {
		return err
	}
	long := map[int32]time.Time{}
	var where kadm.TopicsSet
	for id := range owned {
		end, _ := ends.Lookup(e.cfg.Input, id)
		lso, _ := committed.Lookup(e.cfg.Input, id)
		was, known := stable[id]
		switch {
		case lso.Offset >= end.Offset:
			delete(stable, id)
		case !known || was.stable != lso.Offset:
			stable[id] = heldBack{lso.Offset, time.Now()}
		case time.Since(was.since) >= e.cfg.inputHeldFor:
			long[id] = was.since
			where.Add(e.cfg.Input, id)
		}
	}
	e.mu.Lock()
	for id, p := range e.parts {
		p.heldBack = long[id]
	}
	e.publish()
	e.mu.Unlock()
	if len(long) == 0 || !e.quiet.pass("held back") {
		return nil
	}
	described, err := e.adm.DescribeProducers(ctx, where)
	if err != nil {
		return err
	}
	for _, t := range described.Sorted() {
		for _, p := range t.Partitions.Sorted() {
			for _, producer := range p.ActiveProducers.Sorted() {
				if producer.CurrentTxnStartOffset >= 0 {
					e.log.Warn("an open transaction holds back the input: what was written after it cannot be read yet",
						"partition", p.Partition, "since", long[p.Partition], "producer_id", producer.ProducerID)
				}
			}
		}
	}
	return nil
}
