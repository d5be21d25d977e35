package sender

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	controlv1 "github.com/znshub/znshub/proto/control/v1"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/sender/control"
	"github.com/znshub/znshub/services/sender/limit"
)

// operators are people with commands, and the topic that they write to.
type operators struct {
	c       *core
	records []kafka.Record
	deaf    bool // the topic was not read yet
}

// listen makes the handler obey operators.
func (c *core) listen() *operators {
	o := &operators{c: c}
	o.to(c)
	return o
}

// to makes another program read the same topic.
func (o *operators) to(c *core) {
	o.c = c
	c.h.control = o
	c.h.gates = append(c.h.gates, o)
}

func (o *operators) View() *control.View {
	if o.deaf {
		return control.New(control.Config{}).View()
	}
	return control.ViewOf(control.Position{TopicID: [16]byte{7}, Next: []int64{int64(len(o.records))}}, o.records...)
}

func (o *operators) Closed(now time.Time, f limit.Flow) (limit.Hold, bool) {
	return o.View().Closed(now, f)
}
func (o *operators) Version() uint64 { return o.View().Version() }

// give appends a command at the present time and returns it.
func (o *operators) give(action controlv1.Action, s control.Scope, change ...func(*controlv1.Command)) *controlv1.Command {
	o.c.t.Helper()
	cmd := &controlv1.Command{CommandId: uuid.NewString(), Time: timestamppb.New(o.c.now), Scope: s.Proto(), Action: action}
	for _, f := range change {
		f(cmd)
	}
	r, err := control.Record(cmd, "/znshub/test/operator")
	if err != nil {
		o.c.t.Fatal(err)
	}
	r.Partition, r.Offset, r.Time = 0, int64(len(o.records)), o.c.now
	o.records = append(o.records, r)
	return cmd
}

// acks are the latest answers of the ledger's partitions.
func (c *core) acks() (out []control.Ack) {
	c.t.Helper()
	for p := range int32(2) {
		var latest control.Ack
		for _, r := range c.ledger[p] {
			if string(r.Key) != control.AckKey {
				continue
			}
			var err error
			if latest, err = control.DecodeAck(r.Value); err != nil {
				c.t.Fatal(err)
			}
		}
		out = append(out, latest)
	}
	return out
}

// obeyed fails unless every partition has answered all commands, and returns what the given one came to in all.
func (o *operators) obeyed(cmd *controlv1.Command) (sum control.Result) {
	o.c.t.Helper()
	for p, ack := range o.c.acks() {
		if !ack.Position.Reached(0, int64(len(o.records))-1) {
			o.c.t.Fatalf("partition %d has not answered: %+v", p, ack)
		}
		r, told := ack.Result(uuid.MustParse(cmd.CommandId))
		if standing := cmd.Action <= controlv1.Action_ACTION_RELEASE; told == standing {
			o.c.t.Fatalf("partition %d tells what came of it: %v, standing: %v", p, told, standing)
		}
		sum.Changed, sum.TooLate, sum.Left = sum.Changed+r.Changed, sum.TooLate+r.TooLate, sum.Left+r.Left
	}
	return sum
}

func ofCampaign(id string) func(*notificationv1.NotificationRequested) {
	return func(r *notificationv1.NotificationRequested) { r.CampaignId = id }
}

// many makes requests of a campaign, accepts them and returns their ids.
func (c *core) many(n int, change ...func(*notificationv1.NotificationRequested)) (ids []uuid.UUID) {
	c.t.Helper()
	var records []kafka.Record
	for range n {
		id, r := c.request(change...)
		ids, records = append(ids, id), append(records, r)
	}
	c.tick(true, records...)
	return ids
}

const (
	holdIt  = controlv1.Action_ACTION_HOLD
	release = controlv1.Action_ACTION_RELEASE
	cancel  = controlv1.Action_ACTION_CANCEL
	retry   = controlv1.Action_ACTION_RETRY
	again   = controlv1.Action_ACTION_RESEND_UNKNOWN
	failIt  = controlv1.Action_ACTION_FAIL_UNKNOWN
)

