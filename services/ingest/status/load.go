package status

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
)

const (
	// jumpInsteadOf is how many records are read and thrown away rather than opening another reader behind them.
	jumpInsteadOf = 50_000
	expireEvery   = time.Hour
)

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
			fresh, p, lost := f.next()
			var err error
			switch {
			case len(fresh) > 0:
				err = f.fill(ctx, fresh)
			case len(lost) > 0:
				err = f.fetch(ctx, p, lost)
			}
			if len(fresh) == 0 && len(lost) == 0 {
				break
			}
			if err != nil && ctx.Err() == nil {
				f.cfg.Log.Warn("reading zns.status failed, trying again", "topic", f.cfg.Topics.Status, "error", err)
				pause(ctx, retryAfter)
			}
		}
	}
}

// next returns what is to be done: partitions to fill, else offsets of one partition to read again.
func (f *Folder) next() (fresh map[int32]*partition, p int32, lost []int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fresh = map[int32]*partition{}
	for n, part := range f.parts {
		switch {
		case part.restored && !part.loaded:
			fresh[n] = part
		case len(part.table.lost) > 0:
			p, lost = n, part.table.wanted()
		}
	}
	return fresh, p, lost
}

// fill reads zns.status to where it ends now, which is after everything that earlier owners of these partitions can have
// committed: their positions were restored, so their transactions have ended or cannot be committed any more.
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
	for !r.Reached(end) {
		records, err := r.Poll(ctx)
		if err != nil {
			return err
		}
		if f.keep(parts, records) == 0 {
			return nil // all of them were given up meanwhile
		}
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
			continue
		}
		part.table.put(id, rec.Time, rec.Offset)
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

// fetch reads snapshots of one partition again, in one go where they lie close together.
func (f *Folder) fetch(ctx context.Context, p int32, want []int64) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	for len(want) > 0 {
		r, err := kafka.NewReader(ctx, kafka.ReaderConfig{
			Client: f.cfg.Client, Topic: f.cfg.Topics.Status, Partitions: []int32{p},
			Start: kafka.FromOffsets(map[int32]int64{p: want[0]}),
		})
		if err != nil {
			return err
		}
		want, err = f.fetchRun(ctx, r, p, want)
		r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// fetchRun reads on with r until the next wanted record is far away. It returns what is still wanted.
func (f *Folder) fetchRun(ctx context.Context, r *kafka.Reader, p int32, want []int64) ([]int64, error) {
	for {
		at := r.Positions()[p]
		for len(want) > 0 && want[0] < at { // read, or retention has deleted it
			f.settle(p, want[0], nil)
			want = want[1:]
		}
		if len(want) == 0 || want[0] > at+jumpInsteadOf {
			return want, nil
		}
		records, err := r.Poll(ctx)
		if err != nil {
			return want, err
		}
		for i := range records {
			for len(want) > 0 && want[0] < records[i].Offset {
				f.settle(p, want[0], nil)
				want = want[1:]
			}
			if len(want) > 0 && want[0] == records[i].Offset {
				f.settle(p, want[0], &records[i])
				want = want[1:]
			}
		}
	}
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
		f.cache.add(&snapshot{table: part.table, id: id, offset: offset, value: bytes.Clone(r.Value)})
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
