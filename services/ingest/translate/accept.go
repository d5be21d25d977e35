package translate

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/stream"
	"github.com/znshub/znshub/pkg/trackingid"
	"github.com/znshub/znshub/pkg/zalo"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/services/ingest/raw"
)

// headerMoved marks a callback that was written again to the partition where its state is, with where it first stood.
const headerMoved = "zns-moved"

// Accept takes one raw callback. What is published at once is committed together with its offset; what waits is
// written to the ledger first.
func (t *Translator) Accept(u *stream.Unit, r kafka.Record) {
	home, beyond := kafka.Murmur2Partition(r.Key, u.LedgerPartitions()), u.Partition() >= u.LedgerPartitions()
	if home != u.Partition() && (!moved(r) || beyond) {
		if u.Poison() != nil {
			t.count(u, "", Raw) // too large to be moved: it stays raw where it is
			return
		}
		t.move(u, r, home)
		return
	}
	cb, err := zalo.ParseCallback(r.Value)
	if err != nil {
		t.count(u, "", Unreadable)
		return
	}
	if cb.Kind != zalo.KindDelivery {
		t.count(u, cb.Event, t.table(u, &cb, r))
		return
	}
	id, err := trackingid.Decode(t.cfg.Cluster, cb.TrackingID)
	foreign := errors.Is(err, trackingid.ErrForeign)
	if foreign && !t.cfg.Foreign {
		t.count(u, cb.Event, Foreign)
		return
	}
	if u.Now().Sub(r.Time) > t.cfg.DedupeWindow {
		t.count(u, cb.Event, Old)
		return
	}
	rec := newReceipt(cb, r, id, foreign)
	part := t.part(u.Partition())
	if part.seen.has(rec.key) {
		t.count(u, cb.Event, Duplicate)
		return
	}
	part.seen.add(rec.key, r.Time)
	u.OnAbort(func() { part.seen.remove(rec.key) })

	if !foreign {
		for _, s := range t.cfg.Sends.Find(u.Partition(), rec.key.id) {
			rec.offer(s)
		}
	}
	if rec.exact || foreign {
		t.publish(u, rec)
		return
	}
	t.wait(u, part, rec)
}

// table merges a callback into oa.template or oa.quota when it tells something that they hold.
func (t *Translator) table(u *stream.Unit, cb *zalo.Callback, r kafka.Record) Result {
	if t.cfg.OA == nil || u.Poison() != nil {
		return Raw
	}
	c := t.cfg.OA.Change(cb, raw.Received(r), t.cfg.Source, raw.Hash(r.Value))
	if !c.Known() {
		return Raw
	}
	if !c.News() {
		return Known
	}
	headers := kafka.DecodeHeaders(r)
	if err := c.Publish(u, headers.Traceparent, headers.Tracestate); err != nil {
		t.cfg.Log.Error("a change of a template or a quota cannot be encoded: it stays raw", "offset", r.Offset, "error", err)
		return Raw
	}
	return Tabled
}

// newReceipt keeps what the event will need of a delivery callback.
func newReceipt(cb zalo.Callback, r kafka.Record, id trackingid.ID, foreign bool) *receipt {
	headers := kafka.DecodeHeaders(r)
	dedupe := clean(cb.DedupeKeys()[0])
	rec := &receipt{key: newKey(id.Notification, dedupe), state: &ledgerv1.Receipt{
		MinReader:      formatVersion,
		DedupeKey:      dedupe,
		State:          ledgerv1.ReceiptState_RECEIPT_STATE_WAITING,
		CallbackMs:     raw.Received(r).UnixMilli(),
		StoredMs:       r.Time.UnixMilli(),
		CallbackOffset: r.Offset,
		NotificationId: id.Notification[:],
		MsgId:          clean(cb.MsgID),
		TrackingId:     clean(cb.TrackingID),
		Attempt:        id.Attempt,
		OaId:           clean(cb.OAID),
		Traceparent:    clean(headers.Traceparent),
		Tracestate:     clean(headers.Tracestate),
	}}
	if foreign {
		rec.key, rec.state.NotificationId = foreignKey(dedupe), nil
	}
	if !cb.DeliveryTime.IsZero() {
		rec.state.DeliveryMs = cb.DeliveryTime.UnixMilli()
	}
	if isUserID(cb.RecipientID) {
		rec.state.ZaloRecipientId = cb.RecipientID
	}
	subject := rec.state.GetMsgId()
	if subject == "" {
		subject = rec.key.id.String()
	}
	rec.state.EventId = subject + "/delivered/" + raw.Hash(r.Value)
	return rec
}

// isUserID tells a Zalo user id, 15 digits or more, from a phone number, which has 15 at most with its country code
// and in Vietnam 11, and from a phone's hash.
func isUserID(s string) bool {
	return len(s) > 15 && len(s) <= 32 && strings.Trim(s, "0123456789") == ""
}

// clean makes a string from the wire fit for protobuf and bounds it.
func clean(s string) string {
	const most = 512
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// wait writes the receipt to the ledger and has its notification watched once that is committed.
func (t *Translator) wait(u *stream.Unit, part *partition, rec *receipt) {
	p := u.Partition()
	rec.waitUntil = u.Now().Add(t.cfg.JoinWait).Truncate(time.Millisecond)
	rec.state.WaitUntilMs = rec.waitUntil.UnixMilli()
	u.Ledger(rec.key.String(), marshal(rec.state))
	part.add(rec)
	u.OnAbort(func() { part.remove(rec) })
	u.OnCommit(func() { t.cfg.Sends.Watch(p, rec.key.id) })
	t.count(u, zalo.EventReceived, Waiting)
}

// move writes a callback that does not stand where its key belongs to its home, where its state is and its send is
// looked for: somebody wrote it with another partitioner, or added partitions to the topic.
func (t *Translator) move(u *stream.Unit, r kafka.Record, home int32) {
	from := strconv.Itoa(int(r.Partition)) + "@" + strconv.FormatInt(r.Offset, 10)
	u.Publish(kafka.Record{
		Topic: r.Topic, Partition: home, Time: r.Time, Key: r.Key, Value: r.Value,
		Headers: append(slices.Clone(r.Headers), kafka.Header{Key: headerMoved, Value: []byte(from)}),
	})
	t.count(u, "", Moved)
}

func moved(r kafka.Record) bool {
	_, ok := r.Header(headerMoved)
	return ok
}

// count tells what became of a callback once that is committed.
func (t *Translator) count(u *stream.Unit, event string, r Result) {
	u.OnCommit(func() { t.cfg.Counted(event, r) })
}
