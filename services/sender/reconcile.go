package sender

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/zalo"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// callbackReader reads zalo.callback, all partitions of it.
type callbackReader interface {
	// Poll returns what comes next; nothing when ctx ends first.
	Poll(ctx context.Context) ([]kafka.Record, error)
	// CaughtUp reports whether everything that was in the topic when Mark was called has been returned.
	Mark(ctx context.Context) error
	CaughtUp() bool
	Close()
}

// reconciler looks for the signed callbacks that settle unknown attempts. webhook-ingest verified them before it
// stored them. It reads all partitions of zalo.callback, and only while something is unknown, with one minute more so
// that a rare but steady trickle does not make it begin again and again.
//
// It begins ten minutes before the oldest open attempt: the topic's clock is the broker's. Callbacks about attempts
// under way are taken note of too, for their answer may yet be lost. All methods may be called from any goroutine.
type reconciler struct {
	open func(ctx context.Context, from time.Time) (callbackReader, error)
	wake func()
	log  *slog.Logger

	mu       sync.Mutex // guards what follows
	watched  map[uuid.UUID]watch
	wanting  int       // entries that only a callback can settle
	from     time.Time // where reading must begin; zero: not needed
	restart  bool      // reading must begin again, at from
	queue    deque[*heardCallback]
	caughtUp int64 // reading has passed what was there at this time, ms; 0: not yet
	healthy  int64 // since when reading works without a gap, ms
	lastGood int64
	asked    time.Time // when somebody last wanted to know what was passed, or what to look for
	hurry    func()    // ends the poll that waits; nil: none does

	signal chan struct{}
}

const (
	reconcileMargin = 10 * time.Minute
	reconcileLinger = time.Minute
	reconcileGap    = markSeldom + 10*time.Second
	// What is unknown for hours costs the brokers little: where the topic ends is asked seldom, and often only while
	// somebody waits for the answer.
	markOften  = 500 * time.Millisecond
	markSeldom = 10 * time.Second
	markSoon   = 20 * time.Second // how long after a question: longer than an OTP stays unknown
)

func newReconciler(open func(context.Context, time.Time) (callbackReader, error), wake func(), log *slog.Logger) *reconciler {
	return &reconciler{open: open, wake: wake, log: log, watched: map[uuid.UUID]watch{}, signal: make(chan struct{}, 1)}
}

// watch is what is known of one whose callbacks are listened for: since when, in Unix milliseconds, and why it is
// unknown. since is 0 while it is not.
type watch struct {
	since int64
	cause znsv1.UnknownCause
}

// track says whether e has open attempts, and whether only a callback can settle one of them.
func (r *reconciler) track(e *entry, listen, want bool) {
	var w watch
	if want {
		w.since, w.cause = e.unknown()
	}
	if e.listened == listen && e.wanting == want && e.watch == w {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e.listened, e.watch = listen, w
	if listen {
		r.watched[e.id] = w
	} else {
		delete(r.watched, e.id)
	}
	if e.wanting != want {
		e.wanting = want
		if want {
			r.wanting++
		} else {
			r.wanting--
		}
	}
}

// unknowns calls f with what is unknown now: why, and since when.
func (r *reconciler) unknowns(f func(watch)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.watched {
		if w.since != 0 {
			f(w)
		}
	}
}

// need asks for the callbacks of an attempt whose intent was written at the given time. restored: nobody listened
// since then.
func (r *reconciler) need(intent time.Time, restored bool) {
	from := intent.Add(-reconcileMargin)
	r.mu.Lock()
	if r.from.IsZero() || from.Before(r.from) {
		r.from, r.restart = from, true
	} else if restored {
		r.restart = true
	}
	if r.restart {
		r.caughtUp = 0 // what was read so far was read without an eye on this one
	}
	r.ask()
	r.mu.Unlock()
	select {
	case r.signal <- struct{}{}:
	default:
	}
}

// found takes a callback about a watched entry; nil: none.
func (r *reconciler) found() *heardCallback {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, _ := r.queue.popFront()
	return c
}

// unfind undoes found.
func (r *reconciler) unfind(c *heardCallback) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue.pushFront(c)
}

// passed is the latest time, in Unix milliseconds, of which is certain that all callbacks stored until then were read.
func (r *reconciler) passed() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ask()
	if r.queue.len() > 0 {
		return 0 // read, but not yet taken
	}
	return r.caughtUp
}

// ask makes the reader look often for a while. mu is held.
func (r *reconciler) ask() {
	often := r.often()
	r.asked = time.Now()
	if r.hurry != nil && (!often || r.restart) {
		r.hurry()
	}
}

