package sends

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/pause"
	"github.com/znshub/znshub/services/ingest/sideinput"
)

const (
	openTimeout = 15 * time.Second
	retryAfter  = time.Second
	startMargin = time.Hour // records carry their producers' time: begin a little earlier
	expireEvery = 10 * time.Minute
)

// follow reads one topic for the partitions that are assigned.
func (s *Sends) follow(ctx context.Context, k Kind) {
	cfg := sideinput.Config{Client: s.cfg.Client, Topic: s.cfg.topic(k), Since: s.cfg.Window + startMargin, Log: s.cfg.Log}
	sideinput.Follow(ctx, cfg, func() sideinput.Session {
		s.mu.Lock()
		defer s.mu.Unlock()
		parts, from := maps.Clone(s.parts), make(map[int32]sideinput.Position, len(s.parts))
		for p, part := range parts {
			from[p] = part.next[k]
		}
		return sideinput.Session{
			From: from, Changed: s.changed,
			Take:     func(records []kafka.Record, at map[int32]sideinput.Position) { s.take(k, parts, records, at) },
			Awaited:  func() bool { return s.waitedFor(parts) },
			CaughtUp: func(at time.Time) { s.seenUpTo(k, parts, at) },
		}
	})
}

// take puts records into the index and then says how far it goes.
func (s *Sends) take(k Kind, parts map[int32]*partition, records []kafka.Record, at map[int32]sideinput.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range records {
		part := parts[r.Partition]
		if part == nil || s.parts[r.Partition] != part || r.Value == nil {
			continue
		}
		id, err := uuid.ParseBytes(r.Key)
		if err != nil {
			if time.Since(s.warned) > time.Minute { // a stranger's record; there may be many
				s.warned = time.Now()
				s.cfg.Log.Warn("an outcome is not keyed by its notification_id: it cannot be joined", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset)
			}
			continue
		}
		s.add(part, id, r.Time, &outcome{kind: k, offset: r.Offset, value: bytes.Clone(r.Value)})
	}
	for p, part := range parts {
		part.next[k] = at[p]
	}
}

func (s *Sends) waitedFor(parts map[int32]*partition) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, part := range parts {
		if len(part.watched) > 0 {
			return true
		}
	}
	return false
}

func (s *Sends) seenUpTo(k Kind, parts map[int32]*partition, at time.Time) {
	s.mu.Lock()
	for _, part := range parts {
		part.caughtUp[k] = at
	}
	s.mu.Unlock()
	s.cfg.Found()
}

// expire forgets what is older than the window, until ctx ends.
func (s *Sends) expire(ctx context.Context) {
	for pause.For(ctx, expireEvery) {
		s.mu.Lock()
		for _, part := range s.parts {
			part.index.expire(time.Now().Add(-s.cfg.Window - startMargin))
		}
		s.mu.Unlock()
	}
}

// readAgain fetches outcomes that are watched but not in memory any more.
func (s *Sends) readAgain(ctx context.Context) {
	for {
		select {
		case <-s.reread:
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil {
			partition, k, want := s.nextLost()
			if len(want) == 0 {
				break
			}
			if err := s.fetch(ctx, partition, k, want); err != nil && ctx.Err() == nil {
				s.cfg.Log.Warn("reading an outcome again failed, trying again", "topic", s.cfg.topic(k), "partition", partition, "error", err)
				pause.For(ctx, retryAfter)
			}
		}
	}
}

// nextLost returns what is to be read again of one partition of one topic.
func (s *Sends) nextLost() (partition int32, k Kind, want []lostKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.lost {
		if s.parts[l.partition] == nil {
			delete(s.lost, l)
			continue
		}
		if len(want) == 0 {
			partition, k = l.partition, l.place.kind()
		}
		if l.partition == partition && l.place.kind() == k {
			want = append(want, l)
		}
	}
	return partition, k, want
}

// fetch reads the wanted records.
func (s *Sends) fetch(ctx context.Context, p int32, k Kind, want []lostKey) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	at := map[int64][]lostKey{}
	for _, l := range want {
		at[l.place.offset()] = append(at[l.place.offset()], l)
	}
	return sideinput.ReadOffsets(ctx, s.cfg.Client, s.cfg.topic(k), p, slices.Sorted(maps.Keys(at)), func(offset int64, r *kafka.Record) {
		for _, l := range at[offset] {
			var o *outcome
			if r != nil {
				if id, err := uuid.ParseBytes(r.Key); err == nil && id == l.id { // in a topic made anew it is another's
					o = &outcome{kind: k, offset: offset, value: r.Value}
				}
			}
			s.settle(p, l, o)
		}
	})
}

// settle ends the search for one outcome; o is nil when it is no longer there.
func (s *Sends) settle(p int32, l lostKey, o *outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.lost, l)
	part := s.parts[p]
	switch {
	case part == nil:
	case o != nil:
		s.tell(part, l.id, o)
	default:
		if at, ok := part.index.find(l.id); ok && at == l.place {
			part.index.remove(l.id)
		}
	}
}
