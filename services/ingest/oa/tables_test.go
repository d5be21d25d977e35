package oa

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/zalo"
	oav1 "github.com/znshub/znshub/proto/oa/v1"
)

var received = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

func status(t *testing.T, to string, second int) *zalo.Callback {
	t.Helper()
	cb, err := zalo.ParseCallback(fmt.Appendf(nil, `{"event_name":"change_template_status","oa_id":"9","template_id":"1","status":{"new_status":%q},"timestamp":"%d"}`,
		to, received.Add(time.Duration(second)*time.Second).UnixMilli()))
	if err != nil {
		t.Fatal(err)
	}
	return &cb
}

// change is what cb does; it is news or not.
func change(t *testing.T, tables *Tables, cb *zalo.Callback, news bool) Change {
	t.Helper()
	c := tables.Change(cb, received, "/s", "hash")
	if !c.Known() || c.News() != news {
		t.Fatalf("change %+v, want news %v", c, news)
	}
	return c
}

func (t *table) have(tb testing.TB, want oav1.TemplateStatus) {
	tb.Helper()
	m, _ := t.latest("9/1").(*oav1.Template)
	if m.GetStatus() != want {
		tb.Errorf("the table says %v, want %v", m.GetStatus(), want)
	}
}

func record(t *testing.T, m proto.Message, offset int64) kafka.Record {
	t.Helper()
	r, err := kafka.NewRecord("oa.template", []byte("9/1"), kafka.Event{ID: "x", Source: "/s", Time: received, Data: m}, "", "")
	if err != nil {
		t.Fatal(err)
	}
	r.Offset = offset
	return r
}

// TestTables: what this process has written counts at once, until it is undone, and until the topic has something newer.
func TestTables(t *testing.T) {
	tables := New(Config{Template: "oa.template", Quota: "oa.quota", Log: slog.New(slog.DiscardHandler)})
	tab := tables.template
	tab.take([]kafka.Record{record(t, &oav1.Template{OaId: "9", TemplateId: "1", Name: "n", Tag: "PROMOTION"}, 5)}, slog.Default())

	first := change(t, tables, status(t, "ENABLE", 10), true)
	undoFirst := tab.set(first.key, first.next, 0)
	second := change(t, tables, status(t, "DISABLE", 20), true)
	undoSecond := tab.set(second.key, second.next, 0)
	tab.have(t, oav1.TemplateStatus_TEMPLATE_STATUS_DISABLE)
	change(t, tables, status(t, "REJECT", 15), false) // late
	change(t, tables, status(t, "DISABLE", 20), false)
	undoSecond()
	tab.have(t, oav1.TemplateStatus_TEMPLATE_STATUS_ENABLE)
	undoFirst()
	tab.have(t, oav1.TemplateStatus_TEMPLATE_STATUS_UNSPECIFIED)

	tab.set(first.key, first.next, 0)
	tab.committed(first.key, first.next, 7)
	tab.take([]kafka.Record{record(t, &oav1.Template{Name: "older"}, 6)}, slog.Default())
	tab.have(t, oav1.TemplateStatus_TEMPLATE_STATUS_ENABLE)
	if m := tab.latest("9/1").(*oav1.Template); m.GetName() != "n" || m.GetTag() != "PROMOTION" || m.GetEventId() != "9/1/template/hash" {
		t.Errorf("merged: %v", m)
	}
	tab.take([]kafka.Record{record(t, first.next, 7), record(t, &oav1.Template{Status: oav1.TemplateStatus_TEMPLATE_STATUS_DELETE}, 8)}, slog.Default())
	tab.have(t, oav1.TemplateStatus_TEMPLATE_STATUS_DELETE)
	// The commit of what the topic has already overtaken changes nothing.
	tab.set(first.key, first.next, 0)
	tab.committed(first.key, first.next, 7)
	tab.have(t, oav1.TemplateStatus_TEMPLATE_STATUS_DELETE)
	tombstone := record(t, first.next, 9)
	tombstone.Value = nil
	tab.take([]kafka.Record{tombstone}, slog.Default())
	if tab.latest("9/1") != nil {
		t.Error("a tombstone left something")
	}
}

