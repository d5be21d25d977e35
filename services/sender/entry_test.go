package sender

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/zalo"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

// fullEntry has a value in every field.
func fullEntry(t *testing.T) *entry {
	t.Helper()
	open := openAttempt{number: 3, trackingID: "track", intent: 11, deadline: 12, owner: "me"}
	e := &entry{
		id: uuid.New(), hash: [16]byte{1, 2, 3}, offset: 42, requested: 1, accepted: 2, expire: 3, due: 4,
		category: notificationv1.Category_CATEGORY_OTP, traceparent: "00-trace", tracestate: "a=b",
		mut: mut{
			state: stateUnknown, attempt: 3, open: []openAttempt{open}, reason: ledgerv1.HoldReason_HOLD_REASON_RETRY, until: 5,
			unknownSince: 6, decideBy: 7, cause: znsv1.UnknownCause_UNKNOWN_CAUSE_RESET, unresolved: true, msgID: "m", sent: 8,
			finished: 9, failure: znsv1.FailureReason_FAILURE_REASON_REJECTED, code: -118, retries: 2,
			flowHold: true, superseded: true, resentBy: []byte("command"),
			results: []attemptResult{{openAttempt: openAttempt{number: 2, trackingID: "t2", intent: 10}, duration: 20, outcome: 2, code: -32, cause: 1}},
		},
	}
	e.history.add(&ledgerv1.Step{TimeMs: 1, Kind: 2, Attempt: 3, HoldReason: 4, Code: -5, DurationMs: 6, Cause: 1, UntilMs: 8, Owner: "me"})
	if err := e.seal(&notificationv1.NotificationRequested{TemplateId: "643118", Labels: map[string]string{"a": "b"}}, "1@2"); err != nil {
		t.Fatal(err)
	}
	return e
}

// TestEntryEncoding: the hand-written encoding is that of ledger.proto, and every field of it survives.
func TestEntryEncoding(t *testing.T) {
	e := fullEntry(t)
	value := e.encode()
	var le ledgerv1.Entry
	if err := proto.Unmarshal(value, &le); err != nil {
		t.Fatal(err)
	}
	for _, m := range []proto.Message{&le, le.History[0], le.OpenAttempts[0], le.AttemptResults[0]} {
		fields := m.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			if n := fields.Get(i).Number(); m == &le && n >= fOA && n <= fCampaign {
				continue // of terminal ones
			}
			if !m.ProtoReflect().Has(fields.Get(i)) {
				t.Errorf("%s: the test or the encoding leaves %s out", m.ProtoReflect().Descriptor().Name(), fields.Get(i).Name())
			}
		}
		if len(m.ProtoReflect().GetUnknown()) > 0 {
			t.Errorf("%T has fields that ledger.proto does not know", m)
		}
	}
	back, err := decodeEntry(value)
	if err != nil {
		t.Fatal(err)
	}
	var again ledgerv1.Entry
	if err := proto.Unmarshal(back.encode(), &again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&le, &again, protocmp.Transform()); diff != "" {
		t.Errorf("decoding and encoding changes it:\n%s", diff)
	}
	g, err := look(value)
	if err != nil || g.state != int64(stateUnknown) || g.offset != 42 || g.accepted != 2 || g.finished != 9 || !g.open || g.minReader != formatVersion {
		t.Errorf("look: %+v, %v", g, err)
	}
}

// TestTerminalEntryForgetsThePerson: what is kept for the dedupe window has no request in it.
func TestTerminalEntryForgetsThePerson(t *testing.T) {
	for _, change := range []func(*entry){
		func(e *entry) { e.state = stateSent },
		func(e *entry) { e.state = stateFailed },
	} {
		e := fullEntry(t)
		e.flow = limit.Flow{OA: "oa", Template: "643118", Campaign: "sale"}
		change(e)
		var le ledgerv1.Entry
		if err := proto.Unmarshal(e.encode(), &le); err != nil {
			t.Fatal(err)
		}
		if le.Request != nil || le.OpenAttempts != nil || le.MsgId != "m" || len(le.History) != 1 || len(le.PayloadHash) != 16 ||
			le.OaId != "oa" || le.TemplateId != "643118" || le.CampaignId != "sale" {
			t.Errorf("terminal: %v", &le)
		}
	}
}

func TestHistoryIsBounded(t *testing.T) {
	var h history
	for i := range 500 {
		h.add(&ledgerv1.Step{TimeMs: int64(1_800_000_000_000 + i), Kind: ledgerv1.StepKind(1 + rand.IntN(10)), Attempt: int32(i), UntilMs: rand.Int64N(1e13), Owner: strings.Repeat("o", rand.IntN(20))})
		if len(h.b) > maxHistory || h.n > maxSteps {
			t.Fatalf("%d bytes, %d steps", len(h.b), h.n)
		}
	}
	var le ledgerv1.Entry
	if err := proto.Unmarshal(h.b, &le); err != nil {
		t.Fatal(err)
	}
	if n := len(le.History); n != h.n || le.History[0].Attempt != 0 || le.History[n-1].Attempt != 499 || le.History[2].Kind != ledgerv1.StepKind_STEP_KIND_TRUNCATED {
		t.Errorf("history: %v", le.History)
	}
	for i := 3; i < len(le.History); i++ {
		if le.History[i].Kind == ledgerv1.StepKind_STEP_KIND_TRUNCATED {
			t.Error("more than one mark")
		}
	}
}

