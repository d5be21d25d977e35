package sender

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// numbered is an id that says its number.
func numbered(n int) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[:], uint64(n)*0x9e3779b97f4a7c15) // spread, as ids are
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return id
}

// waitingRecords hands over n ledger records of notifications that wait, as a restore would.
func waitingRecords(t testing.TB, n int, change func(i int, e *entry, req *notificationv1.NotificationRequested), take func(kafka.Record)) {
	t.Helper()
	now := ms(time.Now())
	for i := range n {
		req := &notificationv1.NotificationRequested{
			NotificationId: numbered(i).String(), OaId: testOA, TemplateId: "643118", CampaignId: "tet-2027",
			Category: promotion, Recipient: &notificationv1.Recipient{Phone: "+84987654321"},
			TemplateData: map[string]string{"name": "Nguyen Van A", "code": "TET2027"}, Labels: map[string]string{"team": "growth"},
		}
		e := &entry{id: numbered(i), offset: int64(i), requested: now, accepted: now, due: now, expire: now + int64(7*24*time.Hour/time.Millisecond), category: promotion}
		e.hold(ledgerv1.HoldReason_HOLD_REASON_NOT_BEFORE, now+int64(8*time.Hour/time.Millisecond), now)
		if change != nil {
			change(i, e, req)
		}
		if err := e.seal(req, ""); err != nil {
			t.Fatal(err)
		}
		take(kafka.Record{Key: []byte(e.id.String()), Value: e.encode(), Offset: int64(2 * i)})
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestIndexBytes: what has to stay in memory of a waiting notification is at most 100 bytes, everything included, and
// the account that SENDER_MEMORY goes by is true.
func TestIndexBytes(t *testing.T) {
	if unsafe.Sizeof(slot{}) != slotSize {
		t.Fatalf("a slot has %d bytes, not %d", unsafe.Sizeof(slot{}), slotSize)
	}
	const n = 60_000
	for name, change := range map[string]func(int, *entry, *notificationv1.NotificationRequested){
		"timers": nil,
		"ready in closed flows": func(i int, e *entry, req *notificationv1.NotificationRequested) {
			e.reason, e.flowHold = ledgerv1.HoldReason_HOLD_REASON_HOURS, true
			req.CampaignId = fmt.Sprint("campaign-", i%50)
		},
		"ordered by 1,000 keys": func(i int, e *entry, req *notificationv1.NotificationRequested) {
			e.state, e.reason = stateAccepted, 0
			req.OrderingKey = fmt.Sprint("key-", i%1000)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCore(t)
			p := c.h.partition(0)
			before := heap()
			waitingRecords(t, n, change, func(r kafka.Record) {
				if err := p.restore(r); err != nil {
					t.Fatal(err)
				}
			})
			c.h.Rebuild(0)
			per, account := float64(heap()-before)/n, float64(p.fixedBytes())/n
			t.Logf("%.1f bytes each, the account says %.1f", per, account)
			if per > 100 {
				t.Errorf("%.1f bytes of index for each waiting notification, want at most 100", per)
			}
			if account < per*0.9 || account > per*1.15 {
				t.Errorf("the account says %.1f bytes, %.1f are used", account, per)
			}
			if p.live() != n || len(p.entries) != 0 {
				t.Errorf("%d live, %d in memory", p.live(), len(p.entries))
			}
			runtime.KeepAlive(c)
		})
	}
}

// TestIDs compares the id table with a map, over growth, removals and reuse of slots.
func TestIDs(t *testing.T) {
	var a arena
	var x ids
	x.init()
	refs := map[uuid.UUID]ref{}
	for i := range 200_000 {
		id := numbered(i % 70_000)
		r := x.find(&a, id)
		if want := refs[id]; r != want {
			t.Fatalf("step %d: found %d, want %d", i, r, want)
		}
		if r != 0 {
			x.remove(&a, r)
			a.release(r)
			delete(refs, id)
			continue
		}
		if i%5 == 0 {
			continue
		}
		r = a.alloc()
		a.at(r).id = id
		x.insert(&a, r)
		refs[id] = r
	}
	for id, r := range refs {
		if x.find(&a, id) != r {
			t.Fatal("one is lost")
		}
	}
	if a.n != len(refs) {
		t.Errorf("%d slots in use for %d ids", a.n, len(refs))
	}
	for _, r := range refs {
		x.remove(&a, r)
		a.release(r)
	}
	if a.n != 0 || a.bytes() != 0 || x.size > idSegments*64*4 {
		t.Errorf("left: %d slots, %d bytes, %d bytes of table", a.n, a.bytes(), x.size)
	}
}

// BenchmarkRestore is a restore without Kafka: of what waits and of what is finished.
func BenchmarkRestore(b *testing.B) {
	var waiting, finished []kafka.Record
	waitingRecords(b, 100_000, nil, func(r kafka.Record) { waiting = append(waiting, r) })
	now := ms(time.Now())
	for i := range 100_000 {
		e := &entry{id: numbered(i), offset: int64(i), requested: now, accepted: now, category: plain}
		e.state, e.msgID, e.finished = stateSent, "m-123456789", now+int64(i)
		e.history.add(&ledgerv1.Step{TimeMs: now, Kind: ledgerv1.StepKind_STEP_KIND_SENT, Attempt: 1})
		finished = append(finished, kafka.Record{Key: []byte(e.id.String()), Value: e.encode(), Offset: int64(i)})
	}
	for name, records := range map[string][]kafka.Record{"waiting": waiting, "finished": finished} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for done := 0; done < b.N; done += len(records) {
				b.StopTimer()
				c := newCore(b)
				p := c.h.partition(0)
				b.StartTimer()
				for _, r := range records[:min(len(records), b.N-done)] {
					if err := p.restore(r); err != nil {
						b.Fatal(err)
					}
				}
				c.h.Rebuild(0)
			}
		})
	}
}
