package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// Watermark is where a topic's partitions ended at a moment: their high watermarks, open transactions included.
type Watermark struct {
	Time    time.Time // before the broker was asked
	topicID kadm.TopicID
	ends    map[int32]int64
}

// Watermark asks the brokers where the Reader's partitions end now.
func (r *Reader) Watermark(ctx context.Context) (Watermark, error) {
	now := time.Now()
	r.mu.Lock()
	partitions := make([]int32, 0, len(r.positions))
	for p := range r.positions {
		partitions = append(partitions, p)
	}
	r.mu.Unlock()
	l, err := look(ctx, r.admin, r.cfg.Topic, partitions)
	if err != nil {
		return Watermark{}, err
	}
	return Watermark{Time: now, topicID: l.id, ends: l.ends}, nil
}

// TopicID is the id of the topic that w is of.
func (w Watermark) TopicID() [16]byte { return w.topicID }

// ReachedAt reports whether positions, of the topic with this id, lie behind everything that was below w; partitions
// without position do not count.
func (w Watermark) ReachedAt(topic [16]byte, positions map[int32]int64) bool {
	if w.ends == nil || w.topicID != topic {
		return false
	}
	for p, end := range w.ends {
		if position, ok := positions[p]; ok && position < end {
			return false
		}
	}
	return true
}

// Reached reports whether Poll has returned every record that was below w. A record of a transaction that was open then
// counts: until it ends Reached is false. It stays false for a w of a topic that was deleted since: take another.
func (r *Reader) Reached(w Watermark) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return w.ReachedAt(r.topicID, r.positions)
}

// ErrMadeAnew says that the topic was deleted and made again: what was read is another topic's, or will be.
var ErrMadeAnew = errors.New("the topic was deleted and made again")

// ReadTo calls f with what each Poll returns until w is reached: records that came after w among them, and none when
// only the positions moved. It ends with the first error of f, of Poll, or when ctx does, and with ErrMadeAnew when w is
// not of the topic that the Reader reads.
func (r *Reader) ReadTo(ctx context.Context, w Watermark, f func([]Record) error) error {
	return r.read(ctx, w.topicID, func() bool { return r.Reached(w) }, f)
}

// ReadOn is ReadTo without an end.
func (r *Reader) ReadOn(ctx context.Context, f func([]Record) error) error {
	return r.read(ctx, r.TopicID(), func() bool { return false }, f)
}

func (r *Reader) read(ctx context.Context, id kadm.TopicID, done func() bool, f func([]Record) error) error {
	for {
		if r.TopicID() != id {
			return fmt.Errorf("read %s: %w", r.cfg.Topic, ErrMadeAnew)
		}
		if done() {
			return nil
		}
		records, err := r.Poll(ctx)
		if err != nil {
			return err
		}
		if err := f(records); err != nil {
			return err
		}
	}
}

// ReadToEnd calls f with every record from cfg.Start to where the topic ends when ReadToEnd is called, partitions mixed.
// It ends as ReadTo does.
func ReadToEnd(ctx context.Context, cfg ReaderConfig, f func(Record) error) error {
	r, err := NewReader(ctx, cfg)
	if err != nil {
		return err
	}
	defer r.Close()
	end, err := r.Watermark(ctx)
	if err != nil {
		return err
	}
	return r.ReadTo(ctx, end, func(records []Record) error {
		for _, rec := range records {
			if rec.Offset >= end.ends[rec.Partition] {
				continue
			}
			if err := f(rec); err != nil {
				return err
			}
		}
		return nil
	})
}

// layout is a topic as it is at a moment.
type layout struct {
	id     kadm.TopicID
	starts map[int32]int64
	ends   map[int32]int64
}

// from returns the starts of the partitions that cfg names, of all when it names none.
func (l layout) from(cfg ReaderConfig) (map[int32]int64, error) {
	if cfg.Partitions == nil {
		return maps.Clone(l.starts), nil
	}
	starts := make(map[int32]int64, len(cfg.Partitions))
	for _, p := range cfg.Partitions {
		at, ok := l.starts[p]
		if !ok {
			return nil, fmt.Errorf("read %s: it was made anew without partition %d", cfg.Topic, p)
		}
		starts[p] = at
	}
	return starts, nil
}

// look asks for the topic's id and the ends of its log; partitions nil means all.
func look(ctx context.Context, admin *kadm.Client, name string, partitions []int32) (layout, error) {
	l := layout{starts: make(map[int32]int64), ends: make(map[int32]int64)}
	topics, err := admin.ListTopics(ctx, name)
	if err == nil {
		err = topics[name].Err
	}
	if err != nil {
		return l, fmt.Errorf("look up %s: %w", name, err)
	}
	l.id = topics[name].ID
	if partitions == nil {
		for p := range topics[name].Partitions {
			partitions = append(partitions, p)
		}
	}
	starts, err := admin.ListStartOffsets(ctx, name)
	if err != nil {
		return l, fmt.Errorf("find the start of %s: %w", name, err)
	}
	ends, err := admin.ListEndOffsets(ctx, name)
	if err != nil {
		return l, fmt.Errorf("find the end of %s: %w", name, err)
	}
	for _, p := range partitions {
		for into, listed := range map[*map[int32]int64]kadm.ListedOffsets{&l.starts: starts, &l.ends: ends} {
			o, ok := listed.Lookup(name, p)
			if !ok {
				return l, fmt.Errorf("look up %s: it has no partition %d", name, p)
			}
			if o.Err != nil {
				return l, fmt.Errorf("look up %s/%d: %w", name, p, o.Err)
			}
			(*into)[p] = o.Offset
		}
	}
	return l, nil
}

// resolve turns a Start into an offset for each partition of l.
func (s Start) resolve(ctx context.Context, admin *kadm.Client, name string, l layout) (map[int32]int64, error) {
	positions := make(map[int32]int64, len(l.starts))
	var after kadm.ListedOffsets
	if s.kind == fromTime {
		var err error
		if after, err = admin.ListOffsetsAfterMilli(ctx, s.time.UnixMilli(), name); err != nil {
			return nil, fmt.Errorf("find %s at %s: %w", name, s.time.Format(time.RFC3339), err)
		}
	}
	for p, start := range l.starts {
		at := start
		switch s.kind {
		case fromStart:
		case fromEnd:
			at = l.ends[p]
		case fromTime:
			o, ok := after.Lookup(name, p)
			if !ok || o.Err != nil {
				return nil, fmt.Errorf("find %s/%d at %s: %w", name, p, s.time.Format(time.RFC3339), o.Err)
			}
			at = o.Offset
		case fromOffsets:
			if given, ok := s.offsets[p]; ok {
				at = given
			}
		}
		positions[p] = min(max(at, start), l.ends[p])
	}
	return positions, nil
}
