package sender

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

// places counts where slots of p stand, but for the slots themselves.
func (p *partition) places() (n int) {
	for _, f := range p.flows {
		if f != nil {
			n += 1 + f.ready()
		}
	}
	for i := range p.lanes {
		n += len(p.lanes[i].open) + len(p.lanes[i].parked) + p.lanes[i].timers.len()
	}
	for i := range p.ids.segments {
		n += p.ids.segments[i].n
	}
	return n + len(p.scopes.index) + len(p.flowIndex) + len(p.entries)
}

// shutGates is a gate that the test closes by flow.
type shutGates struct {
	version uint64
	shut    map[limit.Flow]limit.Hold
	asked   int
}

func (g *shutGates) Closed(_ time.Time, f limit.Flow) (limit.Hold, bool) {
	g.asked++
	hold, closed := g.shut[f]
	return hold, closed
}

func (g *shutGates) Version() uint64 { return g.version }

func (g *shutGates) close(f limit.Flow, r ledgerv1.HoldReason) {
	g.version++
	g.shut[f] = limit.Hold{Reason: r}
}

func (g *shutGates) open(f limit.Flow) {
	g.version++
	delete(g.shut, f)
}

func gated(c *core) *shutGates {
	g := &shutGates{shut: map[limit.Flow]limit.Hold{}}
	c.h.gates = []gate{g}
	return g
}

func ofTemplate(id string) func(*notificationv1.NotificationRequested) {
	return func(r *notificationv1.NotificationRequested) { r.TemplateId = id }
}

// flowFor is the flow of a request of c's with a template and a category.
func flowFor(template string, cat notificationv1.Category) limit.Flow {
	return limit.Flow{OA: testOA, Template: template, Category: cat}
}

const (
	plain     = notificationv1.Category_CATEGORY_TRANSACTION
	promotion = notificationv1.Category_CATEGORY_PROMOTION
)

// occupy makes calls of others take all slots.
func (c *core) occupy() {
	c.t.Helper()
	for range 100 {
		id, r := c.request(ofTemplate("filler"), ttl(time.Minute))
		c.tick(true, r)
		if c.state(id) == "ACCEPTED" {
			return
		}
	}
	c.t.Fatal("there is always room")
}

// vacate ends the calls that occupy began.
func (c *core) vacate() {
	for again := true; again; {
		again = false
		for _, x := range slices.Clone(c.calls) {
			if x.req.GetTemplateId() == "filler" {
				c.answer(x.e.id, accepted("m"))
				again = true
			}
		}
		c.tick(true)
	}
}

// A flow that is closed is skipped as a whole: what arrives for it is written as HELD at once, what waited before soon,
// and others go on. It starts when the flow opens, without a timer.
func TestClosedFlow(t *testing.T) {
	c := newCore(t)
	g := gated(c)
	c.occupy()
	early, r1 := c.request(ofTemplate("1"))
	c.tick(true, r1)
	c.want(early, "ACCEPTED")
	g.close(flowFor("1", plain), ledgerv1.HoldReason_HOLD_REASON_TEMPLATE_REVIEW)
	late, r2 := c.request(ofTemplate("1"))
	other, r3 := c.request(ofTemplate("2"))
	c.tick(true, r2, r3)
	c.want(late, "HELD(template_review)")
	if le := c.ledgerOf(late); le.State != stateHeld || !le.FlowHold {
		t.Errorf("ledger: %v", le)
	}
	c.vacate()
	c.want(other, "SENDING(1)")
	c.want(early, "ACCEPTED") // closed for a moment only so far
	c.pass(2 * time.Second)
	c.tick(true)
	c.want(early, "HELD(template_review)")
	asked := g.asked
	for range 100 {
		c.pass(time.Second)
		c.tick(true)
	}
	if g.asked != asked {
		t.Errorf("the gates were asked %d times about flows that nothing has changed for", g.asked-asked)
	}
	n := c.successor()
	n.want(early, "HELD(template_review)")
	g.open(flowFor("1", plain))
	c.tick(true)
	c.want(early, "SENDING(1)")
	c.want(late, "SENDING(1)")
	n.tick(true) // whose gates know of nothing: reads them from the ledger
	n.tick(true)
	n.want(early, "SENDING(1)")
}

