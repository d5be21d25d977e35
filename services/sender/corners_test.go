package sender

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	controlv1 "github.com/znshub/znshub/proto/control/v1"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/services/sender/control"
	"github.com/znshub/znshub/services/sender/limit"
)

// on makes requests until one belongs to the partition.
func (c *core) on(p int32, change ...func(*notificationv1.NotificationRequested)) (uuid.UUID, kafka.Record) {
	c.t.Helper()
	for {
		if id, r := c.request(change...); r.Partition == p {
			return id, r
		}
	}
}

// orderOn is an ordering_key of the partition.
func orderOn(p int32, name string) func(*notificationv1.NotificationRequested) {
	for i := 0; ; i++ {
		if key := fmt.Sprint(name, i); kafka.Murmur2Partition([]byte(key), 2) == p {
			return ordered(key)
		}
	}
}

// A partition that is lost while nobody knows whether its intents were committed takes nothing of the limits with it: the
// engine tells of neither then.
func TestLostWhileUnsettled(t *testing.T) {
	c := newCore(t)
	_, r := c.request()
	tx := &fakeTick{c: c}
	c.h.accept(tx.Unit(r.Partition, "@1"), r)
	c.h.work(tx)
	inFlight := func() (n int) {
		for _, o := range c.h.limits.State(c.now, 0).OAs {
			n += o.InFlight
		}
		return n
	}
	if c.h.uncommitted != 1 || inFlight() != 1 {
		t.Fatalf("%d uncommitted, %d under way", c.h.uncommitted, inFlight())
	}
	c.h.Dropped(r.Partition)
	if c.h.uncommitted != 0 || inFlight() != 0 {
		t.Errorf("%d uncommitted, %d under way for the limits, for ever", c.h.uncommitted, inFlight())
	}
}

// Until a partition is restored it is another goroutine's: ticks do not look at what is in it.
func TestTicksLeaveARestoreAlone(t *testing.T) {
	c := newCore(t)
	id, r := c.request(onUnknown(hold))
	c.tick(true, r)
	c.answer(id, lost)
	c.tick(true)
	n := newCore(t)
	n.h.Dropped(0)
	n.h.Dropped(1)
	n.h.settings.memory = 0
	n.h.Assigned(r.Partition)
	for _, record := range c.ledger[r.Partition] {
		if err := n.h.Restore(r.Partition, record); err != nil {
			t.Fatal(err)
		}
	}
	n.h.Rebuild(r.Partition)
	for range 3 {
		n.h.measure()
		n.h.evict()
	}
	if p, _ := n.h.lookup(id); p != nil || n.h.fixed != 0 || n.loadedNow() != 1 {
		t.Errorf("found: %t, %d bytes, %d entries", p != nil, n.h.fixed, n.loadedNow())
	}
	n.h.Restored(r.Partition)
	n.h.measure()
	if p, _ := n.h.lookup(id); p == nil || n.h.fixed == 0 {
		t.Errorf("restored: found: %t, %d bytes", p != nil, n.h.fixed)
	}
}

// What was accepted after a clock that was ahead had set the pace of acceptance waits for no time, where operators are
// obeyed too.
func TestClockOnceAheadAndOperators(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	right := c.now
	c.pass(time.Hour)
	for _, p := range []int32{0, 1} {
		id, r := c.on(p)
		c.tick(true, r)
		c.answer(id, accepted("m"))
		c.tick(true)
	}
	c.now = right.Add(time.Second)
	c.occupy()
	id, r := c.request()
	held, r2 := c.request(notBefore(c.now.Add(2 * time.Hour)))
	c.tick(true, r, r2)
	c.want(id, "ACCEPTED")
	o.give(holdIt, control.ID(held))
	c.ticks(3)
	o.give(controlv1.Action_ACTION_RELEASE, control.ID(held))
	c.ticks(3)
	c.vacate()
	c.want(id, "SENDING(1)")
	c.want(held, "HELD(not_before)")
}

