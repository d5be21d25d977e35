// Package translate turns raw callbacks into events: the receipt of a message that the hub sent becomes one
// zns.delivered with what the send knew. It is a [stream.Handler] on zalo.callback; its state is
// zalo.callback.ledger.
//
// # Promises
//
// Every delivery callback with a tracking_id of this cluster yields exactly one zns.delivered for a read-committed
// reader, however often Zalo or the spool repeats it: within DedupeWindow by its dedupe key, and the event's id is
// the same in any case. The event is written in the transaction that remembers the receipt.
//
// A receipt is joined with the outcome of its own attempt: by msg_id, or by attempt where one side knows no msg_id.
// One that comes before that outcome waits for it, over restarts too. After JoinWait, and not before this member has
// read everything that was in zns.sent, zns.failed and zns.unresolved at that moment, it is published with what any
// outcome of the same notification tells of the request (but no time of sending), or with the callback's own fields.
//
// A template's new status or quality and an OA's new daily quota are merged into oa.template and oa.quota; see package oa.
//
// Everything else stays raw in zalo.callback and is counted: other events, receipts that were stored longer ago than
// DedupeWindow, and those of messages that other programs sent through the same Official Account, unless Foreign.
//
// # Ledger
//
// One ledgerv1.Receipt for each receipt: WAITING, then PUBLISHED, then a tombstone when nothing that Kafka may still
// hand over could repeat it. One ledgerv1.StatusPosition, of package status.
package translate

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/stream"
	"github.com/znshub/znshub/pkg/telemetry"
	"github.com/znshub/znshub/pkg/zalo"
	"github.com/znshub/znshub/services/ingest/oa"
	"github.com/znshub/znshub/services/ingest/sends"
	"github.com/znshub/znshub/services/ingest/status"
	"github.com/znshub/znshub/services/ingest/timerheap"
)

// formatVersion is the newest ledger format that this program reads and the one that it writes.
const formatVersion = 1

// Sends knows the outcomes of sends, partition by partition. Its methods return at once.
type Sends interface {
	// Assign begins to follow partition p, Drop ends it.
	Assign(p int32)
	Drop(p int32)
	// Find returns the outcomes of a notification that are in memory.
	Find(p int32, id uuid.UUID) []*sends.Send
	// Watch asks for every outcome of a notification, known or still to come, until Unwatch. Calls may be repeated.
	Watch(p int32, id uuid.UUID)
	Unwatch(p int32, id uuid.UUID)
	// Take returns, once, the outcomes of watched notifications that were found since the last call.
	Take(p int32) []*sends.Send
	// CaughtUp is the latest moment of which is known: whatever was in the topics then has been seen.
	CaughtUp(p int32) time.Time
}

// Status folds events into zns.status, in the transactions of the translation and with its ledger as memory.
type Status interface {
	Assigned(p int32)
	// Restore takes the records under [status.LedgerKey].
	Restore(p int32, r kafka.Record) error
	Restored(p int32)
	// Work is told which notifications have a receipt that waits to be published.
	Work(tx *stream.Tx, waits func(p int32, id uuid.UUID) bool) (next time.Time)
	Dropped(p int32)
}

// OA is the tables of templates and quotas.
type OA interface {
	// Loaded reports whether they are known; before, no callback is taken.
	Loaded() bool
	Change(cb *zalo.Callback, received time.Time, source, hash string) oa.Change
	// Dropped says that partition p is no longer this member's.
	Dropped(p int32)
}

// Config says how receipts are translated.
type Config struct {
	Cluster      string // ZNS_CLUSTER
	Source       string // ce_source
	Topic        string // of the events
	JoinWait     time.Duration
	DedupeWindow time.Duration
	Foreign      bool // publish receipts of messages that other programs sent
	MaxWaiting   int  // of one partition, above which its input waits; default 10,000
	Sends        Sends
	Status       Status // nil: zns.status is not written
	OA           OA     // nil: oa.template and oa.quota are not written
	Tracer       *telemetry.Tracer
	Log          *slog.Logger
	// Counted is told once for each callback what became of it, after that is committed; may be nil.
	Counted func(event string, r Result)
}

// Result is what became of a callback.
type Result string

// The results: labels of metrics.
const (
	Joined     Result = "joined"     // published with its send
	JoinedPart Result = "request"    // published with the request's fields, from another attempt or a failure
	Unjoined   Result = "unjoined"   // published alone
	Waiting    Result = "waiting"    // not yet published; comes again with one of the above
	Duplicate  Result = "duplicate"  // published before
	Foreign    Result = "foreign"    // another program's message; stays raw
	Old        Result = "old"        // stored longer ago than the dedupe window; stays raw
	Tabled     Result = "tabled"     // merged into oa.template or oa.quota
	Known      Result = "known"      // oa.template or oa.quota held it already, or something newer
	Raw        Result = "raw"        // another event; stays raw
	Unreadable Result = "unreadable" // not a JSON object; stays raw
	Moved      Result = "moved"      // written again to the partition where its state is
)

