package status

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/pause"
	"github.com/znshub/znshub/services/ingest/sideinput"
)

const expireEvery = time.Hour

// load fills the tables of restored partitions, and reads snapshots again, until ctx ends.
func (f *Folder) load(ctx context.Context) {
	expire := time.NewTicker(expireEvery)
	defer expire.Stop()
	for {
		select {
		case <-f.work:
		case <-expire.C:
			f.expire()
			continue
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil {
			todo := f.next()
			var err error
			switch {
			case len(todo.fresh) > 0:
				err = f.fill(ctx, todo.fresh)
			case len(todo.lost) > 0:
				err = f.fetch(ctx, todo.partition, todo.lost)
			case len(todo.overdue) > 0:
				err = f.prepare(ctx, todo.partition, todo.overdue)
			default:
			}
			if todo.nothing() {
				break
			}
			if err != nil && ctx.Err() == nil {
				f.cfg.Log.Warn("reading zns.status failed, trying again", "topic", f.cfg.Topics.Status, "error", err)
				pause.For(ctx, retryAfter)
			}
		}
	}
}

// todo is what load does next, of one partition unless it is fresh ones.
type todo struct {
	fresh     map[int32]*partition // to fill
	partition int32
	lost      []int64 // snapshots to read again
	overdue   []*awaited
}

func (t todo) nothing() bool { return len(t.fresh)+len(t.lost)+len(t.overdue) == 0 }

func (f *Folder) next() todo {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := todo{fresh: map[int32]*partition{}}
	for n, part := range f.parts {
		switch {
		case part.restored && !part.loaded:
			t.fresh[n] = part
		case len(part.table.lost) > 0 && len(t.lost) == 0:
			t.partition, t.lost, t.overdue = n, part.table.wanted(), nil
		case len(part.table.toRead) > 0 && len(t.lost)+len(t.overdue) == 0:
			most := min(prepareAtOnce, len(part.table.toRead))
			t.partition, t.overdue = n, slices.Clone(part.table.toRead[:most])
		}
	}
	if len(t.fresh) > 0 {
		return todo{fresh: t.fresh}
	}
	if len(t.overdue) > 0 {
		table := f.parts[t.partition].table
		table.toRead = table.toRead[len(t.overdue):]
	}
	return t
}

// fetch reads snapshots of one partition again.
func (f *Folder) fetch(ctx context.Context, p int32, want []int64) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	return sideinput.ReadOffsets(ctx, f.cfg.Client, f.cfg.Topics.Status, p, want, func(offset int64, r *kafka.Record) { f.settle(p, offset, r) })
}

var (
	errGivenUp = errors.New("no partition is owned any more")
	errSilent  = errors.New("no record came for long: a transaction may be open")
)

// fill reads zns.status to where it ends now, which is after everything that earlier owners of these partitions can have
// committed: their positions were restored, so their transactions have ended or cannot be committed any more. When no
// record comes for long it fails: the partitions that are waited for may have been given up.
func (f *Folder) fill(ctx context.Context, parts map[int32]*partition) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	open, done := context.WithTimeout(ctx, openTimeout)
	defer done()
	r, err := kafka.NewReader(open, kafka.ReaderConfig{
		Client: f.cfg.Client, Topic: f.cfg.Topics.Status, Partitions: slices.Sorted(maps.Keys(parts)),
		Start: kafka.FromTime(time.Now().Add(-Window - startMargin)),
	})
	if err != nil {
		return err
	}
	defer r.Close()
	end, err := r.Watermark(open)
	if err != nil {
		return err
	}
	f.clear(parts)
	silent := time.AfterFunc(f.patience, func() { cancel(errSilent) })
	defer silent.Stop()
	err = r.ReadTo(ctx, end, func(records []kafka.Record) error {
		silent.Reset(f.patience)
		if f.keep(parts, records) == 0 {
			return errGivenUp
		}
		return nil
	})
	if errors.Is(err, errGivenUp) {
		return nil
	}
	if err != nil {
		return err
	}
	f.loaded(parts, r.TopicID())
	return nil
}

// clear empties the tables: an earlier try may have filled them in part.
func (f *Folder) clear(parts map[int32]*partition) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, part := range parts {
		part.table = newTable()
	}
}

// keep puts snapshots into the tables. It returns how many of the partitions are still owned.
func (f *Folder) keep(parts map[int32]*partition, records []kafka.Record) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, rec := range records {
		part := parts[rec.Partition]
		id, err := uuid.ParseBytes(rec.Key)
		if part == nil || err != nil {
			continue
		}
		if rec.Value == nil { // somebody forgot this one
			part.table.remove(id)
			delete(part.table.recent, id)
			part.table.await(id, nil, -1)
			continue
		}
		part.table.put(id, rec.Time, rec.Offset)
		if mayBeAwaited(rec.Value) {
			part.table.await(id, decodeSnapshot(rec.Value), sentOffset(rec))
		}
		f.cache.add(&snapshot{table: part.table, id: id, offset: rec.Offset, value: bytes.Clone(rec.Value)})
	}
	owned := 0
	for p, part := range parts {
		if f.parts[p] == part {
			owned++
		}
	}
	return owned
}

// loaded lets the partitions be folded. Positions that belong to an earlier topic zns.status are worth nothing.
func (f *Folder) loaded(parts map[int32]*partition, id [16]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p, part := range parts {
		if f.parts[p] != part {
			continue
		}
		if part.statusID != id && part.statusID != [16]byte{} {
			f.cfg.Log.Warn("zns.status was made anew: it is written again from the events that are left", "topic", f.cfg.Topics.Status, "partition", p)
			part.position = unread()
		}
		part.statusID, part.loaded = id, true
		f.facts.assign(p, part.position)
	}
	f.cfg.Wake()
}

// settle ends the search for one snapshot; r is nil when it is no longer there.
func (f *Folder) settle(p int32, offset int64, r *kafka.Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	part := f.parts[p]
	if part == nil {
		return
	}
	id, ok := part.table.lost[offset]
	if !ok {
		return
	}
	delete(part.table.lost, offset)
	if at, found := part.table.find(id); !found || at != offset {
		return
	}
	if r == nil || string(r.Key) != id.String() {
		part.table.remove(id)
	} else {
		part.table.again[id] = bytes.Clone(r.Value)
	}
	f.cfg.Wake()
}

func (f *Folder) expire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, part := range f.parts {
		part.table.expire(time.Now().Add(-Window - startMargin))
	}
}
