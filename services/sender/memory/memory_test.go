package memory

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

// numbered makes ids as UUIDv7 have them: alike in front, and in the order of time.
func numbered(n uint64) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[:], 0x0198_1234_5678_7000+n>>20)
	binary.BigEndian.PutUint64(id[8:], 1<<63|n)
	return id
}

// model is what a Table does, without its ways to save memory.
type model struct {
	order []Entry // as finished; without those deleted
	known map[uuid.UUID]Entry
}

func (m *model) remove(id uuid.UUID) (int, bool) {
	i := slices.IndexFunc(m.order, func(e Entry) bool { return e.ID == id })
	if i >= 0 {
		m.order = slices.Delete(m.order, i, i+1)
		delete(m.known, id)
	}
	return i, i >= 0
}

func (m *model) insert(i int, e Entry) {
	m.order = slices.Insert(m.order, i, e)
	m.known[e.ID] = e
}

// TestModel does what a sender does, ticks that are undone included, beside a plain list.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table, m := New(), &model{known: map[uuid.UUID]Entry{}}
		now := int64(1_700_000_000_000)
		steps := rapid.IntRange(1, 120).Draw(t, "steps")
		universe := rapid.SampledFrom([]uint64{8, 2000, 1 << 40}).Draw(t, "universe")
		next := uint64(0)
		// Each change returns what undoes it.
		add := func(id uuid.UUID, finished int64) func() {
			e := Entry{ID: id, Hash: uint32(next * 7), OffsetLow: uint32(next), Finished: finished}
			at, had := m.remove(id)
			m.insert(len(m.order), e)
			old, replaced := table.Add(id, e.Hash, 5<<32|int64(e.OffsetLow), finished)
			if replaced != had {
				t.Fatalf("replaced %t, want %t", replaced, had)
			}
			return func() {
				m.remove(id)
				if _, ok := table.Delete(id); !ok {
					t.Fatal("what was added is not there to be undone")
				}
				if replaced {
					table.PutBack(old)
					m.insert(at, Entry{ID: id, Hash: old.Hash, OffsetLow: old.OffsetLow, Finished: old.Finished})
				}
			}
		}
		remove := func(id uuid.UUID) func() {
			at, had := m.remove(id)
			e, ok := table.Delete(id)
			if ok != had {
				t.Fatalf("deleted %t, want %t", ok, had)
			}
			return func() {
				if ok {
					table.PutBack(e)
					m.insert(at, Entry{ID: id, Hash: e.Hash, OffsetLow: e.OffsetLow, Finished: e.Finished})
				}
			}
		}
		for range steps {
			now += rapid.SampledFrom([]int64{0, 0, 1, 40, 999, 1000, 90_000, 3_600_000, 400 * 24 * 3_600_000}).Draw(t, "gap")
			var undo []func()
			for range rapid.SampledFrom([]int{1, 1, 3, 60, 700}).Draw(t, "changes") {
				next++
				switch rapid.IntRange(0, 9).Draw(t, "change") {
				case 0, 1, 2, 3, 4, 5:
					finished := now + rapid.SampledFrom([]int64{0, 0, 0, -3000, -86_400_000, 40_000}).Draw(t, "clock")
					undo = append(undo, add(numbered(next%universe), finished))
				case 6:
					undo = append(undo, remove(numbered(rapid.Uint64Range(0, next).Draw(t, "id")%universe)))
				default:
					if e, ok := table.Front(); ok {
						undo = append(undo, remove(e.ID))
					}
				}
			}
			if rapid.IntRange(0, 3).Draw(t, "end") == 0 { // an aborted tick
				for _, f := range slices.Backward(undo) {
					f()
				}
			}
			check(t, table, m)
		}
		drain(t, table, m)
	})
}

