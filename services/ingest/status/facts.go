package status

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/services/ingest/sideinput"
)

const (
	openTimeout = 15 * time.Second
	retryAfter  = time.Second
	startMargin = time.Hour // records carry their producers' time: begin a little earlier
	lookAtRoom  = 500 * time.Millisecond
)

// facts reads the topics of events for the partitions that are assigned, each from the position that it is told, and
// queues what is to be folded. When the queues are full reading waits.
type facts struct {
	client  []kgo.Opt
	topics  Topics
	most    int // bytes in all queues
	count   func() int32
	arrived func()       // called when a queue has something new; must not block
	skipped func(Result) // called for each record that is not folded
	log     *slog.Logger
	// A partition whose facts nobody takes for so long, while there is no room for others, is left out until somebody does.
	stuckAfter time.Duration

	mu      sync.Mutex // guards what follows; never held over I/O
	parts   map[int32]*intake
	changed chan struct{} // closed when the partitions to read change
	freed   chan struct{} // closed when a queue has become shorter
	bytes   int
	awaited time.Time // when somebody last asked up to which moment everything was read
	warned  map[Result]time.Time
}

// intake is what is known of one partition.
type intake struct {
	queue    []*Fact // in order of arrival; the offsets of each kind ascend
	next     [kinds]int64
	ids      [kinds][16]byte // of the topics that next belongs to
	caughtUp [kinds]time.Time
	asked    time.Time // when somebody last looked at the queue
	left     bool      // not read until somebody does
}

// positions is how far each topic was read; -1: from Window ago.
type positions struct {
	next [kinds]int64
	ids  [kinds][16]byte
}

func unread() positions {
	var p positions
	for k := range p.next {
		p.next[k] = -1
	}
	return p
}

func newFacts(client []kgo.Opt, topics Topics, most int, count func() int32, arrived func(), skipped func(Result), log *slog.Logger) *facts {
	return &facts{
		client: client, topics: topics, most: most, count: count, arrived: arrived, skipped: skipped, log: log, stuckAfter: 10 * time.Second,
		parts: map[int32]*intake{}, changed: make(chan struct{}), freed: make(chan struct{}), warned: map[Result]time.Time{},
	}
}

// run reads until ctx ends.
func (f *facts) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, k := range Kinds {
		wg.Go(func() { f.follow(ctx, k) })
	}
	wg.Wait()
}

// assign begins to read partition p.
func (f *facts) assign(p int32, from positions) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.parts[p] = &intake{next: from.next, ids: from.ids, asked: time.Now()}
	f.change()
}

// drop forgets partition p.
func (f *facts) drop(p int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if part := f.parts[p]; part != nil {
		f.release(part.queue)
		delete(f.parts, p)
		f.change()
	}
}

// change makes the readers look at the partitions again. mu is held.
func (f *facts) change() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// release gives the room of facts back. mu is held.
func (f *facts) release(queue []*Fact) {
	for _, fact := range queue {
		f.bytes -= fact.bytes
	}
	close(f.freed)
	f.freed = make(chan struct{})
}

// peek returns at most n facts from the front of the queue of p, and whether there are more.
func (f *facts) peek(p int32, n int) (queue []*Fact, more bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	part := f.parts[p]
	if part == nil {
		return nil, false
	}
	if part.left {
		// Another intake, so that no session of before can add what comes after a gap.
		part = &intake{next: part.next, ids: part.ids}
		f.parts[p] = part
		f.change()
	}
	part.asked = time.Now()
	n = min(n, len(part.queue))
	return part.queue[:n:n], n < len(part.queue)
}

// done takes the n facts at the front of the queue of p away.
func (f *facts) done(p int32, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// A transaction that took long to be confirmed may have seen its queue given up: that is read again.
	if part := f.parts[p]; part != nil && !part.left {
		f.release(part.queue[:n])
		part.queue = slices.Clone(part.queue[n:]) // lets go of what was folded
	}
}

