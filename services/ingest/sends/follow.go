package sends

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
)

const (
	openTimeout   = 15 * time.Second
	retryAfter    = time.Second
	lookEvery     = 250 * time.Millisecond // at the watermark, while somebody waits
	startMargin   = time.Hour              // records carry their producers' time: begin a little earlier
	expireEvery   = 10 * time.Minute
	jumpInsteadOf = 50_000 // records that reading again would skip one by one
)

// follow reads one topic for the partitions that are assigned, and begins anew where it was when they change.
func (s *Sends) follow(ctx context.Context, k Kind) {
	for ctx.Err() == nil {
		parts, changed := s.assigned()
		if len(parts) == 0 {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		session, cancel := context.WithCancelCause(ctx)
		go func() {
			select {
			case <-changed:
				cancel(errChanged)
			case <-session.Done():
			}
		}()
		err := s.read(session, k, parts)
		cancel(nil)
		if err != nil && ctx.Err() == nil && !errors.Is(context.Cause(session), errChanged) {
			s.cfg.Log.Warn("reading the outcomes of sends failed, trying again", "topic", s.cfg.topic(k), "error", err)
			pause(ctx, retryAfter)
		}
	}
}

var errChanged = errors.New("the assignment changed")

// read is one session of follow: it ends with ctx or at an error.
func (s *Sends) read(ctx context.Context, k Kind, parts map[int32]*partition) error {
	r, err := s.open(ctx, k, parts)
	if err != nil {
		return err
	}
	defer r.Close()
	s.take(k, parts, nil, r.Positions()) // an empty topic has been seen to its end
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.watch(ctx, k, parts, r)
	}()
	defer func() {
		stop()
		<-done
	}()
	expire := time.Now()
	for ctx.Err() == nil {
		records, err := r.Poll(ctx)
		if err != nil {
			return err
		}
		s.take(k, parts, records, r.Positions())
		if time.Since(expire) > expireEvery {
			expire = time.Now()
			s.expire()
		}
	}
	return nil
}

// open returns a reader that begins where each partition was left, and at the window's beginning for new ones.
func (s *Sends) open(ctx context.Context, k Kind, parts map[int32]*partition) (*kafka.Reader, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	cfg := kafka.ReaderConfig{Client: s.cfg.Client, Topic: s.cfg.topic(k), Partitions: slices.Sorted(maps.Keys(parts))}
	offsets := map[int32]int64{}
	var fresh []int32
	s.mu.Lock()
	for p, part := range parts {
		if part.next[k] < 0 {
			fresh = append(fresh, p)
		} else {
			offsets[p] = part.next[k]
		}
	}
	s.mu.Unlock()
	if len(fresh) > 0 {
		first := cfg
		first.Partitions, first.Start = fresh, kafka.FromTime(time.Now().Add(-s.cfg.Window-startMargin))
		r, err := kafka.NewReader(ctx, first)
		if err != nil || len(offsets) == 0 {
			return r, err
		}
		maps.Copy(offsets, r.Positions())
		r.Close()
	}
	cfg.Start = kafka.FromOffsets(offsets)
	return kafka.NewReader(ctx, cfg)
}

// take puts records into the index and then says how far it goes.
func (s *Sends) take(k Kind, parts map[int32]*partition, records []kafka.Record, positions map[int32]int64) {
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
		if at, ok := positions[p]; ok {
			part.next[k] = at
		}
	}
}

// watch finds out again and again, while something is watched, up to which moment the topic was seen.
func (s *Sends) watch(ctx context.Context, k Kind, parts map[int32]*partition, r *kafka.Reader) {
	for pause(ctx, lookEvery) {
		if !s.waitedFor(parts) {
			continue
		}
		call, cancel := context.WithTimeout(ctx, openTimeout)
		w, err := r.Watermark(call)
		cancel()
		if err != nil {
			continue // the reader says what is wrong
		}
		for !r.Reached(w) && pause(ctx, 20*time.Millisecond) {
		}
		// Poll has returned all that was below w; what it returned is in the index once next says so.
		at := r.Positions()
		for !s.indexed(k, parts, at) && pause(ctx, time.Millisecond) {
		}
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		for _, part := range parts {
			part.caughtUp[k] = w.Time
		}
		s.mu.Unlock()
		s.cfg.Found()
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

func (s *Sends) indexed(k Kind, parts map[int32]*partition, positions map[int32]int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, at := range positions {
		if part := parts[p]; part != nil && part.next[k] < at {
			return false
		}
	}
	return true
}

func (s *Sends) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, part := range s.parts {
		part.index.expire(time.Now().Add(-s.cfg.Window - startMargin))
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
				pause(ctx, retryAfter)
			}
		}
	}
}

// nextLost returns what is to be read again of one partition of one topic, in offset order.
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
	slices.SortFunc(want, func(a, b lostKey) int { return cmp.Compare(a.place.offset(), b.place.offset()) })
	return partition, k, want
}

// fetch reads the wanted records, in one go where they lie close together.
func (s *Sends) fetch(ctx context.Context, p int32, k Kind, want []lostKey) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	for len(want) > 0 {
		r, err := kafka.NewReader(ctx, kafka.ReaderConfig{
			Client: s.cfg.Client, Topic: s.cfg.topic(k), Partitions: []int32{p},
			Start: kafka.FromOffsets(map[int32]int64{p: want[0].place.offset()}),
		})
		if err != nil {
			return err
		}
		want, err = s.fetchRun(ctx, r, p, k, want)
		r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// fetchRun reads on with r until the next wanted record is far away. It returns what is still wanted.
func (s *Sends) fetchRun(ctx context.Context, r *kafka.Reader, p int32, k Kind, want []lostKey) ([]lostKey, error) {
	for {
		// What lies below the position was read, or retention has deleted it.
		at := r.Positions()[p]
		for len(want) > 0 && want[0].place.offset() < at {
			s.settle(p, want[0], nil)
			want = want[1:]
		}
		if len(want) == 0 || want[0].place.offset() > at+jumpInsteadOf {
			return want, nil
		}
		records, err := r.Poll(ctx)
		if err != nil {
			return want, err
		}
		for _, rec := range records {
			for len(want) > 0 && want[0].place.offset() < rec.Offset {
				s.settle(p, want[0], nil)
				want = want[1:]
			}
			if len(want) > 0 && want[0].place.offset() == rec.Offset {
				s.settle(p, want[0], &outcome{kind: k, offset: rec.Offset, value: rec.Value})
				want = want[1:]
			}
		}
	}
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

// pause waits for d and reports whether ctx still lives.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
