package sender

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/znshub/znshub/services/sender/control"
)

// clock guards against a wall clock that is wrong. Expiry, deadlines and the dedupe window are times of day, kept in
// the ledger and read by other machines: while this machine's clock and the broker's differ by more than maxSkew,
// nothing is started, expired or forgotten.
//
// The broker's time is the append time of this program's own ledger records: right after a commit the latest record
// of the partition was appended between the tick's begin and now. A measurement holds until the wall clock is set,
// which shows in its distance from the monotonic one, and is repeated every ten seconds while there are commits.
// Before the first one nothing is trusted; the first accepted request makes it. After a good one the time of day goes on
// by the monotonic clock while the wall clock is wrong: outcomes and new requests are still taken and say when.
type clock struct {
	latest func(ctx context.Context, partition int32) (time.Time, error) // append time of the latest ledger record
	wake   func()
	log    *slog.Logger

	mu       sync.Mutex // guards what follows
	measured time.Time  // with both readings; zero: never
	good     time.Time  // the latest measurement that was good
	since    time.Time  // since when they are, without the clock being set meanwhile
	skew     time.Duration
	asking   bool
	asked    time.Time
	off      bool // the broker cannot tell; only development brokers cannot

	requests chan clockRequest
}

type clockRequest struct {
	partition     int32
	began, commit time.Time
}

const (
	maxSkew      = 30 * time.Second
	maxDrift     = 5 * time.Second // between wall and monotonic clock since the measurement
	measureEvery = 10 * time.Second
)

func newClock(latest func(context.Context, int32) (time.Time, error), wake func(), log *slog.Logger) *clock {
	return &clock{latest: latest, wake: wake, log: log, requests: make(chan clockRequest, 1)}
}

// now is the time of day, with the monotonic reading of time.Now.
func (c *clock) now() time.Time {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off || c.good.IsZero() || drift(c.good, now) <= maxDrift {
		return now
	}
	return c.good.Add(now.Sub(c.good))
}

// trusted reports whether the wall clock may be acted upon.
func (c *clock) trusted() bool { return c.problem() == "" }

// problem says why the clock is not trusted; empty: it is.
func (c *clock) problem() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	switch {
	case c.off:
		return ""
	case c.measured.IsZero():
		return "the clock was not yet compared with the broker's"
	case drift(c.measured, now) > maxDrift:
		return "the clock was set, or the machine slept: it is compared with the broker's again"
	case c.skew > maxSkew:
		return "the clock differs from the broker's by " + c.skew.Round(time.Second).String() + ": nothing is sent until it is right"
	}
	return ""
}

// wrong says why the program is not ready; empty: it is. A clock that was not compared yet is no reason.
func (c *clock) wrong() string {
	c.mu.Lock()
	never := c.measured.IsZero()
	c.mu.Unlock()
	if never {
		return ""
	}
	return c.problem()
}

// rightSince is since when the clock is right, in Unix milliseconds; 0: that is not known.
func (c *clock) rightSince() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since.IsZero() {
		return 0
	}
	return ms(c.since)
}

// drift is how far wall and monotonic clock went apart between two readings.
func drift(a, b time.Time) time.Duration {
	return (b.Round(0).Sub(a.Round(0)) - b.Sub(a)).Abs()
}

// committed says that a transaction which began at the given time and wrote to the ledger of a partition was
// committed just now.
func (c *clock) committed(partition int32, began time.Time) {
	now := time.Now()
	began = now.Add(-now.Sub(began)) // by the wall clock, which is what is compared, also while now goes by the other
	c.mu.Lock()
	due := !c.asking && !c.off && (c.measured.IsZero() || c.skew > maxSkew || drift(c.measured, now) > maxDrift || now.Sub(c.asked) >= measureEvery)
	if due {
		c.asking, c.asked = true, now
	}
	c.mu.Unlock()
	if due {
		c.requests <- clockRequest{partition, began, now}
	}
}

// run measures until ctx ends.
func (c *clock) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-c.requests:
			c.measure(ctx, r)
			c.wake()
		}
	}
}

func (c *clock) measure(ctx context.Context, r clockRequest) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	at, err := c.latest(ctx, r.partition)
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asking = false
	if err != nil {
		if ctx.Err() == nil {
			c.log.Warn("the broker's time could not be read", "err", err)
		}
		return
	}
	if at.IsZero() {
		return
	}
	if now.Round(0).Sub(r.began.Round(0)) > maxSkew {
		return // the clock was set meanwhile, or the answer was late: it proves nothing
	}
	was := c.skew > maxSkew
	// The record was appended between began and now, if the clocks agree.
	skew := time.Duration(0)
	if d := r.began.Round(0).Sub(at); d > 0 {
		skew = d
	} else if d := at.Sub(now.Round(0)); d > 0 {
		skew = d
	}
	if c.measured, c.skew = now, skew; skew <= maxSkew {
		if was || c.good.IsZero() || drift(c.good, now) > maxDrift {
			c.since = now
		}
		c.good = now
	}
	if bad := skew > maxSkew; bad && !was {
		c.log.Error("clock differs from the broker's: nothing is started, expired or forgotten until it is right", "skew", skew.String())
	} else if was && !bad {
		c.log.Info("clock agrees with the broker's again", "skew", skew.String())
	}
}

// probeClock rewrites one waiting entry as it is: its commit shows the broker's time. Without a trusted clock that is
// the only thing that may be done. Where nothing waits and the clock is wanted all the same, it rewrites what was obeyed.
func (h *handler) probeClock(tx tick) {
	now := tx.Now()
	if h.probed.Add(time.Second).After(now) {
		return
	}
	for _, id := range tx.Partitions() {
		p := h.partition(id)
		if tx.Closing(id) || tx.Full() {
			continue
		}
		r := p.anyWaiting()
		if r == 0 {
			if h.idleWantsClock(p, now) && h.rewriteAck(tx, p) {
				return
			}
			continue
		}
		e := p.entries[r]
		if e == nil {
			h.load(p, r, loadUrgent)
			continue
		}
		u := tx.Unit(id, e.id.String())
		if u == nil {
			return
		}
		h.probed = now
		h.write(u, e)
		u.OnCommit(func() { h.clock.committed(id, now) })
		return
	}
}

// idleWantsClock reports whether the clock must be known though nothing of p waits: for an operator's command, for what
// is to be forgotten, which may be what fills the memory, or because this program is not ready before.
func (h *handler) idleWantsClock(p *partition, now time.Time) bool {
	if !p.obeyed.known {
		return false // there is nothing to rewrite
	}
	if r := p.obeyed.round; r != nil && r.open > 0 || r == nil && !p.obeyed.ack.Position.Equal(h.control.View().Position()) {
		return true
	}
	done, ok := p.finished.Front()
	return ok && done.Finished+h.settings.dedupe.Milliseconds() <= ms(now) || h.clock.wrong() != ""
}

// rewriteAck writes what p has obeyed as it stands in the ledger.
func (h *handler) rewriteAck(tx tick, p *partition) bool {
	u := tx.Unit(p.id, "control")
	if u == nil {
		return false
	}
	now := tx.Now()
	h.probed = now
	u.Ledger(control.AckKey, p.obeyed.ack.Encode())
	u.OnCommit(func() { h.clock.committed(p.id, now) })
	return true
}
