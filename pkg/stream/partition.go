package stream

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
)

// Bounds on a partition's queue of fetched records that were not accepted yet: its fetching pauses above them.
const (
	queueRecords = 1000
	queueBytes   = 4 << 20
)

// part is a partition that this member owns. A partition that comes back after it was given up is another part.
type part struct {
	id       int32
	ledgered bool // false: a front door
	assigned time.Time
	member   string // the membership under which it is owned

	// ctx ends the restore; restored is closed when its goroutine has ended, nil until it began.
	ctx      context.Context
	cancel   context.CancelFunc
	restored chan struct{}

	held atomic.Pointer[holdUp] // what keeps it from being restored; nil: nothing

	// Under the tick lock.
	ready     bool
	closing   bool
	gone      bool // given up: nothing may be done for it any more
	err       error
	next      int64     // next input offset to accept
	committed int64     // what the group's offset is
	carried   time.Time // since when next is ahead of committed without a record to go with it; zero: it is not
	ledgerEnd int64     // one past the latest ledger record that this member wrote or read
	heldBack  time.Time

	// Under qmu.
	queue  []*kgo.Record
	bytes  int
	full   bool // the Handler says so
	open   bool // restored, not closing, not stopped
	paused bool
}

// holdUp is what keeps a partition from being restored.
type holdUp struct {
	since time.Time
	why   error
	told  atomic.Bool
}

// holdsUp notes that err, of whatever kind, keeps p from being restored; nil that it gets on.
func (p *part) holdsUp(err error) {
	if err == nil {
		p.held.Store(nil)
		return
	}
	since := time.Now()
	if h := p.held.Load(); h != nil {
		if h.why.Error() == err.Error() {
			return
		}
		since = h.since
	}
	p.held.Store(&holdUp{since: since, why: err})
}

// errUnstable holds a partition up from its assignment until the client has fetched the group's offsets.
var errUnstable = errors.New("the group's offsets are not stable: a transaction that commits offsets of the group is open, or the group's coordinator does not answer")

// tellHeldUp warns once of each partition that was held up for long.
func (e *Engine) tellHeldUp() {
	e.mu.Lock()
	defer e.mu.Unlock()
	news := false
	for _, p := range e.sorted() {
		h := p.held.Load()
		if h == nil || p.ready || p.err != nil || time.Since(h.since) < e.cfg.heldUpFor || h.told.Swap(true) {
			continue
		}
		news = true
		e.log.Warn("a partition cannot be restored: nothing is done for it, this process is not ready",
			"partition", p.id, "since", h.since, "err", h.why,
			"fix", "zns doctor names open transactions and brokers that are away; docs/operations.md says what to do about a transaction that does not end by its producer's timeout")
	}
	if news {
		e.publish() // a tick that waits for a producer does not
	}
}

// sorted lists the partitions in ascending order. mu is held.
func (e *Engine) sorted() []*part {
	ps := make([]*part, 0, len(e.parts))
	for _, p := range e.parts {
		ps = append(ps, p)
	}
	slices.SortFunc(ps, func(a, b *part) int { return int(a.id - b.id) })
	return ps
}

// adjust pauses or resumes the fetching of p as its state demands. qmu is held.
func (e *Engine) adjust(p *part) {
	pause := !p.open || p.full || len(p.queue) >= queueRecords || p.bytes >= queueBytes
	if p.paused && !pause && (len(p.queue) > queueRecords/2 || p.bytes > queueBytes/2) {
		return // resuming drops nothing, but pausing drops what the client has buffered: not at every record
	}
	if pause == p.paused {
		return
	}
	p.paused = pause
	which := map[string][]int32{e.cfg.Input: {p.id}}
	if pause {
		e.client.PauseFetchPartitions(which)
	} else {
		e.client.ResumeFetchPartitions(which)
	}
}

// adjustAll asks the Handler whether partitions are full, and pauses or resumes. mu is held.
func (e *Engine) adjustAll() {
	e.qmu.Lock()
	defer e.qmu.Unlock()
	for _, p := range e.parts {
		p.open = p.ready && !p.closing && p.err == nil
		p.full = p.open && e.cfg.Handler.Full(p.id)
		e.adjust(p)
	}
}

// halt stops p with err: it stays owned and paused, and takes no part in ticks. mu is held.
func (e *Engine) halt(p *part, err error) {
	p.err = err
	e.log.Error("partition stopped: it is owned, nothing of it is lost, nothing is done for it", "partition", p.id, "err", err)
	e.adjustAll()
	e.publish()
}

// poll hands fetched records to the partitions' queues until ctx ends.
func (e *Engine) poll(ctx context.Context) {
	for ctx.Err() == nil {
		fetches := e.client.PollRecords(ctx, queueRecords)
		e.queueUp(fetches)
		e.client.AllowRebalance()
		fetches.EachError(func(_ string, p int32, err error) {
			if ctx.Err() == nil && e.quiet.pass("fetch "+err.Error()) {
				e.log.Warn("fetching input failed, trying again", "partition", p, "err", err)
			}
		})
		if len(fetches) > 0 {
			e.Wake()
		}
	}
}

func (e *Engine) queueUp(fetches kgo.Fetches) {
	e.qmu.Lock()
	defer e.qmu.Unlock()
	fetches.EachRecord(func(r *kgo.Record) {
		p := e.parts[r.Partition]
		if p == nil {
			return // given up; whoever owns it now fetches it
		}
		p.queue = append(p.queue, r)
		p.bytes += size(r)
	})
	for _, p := range e.parts {
		e.adjust(p)
	}
}

// record is r without the client's types.
func record(r *kgo.Record) kafka.Record {
	out := kafka.Record{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Time: r.Timestamp, Key: r.Key, Value: r.Value,
	}
	if len(r.Headers) > 0 {
		out.Headers = make([]kafka.Header, len(r.Headers))
		for i, h := range r.Headers {
			out.Headers[i] = kafka.Header{Key: h.Key, Value: h.Value}
		}
	}
	return out
}
