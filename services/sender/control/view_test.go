package control

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/znshub/znshub/pkg/kafka"
	controlv1 "github.com/znshub/znshub/proto/control/v1"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

const (
	holdIt  = controlv1.Action_ACTION_HOLD
	release = controlv1.Action_ACTION_RELEASE
	cancel  = controlv1.Action_ACTION_CANCEL
	retry   = controlv1.Action_ACTION_RETRY
	resend  = controlv1.Action_ACTION_RESEND_UNKNOWN
)

var flow = limit.Flow{OA: "579", Template: "300200", Campaign: "tet"}

// log is a topic of one partition.
type log struct {
	t       testing.TB
	id      byte
	records []kafka.Record
	view    *View
}

func newLog(t testing.TB) *log { return &log{t: t, id: 1, view: emptyView()} }

// give appends a command and reads it.
func (l *log) give(c *controlv1.Command, at time.Time) kafka.Record {
	l.t.Helper()
	r := record(l.t, c, int64(len(l.records)), at)
	l.append(r)
	return r
}

func (l *log) append(r kafka.Record) {
	r.Offset = int64(len(l.records))
	l.records = append(l.records, r)
	l.view = l.read(l.view, r)
}

func (l *log) forget(key []byte) { l.append(kafka.Record{Key: key, Time: noon}) }

func (l *log) position(next int64) Position {
	return Position{TopicID: [16]byte{l.id}, Next: []int64{next}}
}

func (l *log) read(v *View, r kafka.Record) *View {
	l.t.Helper()
	ch := change{offset: r.Offset}
	if r.Value != nil {
		c, err := Decode(r)
		if err != nil {
			l.t.Fatal(err)
		}
		ch.command = c
	}
	return v.with(l.position(r.Offset+1), true, map[string]change{string(r.Key): ch})
}

func TestNothingStartsBeforeTheRulesAreKnown(t *testing.T) {
	h, closed := emptyView().Closed(noon, flow)
	if !closed || h.Reason != ledgerv1.HoldReason_HOLD_REASON_OPERATOR {
		t.Errorf("before the topic was read: %+v, %v", h, closed)
	}
	known := emptyView().with(Position{}, true, nil)
	if _, closed := known.Closed(noon, flow); closed || known.Version() == 0 {
		t.Errorf("an empty topic holds flows, or becoming known did not change the version (%d)", known.Version())
	}
}

func TestStandingRules(t *testing.T) {
	for _, s := range []Scope{All(), OA("579"), Template("300200"), Campaign("tet")} {
		l := newLog(t)
		l.give(command(holdIt, s), noon)
		if _, closed := l.view.Closed(noon, flow); !closed {
			t.Errorf("HOLD of %s does not hold", s)
		}
		other := limit.Flow{OA: "5", Template: "3", Campaign: "x"}
		if _, closed := l.view.Closed(noon, other); closed != (s == All()) {
			t.Errorf("HOLD of %s holds others: %v", s, closed)
		}
		before := l.view.Version()
		l.give(command(release, s), noon)
		if _, closed := l.view.Closed(noon, flow); closed || l.view.Version() == before {
			t.Errorf("RELEASE of %s does not release, or is not noticed", s)
		}
	}
}

func TestRulesOfDifferentScopesStandBesideEachOther(t *testing.T) {
	l := newLog(t)
	l.give(command(holdIt, All()), noon)
	l.give(command(holdIt, Campaign("tet")), noon)
	l.give(command(release, All()), noon)
	if _, closed := l.view.Closed(noon, flow); !closed {
		t.Error("a RELEASE of all released the campaign's own rule")
	}
	l.give(command(release, Campaign("tet")), noon)
	if _, closed := l.view.Closed(noon, flow); closed {
		t.Error("still held")
	}
}

func TestHoldThatEndsByItself(t *testing.T) {
	l := newLog(t)
	hour := command(holdIt, Campaign("tet"))
	hour.ExpireTime = timestamppb.New(noon.Add(time.Hour))
	l.give(hour, noon)
	h, closed := l.view.Closed(noon.Add(time.Hour-1), flow)
	if !closed || !h.Until.Equal(noon.Add(time.Hour)) {
		t.Errorf("within the hour: %+v, %v", h, closed)
	}
	if _, closed := l.view.Closed(noon.Add(time.Hour), flow); closed {
		t.Error("after the hour it still holds")
	}
	if within, after := len(l.view.Holding(noon)), len(l.view.Holding(noon.Add(time.Hour))); within != 1 || after != 0 {
		t.Errorf("%d rules hold within the hour, %d after it", within, after)
	}
	// Of several the last to end counts, and one without end goes before all.
	two := command(holdIt, OA("579"))
	two.ExpireTime = timestamppb.New(noon.Add(2 * time.Hour))
	l.give(two, noon)
	if h, _ := l.view.Closed(noon, flow); !h.Until.Equal(noon.Add(2 * time.Hour)) {
		t.Errorf("two rules: until %s", h.Until)
	}
	l.give(command(holdIt, All()), noon)
	if h, _ := l.view.Closed(noon, flow); !h.Until.IsZero() {
		t.Errorf("one without end: until %s", h.Until)
	}
}

