// Package sends remembers what became of every send: it follows zns.sent, zns.failed and zns.unresolved for the
// partitions that its user owns, beside the engine and with clients of its own.
//
// # Promises
//
// For each notification of the last Window it holds the place of its outcome (some 60 bytes), and the newest outcomes
// themselves up to CacheBytes; an older one is read again from Kafka when it is asked for. No method waits for a
// broker. A moment that CaughtUp returns is never too late: every record that any transaction had written by then, in
// any of the three topics, has been seen, also those of transactions that were open. While brokers are away it stays
// behind, and goes on where it was when they return.
//
// The topics must have as many partitions as the one whose receipts are joined, and all must be partitioned by murmur2
// of the notification's id.
package sends

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/services/ingest/sideinput"
)

// Config says what is followed.
type Config struct {
	Client     []kgo.Opt // how to reach the brokers
	Sent       string    // the topics' names
	Failed     string
	Unresolved string
	Window     time.Duration // how far back
	CacheBytes int           // of outcomes in memory; default 64 MiB
	Found      func()        // called when Take has something; must not block
	Log        *slog.Logger
}

func (c *Config) topic(k Kind) string { return [kinds]string{c.Sent, c.Failed, c.Unresolved}[k] }

// kinds is the number of topics.
const kinds = 3

// Sends is safe for concurrent use.
type Sends struct {
	cfg Config

	mu      sync.Mutex // guards what follows and what partitions hold; never held over I/O
	parts   map[int32]*partition
	changed chan struct{} // closed when parts changes
	recent  []cached      // oldest first
	bytes   int           // of recent
	lost    map[lostKey]struct{}
	reread  chan struct{} // capacity 1: lost has something new
	warned  time.Time     // when a record that is no outcome was last told
}

// partition is what is known of one partition.
type partition struct {
	index    index
	recent   map[uuid.UUID][]*outcome
	watched  map[uuid.UUID]struct{}
	found    []*Send
	next     [kinds]sideinput.Position // of each topic: everything below is in the index
	caughtUp [kinds]time.Time          // of each topic
}

// outcome is a record of one of the topics.
type outcome struct {
	kind   Kind
	offset int64
	value  []byte
}

type cached struct {
	part *partition
	id   uuid.UUID
	o    *outcome
}

// lostKey is an outcome that is to be read again.
type lostKey struct {
	partition int32
	place     place
	id        uuid.UUID
}

// New returns a Sends that follows nothing until Assign, and reads nothing until Run.
func New(cfg Config) *Sends {
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = 64 << 20
	}
	return &Sends{
		cfg:     cfg,
		parts:   map[int32]*partition{},
		changed: make(chan struct{}),
		lost:    map[lostKey]struct{}{},
		reread:  make(chan struct{}, 1),
	}
}

// Run reads until ctx ends.
func (s *Sends) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for k := range Kind(kinds) {
		wg.Go(func() { s.follow(ctx, k) })
	}
	wg.Go(func() { s.readAgain(ctx) })
	wg.Go(func() { s.expire(ctx) })
	wg.Wait()
}

// Assign begins to follow partition p.
func (s *Sends) Assign(p int32) {
	s.change(func() {
		s.parts[p] = &partition{
			index:   index{},
			recent:  map[uuid.UUID][]*outcome{},
			watched: map[uuid.UUID]struct{}{},
			next:    [kinds]sideinput.Position{{Next: -1}, {Next: -1}, {Next: -1}},
		}
	})
}

// Drop forgets partition p.
func (s *Sends) Drop(p int32) { s.change(func() { delete(s.parts, p) }) }

func (s *Sends) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// Find returns the outcomes of a notification that are in memory.
func (s *Sends) Find(p int32, id uuid.UUID) []*Send {
	s.mu.Lock()
	defer s.mu.Unlock()
	part := s.parts[p]
	if part == nil {
		return nil
	}
	return s.decode(part.recent[id])
}

