package sender

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/zalo"
	controlv1 "github.com/znshub/znshub/proto/control/v1"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/services/sender/control"
)

// redrive makes of a request the record that zns redrive publishes now, about what the ledger says of it.
func (c *core) redrive(id uuid.UUID, r kafka.Record) kafka.Record {
	c.t.Helper()
	e := c.ledgerOf(id)
	out := RedriveRecord(r, Redrive{ID: uuid.New(), Offset: e.InputOffset, Attempt: e.Attempt})
	c.offset++
	out.Partition, out.Offset, out.Time = r.Partition, c.offset, c.now
	return out
}

// refused makes a request that Zalo refuses for its template's sake.
func (c *core) refused() (uuid.UUID, kafka.Record) {
	c.t.Helper()
	id, r := c.request()
	c.tick(true, r)
	c.answer(id, rejected(-118))
	c.tick(true)
	c.want(id, "done")
	return id, r
}

func TestRedrive(t *testing.T) {
	c := newCore(t)
	id, r := c.refused()
	first := c.failed(id)
	c.pass(time.Hour)
	d := c.redrive(id, r)
	c.tick(false, d)
	c.want(id, "done")
	c.tick(true, d)
	c.want(id, "SENDING(3)")
	steps := c.ledgerOf(id).History
	if steps[0].Kind != ledgerv1.StepKind_STEP_KIND_REDRIVEN || steps[1].Kind != ledgerv1.StepKind_STEP_KIND_ACCEPTED {
		t.Errorf("the history tells %v", steps)
	}
	c.answer(id, rejected(-118))
	c.tick(true)
	f := c.failed(id)
	if len(f) != 2 || f[0].EventId == f[1].EventId || first[0].EventId != f[0].EventId {
		t.Fatalf("each life's failure is a fact of its own: %v", f)
	}
	// And once more, to a good end.
	c.tick(true, c.redrive(id, r))
	c.answer(id, accepted("m"))
	c.tick(true)
	if s := c.sent(id); len(s) != 1 || s[0].Corrects || len(c.failed(id)) != 2 {
		t.Fatalf("zns.sent %v", s)
	}
}

// TestRedriveNeverDoubles: each failure is reopened once, and nothing else ever is.
func TestRedriveNeverDoubles(t *testing.T) {
	calls := func(c *core, id uuid.UUID) int {
		return len(slices.DeleteFunc(slices.Clone(c.calls), func(x *call) bool { return x.e.id != id }))
	}
	t.Run("twice", func(t *testing.T) {
		c := newCore(t)
		id, r := c.refused()
		one, two := c.redrive(id, r), c.redrive(id, r)
		c.tick(true, one, two)
		c.tick(true, two)
		if n := calls(c, id); n != 1 {
			t.Fatalf("%d calls", n)
		}
		// It failed again, and then the late second redrive of the first failure arrives.
		c.answer(id, rejected(-118))
		c.tick(true)
		c.tick(true, two)
		c.want(id, "done")
		if n := calls(c, id); n != 0 || len(c.failed(id)) != 2 {
			t.Fatalf("%d calls, %d failures", n, len(c.failed(id)))
		}
	})
	t.Run("under way", func(t *testing.T) {
		c := newCore(t)
		id, r := c.request()
		c.tick(true, r)
		c.tick(true, c.redrive(id, r))
		if n := calls(c, id); n != 1 {
			t.Fatalf("%d calls", n)
		}
	})
	t.Run("sent", func(t *testing.T) {
		c := newCore(t)
		id, r := c.request()
		c.tick(true, r)
		c.answer(id, accepted("m"))
		c.tick(true)
		c.tick(true, c.redrive(id, r))
		c.want(id, "done")
		n := c.successor()
		n.tick(true, c.redrive(id, r))
		n.want(id, "done")
	})
	t.Run("perhaps sent", func(t *testing.T) {
		c := newCore(t)
		o := c.listen()
		id, r := c.request()
		c.tick(true, r)
		c.answer(id, lost)
		c.tick(true)
		o.give(failIt, control.All())
		c.tick(true)
		c.tick(true)
		c.want(id, "FAILED(UNRESOLVED)")
		c.tick(true, c.redrive(id, r))
		c.want(id, "FAILED(UNRESOLVED)")
		c.pass(25 * time.Hour) // nobody watches for its callback any more
		c.tick(true)
		c.tick(true)
		c.want(id, "done")
		c.tick(true, c.redrive(id, r))
		c.want(id, "done")
		n := c.successor()
		n.tick(true, c.redrive(id, r))
		n.want(id, "done")
	})
	t.Run("with other content", func(t *testing.T) {
		c := newCore(t)
		id, r := c.refused()
		d := c.redrive(id, r)
		d.Value = append(slices.Clone(d.Value), 0x72, 1, 'x') // template_id again: the last one counts
		c.tick(true, d)
		c.want(id, "done")
	})
	t.Run("of another life", func(t *testing.T) {
		c := newCore(t)
		id, r := c.refused()
		d := RedriveRecord(r, Redrive{ID: uuid.New(), Offset: c.ledgerOf(id).InputOffset + 1})
		c.offset++
		d.Partition, d.Offset, d.Time = r.Partition, c.offset, c.now
		c.tick(true, d)
		c.want(id, "done")
	})
	t.Run("garbage", func(t *testing.T) {
		c := newCore(t)
		id, r := c.refused()
		for _, value := range []string{"", "x", uuid.NewString(), uuid.NewString() + "/-1/0", uuid.NewString() + "/1/x", "1/1/1"} {
			d := c.redrive(id, r)
			d.Headers = []kafka.Header{{Key: HeaderRedrive, Value: []byte(value)}}
			c.tick(true, d)
			c.want(id, "done")
		}
	})
	t.Run("after a restart", func(t *testing.T) {
		c := newCore(t)
		id, r := c.refused()
		n := c.successor()
		n.tick(true, c.redrive(id, r))
		n.want(id, "SENDING(3)")
		again := n.successor() // and the topic is read again from its beginning
		again.tick(true, r)
		again.want(id, "UNKNOWN")
	})
}