func check(t *rapid.T, table *Table, m *model) {
	t.Helper()
	if table.Len() != len(m.order) {
		t.Fatalf("%d ids, want %d", table.Len(), len(m.order))
	}
	for id, e := range m.known {
		if hash, offset, ok := table.Get(id); !ok || hash != e.Hash || offset != e.OffsetLow {
			t.Fatalf("%s: got %d, %d, %t, want %d, %d", id, hash, offset, ok, e.Hash, e.OffsetLow)
		}
	}
	if _, _, ok := table.Get(uuid.New()); ok {
		t.Fatal("an id is known that was never there")
	}
	front, ok := table.Front()
	if ok != (len(m.order) > 0) || ok && front.ID != m.order[0].ID {
		t.Fatalf("the first to go is %s, %t; want %v", front.ID, ok, m.order[:min(1, len(m.order))])
	}
}

// drain lets everything expire: in order, and nothing earlier than it finished.
func drain(t *rapid.T, table *Table, m *model) {
	for _, want := range m.order {
		e, ok := table.Front()
		if !ok || e.ID != want.ID || e.Hash != want.Hash || e.OffsetLow != want.OffsetLow {
			t.Fatalf("next to go: %+v, %t; want %+v", e, ok, want)
		}
		if e.Finished < want.Finished {
			t.Fatalf("%s goes %d ms early", e.ID, want.Finished-e.Finished)
		}
		table.Delete(e.ID)
	}
	if e, ok := table.Front(); ok || table.Len() != 0 {
		t.Fatalf("%+v is left of nothing", e)
	}
	if table.Bytes() > 20_000 {
		t.Fatalf("an empty table takes %d bytes", table.Bytes())
	}
}

// TestNotLate checks how much longer than its window an id stays.
func TestNotLate(t *testing.T) {
	for _, gap := range []int64{1, 700, 1000, 61_000, 128_000, 3_600_000, 30 * 86_400_000, 1000 * 86_400_000} {
		table := New()
		at := int64(1_700_000_000_500)
		for i := range uint64(1000) {
			at += gap
			table.Add(numbered(i), 0, 0, at)
		}
		at = 1_700_000_000_500
		for range 1000 {
			at += gap
			e, _ := table.Front()
			if late := e.Finished - at; late < 0 || late > 1000+gap/8 {
				t.Fatalf("with %d ms between them, an id stays %d ms too long", gap, late)
			}
			table.Delete(e.ID)
		}
	}
}

// TestAstrayClock checks that one time far ahead delays few of those that follow.
func TestAstrayClock(t *testing.T) {
	table := New()
	const now, year = int64(1_700_000_000_000), int64(365 * 86_400_000)
	for i := range uint64(1000) {
		at := now
		if i == 300 {
			at += year
		}
		table.Add(numbered(i), 0, 0, at)
	}
	late := 0
	for table.Len() > 0 {
		e, _ := table.Front()
		if e.Finished > now+1000 {
			late++
		}
		table.Delete(e.ID)
	}
	if late > chunkLen {
		t.Errorf("%d are late, want no more than a chunk", late)
	}
}

// bytesPerID is what the table may take for each id, see the package comment.
const bytesPerID = 32

