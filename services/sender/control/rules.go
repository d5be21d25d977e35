package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/pause"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/sender/limit"
)

// Config says where the rules come from and who is told.
type Config struct {
	Client  []kgo.Opt // how to reach the brokers
	Topic   string    // empty: zns.control
	Wake    func()    // called after every change of what [Rules.View] returns
	Invalid func()    // called for every record that is skipped
	Log     *slog.Logger
	// Pulse, for simulations of weeks in virtual time, is how often something is done when nothing is said. 0: a second.
	Pulse time.Duration
}

// Rules follows zns.control.
type Rules struct {
	cfg     Config
	view    atomic.Pointer[View]
	current atomic.Int64 // Unix ms up to which everything that was in the topic is in view; 0: never
	began   time.Time
}

// New returns Rules that know nothing until Run reads.
func New(cfg Config) *Rules {
	cfg.Topic, cfg.Pulse = cmp.Or(cfg.Topic, topic.Control), cmp.Or(cfg.Pulse, time.Second)
	r := &Rules{cfg: cfg, began: time.Now()}
	r.view.Store(emptyView())
	return r
}

// View is what is known now.
func (r *Rules) View() *View { return r.view.Load() }

// Closed is [View.Closed] of what is known now.
func (r *Rules) Closed(now time.Time, f limit.Flow) (limit.Hold, bool) {
	return r.View().Closed(now, f)
}

// ForID is [View.ForID] of what is known now.
func (r *Rules) ForID(now time.Time, id uuid.UUID) (limit.Hold, bool) { return r.View().ForID(now, id) }

// Version changes whenever a rule does.
func (r *Rules) Version() uint64 { return r.View().Version() }

const openWithin = 30 * time.Second

// markEvery is how often it is checked that nothing was missed.
func (r *Rules) markEvery() time.Duration { return 5 * r.cfg.Pulse }

func (r *Rules) staleAfter() time.Duration { return 6 * r.markEvery() }

// Ready reports whether commands reach this program; the error says why not.
func (r *Rules) Ready(now time.Time) error {
	if !r.View().Known() {
		return fmt.Errorf("%s was not read to its end yet: nothing is sent before the operators' rules are known", r.cfg.Topic)
	}
	if behind := r.Behind(now); behind > r.staleAfter() {
		return fmt.Errorf("%s could not be read for %s: operators' commands do not arrive", r.cfg.Topic, behind.Round(time.Second))
	}
	return nil
}

// Behind is how long ago everything that was in the topic was known.
func (r *Rules) Behind(now time.Time) time.Duration {
	at := r.began
	if current := r.current.Load(); current != 0 {
		at = time.UnixMilli(current)
	}
	return max(0, now.Sub(at))
}

// Run follows the topic until ctx ends.
func (r *Rules) Run(ctx context.Context) {
	var reader *kafka.Reader
	for wait := time.Second; ; wait = min(2*wait, 10*time.Second) {
		openCtx, cancel := context.WithTimeout(ctx, openWithin)
		var err error
		reader, err = kafka.NewReader(openCtx, kafka.ReaderConfig{Client: r.cfg.Client, Topic: r.cfg.Topic})
		cancel()
		if err == nil {
			break
		}
		if ctx.Err() == nil {
			r.cfg.Log.Warn("the operators' rules cannot be read, nothing is sent before they are known; trying again", "topic", r.cfg.Topic, "err", err)
		}
		if !pause.For(ctx, wait) {
			return
		}
	}
	defer reader.Close()
	r.follow(ctx, &source{Reader: reader})
}

// reader is what follow needs of a [kafka.Reader].
type reader interface {
	Poll(ctx context.Context) ([]kafka.Record, error)
	TopicID() [16]byte
	Positions() map[int32]int64
	// Mark notes where the topic ends now, Passed whether everything up to there was returned.
	Mark(ctx context.Context) error
	Passed() bool
}

// source is a reader on Kafka.
type source struct {
	*kafka.Reader
	mark kafka.Watermark
}

func (s *source) Mark(ctx context.Context) (err error) {
	s.mark, err = s.Watermark(ctx)
	return err
}

func (s *source) Passed() bool { return s.Reached(s.mark) }