// Watch asks for every outcome of a notification, known or still to come, until Unwatch.
func (s *Sends) Watch(p int32, id uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	part := s.parts[p]
	if part == nil {
		return
	}
	part.watched[id] = struct{}{}
	at, known := part.index.find(id)
	if !known {
		return
	}
	recent := part.recent[id]
	if len(recent) > 0 {
		part.found = append(part.found, s.decode(recent)...)
		s.cfg.Found()
	}
	if !slices.ContainsFunc(recent, func(o *outcome) bool { return newPlace(o.kind, o.offset) == at }) {
		s.lost[lostKey{p, at, id}] = struct{}{}
		notify(s.reread)
	}
}

// Unwatch ends what Watch began.
func (s *Sends) Unwatch(p int32, id uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if part := s.parts[p]; part != nil {
		delete(part.watched, id)
	}
}

// Take returns, once, the outcomes of watched notifications that were found since the last call.
func (s *Sends) Take(p int32) []*Send {
	s.mu.Lock()
	defer s.mu.Unlock()
	part := s.parts[p]
	if part == nil {
		return nil
	}
	found := part.found
	part.found = nil
	return found
}

// CaughtUp returns a moment: whatever of watched notifications was in the three topics' partition p then was handed to
// Take. It moves on only while something is watched; it is zero while an outcome is being read again.
func (s *Sends) CaughtUp(p int32) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	part := s.parts[p]
	if part == nil {
		return time.Time{}
	}
	for l := range s.lost {
		if l.partition == p {
			return time.Time{} // known to be there, and not in memory yet
		}
	}
	oldest := part.caughtUp[0]
	for _, t := range part.caughtUp[1:] {
		if t.Before(oldest) {
			oldest = t
		}
	}
	return oldest
}

// Stats is a snapshot for metrics.
type Stats struct {
	Indexed, Cached, CachedBytes, Watched int
}

// Stats returns how much is held.
func (s *Sends) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Cached: len(s.recent), CachedBytes: s.bytes}
	for _, p := range s.parts {
		st.Indexed += p.index.len()
		st.Watched += len(p.watched)
	}
	return st
}

// decode leaves out what cannot be decoded: it was told when it was read.
func (s *Sends) decode(outcomes []*outcome) []*Send {
	var all []*Send
	for _, o := range outcomes {
		if send, err := Decode(o.kind, o.value); err == nil {
			all = append(all, send)
		}
	}
	return all
}

// add takes note of an outcome. mu is held.
func (s *Sends) add(part *partition, id uuid.UUID, at time.Time, o *outcome) {
	part.index.add(id, at, newPlace(o.kind, o.offset))
	part.recent[id] = append(part.recent[id], o)
	s.recent = append(s.recent, cached{part, id, o})
	s.bytes += len(o.value)
	for s.bytes > s.cfg.CacheBytes && len(s.recent) > 1 {
		old := s.recent[0]
		s.recent[0] = cached{}
		s.recent = s.recent[1:]
		s.bytes -= len(old.o.value)
		if left := slices.DeleteFunc(old.part.recent[old.id], func(o *outcome) bool { return o == old.o }); len(left) > 0 {
			old.part.recent[old.id] = left
		} else {
			delete(old.part.recent, old.id)
		}
	}
	s.tell(part, id, o)
}

// tell hands an outcome to whoever watches its notification. mu is held.
func (s *Sends) tell(part *partition, id uuid.UUID, o *outcome) {
	if _, ok := part.watched[id]; !ok {
		return
	}
	send, err := Decode(o.kind, o.value)
	if err != nil {
		s.cfg.Log.Error("an outcome cannot be decoded: its receipt will be published without it", "topic", s.cfg.topic(o.kind), "offset", o.offset, "error", err)
		return
	}
	part.found = append(part.found, send)
	s.cfg.Found()
}

// notify wakes whoever reads c; one pending wake is enough.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
