package sender

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/znshub/znshub/pkg/kafka"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

// want is what the naive model knows of a notification.
type wanted struct {
	id       uuid.UUID
	part     int32
	flow     limit.Flow
	expire   int64
	offset   int64
	due      int64
	new      bool // taken in the present tick
	inFlight bool
	over     bool
}

// model is the scheduler as one would say it: a list, of which what may start is sorted when it is asked for.
type model struct {
	*rapid.T
	c      *core
	gates  *shutGates
	stingy bool
	all    []*wanted
	by     map[uuid.UUID]*wanted
	flows  []limit.Flow
	seen   map[*wanted]bool
	starts [lanes]int // of each lane while a higher one waited
	since  int        // starts in all while lanes waited
}

func (m *model) mayStart(w *wanted) bool {
	_, closed := m.gates.shut[w.flow]
	return !w.over && !w.inFlight && !closed && w.due <= ms(m.c.now) && ms(m.c.now) <= w.expire
}

func edf(a, b *wanted) int {
	return cmp.Or(cmp.Compare(a.expire, b.expire), cmp.Compare(a.offset, b.offset))
}

// tick runs a tick with new requests, and compares what began with what may.
func (m *model) tick(commit bool, input ...kafka.Record) {
	var fresh []*wanted
	for _, r := range input {
		for _, w := range m.all {
			if w.offset == r.Offset {
				w.new, w.over = true, false
				fresh = append(fresh, w)
			}
		}
	}
	calls := len(m.c.calls)
	m.c.tick(commit, input...)
	if !commit && len(m.c.calls) > calls {
		m.Fatalf("a call began in a tick that was undone")
	}
	var started []*wanted
	for _, x := range m.c.calls[calls:] {
		w := m.by[x.e.id]
		if m.seen[w] {
			m.Fatalf("called twice: %+v", w)
		}
		m.seen[w] = true
	}
	for _, w := range m.all { // a call may wait for a slot when its intent is written
		_, r := m.c.h.lookup(w.id)
		if w.inFlight || r == 0 || ledgerv1.State(m.c.h.partition(w.part).at(r).state) != stateSending {
			continue
		}
		if !m.mayStart(w) {
			m.Fatalf("started though it may not: %+v at %d", w, ms(m.c.now))
		}
		started = append(started, w)
	}
	for _, s := range started {
		for _, w := range m.all {
			if slices.Contains(started, w) || !m.mayStart(w) || s.new && w.new {
				continue // a new one starts at once when nothing waits
			}
			if w.flow == s.flow && w.part == s.part && edf(w, s) < 0 {
				m.Fatalf("%+v started before %+v", s, w)
			}
			if !m.stingy && laneOf(w.flow.Category) < laneOf(s.flow.Category) {
				m.starts[laneOf(s.flow.Category)]++
				break
			}
		}
		m.since++
	}
	for l, n := range m.starts {
		if n > 1+lanes+m.since/(laneShare-1) {
			m.Fatalf("lane %d: %d of %d starts while a higher lane waited", l, n, m.since)
		}
	}
	for _, w := range started {
		w.inFlight = true
	}
	if room := m.c.h.dispatch.room() - m.c.h.uncommitted; commit && room > 0 && !m.stingy && m.c.h.dispatch.ended.len() == 0 { // none was given back after the tick
		for _, w := range m.all {
			if m.mayStart(w) {
				m.Fatalf("%+v waits though there is room for %d: %s", w, room, m.c.state(w.id))
			}
		}
	}
	for _, w := range fresh {
		w.new = false
		w.over = !commit // as if it had not come
	}
	for _, w := range m.all {
		if !w.over && !w.inFlight && commit && m.c.state(w.id) == "done" {
			if ms(m.c.now) <= w.expire {
				m.Fatalf("%+v ended by itself", w)
			}
			w.over = true
		}
	}
}