func TestNothingStartsBeforeTheRulesAreKnown(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	o.deaf = true
	ids := c.many(2)
	c.tick(true)
	if len(c.calls) != 0 || c.acks()[0].Position.Next != nil {
		t.Fatalf("%d calls began, answers %+v, and nobody knows the operators' rules", len(c.calls), c.acks())
	}
	o.deaf = false
	c.tick(true)
	c.want(ids[0], "SENDING(1)")
	c.want(ids[1], "SENDING(1)")
}

func TestHoldOfACampaign(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	running := c.many(4, ofCampaign("tet"))
	c.occupy()
	waiting := c.many(3, ofCampaign("tet"))
	cmd := o.give(holdIt, control.Campaign("tet"))
	c.tick(true)
	o.obeyed(cmd)
	later := c.many(3, ofCampaign("tet"))
	for _, id := range running {
		c.answer(id, accepted("m"))
	}
	c.vacate()
	other := c.many(1)
	c.pass(2 * time.Second) // what waited before is told by and by
	for range 3 {
		c.tick(true)
	}
	c.want(other[0], "SENDING(1)")
	for _, id := range running {
		c.want(id, "done")
	}
	for _, id := range append(waiting, later...) {
		c.want(id, "HELD(operator)")
		if e := c.ledgerOf(id); e.HoldReason != ledgerv1.HoldReason_HOLD_REASON_OPERATOR {
			t.Fatalf("the ledger tells %s", e)
		}
	}
	// Whoever takes the partitions over obeys before its first call.
	n := c.successor()
	o.to(n)
	n.tick(true)
	n.tick(true)
	if len(n.calls) != 0 {
		t.Fatalf("%d calls of the campaign after a restart", len(n.calls))
	}
	cmd = o.give(release, control.Campaign("tet"))
	n.tick(true)
	o.obeyed(cmd)
}

func TestRelease(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	o.give(holdIt, control.OA("2893352839501541173"))
	ids := c.many(3, ofCampaign("tet"))
	c.tick(true)
	o.give(holdIt, control.Campaign("tet"))
	o.give(release, control.OA("2893352839501541173"))
	c.tick(true)
	if len(c.calls) != 0 {
		t.Fatal("the release of one rule released what another holds")
	}
	cmd := o.give(release, control.Campaign("tet"))
	c.tick(true)
	o.obeyed(cmd)
	for _, id := range ids {
		c.want(id, "SENDING(1)")
	}
}

func TestHoldThatEndsByItself(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	o.give(holdIt, control.All(), func(cmd *controlv1.Command) { cmd.ExpireTime = timestamppb.New(c.now.Add(time.Hour)) })
	id := c.many(1)[0]
	o.give(holdIt, control.ID(id), func(cmd *controlv1.Command) { cmd.ExpireTime = timestamppb.New(c.now.Add(2 * time.Hour)) })
	c.tick(true)
	c.pass(time.Hour)
	c.tick(true)
	c.tick(true)
	c.want(id, "HELD(operator)")
	c.pass(time.Hour - time.Millisecond)
	c.tick(true)
	c.want(id, "HELD(operator)")
	if !c.wait.Equal(c.now.Add(time.Millisecond)) && c.wait.After(c.now.Add(time.Millisecond)) {
		t.Fatalf("wants to be woken at %s", c.wait)
	}
	c.pass(time.Millisecond)
	c.tick(true)
	c.want(id, "SENDING(1)")
}

func TestHoldOfOneNotification(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	c.occupy()
	ids := c.many(2)
	later, r := c.request()
	cmd := o.give(holdIt, control.ID(ids[0]))
	o.give(holdIt, control.ID(later))
	c.tick(false)
	c.want(ids[0], "ACCEPTED")
	c.tick(true, r)
	c.tick(true)
	c.tick(true)
	o.obeyed(cmd)
	c.want(ids[0], "HELD(operator)")
	c.want(later, "HELD(operator)")
	c.vacate()
	c.tick(true)
	c.want(ids[1], "SENDING(1)")
	c.want(ids[0], "HELD(operator)")

	n := c.successor()
	o.to(n)
	n.tick(true)
	n.want(ids[0], "HELD(operator)")
	o.give(release, control.ID(ids[0]))
	for range 3 { // its entry is read from the ledger first
		n.tick(true)
	}
	n.want(ids[0], "SENDING(1)")
	n.want(later, "HELD(operator)")
}

