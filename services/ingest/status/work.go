package status

import (
	"strconv"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/stream"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// Work folds what has arrived, and publishes zns.overdue. waits reports whether a receipt of the notification waits to be
// published. next is when it wants to be called again; zero: only when woken.
func (f *Folder) Work(tx *stream.Tx, waits func(p int32, id uuid.UUID) bool) (next time.Time) {
	soonest := func(at time.Time) {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	order := tx.Partitions()
	f.turn++
	for i := range order {
		p := order[(i+f.turn)%len(order)]
		if tx.Closing(p) {
			continue
		}
		if tx.Full() {
			return tx.Now()
		}
		part := f.part(p)
		if part == nil || !f.isLoaded(part) {
			continue
		}
		due := f.nextDue(part)
		var seen time.Time
		if !due.IsZero() && !due.After(tx.Now()) {
			seen = f.facts.seenUpTo(p) // before peek: what was seen by then is in the queue
		}
		queue, more := f.facts.peek(p, f.cfg.BatchEvents)
		b, again := f.foldPartition(tx, p, part, queue, more)
		switch {
		case again:
			soonest(tx.Now())
		case b.facts == len(queue) && !more:
			soonest(f.tellOverdue(tx, p, part, seen, func(p int32, id uuid.UUID) bool { return b.changes[id] != nil || waits(p, id) }))
		}
	}
	return next
}

// foldPartition folds the front of one partition's queue. It reports whether there is more that could be folded at once.
func (f *Folder) foldPartition(tx *stream.Tx, p int32, part *partition, queue []*Fact, more bool) (b batch, again bool) {
	if len(queue) == 0 {
		return batch{}, false
	}
	u := tx.Unit(p, "status/"+strconv.Itoa(int(queue[0].Kind))+"@"+strconv.FormatInt(queue[0].Offset, 10))
	if u == nil {
		return batch{}, true
	}
	if b = f.fold(part, queue); b.facts == 0 {
		return b, false // the snapshots come, and wake the engine
	}
	position := part.position
	for _, fact := range queue[:b.facts] {
		position.next[fact.Kind], position.ids[fact.Kind] = fact.Offset+1, fact.topic
	}
	b.write(f, u, part)
	u.Ledger(LedgerKey, f.encode(position, part.statusID))
	u.OnCommit(func() {
		f.mu.Lock()
		part.position = position
		for _, id := range b.order {
			delete(part.table.again, id)
		}
		f.mu.Unlock()
		f.facts.done(p, b.facts)
		f.cfg.Counted(Folded, b.folded)
		f.cfg.Counted(Unchanged, b.facts-b.folded)
	})
	return b, more || b.facts < len(queue) && !b.waits
}

func (f *Folder) isLoaded(part *partition) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return part.loaded
}

// batch is what one transaction does with one partition.
type batch struct {
	facts   int  // taken from the queue
	folded  int  // those that changed something
	waits   bool // the next one needs a snapshot that is being read again
	order   []uuid.UUID
	changes map[uuid.UUID]*change
}

// change is a notification in a batch.
type change struct {
	before, now *znsv1.Status
	last        *Fact // the latest that changed it
	sent        int64 // offset of its zns.sent; -1: not known
}

// fold merges the facts at the front of queue into the latest snapshots, up to the first one whose snapshot is not in
// memory. The snapshots of all the others are asked for too.
func (f *Folder) fold(part *partition, queue []*Fact) batch {
	b := batch{changes: map[uuid.UUID]*change{}}
	for _, fact := range queue {
		c := b.changes[fact.ID]
		if c == nil {
			value, l := f.latest(part, fact.ID)
			if l == fetched {
				b.waits = true
			}
			if b.waits {
				continue
			}
			c = &change{before: decodeSnapshot(value), sent: f.sentOf(part, fact.ID)}
			c.now = c.before
			b.changes[fact.ID] = c
			b.order = append(b.order, fact.ID)
		}
		if b.waits {
			continue
		}
		b.facts++
		if merged := Merge(c.now, fact.Status); !Same(c.now, merged) {
			c.now, c.last = merged, fact
			if fact.Kind == KindSent {
				c.sent = fact.Offset
			}
			b.folded++
		}
	}
	return b
}

// sentOf is the offset of the zns.sent of a notification whose receipt is watched for.
func (f *Folder) sentOf(part *partition, id uuid.UUID) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a := part.table.awaited[id]; a != nil {
		return a.sent
	}
	return -1
}

// decodeSnapshot returns nil for what is no snapshot: it is written anew.
func decodeSnapshot(value []byte) *znsv1.Status {
	if value == nil {
		return nil
	}
	s := &znsv1.Status{}
	if err := proto.Unmarshal(value, s); err != nil {
		return nil
	}
	return s
}

// write publishes the snapshots that changed.
func (b *batch) write(f *Folder, u *stream.Unit, part *partition) {
	now := u.Now()
	for _, id := range b.order {
		c := b.changes[id]
		if c.last == nil {
			continue
		}
		s := proto.CloneOf(c.now)
		s.Revision = max(c.before.GetRevision()+1, now.UnixMilli())
		s.EventId = s.GetNotificationId() + "/status/" + strconv.FormatInt(s.GetRevision(), 10)
		if u.Poison() != nil {
			s.Labels = nil // they are what may be large
		}
		r, err := kafka.NewRecord(f.cfg.Topics.Status, []byte(s.GetNotificationId()), kafka.Event{
			ID: s.GetEventId(), Source: f.cfg.Source, Subject: s.GetNotificationId(), Time: s.GetEventTime().AsTime(), Data: s,
		}, c.last.traceparent, c.last.tracestate)
		if err != nil {
			panic(err) // every field that NewRecord asks for is set, and every string was decoded from a message
		}
		r.Partition, r.Time = u.Partition(), now
		if isAwaited(s) && c.sent >= 0 {
			r.Headers = append(r.Headers, kafka.Header{Key: headerSent, Value: strconv.AppendInt(nil, c.sent, 10)})
		}
		w := u.Append(r)
		u.OnCommit(func() { f.written(part, s, id, now, w.Offset(), c.sent, r.Value) })
	}
}

// encode is the ledger's record of a position.
func (f *Folder) encode(at positions, statusID [16]byte) []byte {
	m := &ledgerv1.StatusPosition{MinReader: formatVersion, StatusTopicId: statusID[:]}
	for _, k := range Kinds {
		if at.next[k] >= 0 {
			m.Events = append(m.Events, &ledgerv1.TopicPosition{Topic: f.cfg.Topics.Of(k), TopicId: at.ids[k][:], NextOffset: at.next[k]})
		}
	}
	value, err := proto.Marshal(m)
	if err != nil {
		panic(err) // the names of topics are ASCII
	}
	return value
}
