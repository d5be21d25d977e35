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
	"github.com/znshub/znshub/pkg/pause"
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
	again  map[string]row // takes its place when the topic was read from its start; nil: it is not being read from there
	own    map[string]row // written by this process and not read yet; offset -1: not committed yet
}

// row is a record of a table.
type row struct {
	m      proto.Message // nil: deleted
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
					pause.For(ctx, time.Second)
				}
			}
		})
	}
	wg.Wait()
}

func (t *Tables) follow(ctx context.Context, tab *table) error {
	open, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	r, err := kafka.NewReader(open, kafka.ReaderConfig{Client: t.cfg.Client, Topic: tab.topic})
	if err != nil {
		return err
	}
	defer r.Close()
	tab.begin()
	end, err := r.Watermark(open)
	if err != nil {
		return err
	}
	take := func(records []kafka.Record) error {
		tab.take(records, t.cfg.Log)
		return nil
	}
	if err := r.ReadTo(ctx, end, take); err != nil {
		return err
	}
	if tab.end() && t.Loaded() {
		t.cfg.Loaded()
	}
	return r.ReadOn(ctx, take)
}

// begin makes take start from nothing, beside what was read before.
func (t *table) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.again = map[string]row{}
	for key, own := range t.own {
		if own.offset >= 0 { // the topic has it, or something newer
			t.read[key] = own
			delete(t.own, key)
		}
	}
}

// end makes what take has got since begin the table, without what is not in the topic any more. It reports whether this
// was the first time.
func (t *table) end() (first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, r := range t.again {
		t.overtake(key, r.offset)
	}
	t.read, t.again = t.again, nil
	first = !t.loaded
	t.loaded = true
	return first
}

// overtake forgets what this process wrote under key when the topic has it, or something newer, at offset. mu is held.
func (t *table) overtake(key string, offset int64) {
	if own, ok := t.own[key]; ok && own.offset >= 0 && own.offset <= offset {
		delete(t.own, key)
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
	into := t.again
	if into == nil {
		into = t.read
	}
	for _, r := range records {
		key := string(r.Key)
		if t.again == nil {
			t.overtake(key, r.Offset)
		}
		if r.Value == nil {
			into[key] = row{offset: r.Offset}
			continue
		}
		m := t.empty()
		if err := kafka.Decode(r, m); err != nil {
			log.Warn("a record of a table cannot be decoded: it is left out", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "error", err)
			continue
		}
		into[key] = row{m: m, offset: r.Offset}
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
	if r, ok := t.read[key]; ok && r.offset >= offset {
		delete(t.own, key)
		return
	}
	t.own[key] = row{m: m, offset: offset}
}
