package stream

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
)

// PositionKey is the key of the [ledgerv1.Position] record that stands once in each ledger partition. No other
// record may use it; all other keys are the application's.
const PositionKey = "\x00position"

// FormatVersion is the version of the ledger's own records that this engine reads and writes.
const FormatVersion = 1

// carryAtMost is how long a partition of which everything was consumed without writing anything waits for a
// transaction to commit its offset with; then it gets one with nothing but its position.
const carryAtMost = time.Second

// loop ticks until ctx ends.
func (e *Engine) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-e.wake:
		}
		e.mu.Lock()
		wait, backoff := e.tick(ctx)
		e.mu.Unlock()
		if backoff > 0 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(backoff):
			}
			wait = 0
		}
		timer.Reset(wait)
	}
}

// tick builds and commits one transaction, if there is something to write. wait is until the next tick at the
// latest; backoff is for how long there shall be none, whoever asks. mu is held.
func (e *Engine) tick(ctx context.Context) (wait, backoff time.Duration) {
	if e.unsettled != nil && !e.settle(ctx) {
		return 0, e.backoff()
	}
	for _, p := range e.producers {
		// Without waiting for something to write: what the client before left open may hold up a restore.
		if p.broken && e.readyProducer(ctx, p) != nil {
			return 0, e.backoff()
		}
	}
	if len(e.parts) == 0 {
		return e.cfg.Pulse, 0
	}
	tx := e.begin()
	more := false
	if e.search.takesInput() {
		more = e.accept(tx)
	}
	wait = e.cfg.Pulse
	if e.search.takesWork() {
		if next := e.cfg.Handler.Work(tx); !next.IsZero() {
			wait = min(wait, max(0, next.Sub(e.cfg.Now())))
		}
	} else {
		more = true
	}
	e.carry(tx)
	if len(tx.records) == 0 {
		e.search.idle()
		e.confirm(tx)
		e.aloneWhileIdle(ctx)
	} else if err := e.write(ctx, tx); err != nil {
		e.adjustAll()
		e.publish()
		return 0, e.backoff()
	}
	e.retries = 0
	e.adjustAll()
	e.publish()
	if more || tx.Full() || e.search.on {
		wait = 0
	}
	return wait, 0
}

// backoff grows from 5 ms to 1 s with the number of failed ticks in a row.
func (e *Engine) backoff() time.Duration {
	e.retries++
	return min(5*time.Millisecond<<min(e.retries-1, 10), time.Second)
}

// begin makes an empty transaction of the partitions that take part.
func (e *Engine) begin() *Tx {
	tx := &Tx{
		e: e, now: e.cfg.Now(), parts: make(map[int32]*part, len(e.parts)), limit: e.search.limit(),
		touched: map[int32]*part{}, accepted: map[*part]intake{},
	}
	for _, p := range e.sorted() {
		if p.ready && p.err == nil {
			tx.parts[p.id] = p
			tx.order = append(tx.order, p.id)
		}
	}
	return tx
}

// accept gives queued input to the Handler: at most half of the transaction, so that outcomes find room, and each
// tick another partition first. It reports whether input is left that could be accepted at once.
func (e *Engine) accept(tx *Tx) (more bool) {
	if len(tx.order) == 0 {
		return false
	}
	e.first++
	for i := range tx.order {
		p := tx.parts[tx.order[(i+e.first)%len(tx.order)]]
		if p.closing {
			continue
		}
		e.qmu.Lock()
		queue := p.queue // its front does not move while mu is held
		e.qmu.Unlock()
		for n, r := range queue {
			if len(tx.records) >= e.cfg.MaxRecords/2 || tx.bytes >= e.cfg.MaxBytes/2 || tx.units >= tx.limit {
				more = true
				break
			}
			if e.cfg.Handler.Full(p.id) {
				break
			}
			in, ok := tx.accepted[p]
			if !ok {
				in.before = p.next
			}
			in.records = n + 1
			tx.accepted[p] = in
			if r.Offset < p.next {
				continue // in the ledger already
			}
			u := tx.unit(p, offsetKey(r.Offset))
			e.cfg.Handler.Accept(u, record(r))
			p.next = r.Offset + 1
		}
	}
	return more
}

// offsetKey names the unit of an input record.
func offsetKey(offset int64) string { return "@" + strconv.FormatInt(offset, 10) }

// carry adds the position of every touched partition, and of those that consumed input without writing when the
// transaction has a record anyway or they have waited long enough: a transaction of nothing but offsets does not
// exist for the client, it would leave them unstable for ever.
func (e *Engine) carry(tx *Tx) {
	for _, id := range tx.order {
		p := tx.parts[id]
		if p.next <= p.committed {
			continue
		}
		if p.carried.IsZero() {
			p.carried = tx.now
		}
		if len(tx.records) > 0 || p.ledgered && tx.now.Sub(p.carried) >= carryAtMost {
			tx.touched[id] = p
		}
	}
	for _, id := range slices.Sorted(maps.Keys(tx.touched)) {
		p := tx.touched[id]
		if !p.ledgered {
			continue
		}
		b, err := proto.Marshal(&ledgerv1.Position{
			MinReader: FormatVersion, NextOffset: p.next, InputTopicId: e.guard.input[:], LedgerTopicId: e.guard.ledger[:],
		})
		if err != nil {
			panic(fmt.Sprintf("stream: a position cannot be encoded: %v", err))
		}
		tx.add(nil, &kgo.Record{Topic: e.cfg.Ledger, Partition: id, Key: []byte(PositionKey), Value: b})
	}
}

// confirm makes the effects of tx visible. mu is held.
func (e *Engine) confirm(tx *Tx) {
	e.qmu.Lock()
	for p, in := range tx.accepted {
		if p.gone {
			continue
		}
		for _, r := range p.queue[:in.records] {
			p.bytes -= size(r)
		}
		clear(p.queue[:in.records])
		p.queue = p.queue[in.records:]
	}
	e.qmu.Unlock()
	for _, c := range tx.commit {
		if !c.p.gone {
			c.f()
		}
	}
}

// revert undoes tx in memory, the latest change first. Accepted records are still in their queues. mu is held.
func (e *Engine) revert(tx *Tx) {
	for _, c := range slices.Backward(tx.undo) {
		if !c.p.gone {
			c.f()
		}
	}
	for p, in := range tx.accepted {
		p.next = in.before
	}
	e.tally.aborts++
	e.step(StepAborted)
}
