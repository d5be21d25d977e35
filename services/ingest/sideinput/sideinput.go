// Package sideinput follows a topic beside the engine, for the partitions that its user owns: what is joined with the
// input, or folded, and whose positions no consumer group keeps.
//
// # Promises
//
// Follow hands every committed record of the assigned partitions to Take, in offset order within a partition, from where
// the user says that the partition was left; a partition that was never begun begins Since ago, one whose position is
// of an earlier topic of the same name at the start of the present one. When the assignment changes, and after errors,
// which are logged and tried again, it asks for the positions anew: no record is left out, and none comes twice to whom
// keeps the positions that Take tells.
//
// A moment that CaughtUp is given is never too late: every record that any transaction had written by then was taken,
// also those of transactions that were open. While brokers are away it stays behind, and goes on when they return; it
// does so also when the topic is deleted and made again.
//
// ReadOffsets fetches single records again.
package sideinput

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/pause"
)

const (
	openTimeout = 15 * time.Second
	retryAfter  = time.Second
	lookEvery   = 250 * time.Millisecond // at the watermark, while somebody waits
	reachEvery  = 20 * time.Millisecond  // at whether it is reached
)

// Config says what is followed.
type Config struct {
	Client []kgo.Opt // how to reach the brokers
	Topic  string
	Since  time.Duration // how far back a partition that was never begun begins; records carry their producers' time
	Log    *slog.Logger
}

// Position is how far a partition was taken.
type Position struct {
	Next  int64    // everything below was taken; negative: not begun
	Topic [16]byte // id of the topic that Next belongs to; zero: not known
}

// Session is the work of Follow while the assignment stays what it is. Its functions must not wait for Follow.
type Session struct {
	From    map[int32]Position // of each assigned partition; empty: nothing is read until Changed
	Changed <-chan struct{}    // closed when the assignment is another one

	// Room waits until Take may be called, and reports whether ctx still lives; nil: there is always room.
	Room func(ctx context.Context) bool
	// Take gets records, and where each partition goes on. The first call of a session has no records.
	Take func(records []kafka.Record, at map[int32]Position)
	// Awaited reports whether CaughtUp is to be called: finding out costs requests. It and CaughtUp are called by a
	// goroutine of their own.
	Awaited func() bool
	// CaughtUp says that every record which stood in the partitions at this moment was taken.
	CaughtUp func(at time.Time)
}

// Follow reads until ctx ends. It calls assigned for each Session, and has ended one before it begins the next.
func Follow(ctx context.Context, cfg Config, assigned func() Session) {
	for ctx.Err() == nil {
		s := assigned()
		if len(s.From) == 0 {
			select {
			case <-s.Changed:
			case <-ctx.Done():
			}
			continue
		}
		session, end := context.WithCancel(ctx)
		ended := make(chan struct{})
		changed := false
		go func() {
			defer close(ended)
			select {
			case <-s.Changed:
				changed = true
				end()
			case <-session.Done():
			}
		}()
		err := cfg.read(session, s)
		end()
		<-ended
		if err != nil && ctx.Err() == nil && !changed {
			cfg.Log.Warn("following a topic failed, trying again", "topic", cfg.Topic, "error", err)
			pause.For(ctx, retryAfter)
		}
	}
}

// read is one session: it ends with ctx or at an error.
func (c Config) read(ctx context.Context, s Session) error {
	r, err := c.open(ctx, s.From)
	if err != nil {
		return err
	}
	defer r.Close()
	var took progress
	take := func(records []kafka.Record) {
		topic, next := r.TopicID(), r.Positions()
		at := make(map[int32]Position, len(next))
		for p, n := range next {
			at[p] = Position{Next: n, Topic: topic}
		}
		s.Take(records, at)
		took.set(topic, next)
	}
	take(nil)
	ctx, stop := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer stop()
	watching.Go(func() { s.watch(ctx, r, &took) })
	for ctx.Err() == nil && (s.Room == nil || s.Room(ctx)) {
		records, err := r.Poll(ctx)
		if err != nil {
			return err
		}
		take(records)
	}
	return nil
}

// open returns a reader that begins where each partition was left.
func (c Config) open(ctx context.Context, from map[int32]Position) (*kafka.Reader, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	cfg := kafka.ReaderConfig{Client: c.Client, Topic: c.Topic, Partitions: slices.Sorted(maps.Keys(from))}
	offsets := map[int32]int64{}
	var fresh []int32
	for p, at := range from {
		if at.Next < 0 {
			fresh = append(fresh, p)
		} else {
			offsets[p] = at.Next
		}
	}
	if len(fresh) > 0 {
		first := cfg
		first.Partitions, first.Start = fresh, kafka.FromTime(time.Now().Add(-c.Since))
		r, err := kafka.NewReader(ctx, first)
		if err != nil || len(offsets) == 0 {
			return r, err
		}
		maps.Copy(offsets, r.Positions())
		r.Close()
	}
	cfg.Start = kafka.FromOffsets(offsets)
	r, err := kafka.NewReader(ctx, cfg)
	if err != nil {
		return nil, err
	}
	anew := false
	for p, at := range from {
		if at.Next > 0 && at.Topic != [16]byte{} && at.Topic != r.TopicID() {
			offsets[p], anew = 0, true
		}
	}
	if !anew {
		return r, nil
	}
	r.Close()
	c.Log.Warn("a topic was made anew: it is read from its start", "topic", c.Topic)
	cfg.Start = kafka.FromOffsets(offsets)
	return kafka.NewReader(ctx, cfg)
}

// watch finds out again and again, while somebody asks, up to which moment the topic was taken.
func (s Session) watch(ctx context.Context, r *kafka.Reader, took *progress) {
	for pause.For(ctx, lookEvery) {
		if !s.Awaited() {
			continue
		}
		call, cancel := context.WithTimeout(ctx, openTimeout)
		w, err := r.Watermark(call)
		cancel()
		if err != nil {
			continue // the reader says what is wrong
		}
		if took.passes(ctx, w) {
			s.CaughtUp(w.Time)
		}
	}
}

// progress is how far a session has come.
type progress struct {
	mu    sync.Mutex // guards what follows
	topic [16]byte
	next  map[int32]int64 // never changed, but replaced
}

func (p *progress) set(topic [16]byte, next map[int32]int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.topic, p.next = topic, next
}

// passes waits until everything below w was taken. False: ctx has ended, or w and what is taken are not of the same
// topic, because it was deleted and made again. Such a w may never be reached.
func (p *progress) passes(ctx context.Context, w kafka.Watermark) bool {
	for {
		p.mu.Lock()
		topic, next := p.topic, p.next
		p.mu.Unlock()
		if topic != w.TopicID() {
			return false
		}
		if w.ReachedAt(topic, next) {
			return true
		}
		if !pause.For(ctx, reachEvery) {
			return false
		}
	}
}
