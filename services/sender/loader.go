package sender

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
)

// loader reads entries back from the ledger, by offset and many at a time. Its methods may be called from any
// goroutine and do not block.
type loader struct {
	read   func(ctx context.Context, p int32, offsets []int64) ([]kafka.Record, error)
	decode func(r kafka.Record) (*entry, error)
	wake   func()
	log    *slog.Logger

	mu     sync.Mutex // guards what follows
	queues [2]deque[*load]
	ended  deque[*load]

	signal chan struct{}
}

// How urgent a load is.
const (
	loadUrgent = 0 // something could go on if it were there
	loadBulk   = 1 // work in the background
)

const (
	loadAtOnce  = 512 // entries in one load
	loadReaders = 3
	loadAgain   = time.Second // after one that failed
)

// loadsMost bounds the entries that are being read, by urgency.
var loadsMost = [2]int{8192, 2048}

// load is entries of one partition to be read.
type load struct {
	p       *partition
	urgency int
	items   []loadItem // by offset
	err     error
}

type loadItem struct {
	id     uuid.UUID
	offset int64
	e      *entry // what was read; nil: it was not there
	broken error  // it was there and cannot be decoded
}

func newLoader(read func(context.Context, int32, []int64) ([]kafka.Record, error), decode func(kafka.Record) (*entry, error), wake func(), log *slog.Logger) *loader {
	return &loader{read: read, decode: decode, wake: wake, log: log, signal: make(chan struct{}, loadReaders)}
}

func (l *loader) submit(x *load) {
	l.mu.Lock()
	l.queues[x.urgency].pushBack(x)
	l.mu.Unlock()
	select {
	case l.signal <- struct{}{}:
	default:
	}
}

// finished takes a load that ended; nil: none.
func (l *loader) finished() *load {
	l.mu.Lock()
	defer l.mu.Unlock()
	x, _ := l.ended.popFront()
	return x
}

// run reads until ctx ends.
func (l *loader) run(ctx context.Context) {
	var all sync.WaitGroup
	for range loadReaders {
		all.Go(func() {
			for {
				for l.step(ctx) {
				}
				select {
				case <-ctx.Done():
					return
				case <-l.signal:
				}
			}
		})
	}
	all.Wait()
}

// step makes one load, when there is one.
func (l *loader) step(ctx context.Context) bool {
	l.mu.Lock()
	x, ok := l.queues[loadUrgent].popFront()
	if !ok {
		x, ok = l.queues[loadBulk].popFront()
	}
	l.mu.Unlock()
	if !ok || ctx.Err() != nil {
		return false
	}
	if !x.p.dropped.Load() {
		l.make(ctx, x)
	}
	l.mu.Lock()
	l.ended.pushBack(x)
	l.mu.Unlock()
	l.wake()
	return true
}

func (l *loader) make(ctx context.Context, x *load) {
	offsets := make([]int64, len(x.items))
	for i := range x.items {
		offsets[i] = x.items[i].offset
	}
	records, err := l.read(ctx, x.p.id, offsets)
	if err != nil {
		x.err = err
		if ctx.Err() == nil && !x.p.dropped.Load() {
			l.log.Warn("reading waiting notifications from the ledger failed, trying again", "partition", x.p.id, "err", err)
		}
		return
	}
	for _, r := range records {
		i, ok := slices.BinarySearchFunc(x.items, r.Offset, func(a loadItem, offset int64) int { return int(a.offset - offset) })
		if !ok {
			continue
		}
		e, err := l.decode(r)
		if err == nil && e.id == x.items[i].id {
			x.items[i].e = e
		} else {
			x.items[i].broken = cmp.Or(err, errWrongEntry)
		}
	}
}

var errWrongEntry = errors.New("it is about another notification")

// load asks for the entry of a slot. The tick is woken when it is there. False: too much is being read already; ask
// again in a later tick, which will come.
func (h *handler) load(p *partition, r ref, urgency int) bool {
	s := p.at(r)
	switch {
	case s.has(flagLoading) || s.has(flagLoaded):
		return true
	case h.loading[urgency] >= loadsMost[urgency]:
		return false
	}
	s.set(flagLoading, true)
	h.loading[urgency]++
	p.wanted[urgency] = append(p.wanted[urgency], r)
	return true
}

// submitLoads hands over what this tick asked for.
func (h *handler) submitLoads() {
	for _, p := range h.parts {
		for urgency := range p.wanted {
			wanted := p.wanted[urgency]
			if len(wanted) == 0 {
				continue
			}
			items := make([]loadItem, 0, len(wanted))
			for _, r := range wanted {
				s := p.at(r)
				if s.has(flagLoading) {
					items = append(items, loadItem{id: s.id, offset: s.ledger.get()})
				} else {
					h.loading[urgency]-- // it was finished meanwhile
				}
			}
			p.wanted[urgency] = wanted[:0]
			slices.SortFunc(items, func(a, b loadItem) int { return int(a.offset - b.offset) })
			for some := range slices.Chunk(items, loadAtOnce) {
				h.loader.submit(&load{p: p, urgency: urgency, items: some})
			}
		}
	}
}