func TestRestoreRefusesWhatItDoesNotKnow(t *testing.T) {
	id := uuid.New()
	value := func(change func(*ledgerv1.Entry)) []byte {
		le := &ledgerv1.Entry{MinReader: 1, NotificationId: id[:], State: stateAccepted}
		change(le)
		b, _ := proto.Marshal(le)
		return b
	}
	for name, tc := range map[string]struct {
		key   string
		value []byte
		ok    bool
	}{
		"good":        {id.String(), value(func(*ledgerv1.Entry) {}), true},
		"newer":       {id.String(), value(func(e *ledgerv1.Entry) { e.MinReader = formatVersion + 1 }), false},
		"other state": {id.String(), value(func(e *ledgerv1.Entry) { e.State = 99 }), false},
		"no state":    {id.String(), value(func(e *ledgerv1.Entry) { e.State = 0 }), false},
		"cut":         {id.String(), value(func(*ledgerv1.Entry) {})[:5], false},
		"other key":   {"clock", value(func(*ledgerv1.Entry) {}), false},
	} {
		c := newCore(t)
		p := c.h.partition(0)
		p.restoring = map[uuid.UUID][]byte{}
		if err := p.restore(kafka.Record{Key: []byte(tc.key), Value: tc.value}); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzDecodeEntry: no bytes in the ledger make the program panic.
func FuzzDecodeEntry(f *testing.F) {
	e := &entry{id: uuid.New(), mut: mut{state: stateAccepted}}
	_ = e.seal(&notificationv1.NotificationRequested{TemplateId: "1"}, "")
	f.Add(e.encode())
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = look(b)
		if e, err := decodeEntry(b); err == nil {
			e.encode()
			e.request()
		}
	})
}

// TestFieldNumbers ties the constants to ledger.proto.
func TestFieldNumbers(t *testing.T) {
	fields := (&ledgerv1.Entry{}).ProtoReflect().Descriptor().Fields()
	for number, name := range map[protoreflect.FieldNumber]protoreflect.Name{
		fMinReader: "min_reader", fState: "state", fOpen: "open_attempts", fHistory: "history", fMovedFrom: "moved_from", fDue: "due_ms", fResults: "attempt_results",
	} {
		if fd := fields.ByNumber(number); fd == nil || fd.Name() != name {
			t.Errorf("field %d is %v, want %s", number, fd, name)
		}
	}
}

// TestRestoredMatchesLedger drives entries through random lives, and compares what a successor restores with what the
// owner had.
func TestRestoredMatchesLedger(t *testing.T) {
	c := newCore(t, func(cfg *Config) { cfg.MaxInFlight = 32 })
	answers := []func() zalo.Result{
		func() zalo.Result { return accepted("m") }, func() zalo.Result { return lost }, func() zalo.Result { return rejected(-118) },
		func() zalo.Result { return rejected(-1472) }, func() zalo.Result { return throttled },
	}
	for range 300 {
		var change []func(*notificationv1.NotificationRequested)
		if rand.IntN(2) == 0 {
			change = append(change, ordered(fmt.Sprint(rand.IntN(5))))
		}
		_, r := c.request(change...)
		c.tick(true, r)
		for _, x := range append([]*call(nil), c.calls...) {
			if rand.IntN(3) == 0 {
				c.answer(x.e.id, answers[rand.IntN(len(answers))]())
			}
		}
		if rand.IntN(4) == 0 {
			c.tick(false)
		}
		c.pass(time.Second)
	}
	c.tick(true)
	n := c.successor()
	states := map[string]int{}
	for i, p := range c.h.parts {
		q := n.h.parts[i]
		if p.live() != q.live() || p.finished.Len() != q.finished.Len() {
			t.Errorf("partition %d: %d live, %d done; restored %d, %d", i, p.live(), p.finished.Len(), q.live(), q.finished.Len())
		}
		for _, e := range p.entries {
			id := e.id
			want := describeState(e)
			states[want]++
			if e.state == stateSending {
				want = "UNKNOWN"
			}
			if f := n.entryOf(id); f == nil || describeState(f) != want || f.due != e.due || f.expire != e.expire || f.policy != e.policy ||
				len(f.open) != len(e.open) || f.retries != e.retries || f.accepted != e.accepted {
				t.Errorf("%s: had %s, restored %v", id, want, f)
			}
		}
	}
	if len(states) < 3 {
		t.Errorf("only the states %v: the test does not test", states)
	}
}
