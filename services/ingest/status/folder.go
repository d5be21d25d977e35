package status

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// LedgerKey is the key of the [ledgerv1.StatusPosition] that stands once in each ledger partition.
const LedgerKey = "\x00status"

// formatVersion is the newest ledger format that this program reads and the one that it writes.
const formatVersion = 1

// Result is what became of an event.
type Result string

// The results: labels of metrics.
const (
	Folded     Result = "folded"     // it changed zns.status
	Unchanged  Result = "unchanged"  // zns.status held it already, or something that wins over it
	Old        Result = "old"        // written longer ago than Window
	Stray      Result = "stray"      // not in the partition of its key
	Unreadable Result = "unreadable" // no event about a notification
	Overdue    Result = "overdue"    // zns.overdue was published
)

// Results lists all of them.
var Results = []Result{Folded, Unchanged, Old, Stray, Unreadable, Overdue}

// Config says what is folded.
type Config struct {
	Client     []kgo.Opt // how to reach the brokers
	Topics     Topics
	Source     string       // ce_source
	Partitions func() int32 // of the ledger
	CacheBytes int          // of snapshots in memory; default 32 MiB
	QueueBytes int          // of events that wait to be folded; default 16 MiB
	// BatchEvents bounds the events of one partition that one transaction folds, and with them the time under the tick
	// lock; default 500.
	BatchEvents int
	Wake        func() // asks for a tick; must not block
	Log         *slog.Logger
	// Counted is told once for each event what became of it; may be nil. It must not block.
	Counted func(r Result, n int)
}

// Folder writes zns.status. Assigned, Restore, Restored, Dropped and Work are for the handler of the engine that owns
// the ledger, and follow the rules of its methods of the same names; Run is for a goroutine of its own.
type Folder struct {
	cfg   Config
	facts *facts
	turn  int // under the tick lock: which partition comes first
	// Loading that hears nothing for so long begins again.
	patience time.Duration

	mu    sync.Mutex // guards parts and what they hold, and the cache; never held over I/O
	parts map[int32]*partition
	cache cache
	work  chan struct{} // capacity 1: there is something to load or to read again
}

// partition is the state of one partition.
type partition struct {
	position positions // of what is folded and committed
	statusID [16]byte  // the topic zns.status that the position belongs to
	table    *table
	restored bool
	loaded   bool // the table holds what earlier owners wrote

	inputSeen   time.Time // all callbacks that were there then were translated
	inputSeenAt time.Time // when that was found
}

// New returns a Folder that folds nothing until it is told of partitions, and reads nothing until Run.
func New(cfg Config) *Folder {
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = 32 << 20
	}
	if cfg.QueueBytes == 0 {
		cfg.QueueBytes = 16 << 20
	}
	if cfg.BatchEvents == 0 {
		cfg.BatchEvents = 500
	}
	if cfg.Counted == nil {
		cfg.Counted = func(Result, int) {}
	}
	return &Folder{
		cfg:      cfg,
		facts:    newFacts(cfg.Client, cfg.Topics, cfg.QueueBytes, cfg.Partitions, cfg.Wake, func(r Result) { cfg.Counted(r, 1) }, cfg.Log),
		patience: time.Minute,
		parts:    map[int32]*partition{},
		cache:    cache{most: cfg.CacheBytes},
		work:     make(chan struct{}, 1),
	}
}

// Run reads until ctx ends.
func (f *Folder) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { f.facts.run(ctx) })
	wg.Go(func() { f.load(ctx) })
	wg.Wait()
}

func (f *Folder) part(p int32) *partition {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.parts[p]
}

// Assigned makes empty state.
func (f *Folder) Assigned(p int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.parts[p] = &partition{position: unread(), table: newTable()}
}

// Restore takes the ledger's record under LedgerKey.
func (f *Folder) Restore(p int32, r kafka.Record) error {
	m := &ledgerv1.StatusPosition{}
	if err := proto.Unmarshal(r.Value, m); err != nil {
		return fmt.Errorf("decode the position of zns.status at %s/%d@%d: %w", r.Topic, r.Partition, r.Offset, err)
	}
	if m.GetMinReader() > formatVersion {
		return fmt.Errorf("the position of zns.status at %s/%d@%d needs a program that reads format %d; this one reads up to %d: upgrade it",
			r.Topic, r.Partition, r.Offset, m.GetMinReader(), formatVersion)
	}
	at := unread()
	for _, e := range m.GetEvents() {
		for _, k := range Kinds {
			if f.cfg.Topics.Of(k) == e.GetTopic() {
				at.next[k] = e.GetNextOffset()
				copy(at.ids[k][:], e.GetTopicId())
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	part := f.parts[p]
	part.position = at
	copy(part.statusID[:], m.GetStatusTopicId())
	return nil
}

// Restored lets the partition's snapshots be loaded, and its events be read from where the ledger says.
func (f *Folder) Restored(p int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.parts[p].restored = true
	f.notify()
}

// Dropped forgets the partition.
func (f *Folder) Dropped(p int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.parts, p)
	f.facts.drop(p)
}

// Stats is a snapshot for metrics.
type Stats struct {
	Indexed     int // notifications whose latest snapshot can be found
	CachedBytes int
	Queued      int // events that wait to be folded
	QueuedBytes int
	Loading     int // partitions whose snapshots are being loaded
	Awaited     int // notifications whose receipt is watched for
}

// Stats returns how much is held.
func (f *Folder) Stats() Stats {
	var st Stats
	st.Queued, st.QueuedBytes = f.facts.queued()
	f.mu.Lock()
	defer f.mu.Unlock()
	st.CachedBytes = f.cache.bytes
	for _, part := range f.parts {
		st.Indexed += part.table.len()
		st.Awaited += len(part.table.awaited)
		if !part.loaded {
			st.Loading++
		}
	}
	return st
}

// notify wakes load; one pending wake is enough.
func (f *Folder) notify() {
	select {
	case f.work <- struct{}{}:
	default:
	}
}

// lookup is what the table says of a notification.
type lookup int

const (
	unknown lookup = iota // there is no snapshot
	known                 // it is in memory
	fetched               // it is being read again
)

// latest returns the newest committed snapshot of id.
func (f *Folder) latest(part *partition, id uuid.UUID) (value []byte, l lookup) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := part.table.recent[id]; s != nil {
		return s.value, known
	}
	if value, ok := part.table.again[id]; ok {
		return value, known
	}
	offset, ok := part.table.find(id)
	if !ok {
		return nil, unknown
	}
	part.table.lost[offset] = id
	f.notify()
	return nil, fetched
}

// written takes note of a snapshot that was committed. sent is the offset of its zns.sent.
func (f *Folder) written(part *partition, s *znsv1.Status, id uuid.UUID, now time.Time, offset, sent int64, value []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	part.table.put(id, now, offset)
	part.table.await(id, s, sent)
	f.cache.add(&snapshot{table: part.table, id: id, offset: offset, value: value})
}