// loaded takes what was read.
func (h *handler) loaded(now int64) {
	for x := h.loader.finished(); x != nil; x = h.loader.finished() {
		h.loading[x.urgency] -= len(x.items)
		if x.p.dropped.Load() {
			continue
		}
		missing := 0
		for i := range x.items {
			item := &x.items[i]
			r := x.p.find(item.id)
			if r == 0 || !x.p.at(r).has(flagLoading) {
				continue
			}
			s := x.p.at(r)
			s.set(flagLoading, false)
			switch {
			case item.broken != nil:
				h.log.Error("a ledger entry cannot be read and is left alone", "partition", x.p.id, "notification_id", item.id, "offset", item.offset, "err", item.broken)
				x.p.lame(r, s)
			case item.e != nil && s.ledger.get() == item.offset && !s.has(flagLoaded):
				x.p.adopt(r, s, item.e, now)
			case x.err == nil && s.ledger.get() == item.offset:
				missing++
			}
		}
		if missing > 0 {
			h.log.Error("waiting notifications are missing in the ledger, trying again", "partition", x.p.id, "entries", missing)
		}
	}
}

// adopt takes an entry that was read from the ledger.
func (p *partition) adopt(r ref, s *slot, e *entry, now int64) {
	e.p, e.ref, e.flow, e.ledger = p, r, p.flows[s.flow].key, s.ledger.get()
	e.listened, e.wanting = s.has(flagListened), s.has(flagWanting)
	p.attach(e)
	if f := p.flows[s.flow]; f.loading && f.first(&p.slots) == r {
		p.unpark(f)
	}
	if s.has(flagDue) {
		s.set(flagDue, false)
		p.setTimer(r, s, now)
	}
}

// lame takes one out of everything that could make something of it: it stays known, and nothing is done for it.
func (p *partition) lame(r ref, s *slot) {
	p.arrange(r, s, false, false, 0)
	s.set(flagLame, true)
	if s.scope != 0 { // what it was at holds up nobody for ever
		sc := p.scopes.at(s.scope)
		sc.release(r)
		p.promote(sc)
	}
	if f := p.flows[s.flow]; f.loading {
		p.unpark(f)
	}
}

// attach keeps e in memory.
func (p *partition) attach(e *entry) {
	p.entries[e.ref] = e
	p.at(e.ref).set(flagLoaded|flagRecent, true)
	p.bytes += e.size()
}

func (p *partition) detach(e *entry) {
	delete(p.entries, e.ref)
	s := p.at(e.ref)
	s.set(flagLoaded, false)
	s.set(flagListened, e.listened)
	s.set(flagWanting, e.wanting)
	p.bytes -= e.size()
}

// payload is how many bytes entries take in memory.
func (h *handler) payload() (n int64) {
	for _, p := range h.parts {
		if p.restored {
			n += p.bytes
		}
	}
	return n
}

// evictLooks bounds how many slots one tick looks at for entries that can go.
const evictLooks = 20_000

// evict drops entries from memory while they take more than their room. The ledger has them. One that was used since
// the last look stays once more.
func (h *handler) evict() {
	room := h.payloadRoom()
	over := h.payload() - room
	if over <= 0 {
		return
	}
	looks := evictLooks
	for range 2 {
		for _, p := range h.parts {
			for n := min(looks, int(p.slots.top)); p.restored && n > 0 && over > 0; n-- {
				looks--
				if p.hand++; uint32(p.hand) > p.slots.top {
					p.hand = 1
				}
				over -= p.evictOne(p.hand)
			}
		}
	}
}

// evictOne drops the entry of r from memory when it can go, and returns its size.
func (p *partition) evictOne(r ref) int64 {
	s := p.at(r)
	if !s.has(flagLoaded) {
		return 0
	}
	if s.has(flagRecent) {
		s.set(flagRecent, false)
		return 0
	}
	e := p.entries[r]
	if e.pins > 0 || ledgerv1.State(s.state) == stateSending || s.ledger.get() == 0 {
		return 0
	}
	p.detach(e)
	e.ref = 0
	return e.size()
}

// fixedBytes is what memory holds of the notifications of p in any case.
func (p *partition) fixedBytes() int64 {
	const heaps = 2 * 5 // a place in a heap of the flow and one in that of the timers, with room to grow
	return p.slots.bytes() + p.ids.size + int64(p.slots.n)*heaps + int64(len(p.flowIndex))*flowBytes +
		int64(len(p.scopes.index))*scopeBytes + int64(len(p.collapseOf))*collapseBytes + p.finished.Bytes()
}

// measure takes the sizes that Full and evict go by. It is called once in a tick.
func (h *handler) measure() {
	h.fixed = 0
	for _, p := range h.parts {
		if p.restored {
			h.fixed += p.fixedBytes()
		}
	}
	h.fixedSeen.Store(h.fixed)
	h.payloadSeen.Store(h.payload())
	// What a dead peer held must find room here, unless there is no peer.
	most := h.settings.memory / 4 * 3
	if int32(len(h.parts)) >= h.settings.partitions() {
		most = h.settings.memory
	}
	was := h.full
	if h.full {
		h.full = h.fixed > most/16*15
	} else {
		h.full = h.fixed > most
	}
	for _, p := range h.parts {
		h.full = h.full || p.restored && p.finished.Full()
	}
	h.fullSeen.Store(h.full)
	if h.full && !was {
		h.log.Error("SENDER_MEMORY is used up by what waits and what is remembered: no request is accepted until something of it is finished or forgotten; nothing is lost",
			"bytes", h.fixed, "limit", most)
	} else if was && !h.full {
		h.log.Info("requests are accepted again", "bytes", h.fixed, "limit", most)
	}
}

// payloadRoom is what entries may take. What is free is used by half: garbage takes the other.
func (h *handler) payloadRoom() int64 {
	return max((h.settings.memory-h.fixed)/2, h.settings.memory/32)
}