// TestHoldOfOneAcrossARestart: what was given while nobody owned the partition is obeyed before the first call, also
// where the entry itself does not tell yet.
func TestHoldOfOneAcrossARestart(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	c.occupy()
	ids := c.many(3)
	o.give(holdIt, control.ID(ids[0]))
	o.give(cancel, control.ID(ids[1]))
	n := c.successor()
	o.to(n)
	n.tick(true)
	n.tick(true)
	n.want(ids[0], "HELD(operator)")
	n.want(ids[1], "done")
	n.want(ids[2], "SENDING(1)")
	for _, x := range n.calls {
		if x.e.id == ids[0] || x.e.id == ids[1] {
			t.Fatal("a call began for what operators had stopped")
		}
	}
}

func TestHoldOfOneKeepsItsNotBefore(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	id, r := c.request(notBefore(c.now.Add(time.Hour)))
	c.tick(true, r)
	o.give(holdIt, control.ID(id), func(cmd *controlv1.Command) { cmd.ExpireTime = timestamppb.New(c.now.Add(time.Minute)) })
	c.tick(true)
	c.tick(true)
	c.want(id, "HELD(operator)")
	c.pass(time.Minute)
	c.tick(true)
	c.tick(true)
	c.want(id, "HELD(not_before)")
	o.give(holdIt, control.ID(id))
	c.tick(true)
	c.tick(true)
	c.want(id, "HELD(operator)")
	c.pass(2 * time.Hour)
	c.tick(true)
	c.want(id, "HELD(operator)")
	o.give(release, control.ID(id))
	c.tick(true)
	c.tick(true)
	c.want(id, "SENDING(1)")
}

func TestCancel(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	sent := c.many(1, ofCampaign("tet"))[0]
	c.answer(sent, accepted("m"))
	c.tick(true)
	unknown := c.many(1, ofCampaign("tet"))[0]
	c.answer(unknown, lost)
	c.tick(true)
	running := c.many(4, ofCampaign("tet"))
	c.occupy()
	waiting := c.many(3, ofCampaign("tet"))
	held := c.many(1, ofCampaign("tet"), notBefore(c.now.Add(time.Hour)))[0]
	other := c.many(1)[0]
	late, lateRecord := c.request(ofCampaign("tet")) // requested before the command, accepted after it
	c.pass(time.Second)
	cmd := o.give(cancel, control.Campaign("tet"))
	c.pass(time.Millisecond)
	c.tick(false)
	c.want(waiting[0], "ACCEPTED")
	c.tick(true, lateRecord)
	c.tick(true)
	c.tick(true)
	for _, id := range append(waiting, held, late) {
		c.want(id, "done")
		f := c.failed(id)
		if len(f) != 1 || f[0].Reason != znsv1.FailureReason_FAILURE_REASON_CANCELLED || f[0].PossiblySent {
			t.Fatalf("zns.failed: %v", f)
		}
	}
	// It came too late for these, and says so.
	c.want(sent, "done")
	c.want(unknown, "UNKNOWN")
	for _, id := range running {
		c.want(id, "SENDING(1)")
	}
	if r := o.obeyed(cmd); r.Changed != 4 || r.TooLate != 5 {
		t.Errorf("cancelled %d, too late for %d; want 4 and 5", r.Changed, r.TooLate)
	}
	c.want(other, "ACCEPTED")
	steps := c.ledgerOf(waiting[0]).History
	if s := steps[len(steps)-2]; s.Kind != ledgerv1.StepKind_STEP_KIND_OPERATOR || s.Owner != cmd.CommandId || s.Code != int32(cancel) {
		t.Errorf("the history tells %v", steps)
	}

	// What comes after it is not meant, whoever reads the command again.
	after := c.many(1, ofCampaign("tet"))[0]
	c.tick(true)
	n := c.successor()
	o.to(n)
	n.tick(true)
	n.tick(true)
	if s := n.state(after); s != "SENDING(1)" && s != "ACCEPTED" {
		t.Fatalf("requested after the command: %s", s)
	}
	if r := o.obeyed(cmd); r.Changed != 4 {
		t.Errorf("after a restart it cancelled %d", r.Changed)
	}
}

