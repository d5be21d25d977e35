package translate

import (
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/zalo"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/services/ingest/oa"
	"github.com/znshub/znshub/services/ingest/sends"
)

func TestKeyText(t *testing.T) {
	for _, k := range []key{newKey(uuid.MustParse("018f3c5e-7b1a-7c3e-9c39-5c1f1b9f2a10"), "user_received_message/1"), foreignKey("user_received_message/2")} {
		got, err := parseKey(k.String())
		if err != nil || got != k {
			t.Errorf("%s reads as %+v, %v", k, got, err)
		}
	}
	if newKey(uuid.Nil, "a") == newKey(uuid.Nil, "b") {
		t.Error("two dedupe keys, one key")
	}
	for _, bad := range []string{"", "x", "/", "018f3c5e-7b1a-7c3e-9c39-5c1f1b9f2a10/zz", "foreign-00/00", "foreign-/0"} {
		if _, err := parseKey(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// Which outcome a receipt is joined with: by msg_id, by attempt where a msg_id is missing, never by the id alone.
func TestMatches(t *testing.T) {
	for _, tt := range []struct {
		name    string
		receipt *ledgerv1.Receipt
		send    sends.Send
		want    bool
	}{
		{"same message", &ledgerv1.Receipt{MsgId: "m", Attempt: 1}, sends.Send{MsgID: "m", Attempt: 1}, true},
		{"same message, attempts beyond what a tracking_id tells", &ledgerv1.Receipt{MsgId: "m", Attempt: 63}, sends.Send{MsgID: "m", Attempt: 70}, true},
		{"same attempt, another message", &ledgerv1.Receipt{MsgId: "m", Attempt: 1}, sends.Send{MsgID: "n", Attempt: 1}, false},
		{"another attempt", &ledgerv1.Receipt{MsgId: "m", Attempt: 1}, sends.Send{MsgID: "n", Attempt: 2}, false},
		{"receipt without msg_id", &ledgerv1.Receipt{Attempt: 2}, sends.Send{MsgID: "n", Attempt: 2}, true},
		{"send without msg_id", &ledgerv1.Receipt{MsgId: "m", Attempt: 2}, sends.Send{Attempt: 2}, true},
		{"neither, another attempt", &ledgerv1.Receipt{Attempt: 1}, sends.Send{Attempt: 2}, false},
		{"failed", &ledgerv1.Receipt{MsgId: "m", Attempt: 1}, sends.Send{Kind: sends.KindFailed, MsgID: "m", Attempt: 1}, false},
		{"unresolved", &ledgerv1.Receipt{Attempt: 1}, sends.Send{Kind: sends.KindUnresolved, Attempt: 1}, false},
	} {
		if got := matches(tt.receipt, &tt.send); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// Of several outcomes the attempt's own wins, then any zns.sent, then the latest.
func TestOffer(t *testing.T) {
	failed, unresolved := &sends.Send{Kind: sends.KindFailed}, &sends.Send{Kind: sends.KindUnresolved}
	other, own := &sends.Send{MsgID: "n", Attempt: 2}, &sends.Send{MsgID: "m", Attempt: 1}
	for _, tt := range []struct {
		offered []*sends.Send
		want    *sends.Send
		exact   bool
	}{
		{[]*sends.Send{unresolved, failed}, failed, false},
		{[]*sends.Send{other, failed}, other, false},
		{[]*sends.Send{failed, other, unresolved}, other, false},
		{[]*sends.Send{other, own, failed}, own, true},
		{[]*sends.Send{own, other}, own, true},
	} {
		r := &receipt{state: &ledgerv1.Receipt{MsgId: "m", Attempt: 1}}
		for _, s := range tt.offered {
			r.offer(s)
		}
		if r.best != tt.want || r.exact != tt.exact {
			t.Errorf("%+v: %+v, %v", tt.offered, r.best, r.exact)
		}
	}
}

func TestSeenExpires(t *testing.T) {
	now := time.Date(2026, 11, 22, 5, 0, 0, 0, time.UTC)
	window := 7 * 24 * time.Hour
	s := seen{}
	at := map[string]time.Time{
		"now": now, "inside the window": now.Add(-window + time.Minute), "inside the margin": now.Add(-window - expiryMargin + time.Minute),
		"gone": now.Add(-window - expiryMargin - generation - time.Minute),
	}
	for name, stored := range at {
		s.add(newKey(uuid.Nil, name), stored)
	}
	for name := range at {
		if !s.has(newKey(uuid.Nil, name)) {
			t.Errorf("%s was not remembered", name)
		}
	}
	gone := map[key]bool{}
	for k := range s.expired(now, window) {
		gone[k] = true
		s.remove(k)
	}
	if want := map[key]bool{newKey(uuid.Nil, "gone"): true}; !maps.Equal(gone, want) {
		t.Errorf("expired %v", gone)
	}
	if s.has(newKey(uuid.Nil, "gone")) || !s.has(newKey(uuid.Nil, "inside the margin")) {
		t.Error("the wrong one was forgotten")
	}
	if next := s.nextExpiry(window); next.Before(now) || next.After(now.Add(generation)) {
		t.Errorf("next expiry %v", next)
	}
}

func TestWaitingQueue(t *testing.T) {
	var waits atomic.Int64
	p := &partition{waiting: map[key]*receipt{}, of: map[uuid.UUID][]*receipt{}, waits: &waits}
	base := time.Now()
	var all []*receipt
	for i, after := range []int{5, 1, 4, 2, 3} {
		r := &receipt{key: key{id: uuid.UUID{byte(i / 2)}, dedupe: uint64(i)}, waitUntil: base.Add(time.Duration(after) * time.Second)}
		p.add(r)
		all = append(all, r)
	}
	if !p.remove(all[0]) || p.remove(all[1]) || p.remove(all[4]) {
		t.Error("remove does not tell whether the notification still waits")
	}
	var order []int
	for p.due.Len() > 0 {
		r := p.due.First()
		order = append(order, int(r.waitUntil.Sub(base)/time.Second))
		p.remove(r)
	}
	if len(order) != 2 || order[0] != 2 || order[1] != 4 || waits.Load() != 0 || len(p.of) != 0 || len(p.waiting) != 0 {
		t.Errorf("order %v, %d waiting", order, waits.Load())
	}
}

// A ledger that a newer program wrote stops the partition instead of being misread.
func TestNewerFormat(t *testing.T) {
	k := newKey(uuid.New(), "x")
	value, err := proto.Marshal(&ledgerv1.Receipt{MinReader: formatVersion + 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := decodeReceipt(k, kafka.Record{Value: value}); err == nil || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("error %v", err)
	}
}

func FuzzRestore(f *testing.F) {
	f.Add("018f3c5e-7b1a-7c3e-9c39-5c1f1b9f2a10/0123456789abcdef", marshal(&ledgerv1.Receipt{MinReader: 1, State: 1, WaitUntilMs: 5}))
	f.Add("foreign-018f3c5e7b1a7c3e9c395c1f1b9f2a10/0", []byte(nil))
	f.Add("\xff", []byte{0xff})
	f.Fuzz(func(t *testing.T, k string, value []byte) {
		tr := New(Config{Sends: &fakeSends{}})
		tr.Assigned(0)
		for range 2 {
			if err := tr.Restore(0, kafka.Record{Key: []byte(k), Value: value}); err != nil {
				return
			}
		}
		if err := tr.Restore(0, kafka.Record{Key: []byte(k)}); err != nil || tr.WaitingReceipts() != 0 {
			t.Fatalf("after the tombstone %d wait, %v", tr.WaitingReceipts(), err)
		}
	})
}

// tables is an OA that knows nothing and remembers what was dropped.
type tables struct{ dropped []int32 }

func (*tables) Loaded() bool { return true }
func (*tables) Change(*zalo.Callback, time.Time, string, string) oa.Change {
	return oa.Change{}
}
func (t *tables) Dropped(p int32) { t.dropped = append(t.dropped, p) }

func TestDroppedReachesTheTables(t *testing.T) {
	o := &tables{}
	tr := New(Config{Sends: &fakeSends{}, OA: o})
	tr.Assigned(3)
	tr.Dropped(3)
	if !slices.Equal(o.dropped, []int32{3}) {
		t.Errorf("dropped %v", o.dropped)
	}
}