func TestHoldOfOneNotification(t *testing.T) {
	l := newLog(t)
	l.give(command(holdIt, ID(someID)), noon)
	if _, held := l.view.ForID(noon, someID); !held {
		t.Error("not held")
	}
	if _, closed := l.view.Closed(noon, flow); closed {
		t.Error("the flow is closed for one notification's sake")
	}
	if _, held := l.view.ForID(noon, uuid.Max); held {
		t.Error("another id is held")
	}
	done := l.view.Position()
	l.give(command(release, ID(someID)), noon)
	if p := l.view.Pending(noon, done); len(p) != 1 || p[0].Action != release {
		t.Errorf("partitions are not told of the release: %v", p)
	}
	l.give(command(holdIt, ID(someID)), noon)
	done = l.view.Position()
	l.forget([]byte(ID(someID).String()))
	if _, held := l.view.ForID(noon, someID); held {
		t.Error("held after its tombstone")
	}
	if p := l.view.Pending(noon, done); len(p) != 1 || p[0].Action != release || p[0].Scope != ID(someID) {
		t.Errorf("partitions are not told of the tombstone: %v", p)
	}
	if p := l.view.Pending(noon, l.view.Position()); len(p) != 0 {
		t.Errorf("a tombstone is obeyed twice: %v", p)
	}
}