// TestCancelIsReadLate: what was requested after the command is not meant, though it waits when the command is read.
func TestCancelIsReadLate(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	c.occupy()
	before := c.many(1, ofCampaign("tet"))[0]
	given := c.now
	c.pass(time.Second)
	after := c.many(1, ofCampaign("tet"))[0]
	cmd := o.give(cancel, control.Campaign("tet"))
	o.records[len(o.records)-1].Time = given
	c.tick(true)
	c.tick(true)
	c.want(before, "done")
	c.want(after, "ACCEPTED")
	if r := o.obeyed(cmd); r.Changed != 1 {
		t.Errorf("%+v", r)
	}
}

func TestCancelLeavesTheCallUnderWay(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	id := c.many(1)[0]
	cmd := o.give(cancel, control.ID(id))
	c.tick(true)
	c.tick(true)
	if r := o.obeyed(cmd); r.TooLate != 1 || r.Changed != 0 {
		t.Fatalf("%+v", r)
	}
	c.answer(id, throttled) // not sent after all: what was too late then is not too late now
	c.tick(true)
	c.pass(time.Hour)
	c.tick(true)
	c.tick(true)
	c.want(id, "done")
	if f := c.failed(id); len(f) != 1 || f[0].Reason != znsv1.FailureReason_FAILURE_REASON_CANCELLED {
		t.Fatalf("it was tried again after it was cancelled: %v", f)
	}
}

func TestRetryNow(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	id := c.many(1)[0]
	c.answer(id, notSent)
	c.tick(true)
	c.want(id, "HELD(retry)")
	later := c.many(1, notBefore(c.now.Add(time.Hour)))[0]
	c.many(1, ordered("k"))
	behind := c.many(1, ordered("k"))[0]
	cmd := o.give(retry, control.All())
	c.tick(true)
	c.tick(true)
	c.tick(true)
	c.want(id, "SENDING(2)")
	c.want(later, "HELD(not_before)")
	c.want(behind, "HELD(order)")
	if r := o.obeyed(cmd); r.Changed != 1 || r.Left != 2 {
		t.Errorf("%+v", r)
	}
	// Read again, it does nothing to a later wait.
	c.answer(id, notSent)
	c.tick(true)
	n := c.successor()
	o.to(n)
	n.tick(true)
	n.tick(true)
	n.want(id, "HELD(retry)")
}

func TestRetryOpensTheFlowsGates(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	shut := &shutGate{closed: true}
	c.h.gates = append(c.h.gates, shut)
	var asked []string
	c.h.releaseFlows = func(oa, _ string) int {
		asked = append(asked, oa)
		shut.closed, shut.version = false, shut.version+1
		return 1
	}
	ids := c.many(3)
	c.tick(true)
	c.want(ids[0], "HELD(account)")
	cmd := o.give(retry, control.OA("2893352839501541173"))
	c.tick(true)
	c.tick(true)
	for _, id := range ids {
		c.want(id, "SENDING(1)")
	}
	if r := o.obeyed(cmd); r.Changed != 3 || len(asked) > 2 {
		t.Errorf("%+v, asked %d times", r, len(asked))
	}
}

// shutGate closes every flow for the account's sake.
type shutGate struct {
	closed  bool
	version uint64
}

func (g *shutGate) Closed(time.Time, limit.Flow) (limit.Hold, bool) {
	return limit.Hold{Reason: ledgerv1.HoldReason_HOLD_REASON_ACCOUNT}, g.closed
}
func (g *shutGate) Version() uint64 { return g.version }

func TestAckOfANewerProgramStopsThePartition(t *testing.T) {
	c := newCore(t)
	value := control.Ack{}.Encode()
	value[1] = control.AckVersion + 1
	c.h.Dropped(0)
	c.h.Assigned(0)
	if err := c.h.Restore(0, kafka.Record{Key: []byte(control.AckKey), Value: value}); err == nil {
		t.Error("taken: what a newer program has obeyed is not known")
	}
}
