package oa

import (
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/stream"
	"github.com/znshub/znshub/pkg/zalo"
	oav1 "github.com/znshub/znshub/proto/oa/v1"
)

// Change is what a callback does to a table.
type Change struct {
	table *table
	key   string
	next  proto.Message // nil: nothing
	event kafka.Event
}

// Known reports whether the callback tells something that the tables hold.
func (c Change) Known() bool { return c.table != nil }

// News reports whether the table does not hold it already, or something newer.
func (c Change) News() bool { return c.next != nil }

// Change returns what cb, received at the given time, changes. hash names its raw body.
func (t *Tables) Change(cb *zalo.Callback, received time.Time, source, hash string) Change {
	at := timestamppb.New(received)
	if !cb.Time.IsZero() {
		at = timestamppb.New(cb.Time)
	}
	switch {
	case cb.OAID == "":
	case cb.Kind == zalo.KindTemplate && cb.Template.TemplateID != "":
		key := clean(cb.OAID) + "/" + clean(cb.Template.TemplateID)
		id := key + "/template/" + hash
		return t.template.change(key, kafka.Event{ID: id, Source: source, Subject: key}, templateChange(cb, id, at))
	case cb.Kind == zalo.KindQuota && cb.DailyQuota.New != nil:
		key := clean(cb.OAID)
		id := key + "/quota/" + hash
		return t.quota.change(key, kafka.Event{ID: id, Source: source, Subject: key}, quotaChange(cb, id, at))
	}
	return Change{}
}

// change applies f to a copy of the newest record under key. f reports whether it changed anything, and when it did the
// event's time; nil means that it cannot.
func (t *table) change(key string, e kafka.Event, f func(proto.Message) (*timestamppb.Timestamp, bool)) Change {
	if f == nil {
		return Change{}
	}
	next := t.empty()
	if latest := t.latest(key); latest != nil {
		next = proto.Clone(latest)
	}
	at, changed := f(next)
	if !changed {
		return Change{table: t, key: key}
	}
	e.Time, e.Data = at.AsTime(), next
	return Change{table: t, key: key, next: next, event: e}
}

// statuses are Zalo's names.
var statuses = map[string]oav1.TemplateStatus{
	"PENDING_REVIEW": oav1.TemplateStatus_TEMPLATE_STATUS_PENDING_REVIEW,
	"ENABLE":         oav1.TemplateStatus_TEMPLATE_STATUS_ENABLE,
	"REJECT":         oav1.TemplateStatus_TEMPLATE_STATUS_REJECT,
	"DISABLE":        oav1.TemplateStatus_TEMPLATE_STATUS_DISABLE,
	"DELETE":         oav1.TemplateStatus_TEMPLATE_STATUS_DELETE,
}

func templateChange(cb *zalo.Callback, id string, at *timestamppb.Timestamp) func(proto.Message) (*timestamppb.Timestamp, bool) {
	status, known := statuses[cb.Template.Status]
	if !known && cb.Template.NewQuality == "" {
		return nil
	}
	return func(m proto.Message) (*timestamppb.Timestamp, bool) {
		t := m.(*oav1.Template)
		changed := false
		if known && later(at, t.GetStatusTime()) {
			t.Status, t.Reason, t.StatusTime = status, clean(cb.Template.Reason), at
			changed = true
		}
		if quality := clean(cb.Template.NewQuality); quality != "" && later(at, t.GetQualityTime()) {
			t.Quality, t.QualityTime = quality, at
			changed = true
		}
		t.EventId, t.EventTime = id, latest(at, t.GetEventTime())
		t.OaId, t.TemplateId = clean(cb.OAID), clean(cb.Template.TemplateID)
		return t.EventTime, changed
	}
}

func quotaChange(cb *zalo.Callback, id string, at *timestamppb.Timestamp) func(proto.Message) (*timestamppb.Timestamp, bool) {
	return func(m proto.Message) (*timestamppb.Timestamp, bool) {
		q := m.(*oav1.Quota)
		if !later(at, q.GetDailyQuotaTime()) {
			return nil, false
		}
		q.EventId, q.EventTime = id, latest(at, q.GetEventTime())
		q.OaId, q.DailyQuota, q.DailyQuotaTime = clean(cb.OAID), cb.DailyQuota.New, at
		return q.EventTime, true
	}
}

// later reports whether a is after b; equal times are the same event again.
func later(a, b *timestamppb.Timestamp) bool { return b == nil || a.AsTime().After(b.AsTime()) }

func latest(a, b *timestamppb.Timestamp) *timestamppb.Timestamp {
	if b == nil || a.AsTime().After(b.AsTime()) {
		return a
	}
	return b
}

// Publish writes the changed record into u; the tables hold it at once, and until u is undone.
func (c Change) Publish(u *stream.Unit, traceparent, tracestate string) error {
	r, err := kafka.NewRecord(c.table.topic, []byte(c.key), c.event, traceparent, tracestate)
	if err != nil {
		return err
	}
	r.Time = u.Now()
	w := u.Append(r)
	u.OnAbort(c.table.set(c.key, c.next, u.Partition()))
	u.OnCommit(func() { c.table.committed(c.key, c.next, w.Offset()) })
	return nil
}

// clean makes a string from the wire fit for protobuf and bounds it.
func clean(s string) string {
	const most = 512
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