// Results lists all of them.
var Results = []Result{Joined, JoinedPart, Unjoined, Waiting, Duplicate, Foreign, Old, Tabled, Known, Raw, Unreadable, Moved}

// Translator is the handler. Its methods follow the rules of [stream.Handler].
type Translator struct {
	cfg   Config
	waits atomic.Int64 // receipts that wait, in all partitions

	mu    sync.RWMutex // guards the map, not what it holds: Restore runs beside the tick
	parts map[int32]*partition
}

// partition is the state of one partition. It belongs to the restore goroutine until Restored, then to the tick.
type partition struct {
	seen    seen
	waiting map[key]*receipt
	of      map[uuid.UUID][]*receipt // those of waiting, by notification
	due     timerheap.Heap[*receipt] // waiting, by the time at which they give up
	ready   []*receipt               // waiting, and found what they wait for
	waits   *atomic.Int64            // the Translator's
}

// New returns a Translator.
func New(cfg Config) *Translator {
	if cfg.MaxWaiting == 0 {
		cfg.MaxWaiting = 10_000
	}
	if cfg.Status == nil {
		cfg.Status = noStatus{}
	}
	if cfg.Counted == nil {
		cfg.Counted = func(string, Result) {}
	}
	return &Translator{cfg: cfg, parts: map[int32]*partition{}}
}

var _ stream.Handler = (*Translator)(nil)

func (t *Translator) part(p int32) *partition {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.parts[p]
}

// Assigned makes empty state.
func (t *Translator) Assigned(p int32) {
	t.mu.Lock()
	t.parts[p] = &partition{
		seen:    seen{},
		waiting: map[key]*receipt{},
		of:      map[uuid.UUID][]*receipt{},
		waits:   &t.waits,
	}
	t.mu.Unlock()
	t.cfg.Sends.Assign(p)
	t.cfg.Status.Assigned(p)
}

// Restore takes one receipt from the ledger.
func (t *Translator) Restore(p int32, r kafka.Record) error {
	if string(r.Key) == status.LedgerKey {
		return t.cfg.Status.Restore(p, r)
	}
	part := t.part(p)
	k, err := parseKey(string(r.Key))
	if err != nil {
		return err
	}
	if w := part.waiting[k]; w != nil {
		part.remove(w)
	}
	if r.Value == nil {
		part.seen.remove(k)
		return nil
	}
	rec, stored, err := decodeReceipt(k, r)
	if err != nil {
		return err
	}
	part.seen.add(k, stored)
	if rec != nil {
		part.add(rec)
	}
	return nil
}

// Restored begins to look for what the waiting receipts wait for, and to fold.
func (t *Translator) Restored(p int32) {
	t.cfg.Status.Restored(p)
	for id := range t.part(p).of {
		t.cfg.Sends.Watch(p, id)
	}
}

// Full reports whether too many receipts wait, or the tables of the OA are not known yet.
func (t *Translator) Full(p int32) bool {
	return len(t.part(p).waiting) >= t.cfg.MaxWaiting || t.cfg.OA != nil && !t.cfg.OA.Loaded()
}

// InFlight is always 0: nothing leaves but through transactions.
func (t *Translator) InFlight(int32) int { return 0 }

// Pending is always false: what waits stands in the ledger.
func (t *Translator) Pending(int32) bool { return false }

// Dropped forgets the partition.
func (t *Translator) Dropped(p int32) {
	t.cfg.Sends.Drop(p)
	t.cfg.Status.Dropped(p)
	if t.cfg.OA != nil {
		t.cfg.OA.Dropped(p)
	}
	t.mu.Lock()
	if part := t.parts[p]; part != nil {
		t.waits.Add(-int64(len(part.waiting)))
	}
	delete(t.parts, p)
	t.mu.Unlock()
}

// WaitingReceipts is the number of receipts that wait. It may be called from any goroutine.
func (t *Translator) WaitingReceipts() int { return int(t.waits.Load()) }

// noStatus folds nothing.
type noStatus struct{}

func (noStatus) Assigned(int32)                                              {}
func (noStatus) Restore(int32, kafka.Record) error                           { return nil }
func (noStatus) Restored(int32)                                              {}
func (noStatus) Work(*stream.Tx, func(int32, uuid.UUID) bool) (at time.Time) { return at }
func (noStatus) Dropped(int32)                                               {}
