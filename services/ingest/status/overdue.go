package status

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/notification"
	"github.com/znshub/znshub/pkg/stream"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/ingest/sideinput"
	"github.com/znshub/znshub/services/ingest/timerheap"
)

// headerSent stands on the snapshots of notifications whose receipt is watched for: the offset of their zns.sent, which
// is in the partition of the same number.
const headerSent = "zns-sent-offset"

// lookAgain is how soon an overdue notification is looked at again while something may still bring its receipt.
const lookAgain = 500 * time.Millisecond

// awaited is a notification whose receipt is watched for. The Folder's mu guards it.
type awaited struct {
	id   uuid.UUID
	due  int64 // Unix milliseconds
	sent int64 // offset of its zns.sent; -1: not known
	timerheap.Place
	state awaitedState
	tries int            // to read
	event *znsv1.Overdue // once it was read
	trace [2]string      // of zns.sent
}

// Due implements [timerheap.Timer].
func (a *awaited) Due() time.Time { return time.UnixMilli(a.due) }

type awaitedState int

const (
	waiting  awaitedState = iota
	reading               // zns.sent and the request are being read
	prepared              // event is complete
	told                  // zns.overdue is written; its snapshot follows
)

// isAwaited reports whether a receipt of the notification is watched for.
func isAwaited(s *znsv1.Status) bool {
	return s.GetOutcomeState() == znsv1.NotificationState_NOTIFICATION_STATE_SENT && s.GetReceiptDueTime() != nil && !hasReceipt(s) && !hasOverdue(s)
}

// mayBeAwaited reports whether the encoded snapshot has a receipt_due_time, much faster than decoding it does.
func mayBeAwaited(value []byte) bool {
	const receiptDueTime = 54
	for len(value) > 0 {
		number, kind, n := protowire.ConsumeTag(value)
		if n < 0 {
			return false
		}
		if number == receiptDueTime {
			return true
		}
		value = value[n:]
		if n = protowire.ConsumeFieldValue(number, kind, value); n < 0 {
			return false
		}
		value = value[n:]
	}
	return false
}

// await begins or ends the watch over a notification, as its latest snapshot demands. mu is held.
func (t *table) await(id uuid.UUID, s *znsv1.Status, sent int64) {
	a := t.awaited[id]
	if !isAwaited(s) {
		if a != nil {
			t.due.Remove(a)
			delete(t.awaited, id)
		}
		return
	}
	due := s.GetReceiptDueTime().AsTime().UnixMilli()
	if a == nil {
		a = &awaited{id: id, due: due, sent: sent}
		t.awaited[id] = a
		t.due.Push(a)
		return
	}
	a.due, a.sent = due, sent
	t.due.Fix(a)
}

// sentOffset is what a record of zns.status says of its zns.sent.
func sentOffset(r kafka.Record) int64 {
	v, _ := r.Header(headerSent)
	if n, err := strconv.ParseInt(string(v), 10, 64); err == nil {
		return n
	}
	return -1
}

// InputSeen says that all callbacks that stood in partition p of zalo.callback at the given moment were translated.
func (f *Folder) InputSeen(p int32, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if part := f.parts[p]; part != nil {
		part.inputSeen, part.inputSeenAt = at, time.Now()
	}
}

// Overdue lists the partitions with notifications that are overdue if no receipt of them is under way: somebody has to
// call InputSeen for them.
func (f *Folder) Overdue() []int32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []int32
	for p, part := range f.parts {
		if part.loaded && part.table.due.Len() > 0 && !part.table.due.First().Due().After(time.Now()) {
			all = append(all, p)
		}
	}
	return all
}

// nextDue is when the next notification of a partition becomes overdue; zero: none is watched.
func (f *Folder) nextDue(part *partition) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if part.table.due.Len() == 0 {
		return time.Time{}
	}
	return part.table.due.First().Due()
}

// tellOverdue publishes zns.overdue for what is overdue of p. Every event that was there at seen is folded, or is in this
// transaction. waits reports whether a receipt of the notification waits to be published, or to be committed.
func (f *Folder) tellOverdue(tx *stream.Tx, p int32, part *partition, seen time.Time, waits func(p int32, id uuid.UUID) bool) (next time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	due := &part.table.due
	if due.Len() == 0 {
		return time.Time{}
	}
	now := tx.Now()
	if first := due.First().Due(); first.After(now) {
		return first
	}
	// Every receipt that was there at inputSeen is published or waits; what was published by inputSeenAt is folded.
	complete := seen.After(part.inputSeenAt) && !part.inputSeenAt.IsZero()
	var later []*awaited
	defer func() {
		for _, a := range later {
			due.Push(a)
		}
	}()
	for due.Len() > 0 && !due.First().Due().After(now) && len(later) < f.cfg.BatchEvents {
		a := due.Pop()
		later = append(later, a)
		if !complete || a.Due().After(part.inputSeen) || waits(p, a.id) {
			continue
		}
		switch a.state {
		case waiting:
			a.state = reading
			part.table.toRead = append(part.table.toRead, a)
			f.notify()
		case prepared:
			if tx.Full() {
				return now
			}
			u := tx.Unit(p, "overdue/"+a.id.String())
			if u == nil {
				return now
			}
			f.publishOverdue(u, a)
		}
	}
	return now.Add(lookAgain)
}