// closing is a pacer that finds a flow closed of which the gates said that it is open.
type closing struct {
	gates *shutGates
	flow  limit.Flow
	until time.Time
}

func (p *closing) Take(time.Time, limit.Flow) (*limit.Permit, time.Time, bool) {
	if p.until.IsZero() {
		return nil, time.Time{}, true
	}
	p.gates.version++
	p.gates.shut[p.flow] = limit.Hold{Reason: ledgerv1.HoldReason_HOLD_REASON_QUOTA, Until: p.until}
	return nil, p.until, false
}

// A flow that an answer closes between the gates and the pace opens with its gate, not when that was to be at the latest.
func TestClosedBetweenGateAndPace(t *testing.T) {
	c := newCore(t)
	g := gated(c)
	p := &closing{g, flowFor("1", plain), c.now.Add(10 * time.Hour)}
	c.h.pace = p
	id, r := c.request(ofTemplate("1"))
	c.tick(true, r)
	c.want(id, "ACCEPTED")
	p.until = time.Time{}
	g.open(p.flow)
	c.tick(true)
	c.want(id, "SENDING(1)")
}

// A front door has no ledger in which it could say what it obeyed.
func TestFrontDoorAnswersNoOperator(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	c.own(5)
	o.give(holdIt, control.Campaign("x"))
	c.ticks(3)
	if n := len(c.ledger[5]); n != 0 {
		t.Errorf("%d records for a ledger partition that does not exist: the engine ends the program", n)
	}
}

// One that is told why its flow is closed keeps its place in its order, also while others are told of another reason.
func TestToldOfAnotherReasonKeepsItsPlace(t *testing.T) {
	c := newCore(t)
	g := gated(c)
	k := orderOn(0, "k")
	first := flowFor("1", plain)
	g.close(first, ledgerv1.HoldReason_HOLD_REASON_HOURS)
	_, told := c.on(0, ofTemplate("1"), ttl(50*time.Minute))
	c.tick(true, told)
	c.occupy()
	g.open(first)
	head, r1 := c.request(k, ofTemplate("1"), ttl(10*time.Minute))
	behind, r2 := c.request(k, ofTemplate("2"), ttl(10*time.Minute))
	c.tick(true, r1, r2)
	c.want(head, "ACCEPTED")
	g.close(first, ledgerv1.HoldReason_HOLD_REASON_QUOTA)
	c.vacate()
	for range 4 {
		c.tick(true)
		c.pass(time.Second)
	}
	c.want(head, "HELD(quota)")
	if s := c.state(behind); s == "SENDING(1)" {
		t.Error("it was overtaken in its order by one behind it")
	}
}

// What cannot be read is passed over by what operators say, and its order goes on.
func TestUnreadableHoldsUpNobody(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	k := orderOn(0, "k")
	id, r := c.request(k)
	next, r2 := c.request(k)
	c.tick(true, r, r2)
	c.want(id, "SENDING(1)")
	for i, record := range c.ledger[0] {
		if string(record.Key) == id.String() {
			c.ledger[0][i].Value = []byte{byte(fState) << 3, byte(stateSending), byte(fRequest)<<3 | 2, 0}
		}
	}
	// The order stands in the request: its slot is known, but what it was at cannot be decoded.
	n := newCore(t)
	n.h.Dropped(0)
	n.h.Dropped(1)
	n.ledger, n.ends, n.offset = c.ledger, c.ends, c.offset
	o.to(n)
	n.own(0, 1)
	cmd := o.give(cancel, control.All())
	n.pass(time.Second)
	n.ticks(6)
	o.obeyed(cmd)
	if s := n.state(next); s != "done" {
		t.Errorf("the next of the order: %s", s)
	}
}