func (m *model) request(t *rapid.T) kafka.Record {
	f := rapid.SampledFrom(m.flows).Draw(t, "flow")
	life := time.Duration(rapid.IntRange(1, 40).Draw(t, "ttl")) * time.Minute
	change := []func(*notificationv1.NotificationRequested){ofTemplate(f.Template), ofCategory(f.Category), ttl(life)}
	if rapid.IntRange(0, 3).Draw(t, "later") == 0 {
		change = append(change, notBefore(m.c.now.Add(time.Duration(rapid.IntRange(1, 900).Draw(t, "delay"))*time.Second)))
	}
	id, r := m.c.request(change...)
	w := &wanted{id: id, part: r.Partition, flow: f, offset: r.Offset, over: true}
	w.expire, w.due = ms(m.c.now.Add(life)), ms(m.c.now)
	if len(change) == 4 {
		var req notificationv1.NotificationRequested
		change[3](&req)
		w.due = ms(req.NotBefore.AsTime())
		w.expire = ms(req.NotBefore.AsTime().Add(life))
	}
	m.all = append(m.all, w)
	m.by[id] = w
	return r
}

// TestScheduleIsTheModel drives the scheduler at random and compares each tick with the naive model: earliest deadline
// first inside a flow, lanes in their order but for the small shares, nothing of a closed flow, nothing idle while
// there is room, nothing lost and nothing started twice.
func TestScheduleIsTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := newCore(t, func(cfg *Config) {
			cfg.MaxInFlight = 5
			cfg.Hours = CategoryHours{} // gates are the model's
		})
		m := &model{T: rt, c: c, by: map[uuid.UUID]*wanted{}, seen: map[*wanted]bool{}}
		m.gates = &shutGates{shut: map[limit.Flow]limit.Hold{}}
		c.h.gates, c.h.pace = []gate{m.gates}, nil
		if m.stingy = rapid.Bool().Draw(rt, "stingy"); m.stingy {
			stingy(c)
		}
		for i := range 6 {
			m.flows = append(m.flows, flowFor(string(rune('1'+i%3)), []notificationv1.Category{otp, plain, care, promotion}[i%4]))
		}
		rt.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) {},
			"accept": func(rt *rapid.T) {
				var records []kafka.Record
				for range rapid.IntRange(1, 8).Draw(rt, "n") {
					records = append(records, m.request(rt))
				}
				for rapid.IntRange(0, 4).Draw(rt, "undone") == 0 {
					m.tick(false, records...)
				}
				m.tick(true, records...)
			},
			"tick": func(rt *rapid.T) { m.tick(rapid.Bool().Draw(rt, "commit")) },
			"answer": func(rt *rapid.T) {
				if len(c.calls) == 0 {
					rt.Skip("no call")
				}
				x := rapid.SampledFrom(c.calls).Draw(rt, "call")
				m.by[x.e.id].over = true
				c.answer(x.e.id, accepted("m"))
			},
			"pass": func(rt *rapid.T) {
				c.pass(time.Duration(rapid.IntRange(1, 600).Draw(rt, "seconds")) * time.Second)
				m.tick(true)
			},
			"gate": func(rt *rapid.T) {
				f := rapid.SampledFrom(m.flows).Draw(rt, "flow")
				if _, closed := m.gates.shut[f]; closed {
					m.gates.open(f)
				} else {
					m.gates.close(f, rapid.SampledFrom([]ledgerv1.HoldReason{
						ledgerv1.HoldReason_HOLD_REASON_OPERATOR, ledgerv1.HoldReason_HOLD_REASON_HOURS,
					}).Draw(rt, "reason"))
				}
			},
		})
		for _, f := range m.flows {
			m.gates.open(f)
		}
		for range 200 {
			for _, x := range slices.Clone(c.calls) {
				m.by[x.e.id].over = true
				c.answer(x.e.id, accepted("m"))
			}
			c.pass(10 * time.Second)
			m.tick(true)
		}
		for _, w := range m.all {
			s, f := len(c.sent(w.id)), len(c.failed(w.id))
			if s+f != 1 {
				rt.Fatalf("%d zns.sent and %d zns.failed of %+v, which is %s", s, f, w, c.state(w.id))
			}
		}
		for _, p := range c.h.parts {
			if p.live() != 0 || p.places() != 0 {
				rt.Fatalf("left: %d live, %d places", p.live(), p.places())
			}
		}
	})
}
