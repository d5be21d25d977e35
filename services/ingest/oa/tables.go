// Package oa keeps oa.template and oa.quota, the tables of what Zalo says of templates and quotas: it follows both whole,
// and merges what a callback tells into the latest record, so that a new status does not erase a name, a tag or a
// delivery window that somebody else has learnt.
//
// # Promises
//
// Each field that callbacks tell carries Zalo's time of it: an older one that comes late, or the same again, changes
// nothing. Other fields are never touched. Programs that write the same record within the same few milliseconds may
// overwrite each other; webhook-ingest itself never does, because one partition of zalo.callback holds all events of a
// template, and one those of an OA's quota.
package oa

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	oav1 "github.com/znshub/znshub/proto/oa/v1"
)

// Config says where the tables are.
type Config struct {
	Client   []kgo.Opt
	Template string // topic oa.template
	Quota    string // topic oa.quota
	Loaded   func() // called once both were read to their ends; must not block
	Log      *slog.Logger
}

// Tables is safe for concurrent use.
type Tables struct {
	cfg      Config
	template *table
	quota    *table
}

// table is one topic: records by key.
type table struct {
	topic string
	empty func() proto.Message

	mu     sync.Mutex
	loaded bool
	read   map[string]row // as the topic has it, as far as it was read
	own    map[string]row // written by this process and not read yet; offset -1: not committed yet
}

// row is a record of a table.
type row struct {
	m      proto.Message
	offset int64
	by     int32 // the partition of zalo.callback that wrote it, while it is not committed
}

// New returns Tables that are empty until Run has read them.
func New(cfg Config) *Tables {
	return &Tables{
		cfg:      cfg,
		template: newTable(cfg.Template, func() proto.Message { return &oav1.Template{} }),
		quota:    newTable(cfg.Quota, func() proto.Message { return &oav1.Quota{} }),
	}
}

func newTable(topic string, empty func() proto.Message) *table {
	return &table{topic: topic, empty: empty, read: map[string]row{}, own: map[string]row{}}
}

// Loaded reports whether both tables were read to where they ended when that began. It stays true.
func (t *Tables) Loaded() bool { return t.template.isLoaded() && t.quota.isLoaded() }

// Dropped forgets what a partition of zalo.callback has written and of which nobody will say any more whether it was
// committed: its next owner, which this process may be, takes the callback again if it was not.
func (t *Tables) Dropped(p int32) {
	for _, tab := range []*table{t.template, t.quota} {
		tab.mu.Lock()
		maps.DeleteFunc(tab.own, func(_ string, r row) bool { return r.offset < 0 && r.by == p })
		tab.mu.Unlock()
	}
}

// Run follows the tables until ctx ends.
func (t *Tables) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, tab := range []*table{t.template, t.quota} {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := t.follow(ctx, tab); err != nil && ctx.Err() == nil {
					t.cfg.Log.Warn("following a table failed, trying again", "topic", tab.topic, "error", err)
					pause(ctx, time.Second)
				}
			}
		})
	}
	wg.Wait()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (t *Tables) follow(ctx context.Context, tab *table) error {
	open, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	r, err := kafka.NewReader(open, kafka.ReaderConfig{Client: t.cfg.Client, Topic: tab.topic})
	if err != nil {
		return err
	}
	defer r.Close()
	end, err := r.Watermark(open)
	if err != nil {
		return err
	}
	for {
		if !tab.isLoaded() && r.Reached(end) {
			tab.mu.Lock()
			tab.loaded = true
			tab.mu.Unlock()
			if t.Loaded() {
				t.cfg.Loaded()
			}
		}
		records, err := r.Poll(ctx)
		if err != nil {
			return err
		}
		tab.take(records, t.cfg.Log)
	}
}

func (t *table) isLoaded() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.loaded
}

func (t *table) take(records []kafka.Record, log *slog.Logger) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range records {
		key := string(r.Key)
		if own, ok := t.own[key]; ok && own.offset >= 0 && own.offset <= r.Offset {
			delete(t.own, key)
		}
		if r.Value == nil {
			delete(t.read, key)
			continue
		}
		m := t.empty()
		if err := kafka.Decode(r, m); err != nil {
			log.Warn("a record of a table cannot be decoded: it is left out", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "error", err)
			continue
		}
		t.read[key] = row{m: m, offset: r.Offset}
	}
}

// latest returns the newest record under key, nil when there is none. It must not be changed.
func (t *table) latest(key string) proto.Message {
	t.mu.Lock()
	defer t.mu.Unlock()
	if own, ok := t.own[key]; ok {
		return own.m
	}
	if r, ok := t.read[key]; ok {
		return r.m
	}
	return nil
}

// set makes m, which partition by wrote, the newest record under key until the topic has it. The result undoes that.
func (t *table) set(key string, m proto.Message, by int32) (undo func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, had := t.own[key]
	t.own[key] = row{m: m, offset: -1, by: by}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if had {
			t.own[key] = before
		} else {
			delete(t.own, key)
		}
	}
}

// committed says where m came to stand.
func (t *table) committed(key string, m proto.Message, offset int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if own, ok := t.own[key]; !ok || own.m != m {
		return // a later one of the same transaction
	}
	if t.read[key].m != nil && t.read[key].offset >= offset {
		delete(t.own, key)
		return
	}
	t.own[key] = row{m: m, offset: offset}
}