// One that gave up its place while its flow was closed takes it again before it starts, whatever another lane does.
func TestPlaceIsTakenBeforeTheStart(t *testing.T) {
	c := newCore(t)
	g := gated(c)
	k, k2 := orderOn(0, "k"), orderOn(0, "l")
	busy, r := c.request(k2, ofTemplate("3"))
	c.tick(true, r)
	c.want(busy, "SENDING(1)")
	a, b := flowFor("1", otp), flowFor("2", plain)
	g.close(a, ledgerv1.HoldReason_HOLD_REASON_OPERATOR)
	g.close(b, ledgerv1.HoldReason_HOLD_REASON_OPERATOR)
	b1, rb := c.request(k, ofTemplate("2"), ofCategory(plain), ttl(time.Hour))
	a1, ra := c.request(k, ofTemplate("1"), ofCategory(otp), ttl(time.Minute))
	a2, ra2 := c.request(k2, ofTemplate("1"), ofCategory(otp), ttl(2*time.Minute))
	c.tick(true, rb, ra, ra2)
	g.open(a)
	g.open(b)
	c.tick(true)
	c.want(b1, "SENDING(1)")
	if s := c.state(a1); s == "SENDING(1)" {
		t.Errorf("of one order two are under way")
	}
	if s := c.state(a2); s == "SENDING(1)" {
		t.Errorf("two of an order are under way: its place was not taken before the start")
	}
}

// An older request that the newer one was about to end when the program died is ended by the next owner.
func TestCollapseBegunByTheOwnerBefore(t *testing.T) {
	c := newCore(t)
	c.occupy()
	k := func(r *notificationv1.NotificationRequested) { collapsing("k")(r); r.OrderingKey = "same" }
	older, r := c.request(k)
	c.tick(true, r)
	newer, r2 := c.request(k)
	c.tick(true, r2)
	c.want(older, "done")
	for p, records := range c.ledger { // the transaction of that is not committed
		for i, r := range slices.Backward(records) {
			if string(r.Key) == older.String() {
				c.ledger[p] = append(records[:i:i], records[i+1:]...)
				break
			}
		}
	}
	n := newCore(t)
	n.h.Dropped(0)
	n.h.Dropped(1)
	n.ledger, n.ends, n.offset, n.now = c.ledger, c.ends, c.offset, c.now
	n.own(0, 1)
	n.ticks(4)
	n.want(older, "done")
	if s := n.state(newer); s == "done" {
		t.Errorf("the newer one: %s", s)
	}
}

// The memory of a burst goes back though some of it waits on: else SENDER_MEMORY would be full until that is finished.
func TestMemoryOfABurst(t *testing.T) {
	var a arena
	live := map[ref]uint32{}
	check := func() {
		t.Helper()
		for r, want := range live {
			if a.at(r).hash != want {
				t.Fatalf("slot %d holds %d, want %d", r, a.at(r).hash, want)
			}
		}
		free := 0
		for r := ref(1); uint32(r) <= a.top; r++ {
			if live[r] == 0 && a.at(r).hash != 0 {
				t.Fatalf("slot %d is free and not empty", r)
			} else if live[r] == 0 {
				free++
			}
		}
		if a.n != len(live) || free+a.n != int(a.top) {
			t.Fatalf("%d in use, want %d; %d free of %d", a.n, len(live), free, a.top)
		}
	}
	for round := range uint32(4) {
		for i := range uint32(100_000) {
			r := a.alloc()
			if live[r] != 0 {
				t.Fatalf("slot %d is given away twice", r)
			}
			live[r] = round<<20 + i + 1
			a.at(r).hash = live[r]
		}
		check()
		for r, v := range live {
			if v%25_000 != 0 {
				a.release(r)
				delete(live, r)
			}
		}
		check()
		if most := int64(len(live)+2) * chunkLen * slotSize; a.bytes() > most {
			t.Errorf("%d slots take %d bytes, want %d at most", len(live), a.bytes(), most)
		}
	}
	for r := range live {
		a.release(r)
	}
	if a.bytes() != 0 || noSlots != [chunkLen]slot{} {
		t.Errorf("%d bytes are left", a.bytes())
	}
}