func (r *reconciler) often() bool { return time.Since(r.asked) < markSoon }

// pause is how long to wait between two looks at where the topic ends.
func (r *reconciler) pause() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.often() {
		return markOften
	}
	return markSeldom
}

// polling says how to end the poll that begins; nil: it has ended.
func (r *reconciler) polling(cancel func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hurry = cancel; cancel != nil && r.restart {
		cancel()
	}
}

// healthySince is since when reading works without a gap, in Unix milliseconds.
func (r *reconciler) healthySince() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.healthy
}

// run reads until ctx ends.
func (r *reconciler) run(ctx context.Context) {
	for ctx.Err() == nil {
		from, ok := r.begin()
		if !ok {
			select {
			case <-ctx.Done():
			case <-r.signal:
			}
			continue
		}
		if err := r.read(ctx, from); err != nil && ctx.Err() == nil {
			r.log.Warn("reading callbacks failed, trying again", "err", err)
			r.again()
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

// begin returns where to begin; false: nothing is needed.
func (r *reconciler) begin() (time.Time, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.from.IsZero() {
		return time.Time{}, false
	}
	r.restart, r.caughtUp = false, 0
	return r.from, true
}

func (r *reconciler) again() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.caughtUp, r.restart = 0, true
}

// read reads from the given time on, until nothing is needed or it must begin again.
func (r *reconciler) read(ctx context.Context, from time.Time) error {
	openCtx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	reader, err := r.open(openCtx, from)
	if err != nil {
		return err
	}
	defer reader.Close()
	var marked, taken time.Time // marked: a watermark that is not yet passed
	idle := time.Now()
	for ctx.Err() == nil {
		switch r.state() {
		case readAgain:
			return nil
		case readNeeded:
			idle = time.Now()
		case readIdle:
			if time.Since(idle) > reconcileLinger && r.stop() {
				return nil
			}
		}
		// A watermark that is not reached for a minute is of a topic that was made anew.
		if marked.IsZero() && time.Since(taken) >= r.pause() || time.Since(taken) >= time.Minute {
			now := time.Now()
			markCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
			err := reader.Mark(markCtx)
			cancel()
			if err != nil {
				return err
			}
			marked, taken = now, now
		}
		wait := markOften
		if marked.IsZero() {
			wait = max(markOften, r.pause()-time.Since(taken))
		}
		pollCtx, cancel := context.WithTimeout(ctx, wait)
		r.polling(cancel)
		records, err := reader.Poll(pollCtx)
		waited := pollCtx.Err() != nil
		r.polling(nil)
		cancel()
		if err != nil && !waited {
			return err
		}
		r.take(records)
		if !marked.IsZero() && reader.CaughtUp() {
			r.reached(marked)
			marked = time.Time{}
		}
	}
	return nil
}

type readState int

const (
	readNeeded readState = iota
	readIdle
	readAgain
)

func (r *reconciler) state() readState {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.restart:
		return readAgain
	case r.wanting > 0:
		return readNeeded
	}
	return readIdle
}

// stop ends reading unless it became needed meanwhile.
func (r *reconciler) stop() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.restart || r.wanting > 0 {
		return false
	}
	r.from, r.caughtUp, r.healthy, r.lastGood = time.Time{}, 0, 0, 0
	return true
}

// reached notes that everything stored until at was read.
func (r *reconciler) reached(at time.Time) {
	r.mu.Lock()
	if r.restart {
		r.mu.Unlock()
		return // that round began too late for what is wanted now
	}
	now := ms(at)
	if r.lastGood == 0 || now-r.lastGood > reconcileGap.Milliseconds() {
		r.healthy = now
	}
	r.healthy = min(r.healthy, now) // the clock was ahead
	r.lastGood, r.caughtUp = now, now
	r.mu.Unlock()
	r.wake()
}

// take keeps what is about a watched entry. The key is the notification_id where webhook-ingest knew the tracking_id.
func (r *reconciler) take(records []kafka.Record) {
	found := false
	for i := range records {
		id, err := uuid.ParseBytes(records[i].Key)
		if err != nil || !r.isWatched(id) {
			continue
		}
		cb, err := zalo.ParseCallback(records[i].Value)
		if err != nil || cb.TrackingID == "" {
			continue
		}
		r.mu.Lock()
		r.queue.pushBack(&heardCallback{id: id, trackingID: cb.TrackingID, msgID: cb.MsgID})
		r.mu.Unlock()
		found = true
	}
	if found {
		r.wake()
	}
}

func (r *reconciler) isWatched(id uuid.UUID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.watched[id]
	return ok
}