// queued is the number of facts that wait, and their bytes.
func (f *facts) queued() (n, bytes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, part := range f.parts {
		n += len(part.queue)
	}
	return n, f.bytes
}

// follow reads one topic for the partitions that are assigned, but for those that are left out.
func (f *facts) follow(ctx context.Context, k Kind) {
	cfg := sideinput.Config{Client: f.client, Topic: f.topics.Of(k), Since: Window + startMargin, Log: f.log}
	sideinput.Follow(ctx, cfg, func() sideinput.Session {
		f.mu.Lock()
		defer f.mu.Unlock()
		parts, from := map[int32]*intake{}, map[int32]sideinput.Position{}
		for p, part := range f.parts {
			if !part.left {
				parts[p], from[p] = part, sideinput.Position{Next: part.next[k], Topic: part.ids[k]}
			}
		}
		return sideinput.Session{
			From: from, Changed: f.changed, Room: f.room,
			Take:     func(records []kafka.Record, at map[int32]sideinput.Position) { f.take(k, parts, records, at) },
			Awaited:  f.isAwaited,
			CaughtUp: func(at time.Time) { f.caughtUp(k, parts, at) },
		}
	})
}

// take queues records.
func (f *facts) take(k Kind, parts map[int32]*intake, records []kafka.Record, at map[int32]sideinput.Position) {
	count := f.count()
	old := time.Now().Add(-Window)
	decoded := make([]*Fact, len(records)) // before the lock
	for i, rec := range records {
		if rec.Value == nil {
			continue
		}
		switch fact, err := Decode(k, rec); {
		case errors.Is(err, errNoNotification):
		case err != nil:
			f.skip(Unreadable, rec, err)
		case kafka.Murmur2Partition(rec.Key, count) != rec.Partition:
			f.skip(Stray, rec, errors.New("its partition is not that of its key's murmur2 hash"))
		case rec.Time.Before(old):
			f.skipped(Old)
		default:
			decoded[i] = fact
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	news := false
	for i, fact := range decoded {
		p := records[i].Partition
		if part := parts[p]; fact != nil && part != nil && f.parts[p] == part && !part.left {
			fact.topic = at[p].Topic
			part.queue = append(part.queue, fact)
			f.bytes += fact.bytes
			news = true
		}
	}
	for p, part := range parts {
		if !part.left {
			part.next[k], part.ids[k] = at[p].Next, at[p].Topic
		}
	}
	if news {
		f.arrived()
	}
}

// skip counts a record that is not folded, and says so now and then.
func (f *facts) skip(r Result, rec kafka.Record, err error) {
	f.skipped(r)
	f.mu.Lock()
	tell := time.Since(f.warned[r]) > time.Minute
	if tell {
		f.warned[r] = time.Now()
	}
	f.mu.Unlock()
	if tell {
		f.log.Warn("an event is not in zns.status", "topic", rec.Topic, "partition", rec.Partition, "offset", rec.Offset, "error", err)
	}
}

// room waits until the queues may take more, and reports whether ctx still lives. Partitions that nobody takes facts
// from, while the others wait for room, are left out: one that is stopped must not stop the others.
func (f *facts) room(ctx context.Context) bool {
	for ctx.Err() == nil {
		f.mu.Lock()
		full, freed := f.bytes >= f.most, f.freed
		if full {
			f.leaveOut()
		}
		f.mu.Unlock()
		if !full {
			return true
		}
		select {
		case <-freed:
		case <-time.After(lookAtRoom):
		case <-ctx.Done():
		}
	}
	return false
}

// leaveOut gives up the queues of partitions that are stuck; they are read again from there. mu is held.
func (f *facts) leaveOut() {
	for p, part := range f.parts {
		if len(part.queue) == 0 || time.Since(part.asked) < f.stuckAfter {
			continue
		}
		next := part.next
		for _, fact := range slices.Backward(part.queue) {
			next[fact.Kind] = fact.Offset
		}
		f.parts[p] = &intake{next: next, ids: part.ids, left: true}
		f.release(part.queue)
		f.change()
	}
}