// One whose flow is closed by an operator, the account or a template lets those behind it in its order pass, and takes
// its place again when the flow opens.
func TestClosedFlowInOrder(t *testing.T) {
	for reason, passes := range map[ledgerv1.HoldReason]bool{
		ledgerv1.HoldReason_HOLD_REASON_OPERATOR: true, ledgerv1.HoldReason_HOLD_REASON_TEMPLATE_REVIEW: true,
		ledgerv1.HoldReason_HOLD_REASON_ACCOUNT: true, ledgerv1.HoldReason_HOLD_REASON_HOURS: false,
		ledgerv1.HoldReason_HOLD_REASON_QUOTA: false, ledgerv1.HoldReason_HOLD_REASON_RATE: false,
	} {
		for _, before := range []bool{true, false} { // closed before or after it was accepted
			c := newCore(t)
			g := gated(c)
			if before {
				g.close(flowFor("1", plain), reason)
			}
			c.occupy()
			a, ra := c.request(ordered("k"), ofTemplate("1"))
			a2, ra2 := c.request(ordered("k"), ofTemplate("1"))
			b, rb := c.request(ordered("k"), ofTemplate("2"))
			d, rd := c.request(ordered("k"), ofTemplate("2"))
			c.tick(true, ra, ra2, rb, rd)
			if !before {
				g.close(flowFor("1", plain), reason)
			}
			c.vacate()
			for range 3 {
				c.tick(true)
				c.pass(time.Second)
			}
			if got := c.state(b) == "SENDING(1)"; got != passes {
				t.Fatalf("%s: behind a closed head: %s", reason, c.state(b))
			}
			g.open(flowFor("1", plain))
			c.tick(true)
			if passes {
				c.want(b, "SENDING(1)") // not two at a time
				if c.state(a) == "SENDING(1)" {
					t.Fatal("two of an order are under way")
				}
				c.answer(b, accepted("m"))
				c.tick(true)
			}
			for _, id := range []uuid.UUID{a, a2} { // in the order of arrival, before what came later
				c.want(id, "SENDING(1)")
				c.answer(id, accepted("m"))
				c.tick(true)
			}
			if !passes {
				c.answer(b, accepted("m"))
				c.tick(true)
			}
			c.want(d, "SENDING(1)")
		}
	}
}

// The lanes go in their order, the most urgent of a lane first, and lower lanes get their small share.
func TestLanes(t *testing.T) {
	c := newCore(t, func(cfg *Config) { cfg.MaxInFlight = 1 })
	c.occupy()
	var records []kafka.Record
	lane := map[uuid.UUID]int{}
	for i := range 400 {
		cat := []notificationv1.Category{otp, plain, care, promotion}[i%4]
		id, r := c.request(ofCategory(cat), ttl(time.Duration(10_000-i)*time.Second), ofTemplate(fmt.Sprint(i%7)))
		lane[id] = laneOf(cat)
		records = append(records, r)
	}
	c.tick(true, records...)
	var order []int
	last := map[int]int64{}
	for len(order) < 400 {
		for _, x := range slices.Clone(c.calls) {
			if l, ok := lane[x.e.id]; ok {
				order = append(order, l)
				if x.e.expire < last[l] {
					t.Fatalf("lane %d: %d after %d", l, x.e.expire, last[l])
				}
				last[l] = x.e.expire
			}
			c.answer(x.e.id, accepted("m"))
		}
		c.tick(true)
	}
	busy := order[20 : 20+4*laneShare] // something of each lane waits
	for l, want := range []int{4 * (laneShare - 3), 4, 4, 4} {
		got := 0
		for _, x := range busy {
			if x == l {
				got++
			}
		}
		if got != want {
			t.Errorf("lane %d: %d of %d starts, want %d: %v", l, got, len(busy), want, busy)
		}
	}
}

// paced lets a number of calls through, and says when the next may go.
type paced struct {
	tokens int
	next   time.Time
}

func (p *paced) Take(time.Time, limit.Flow) (*limit.Permit, time.Time, bool) {
	if p.tokens == 0 {
		return nil, p.next, false
	}
	p.tokens--
	return nil, time.Time{}, true
}

func TestPace(t *testing.T) {
	c := newCore(t)
	p := &paced{tokens: 2, next: c.now.Add(time.Minute)}
	c.h.pace = p
	var ids []uuid.UUID
	var records []kafka.Record
	for i := range 4 {
		id, r := c.request(ttl(time.Duration(60+i) * time.Minute))
		ids, records = append(ids, id), append(records, r)
	}
	c.tick(true, records...)
	c.want(ids[0], "SENDING(1)")
	c.want(ids[1], "SENDING(1)")
	c.want(ids[2], "ACCEPTED")
	if !c.wait.Equal(p.next.Truncate(time.Millisecond).Add(time.Millisecond)) {
		t.Errorf("looks again at %s, want %s", c.wait, p.next)
	}
	p.tokens = 1
	c.tick(true)
	c.want(ids[2], "ACCEPTED")
	c.pass(time.Minute + time.Millisecond)
	c.tick(true)
	c.want(ids[2], "SENDING(1)")
	c.want(ids[3], "ACCEPTED")
}

func TestTemplateCategory(t *testing.T) {
	c := newCore(t)
	c.h.templateCategory = func(oa, template string) (notificationv1.Category, bool) {
		m := map[string]notificationv1.Category{"1": otp, "2": promotion}
		got, ok := m[template]
		return got, ok && oa == testOA
	}
	unset := notificationv1.Category_CATEGORY_UNSPECIFIED
	for _, tc := range []struct {
		template    string
		asked, want notificationv1.Category
	}{
		{"1", unset, otp}, {"2", unset, promotion}, {"3", unset, plain}, {"3", otp, otp},
		{"1", promotion, promotion}, {"2", otp, promotion}, {"2", care, promotion}, {"1", otp, otp},
	} {
		id, r := c.request(ofTemplate(tc.template), ofCategory(tc.asked))
		c.tick(true, r)
		if got := c.ledgerOf(id).Category; got != tc.want {
			t.Errorf("template %s, asked for %s: %s, want %s", tc.template, tc.asked, got, tc.want)
		}
		for _, x := range slices.Clone(c.calls) {
			c.answer(x.e.id, accepted("m"))
		}
		c.tick(true)
	}
}