// publishOverdue writes the event of a, once. mu is held.
func (f *Folder) publishOverdue(u *stream.Unit, a *awaited) {
	e := a.event
	e.EventTime = timestamppb.New(u.Now())
	if u.Poison() != nil {
		e.Labels, e.Fallback = nil, nil // they are what may be large
	}
	r, err := kafka.NewRecord(f.cfg.Topics.Overdue, []byte(a.id.String()), kafka.Event{
		ID: e.GetEventId(), Source: f.cfg.Source, Subject: a.id.String(), Time: u.Now(), Data: e,
	}, a.trace[0], a.trace[1])
	if err != nil {
		panic(err) // every field that NewRecord asks for is set, and every string was decoded from a message
	}
	r.Partition = u.Partition()
	u.Publish(r)
	a.state = told
	u.OnAbort(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		a.state = prepared
	})
	u.OnCommit(func() { f.cfg.Counted(Overdue, 1) })
}

// prepareAtOnce bounds the notifications whose events are read in one go.
const prepareAtOnce = 500

// readTries is how often reading what zns.overdue tells is tried before it is published without that.
const readTries = 5

// prepare reads what zns.overdue tells: of each notification its zns.sent, and of its request the fallback, which
// zns.sent does not hold. What retention has deleted is left out.
func (f *Folder) prepare(ctx context.Context, p int32, all []*awaited) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	var offsets []int64
	for _, a := range all {
		if a.sent >= 0 {
			offsets = append(offsets, a.sent)
		}
	}
	sent, err := f.readAll(ctx, f.cfg.Topics.Sent, p, offsets)
	events := map[*awaited]*znsv1.Overdue{}
	var fallbacks map[string]map[string]string // by place
	if err == nil {
		var places []string
		for _, r := range sent {
			if place, ok := r.Header(topic.HeaderRequest); ok {
				places = append(places, string(place))
			}
		}
		fallbacks, err = f.fallbacks(ctx, places)
	}
	for _, a := range all {
		r, m := sent[a.sent], &znsv1.Sent{}
		e := &znsv1.Overdue{NotificationId: a.id.String(), DueTime: timestamppb.New(a.Due())}
		if string(r.Key) == a.id.String() && kafka.Decode(r, m) == nil {
			e = overdueOf(m)
			place, _ := r.Header(topic.HeaderRequest)
			e.Fallback = fallbacks[string(place)]
		}
		e.EventId = a.id.String() + "/overdue/" + strconv.Itoa(int(e.GetAttempt()))
		events[a] = e
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for a, e := range events {
		if a.tries++; err != nil && a.tries < readTries {
			a.state = waiting
			continue
		}
		headers := kafka.DecodeHeaders(sent[a.sent])
		a.state, a.event, a.trace = prepared, e, [2]string{headers.Traceparent, headers.Tracestate}
	}
	f.cfg.Wake()
	return err
}

func overdueOf(s *znsv1.Sent) *znsv1.Overdue {
	return &znsv1.Overdue{
		NotificationId: s.GetNotificationId(), IdempotencyKey: s.GetIdempotencyKey(), Source: s.GetSource(), OaId: s.GetOaId(),
		TemplateId: s.GetTemplateId(), Category: s.GetCategory(), Channel: s.GetChannel(), Recipient: s.GetRecipient(),
		Attempt: s.GetAttempt(), TrackingId: s.GetTrackingId(), MsgId: s.GetMsgId(), Reference: s.GetReference(),
		CustomerId: s.GetCustomerId(), CampaignId: s.GetCampaignId(), Labels: s.GetLabels(), RequestedTime: s.GetRequestedTime(),
		AcceptedTime: s.GetAcceptedTime(), TraceId: s.GetTraceId(), Mode: s.GetMode(),
		SentTime: s.GetSentTime(), DueTime: s.GetReceiptDueTime(),
	}
}

// fallbacks reads the requests at these places, "<topic>/<partition>@<offset>", and returns their fallbacks by place.
func (f *Folder) fallbacks(ctx context.Context, places []string) (map[string]map[string]string, error) {
	type log struct {
		topic     string
		partition int32
	}
	at := map[log]map[int64]string{}
	for _, place := range places {
		name, p, offset, err := parsePlace(place)
		if err != nil {
			f.cfg.Log.Warn("zns.overdue without fallback: the place of its request cannot be read", "error", err)
			continue
		}
		l := log{name, p}
		if at[l] == nil {
			at[l] = map[int64]string{}
		}
		at[l][offset] = place
	}
	found := map[string]map[string]string{}
	for l, offsets := range at {
		requests, err := f.readAll(ctx, l.topic, l.partition, slices.Collect(maps.Keys(offsets)))
		if err != nil {
			return found, err
		}
		for offset, r := range requests {
			req, err := notification.Decode(r)
			if err != nil { // its text may hold personal data
				f.cfg.Log.Warn("zns.overdue without fallback: its request cannot be decoded", "topic", l.topic, "partition", l.partition, "offset", offset)
				continue
			}
			found[offsets[offset]] = req.GetFallback()
		}
	}
	return found, nil
}

// parsePlace reads "<topic>/<partition>@<offset>".
func parsePlace(place string) (name string, p int32, offset int64, err error) {
	slash, at := strings.LastIndexByte(place, '/'), strings.LastIndexByte(place, '@')
	if slash <= 0 || at < slash {
		return "", 0, 0, fmt.Errorf("%.100q is no place", place)
	}
	partition, pErr := strconv.ParseInt(place[slash+1:at], 10, 32)
	offset, oErr := strconv.ParseInt(place[at+1:], 10, 64)
	return place[:slash], int32(partition), offset, errors.Join(pErr, oErr)
}

// readAll reads the records at these offsets that are still there.
func (f *Folder) readAll(ctx context.Context, name string, p int32, offsets []int64) (map[int64]kafka.Record, error) {
	found := map[int64]kafka.Record{}
	slices.Sort(offsets)
	err := sideinput.ReadOffsets(ctx, f.cfg.Client, name, p, slices.Compact(offsets), func(offset int64, r *kafka.Record) {
		if r != nil {
			found[offset] = *r
		}
	})
	return found, err
}