// TestBytesPerID measures the heap, at sizes between those that suit the structure best and worst.
func TestBytesPerID(t *testing.T) {
	most := uint64(500_000)
	if os.Getenv("ZNS_TEST_LONG") != "" {
		most = 20_000_000
	}
	before := heap()
	table := New()
	defer runtime.KeepAlive(table)
	worst, at := 0.0, uint64(0)
	next, size := uint64(0), uint64(10_000)
	for next < most {
		for ; next < size; next++ {
			table.Add(numbered(next), uint32(next), int64(next), 1_700_000_000_000+int64(next)*13) //nolint:gosec // G115: small
		}
		used := heap() - before
		per := float64(used) / float64(table.Len())
		if per > worst {
			worst, at = per, size
		}
		if per > bytesPerID {
			t.Errorf("%.2f bytes for each of %d ids, %.2f by its own count; want %d at most", per, table.Len(), float64(table.Bytes())/float64(table.Len()), bytesPerID)
		}
		if off := float64(table.Bytes())/float64(used) - 1; off < -.02 || off > .02 {
			t.Errorf("Bytes says %d, the heap grew by %d", table.Bytes(), used)
		}
		size += max(size/6, 1009)
	}
	t.Logf("at most %.2f bytes, with %d ids", worst, at)

	// And back: most expire, as in the night after a campaign.
	for table.Len() > 10_000 {
		e, _ := table.Front()
		table.Delete(e.ID)
	}
	per := float64(heap()-before) / float64(table.Len())
	t.Logf("and %.2f of the last %d", per, table.Len())
	if per > bytesPerID {
		t.Errorf("%.2f bytes for each of the last %d ids; want %d at most", per, table.Len(), bytesPerID)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // G115: far below
}

// TestSteadyState checks that a table in which as many expire as finish does not grow.
func TestSteadyState(t *testing.T) {
	table := New()
	const size = 50_000
	next := uint64(0)
	step := func() {
		table.Add(numbered(next), 0, 0, 1_700_000_000_000+int64(next)*100) //nolint:gosec // G115: small
		if next++; table.Len() > size {
			e, _ := table.Front()
			table.Delete(e.ID)
		}
	}
	for range size {
		step()
	}
	for range 10 * size {
		step()
		if per := float64(table.Bytes()) / float64(table.Len()); per > bytesPerID {
			t.Fatalf("%.2f bytes for each id after %d", per, next)
		}
	}
}

// TestWrap checks places beyond what a slot of the index can tell.
func TestWrap(t *testing.T) {
	table := New()
	table.ring.head = 1<<refBits - 1000
	table.ring.tail = table.ring.head
	for i := range uint64(3000) {
		table.Add(numbered(i), uint32(i), 0, 1_700_000_000_000) //nolint:gosec // G115: small
	}
	for i := range uint64(3000) {
		if hash, _, ok := table.Get(numbered(i)); !ok || uint64(hash) != i {
			t.Fatalf("%d: got %d, %t", i, hash, ok)
		}
	}
	for i := range uint64(3000) {
		if e, ok := table.Front(); !ok || e.ID != numbered(i) {
			t.Fatalf("%d: got %v, %t", i, e, ok)
		}
		table.Delete(numbered(i))
	}
}

func TestFull(t *testing.T) {
	table := New()
	table.Add(numbered(1), 0, 0, 0)
	table.Add(numbered(2), 0, 0, 0)
	table.ring.tail += MaxLen - 2
	if !table.Full() {
		t.Error("a table without a place left is not full")
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("an id was added where there is no place")
			}
		}()
		table.Add(numbered(3), 0, 0, 0)
	}()
	table.ring.tail = 2
	if table.Full() {
		t.Error("a table of two is full")
	}
}

func filled(n uint64) *Table {
	table := New()
	for i := range n {
		table.Add(numbered(i), uint32(i), int64(i), 1_700_000_000_000+int64(i)) //nolint:gosec // G115: small
	}
	return table
}

func BenchmarkAddDelete(b *testing.B) {
	for _, n := range []uint64{10_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			table := filled(n)
			for i := n; b.Loop(); i++ {
				table.Add(numbered(i), 0, 0, 1_700_000_000_000+int64(i)) //nolint:gosec // G115: small
				e, _ := table.Front()
				table.Delete(e.ID)
			}
		})
	}
}

func BenchmarkGet(b *testing.B) {
	for _, n := range []uint64{10_000, 1_000_000, 5_000_000} {
		table := filled(n)
		for name, from := range map[string]uint64{"known": 0, "unknown": n} {
			b.Run(fmt.Sprintf("%d/%s", n, name), func(b *testing.B) {
				for i := uint64(0); b.Loop(); i++ {
					if _, _, ok := table.Get(numbered(from + i*7919%n)); ok != (from == 0) {
						b.Fatal("wrong answer")
					}
				}
			})
		}
	}
}

func BenchmarkFill5M(b *testing.B) {
	for b.Loop() {
		table := filled(5_000_000)
		b.ReportMetric(float64(table.Bytes())/float64(table.Len()), "bytes/id")
	}
}