func TestCancelSpeaksOfWhatWasRequestedBefore(t *testing.T) {
	l := newLog(t)
	c := command(cancel, Campaign("tet"))
	c.ExpireTime = timestamppb.New(noon.Add(time.Hour))
	l.give(c, noon)
	for name, tc := range map[string]struct {
		now, requested time.Time
		flow           limit.Flow
		want           bool
	}{
		"requested before":      {noon.Add(time.Minute), noon.Add(-time.Second), flow, true},
		"at the same moment":    {noon.Add(time.Minute), noon, flow, true},
		"requested after":       {noon.Add(time.Minute), noon.Add(time.Millisecond), flow, false},
		"another campaign":      {noon.Add(time.Minute), noon.Add(-time.Second), limit.Flow{OA: "579"}, false},
		"after the expire_time": {noon.Add(time.Hour), noon.Add(-time.Second), flow, false},
	} {
		if got := l.view.Cancelled(tc.now, tc.requested, someID, tc.flow, uuid.Nil) != nil; got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	l.give(command(cancel, ID(uuid.Max)), noon)
	if l.view.Cancelled(noon, noon, uuid.Max, limit.Flow{}, uuid.Nil) == nil {
		t.Error("a CANCEL of one id does not speak to it")
	}
}

func TestPending(t *testing.T) {
	l := newLog(t)
	l.give(command(holdIt, OA("579")), noon)
	first := l.give(command(retry, OA("579")), noon)
	second := l.give(command(resend, OA("579")), noon.Add(time.Second))
	late := command(cancel, OA("579"))
	late.ExpireTime = timestamppb.New(noon.Add(time.Minute))
	third := l.give(late, noon.Add(2*time.Second))

	offsets := func(now time.Time, done Position) (got []int64) {
		for _, c := range l.view.Pending(now, done) {
			got = append(got, c.Offset)
		}
		return got
	}
	all := []int64{first.Offset, second.Offset, third.Offset}
	if got := offsets(noon, Position{}); !slices.Equal(got, all) {
		t.Errorf("a partition that has done nothing: %v", got)
	}
	if got := offsets(noon, l.position(2)); !slices.Equal(got, all[1:]) {
		t.Errorf("a partition that has done the first: %v", got)
	}
	if got := offsets(noon, l.position(4)); got != nil {
		t.Errorf("a partition that has done all: %v", got)
	}
	if got := offsets(noon.Add(time.Minute), l.position(2)); !slices.Equal(got, all[1:2]) {
		t.Errorf("after the expire_time: %v", got)
	}
	// A topic that was made anew counts its offsets from 0: what was done in the old one says nothing.
	anew := Position{TopicID: [16]byte{9}, Next: []int64{4}}
	if got := offsets(noon, anew); !slices.Equal(got, all) {
		t.Errorf("with the position of another topic: %v", got)
	}
}

func TestStale(t *testing.T) {
	l := newLog(t)
	l.give(command(holdIt, All()), noon)
	l.give(command(release, OA("1")), noon)
	once := command(cancel, OA("2"))
	once.ExpireTime = timestamppb.New(noon.Add(time.Hour))
	r := l.give(once, noon)
	if got := l.view.Stale(noon.Add(time.Hour), time.Hour); got != nil {
		t.Errorf("too early: %v", got)
	}
	if got := l.view.Stale(noon.Add(2*time.Hour+1), time.Hour); !slices.Equal(got, []string{string(r.Key)}) {
		t.Errorf("stale: %v", got)
	}
}

// TestCompactionChangesNothing: whoever reads what compaction left, in batches of any size, knows the same rules as
// whoever read every record as it came.
func TestCompactionChangesNothing(t *testing.T) {
	scopes := []Scope{All(), OA("579"), Template("300200"), Campaign("tet"), Campaign("x"), ID(someID)}
	rapid.Check(t, func(rt *rapid.T) {
		l := newLog(t)
		n := rapid.IntRange(1, 30).Draw(rt, "commands")
		for i := range n {
			at := noon.Add(time.Duration(i) * time.Second)
			if i > 0 && rapid.IntRange(0, 9).Draw(rt, "tombstone") == 0 {
				l.forget(l.records[rapid.IntRange(0, i-1).Draw(rt, "of")].Key)
				continue
			}
			c := command(controlv1.Action(rapid.IntRange(1, 6).Draw(rt, "action")), rapid.SampledFrom(scopes).Draw(rt, "scope"))
			if c.Action != release && rapid.Bool().Draw(rt, "expires") {
				c.ExpireTime = timestamppb.New(noon.Add(time.Duration(rapid.IntRange(0, 40).Draw(rt, "after")) * time.Second))
			}
			l.give(c, at)
		}
		last := map[string]int{}
		for i, r := range l.records {
			last[string(r.Key)] = i
		}
		compacted := emptyView()
		changes := map[string]change{}
		for i, r := range l.records {
			if last[string(r.Key)] == i && r.Value != nil {
				c, err := Decode(r)
				if err != nil {
					rt.Fatal(err)
				}
				changes[string(r.Key)] = change{c, r.Partition, r.Offset}
			}
			if rapid.Bool().Draw(rt, "batch ends") {
				compacted = compacted.with(l.position(int64(i+1)), false, changes)
				changes = map[string]change{}
			}
		}
		compacted = compacted.with(l.position(int64(n)), true, changes)

		now := noon.Add(time.Duration(rapid.IntRange(0, 40).Draw(rt, "now")) * time.Second)
		requested := noon.Add(time.Duration(rapid.IntRange(0, 40).Draw(rt, "requested")) * time.Second)
		for _, f := range []limit.Flow{flow, {OA: "579"}, {Campaign: "x"}, {}} {
			a, aClosed := l.view.Closed(now, f)
			b, bClosed := compacted.Closed(now, f)
			if a != b || aClosed != bClosed {
				rt.Fatalf("flow %+v: %+v %v, compacted %+v %v", f, a, aClosed, b, bClosed)
			}
			if x, y := l.view.Cancelled(now, requested, someID, f, uuid.Nil), compacted.Cancelled(now, requested, someID, f, uuid.Nil); (x == nil) != (y == nil) {
				rt.Fatalf("flow %+v: cancelled %v, compacted %v", f, x, y)
			}
		}
		if a, b := commandIDs(l.view.Rules()), commandIDs(compacted.Rules()); !slices.Equal(a, b) {
			rt.Fatalf("rules %v, compacted %v", a, b)
		}
		done := l.position(int64(rapid.IntRange(0, n).Draw(rt, "done")))
		live := slices.DeleteFunc(commandIDs(l.view.Pending(now, done)), func(id uuid.UUID) bool { return id == uuid.Nil })
		if b := commandIDs(compacted.Pending(now, done)); !slices.Equal(live, b) {
			rt.Fatalf("pending %v, compacted %v", live, b)
		}
	})
}

func commandIDs(cs []*Command) []uuid.UUID {
	out := make([]uuid.UUID, len(cs))
	for i, c := range cs {
		out[i] = c.ID
	}
	return out
}
