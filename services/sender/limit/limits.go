package limit

import (
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
	"time"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// Config says what is allowed. The zero value of a field that is not required means no limit of that kind.
type Config struct {
	MaxInFlight  int                // calls at a time (required)
	Rate         float64            // calls per OA and second, over all owners
	Rates        map[string]float64 // of OAs that have another
	HostRate     float64            // calls per second over all OAs and owners
	GainWait     time.Duration      // how long a gained partition does not count for the rate
	Reserve      float64            // part of a day's quota that only OTP and TRANSACTION may use
	Hours        [5]Hours           // by category
	Spread       time.Duration      // over which flows come back after a night or a reset
	MaxOAs       int                // that are told apart (10,000); further ones share one state
	MaxTemplates int                // with a state of their own (50,000); further ones have none
}

// Limits is the policy. Its methods may be called from any goroutine; none blocks for longer than a map takes.
type Limits struct {
	cfg  Config
	seed maphash.Seed

	version atomic.Uint64

	mu        sync.Mutex // guards what follows
	wake      time.Time  // when something opens or closes by time; zero: nothing does
	host      guard
	hostPace  bucket
	share     share
	oas       map[string]*oa
	templates int
	tokens    map[string]uint64 // the generation of each OA's token; nil: not told
	events    []Event
	lookahead time.Duration // how far ahead of its start a call is taken
	swept     time.Time
}

// oa is what is known about one Official Account.
type oa struct {
	id         string
	guard      guard
	gates      gates
	day        quota
	month      quota // promotions
	pace       bucket
	waiting    int // taken, not started, of a paced OA
	arrivals   arrivals
	promotions arrivals
	templates  map[string]*template
	used       time.Time
	accepted   time.Time // the latest message that Zalo took
}

// template is what is known about one template of an OA. Most have none.
type template struct {
	id       string
	gates    gates
	day      quota
	unlisted int // answers in a row with a code that is in no table
	arrivals arrivals
	inFlight int
}

// New returns Limits that let everything through that cfg allows.
func New(cfg Config) *Limits {
	if cfg.MaxOAs == 0 {
		cfg.MaxOAs = 10_000
	}
	if cfg.MaxTemplates == 0 {
		cfg.MaxTemplates = 50_000
	}
	l := &Limits{
		cfg: cfg, seed: maphash.MakeSeed(), oas: map[string]*oa{}, lookahead: minLookahead,
		host: newGuard(cfg.MaxInFlight, firstWindow), hostPace: bucket{rate: cfg.HostRate},
		share: share{of: 1, wait: cfg.GainWait, counted: map[int32]bool{}},
	}
	l.host.host = true
	return l
}

// A call is taken so long before its start that its intent is committed by then; with slow brokers, longer.
const (
	minLookahead = 100 * time.Millisecond
	maxLookahead = 2 * time.Second
)

// Permit is one call's place within the limits. Exactly one of Undo and [Limits.Answered] ends it. nil is a permit that
// nothing limits.
type Permit struct {
	l        *Limits
	flow     Flow
	at       time.Time
	oa       *oa
	template *template
	token    uint64
	waits    bool // for its turn, in oa.waiting
	probe    bool // some gate or guard lets only this one through
	ended    bool
}

// Version changes whenever some flow may have opened or closed, also by time, as far as Advance is called then.
func (l *Limits) Version() uint64 { return l.version.Load() }

// Closed tells whether nothing of f may start now, why, and until when.
func (l *Limits) Closed(now time.Time, f Flow) (Hold, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed(now, f)
}

// closed looks for what lasts longest first: that is what an operator wants to read. mu is held.
func (l *Limits) closed(now time.Time, f Flow) (Hold, bool) {
	if l.tokens != nil && l.tokens[f.OA] == 0 {
		return Hold{Reason: ledgerv1.HoldReason_HOLD_REASON_TOKEN}, true
	}
	o := l.oas[l.oaKey(f.OA)]
	if o != nil {
		for g := range o.gates.of(f.Category) {
			if hold, closed := l.closedBy(g, f, now); closed {
				return hold, true
			}
		}
		if t := o.templates[f.Template]; t != nil {
			for g := range t.gates.of(f.Category) {
				if hold, closed := l.closedBy(g, f, now); closed {
					return hold, true
				}
			}
			if hold, closed := l.spent(&t.day, f, now, 0); closed {
				return hold, true
			}
		}
		if hold, closed := l.spent(&o.day, f, now, l.cfg.Reserve); closed {
			return hold, true
		}
		if f.Category == notificationv1.Category_CATEGORY_PROMOTION {
			if hold, closed := l.spent(&o.month, f, now, 0); closed {
				return hold, true
			}
		}
	}
	if hold, closed := l.night(now, f); closed {
		return hold, true
	}
	if hold, closed := l.host.closed(now); closed {
		return hold, true
	}
	if o != nil {
		return o.guard.closed(now)
	}
	return Hold{}, false
}

// spent tells whether a quota holds f back: it is used up but for the reserve, or f's turn after the reset is to come.
// What nobody waits for keeps off the reserve; the others are held by Zalo's word alone, which closes a gate.
func (l *Limits) spent(q *quota, f Flow, now time.Time, reserve float64) (Hold, bool) {
	q.roll(now, reserve)
	if !q.known || f.Category <= notificationv1.Category_CATEGORY_TRANSACTION {
		return Hold{}, false
	}
	until := q.resets
	if q.left(0, l.share.owned()) > q.reserve(reserve) {
		until = q.reset // not spent: its turn may still be to come
	}
	until = until.Add(l.jitter(f))
	return Hold{ledgerv1.HoldReason_HOLD_REASON_QUOTA, until}, now.Before(until)
}

// night tells whether f's category may not be sent at this hour.
func (l *Limits) night(now time.Time, f Flow) (Hold, bool) {
	h := l.cfg.Hours[f.Category]
	if h == (Hours{}) {
		return Hold{}, false
	}
	later := min(l.jitter(f), h.length()/10)
	opened, open := h.opened(now)
	if !open {
		return Hold{ledgerv1.HoldReason_HOLD_REASON_HOURS, h.opens(now).Add(later)}, true
	}
	if until := opened.Add(later); until.After(now) {
		return Hold{ledgerv1.HoldReason_HOLD_REASON_HOURS, until}, true
	}
	return Hold{}, false
}

// Closes is the moment from which on no call of f may begin that was taken now: the end of its hours. Zero: none.
func (l *Limits) Closes(now time.Time, f Flow) time.Time {
	if h := l.cfg.Hours[f.Category]; h != (Hours{}) {
		return h.closes(now)
	}
	return time.Time{}
}

// Take asks for one call of f, whose intent is to be written now. When it is not ok, ask again at next or, where that
// is zero, when a call has ended or Version has changed.
func (l *Limits) Take(now time.Time, f Flow) (p *Permit, next time.Time, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if hold, closed := l.closed(now, f); closed {
		return nil, hold.Until, false
	}
	o := l.oa(f.OA, now)
	part := l.share.owned()
	if o.guard.window < o.guard.max && float64(o.guard.inFlight) >= max(1, o.guard.window) {
		return nil, time.Time{}, false
	}
	if f.Category > notificationv1.Category_CATEGORY_TRANSACTION && o.day.left(o.guard.inFlight, part) <= o.day.reserve(l.cfg.Reserve) {
		return nil, time.Time{}, false
	}
	t := o.templates[f.Template]
	if t != nil && f.Category > notificationv1.Category_CATEGORY_TRANSACTION && t.day.known && t.day.left(t.inFlight, part) <= 0 {
		return nil, time.Time{}, false
	}
	p = &Permit{l: l, flow: f, at: now, oa: o, template: t, token: l.tokens[f.OA]}
	if o.pace.rate > 0 || l.hostPace.rate > 0 {
		if next := l.ahead(o, now); next.After(now) {
			return nil, next, false
		} else if next.IsZero() {
			return nil, time.Time{}, false
		}
		o.waiting++
		p.waits = true
	}
	l.lookAt(p)
	o.guard.inFlight++
	l.host.inFlight++
	if t != nil {
		t.inFlight++
	}
	return p, time.Time{}, true
}

// ahead tells when one more call may be taken so that it starts within the time for which calls are taken ahead. Zero:
// nobody knows.
func (l *Limits) ahead(o *oa, now time.Time) time.Time {
	latest := now
	if o.pace.rate > 0 {
		latest = o.pace.when(now, float64(o.waiting+1), &l.share)
		if latest.IsZero() {
			return latest
		}
	}
	if l.hostPace.rate > 0 {
		at := l.hostPace.when(now, 1, &l.share)
		if at.IsZero() {
			return at
		}
		if at.After(latest) {
			latest = at
		}
	}
	if latest.Sub(now) <= l.lookahead {
		return now
	}
	return latest.Add(-l.lookahead / 2)
}

// lookAt makes p the probe of whatever on its way lets only one through.
func (l *Limits) lookAt(p *Permit) {
	for _, g := range []*guard{&l.host, &p.oa.guard} {
		if g.reason != 0 {
			g.probe, p.probe = p, true
		}
	}
	for _, gs := range p.gates() {
		for g := range gs.of(p.flow.Category) {
			if g.until.IsZero() || p.at.Before(g.until) {
				g.probe, p.probe = p, true
			}
		}
	}
	if p.probe {
		l.version.Add(1)
	}
}

// gates are those that p passes. The template may have got a state since it was taken.
func (p *Permit) gates() []*gates {
	if t := p.oa.templates[p.flow.Template]; t != nil {
		return []*gates{&p.oa.gates, &t.gates}
	}
	return []*gates{&p.oa.gates}
}

// Undo gives p back: its call was never made.
func (p *Permit) Undo() {
	if p == nil {
		return
	}
	p.l.mu.Lock()
	defer p.l.mu.Unlock()
	p.end()
}

// end frees what p holds. mu is held.
func (p *Permit) end() bool {
	if p.ended {
		return false
	}
	p.ended = true
	p.leave()
	p.oa.guard.end(p)
	p.l.host.end(p)
	if p.template != nil {
		p.template.inFlight--
	}
	if p.probe {
		for _, gs := range p.gates() {
			for _, g := range *gs {
				if g.probe == p {
					g.probe = nil
				}
			}
		}
		p.l.version.Add(1)
	}
	return true
}

func (p *Permit) leave() {
	if p.waits {
		p.waits = false
		p.oa.waiting--
	}
}

// Verdict is what Start says.
type Verdict int

const (
	Go       Verdict = iota // start the call now
	Wait                    // its turn is to come
	Withdraw                // give it back: what it passed has been closed since
)

// Start is the last question before p's call begins. With Wait, Due tells when to ask again.
func (p *Permit) Start(now time.Time) Verdict {
	if p == nil {
		return Go
	}
	l := p.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.overtaken() {
		return Withdraw
	}
	if due := l.due(p.oa, now); due.IsZero() || due.After(now) {
		return Wait
	}
	if !p.oa.pace.take(now, &l.share) || !l.hostPace.take(now, &l.share) {
		return Wait // the share shrank since
	}
	p.leave()
	return Go
}

// Overtaken reports whether something on p's way was closed after it was taken: its call is not to begin.
func (p *Permit) Overtaken() bool {
	if p == nil {
		return false
	}
	p.l.mu.Lock()
	defer p.l.mu.Unlock()
	return p.overtaken()
}

func (p *Permit) overtaken() bool {
	for _, g := range []*guard{&p.l.host, &p.oa.guard} {
		if g.reason != 0 && g.probe != p {
			return true
		}
	}
	for _, gs := range p.gates() {
		for g := range gs.of(p.flow.Category) {
			if g.probe != p && !p.at.After(g.since) {
				return true
			}
		}
	}
	return false
}

// Due is when p's call may start, as far as its pace goes; zero: not as things are.
func (p *Permit) Due(now time.Time) time.Time {
	if p == nil {
		return now
	}
	p.l.mu.Lock()
	defer p.l.mu.Unlock()
	return p.l.due(p.oa, now)
}

// OA is the Official Account of p's flow.
func (p *Permit) OA() string { return p.flow.OA }

// due is when the next call of o may start; zero: not as things are. mu is held.
func (l *Limits) due(o *oa, now time.Time) time.Time {
	due := o.pace.next(now, &l.share)
	host := l.hostPace.next(now, &l.share)
	if due.IsZero() || host.IsZero() {
		return time.Time{}
	}
	if host.After(due) {
		return host
	}
	return due
}

// Paced reports whether calls of p's OA have to wait for their turn.
func (p *Permit) Paced() bool {
	return p != nil && (p.oa.pace.rate > 0 || p.l.hostPace.rate > 0)
}

// Committed says that p's intent is confirmed: how long that takes decides how far ahead calls are taken.
func (p *Permit) Committed(now time.Time) {
	if p == nil || !p.Paced() {
		return
	}
	p.l.mu.Lock()
	defer p.l.mu.Unlock()
	took := 2 * now.Sub(p.at)
	l := p.l
	l.lookahead = min(max(minLookahead, took, l.lookahead-l.lookahead/64), maxLookahead)
}

// Slots is how many calls may be under way at a time, over all OAs. probing: only to see whether Zalo is well again.
func (l *Limits) Slots() (n int, probing bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.host.reason != 0 {
		return 1, true
	}
	return int(l.host.window), false
}

// changed says that flows may have opened or closed, and when they may again. mu is held.
func (l *Limits) changed(when ...time.Time) {
	l.version.Add(1)
	for _, at := range when {
		if !at.IsZero() && (l.wake.IsZero() || at.Before(l.wake)) {
			l.wake = at
		}
	}
}

// oaKey is where an OA's state stands: when there are too many, the further ones share one.
func (l *Limits) oaKey(id string) string {
	if _, ok := l.oas[id]; !ok && len(l.oas) >= l.cfg.MaxOAs {
		return ""
	}
	return id
}

func (l *Limits) oa(id string, now time.Time) *oa {
	id = l.oaKey(id)
	o := l.oas[id]
	if o == nil {
		rate, ok := l.cfg.Rates[id]
		if !ok {
			rate = l.cfg.Rate
		}
		o = &oa{
			id: id, guard: newGuard(l.cfg.MaxInFlight, math.Inf(1)), pace: bucket{rate: rate}, month: quota{month: true},
			templates: map[string]*template{},
		}
		l.oas[id] = o
	}
	o.used = now
	return o
}

// template makes a state for a template; nil when there are too many.
func (l *Limits) template(o *oa, id string) *template {
	t := o.templates[id]
	if t == nil && l.templates < l.cfg.MaxTemplates {
		t = &template{id: id}
		o.templates[id] = t
		l.templates++
	}
	return t
}