// TestReadFromTheStartAgain: what was deleted while the topic could not be read is gone once it was read again, and until
// then the table is what it was; what this process wrote meanwhile counts.
func TestReadFromTheStartAgain(t *testing.T) {
	tables := New(Config{Template: "oa.template", Quota: "oa.quota", Log: slog.New(slog.DiscardHandler)})
	tab := tables.template
	enabled := &oav1.Template{Status: oav1.TemplateStatus_TEMPLATE_STATUS_ENABLE}
	tab.begin()
	tab.take([]kafka.Record{record(t, enabled, 5)}, slog.Default())
	if !tab.end() {
		t.Error("the first time was not the first")
	}
	tab.have(t, oav1.TemplateStatus_TEMPLATE_STATUS_ENABLE)

	other := record(t, enabled, 9)
	other.Key = []byte("9/2")
	tab.begin()
	tab.take([]kafka.Record{other}, slog.Default())
	tab.have(t, oav1.TemplateStatus_TEMPLATE_STATUS_ENABLE)
	if tab.end() {
		t.Error("the second time was the first")
	}
	if tab.latest("9/1") != nil || tab.latest("9/2") == nil {
		t.Error("the table is not what the topic has")
	}

	committed := change(t, tables, status(t, "DISABLE", 20), true)
	tab.set(committed.key, committed.next, 0)
	tab.committed(committed.key, committed.next, 10)
	tab.begin()
	open := change(t, tables, status(t, "REJECT", 30), true)
	tab.set(open.key, open.next, 0)
	tab.take([]kafka.Record{other, record(t, committed.next, 10)}, slog.Default())
	tab.end()
	tab.have(t, oav1.TemplateStatus_TEMPLATE_STATUS_REJECT)
	tab.committed(open.key, open.next, 11)
	tab.begin()
	tombstone := record(t, open.next, 12)
	tombstone.Value = nil
	tab.take([]kafka.Record{other, tombstone}, slog.Default())
	tab.end()
	if tab.latest("9/1") != nil {
		t.Error("a tombstone left something")
	}
}

// TestDropped: a partition that was given up while the end of its transaction was not known leaves nothing that was perhaps
// never written; what is committed, and what others write, stays.
func TestDropped(t *testing.T) {
	tables := New(Config{Template: "oa.template", Quota: "oa.quota", Log: slog.New(slog.DiscardHandler)})
	first := change(t, tables, status(t, "ENABLE", 10), true)
	tables.template.set(first.key, first.next, 3)
	tables.Dropped(2)
	change(t, tables, status(t, "ENABLE", 10), false)
	tables.Dropped(3)
	again := change(t, tables, status(t, "ENABLE", 10), true)
	tables.template.set(again.key, again.next, 3)
	tables.template.committed(again.key, again.next, 7)
	tables.Dropped(3)
	change(t, tables, status(t, "ENABLE", 10), false)
}

func TestChangeOfOthers(t *testing.T) {
	tables := New(Config{Log: slog.New(slog.DiscardHandler)})
	for name, body := range map[string]string{
		"no OA":          `{"event_name":"change_template_status","template_id":"1","status":{"new_status":"ENABLE"},"timestamp":"1"}`,
		"no template":    `{"event_name":"change_template_status","oa_id":"9","status":{"new_status":"ENABLE"},"timestamp":"1"}`,
		"unknown status": `{"event_name":"change_template_status","oa_id":"9","template_id":"1","status":{"new_status":"NEW"},"timestamp":"1"}`,
		"no quota":       `{"event_name":"change_oa_daily_quota","oaId":"9","quota":{},"timestamp":"1"}`,
		"another event":  `{"event_name":"user_send_text","sender":{"id":"1"},"recipient":{"id":"9"},"timestamp":"1"}`,
	} {
		cb, err := zalo.ParseCallback([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		if c := tables.Change(&cb, received, "/s", "hash"); c.Known() {
			t.Errorf("%s: %+v", name, c)
		}
	}
}