// follow reads on and on. A mark is taken at once and then every few seconds; one that is not passed in time, because
// the topic was made anew or the broker is away, is taken again.
func (r *Rules) follow(ctx context.Context, src reader) {
	var marked, taken time.Time // marked: a mark that is not yet passed; taken: the latest
	warned := time.Now()
	for ctx.Err() == nil {
		now := time.Now()
		every := r.markEvery()
		if !r.View().Known() {
			every = time.Second // the sender waits
		}
		if marked.IsZero() && now.Sub(taken) >= every || now.Sub(taken) >= 2*r.markEvery() {
			taken = now
			markCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
			if err := src.Mark(markCtx); err == nil {
				marked = now
			}
			cancel()
		}
		if !marked.IsZero() && src.Passed() { // perhaps without a record to wait for
			r.take(src, nil, true)
			r.current.Store(marked.UnixMilli())
			marked = time.Time{}
		}
		pollCtx, cancel := context.WithTimeout(ctx, min(r.cfg.Pulse, every))
		records, err := src.Poll(pollCtx)
		waited := pollCtx.Err() != nil
		cancel()
		if errors.Is(err, kafka.ErrClosed) {
			return
		}
		r.take(src, records, false)
		if behind := r.Behind(now); behind > r.staleAfter() && now.Sub(warned) > r.staleAfter() {
			warned = now
			r.cfg.Log.Warn("operators' commands do not arrive", "topic", r.cfg.Topic, "behind", behind, "known", r.View().Known(), "err", err)
		}
		if err != nil && !waited {
			pause.For(ctx, time.Second)
		}
	}
}

// take makes a view of what was read. passed: everything was read that the topic held when reading began.
func (r *Rules) take(src reader, records []kafka.Record, passed bool) {
	old := r.View()
	position := Position{TopicID: src.TopicID()}
	for p, next := range src.Positions() {
		for int(p) >= len(position.Next) {
			position.Next = append(position.Next, 0)
		}
		position.Next[p] = next
	}
	known := old.known || passed
	if old.position.TopicID != position.TopicID && len(old.position.Next) > 0 {
		r.cfg.Log.Warn("the topic was made anew: what it held before is no longer obeyed, and nothing is sent before the new one was read", "topic", r.cfg.Topic)
		fresh := emptyView()
		fresh.version = old.version + 1
		old, known = fresh, passed
	}
	if len(records) == 0 && position.Equal(old.position) && known == old.known {
		return
	}
	changes := make(map[string]change, len(records))
	for i := range records {
		rec := &records[i]
		if rec.Value == nil {
			changes[string(rec.Key)] = change{nil, rec.Partition, rec.Offset}
			continue
		}
		c, err := Decode(*rec)
		if err != nil {
			r.cfg.Invalid()
			r.cfg.Log.Warn("a command cannot be obeyed and is skipped", "topic", r.cfg.Topic, "partition", rec.Partition, "offset", rec.Offset, "err", err)
			continue
		}
		changes[string(rec.Key)] = change{c, rec.Partition, rec.Offset}
		if old.known {
			r.cfg.Log.Info("operator's command", "command_id", c.ID, "action", c.Action.String(), "scope", c.Scope.String(), "actor", c.Actor, "reason", c.Reason)
		}
	}
	r.view.Store(old.with(position, known, changes))
	r.cfg.Wake()
}

// Read reads the topic to where it ends now, open transactions included, and returns what it says. It skips what
// cannot be obeyed.
func Read(ctx context.Context, client []kgo.Opt) (*View, error) {
	var records []kafka.Record
	err := kafka.ReadToEnd(ctx, kafka.ReaderConfig{Client: client, Topic: topic.Control}, func(r kafka.Record) error {
		records = append(records, r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return ViewOf(Position{}, records...), nil
}

// ViewOf is what the given records, the whole topic up to position, say. What cannot be obeyed is skipped.
func ViewOf(position Position, records ...kafka.Record) *View {
	v := emptyView()
	for i := range records {
		r := &records[i]
		ch := change{nil, r.Partition, r.Offset}
		if r.Value != nil {
			var err error
			if ch.command, err = Decode(*r); err != nil {
				continue
			}
		}
		v.apply(string(r.Key), ch)
	}
	v.position, v.known, v.version = position, true, uint64(len(records))+1
	v.index()
	return v
}