func TestRedriveOfWhatWasCancelled(t *testing.T) {
	c := newCore(t)
	o := c.listen()
	c.occupy()
	id, r := c.request()
	c.tick(true, r)
	c.pass(time.Second)
	o.give(controlv1.Action_ACTION_CANCEL, control.ID(id))
	c.tick(true)
	c.tick(true)
	c.want(id, "done")
	c.vacate()
	c.pass(time.Second)
	c.tick(true, c.redrive(id, r))
	c.tick(true)
	c.want(id, "SENDING(2)") // requested anew, after the command
}

func TestRedriveRecord(t *testing.T) {
	d := Redrive{ID: uuid.New(), Offset: 1 << 40, Attempt: 7}
	r := RedriveRecord(kafka.Record{
		Topic: "t", Partition: 3, Offset: 9, Time: time.Now(), Key: []byte("k"), Value: []byte("v"),
		Headers: []kafka.Header{
			{Key: "traceparent", Value: []byte("tp")}, {Key: headerMoved, Value: []byte("1@2")}, {Key: headerMovedTime, Value: []byte("3")},
			{Key: HeaderRedrive, Value: []byte("old")}, {Key: headerDLQReason, Value: []byte("INVALID")}, {Key: "ce_type", Value: []byte("x")},
		},
	}, d)
	if len(r.Headers) != 3 || r.Headers[0].Key != "traceparent" || r.Headers[1].Key != "ce_type" || r.Partition != -1 || !r.Time.IsZero() {
		t.Errorf("%+v", r)
	}
	value, _ := r.Header(HeaderRedrive)
	if got, err := ParseRedrive(string(value)); err != nil || got != d {
		t.Errorf("read back %+v, %v", got, err)
	}
}

// TestReopenable: a refusal does not make up for an earlier attempt that nobody knows about.
func TestReopenable(t *testing.T) {
	c := newCore(t)
	id, r := c.request(onUnknown(resend), ofCategory(otp))
	c.tick(true, r)
	c.answer(id, lost)
	c.tick(true)
	c.pass(16 * time.Second)
	c.readerPassed()
	c.tick(true)
	c.tick(true)
	c.tick(true)
	c.want(id, "SENDING(2)")
	c.answer(id, zalo.Result{Outcome: zalo.Rejected, Code: -118, Class: zalo.ClassRecipientPermanent})
	c.tick(true)
	c.tick(true, c.redrive(id, r))
	c.want(id, "FAILED(UNRESOLVED)") // the first attempt may have reached the person
}
