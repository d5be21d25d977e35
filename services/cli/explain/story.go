// Package explain tells the story of one notification from what the hub's topics hold about it.
//
// Search collects the facts: the request, every version of the ledger entry that is still there, the raw callbacks and
// the published events. Tell turns them into lines in the order in which things happened; it is pure. Nothing of it
// holds personal data: phones are masked, template data is left out.
package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/cli/event"
	"github.com/znshub/znshub/services/cli/render"
	"github.com/znshub/znshub/services/ingest/raw"
	"github.com/znshub/znshub/services/sender/control"
)

// Facts is what the topics hold about one notification.
type Facts struct {
	ID        string             // notification_id
	Requests  []event.Event      // from the input topic: repeated requests and moved copies too
	Ledger    []Version          // versions of the ledger entry, oldest first; compaction removes older ones
	Callbacks []event.Event      // raw callbacks that belong to it
	Events    []event.Event      // sent, failed, unresolved, delivered, overdue, dead letters
	Status    *Snapshot          // the latest snapshot in zns.status; nil: there is none
	Rules     []*control.Command // operators' standing holds, of anything
	Searched  []Range
}

// Version is one version of the ledger entry.
type Version struct {
	Topic     string
	Partition int32
	Offset    int64
	Time      time.Time
	Entry     *ledgerv1.Entry // nil: a tombstone, the dedupe window has passed
}

// Snapshot is a record of zns.status.
type Snapshot struct {
	Partition int32
	Offset    int64
	Time      time.Time
	Status    *znsv1.Status
}

// Range is what was read of one topic to find the facts.
type Range struct {
	Topic      string `json:"topic"`
	Partition  int32  `json:"partition"`
	From       int64  `json:"from"`
	To         int64  `json:"to"`      // the offset after the last one
	Records    int64  `json:"records"` // records that were looked at
	Incomplete string `json:"incomplete,omitempty"`
}

// Tone is how a line is meant.
type Tone int

// The tones.
const (
	Plain Tone = iota
	Good
	Bad
	Waiting
)

// Line is one thing that happened.
type Line struct {
	Time  time.Time `json:"time"`
	Label string    `json:"what"`
	Text  string    `json:"text"`
	Tone  Tone      `json:"-"`
}

// Story is a notification told.
type Story struct {
	ID             string   `json:"notification_id"`
	IdempotencyKey string   `json:"idempotency_key,omitempty"`
	Source         string   `json:"source,omitempty"`
	Recipient      string   `json:"recipient,omitempty"` // masked
	Category       string   `json:"category,omitempty"`
	TemplateID     string   `json:"template_id,omitempty"`
	MsgID          string   `json:"msg_id,omitempty"`
	TrackingIDs    []string `json:"tracking_ids,omitempty"` // one an attempt, oldest first
	State          string   `json:"state"`
	Because        string   `json:"because,omitempty"` // why it waits, in words
	HeldBy         []string `json:"held_by,omitempty"` // operators' standing holds that it waits for
	Lines          []Line   `json:"story"`
	TraceID        string   `json:"trace_id,omitempty"`
	Searched       []Range  `json:"searched"`

	attempts []int32 // the numbers of the attempts of TrackingIDs
}

// Found reports whether anything at all was found.
func (f *Facts) Found() bool {
	return len(f.Requests)+len(f.Ledger)+len(f.Callbacks)+len(f.Events) > 0 || f.Status != nil
}

// Tell tells the story as it stands at now.
func Tell(f Facts, now time.Time) Story {
	s := Story{ID: f.ID, State: "not in the ledger", Searched: f.Searched}
	s.head(f)
	s.requests(f)
	s.ledger(f, now)
	s.status(f)
	for i := range f.Callbacks {
		s.Lines = append(s.Lines, callbackLine(&f.Callbacks[i]))
	}
	for i := range f.Events {
		s.Lines = append(s.Lines, eventLine(&f.Events[i]))
	}
	switch {
	case f.Status != nil && f.newest() == nil:
	case f.has(event.Delivered) || f.Status.state() == znsv1.NotificationState_NOTIFICATION_STATE_DELIVERED:
		s.State += ", and on the phone"
	case f.has(event.Overdue):
		s.State += ", and no receipt in time"
	}
	slices.SortStableFunc(s.Lines, func(a, b Line) int {
		return cmp.Compare(a.Time.UnixMilli(), b.Time.UnixMilli())
	})
	return s
}

// has reports whether there is an event of this kind.
func (f *Facts) has(kind event.Kind) bool {
	return slices.ContainsFunc(f.Events, func(e event.Event) bool { return e.Kind == kind })
}

func (s *Snapshot) state() znsv1.NotificationState {
	if s == nil {
		return 0
	}
	return s.Status.GetState()
}

// status tells the latest snapshot; it stands for what the other topics have forgotten.
func (s *Story) status(f Facts) {
	if f.Status == nil {
		return
	}
	m := f.Status.Status
	s.IdempotencyKey = cmp.Or(s.IdempotencyKey, m.GetIdempotencyKey())
	s.Source = cmp.Or(s.Source, m.GetSource())
	s.TemplateID = cmp.Or(s.TemplateID, m.GetTemplateId())
	s.MsgID = cmp.Or(s.MsgID, m.GetMsgId())
	s.TraceID = cmp.Or(s.TraceID, m.GetTraceId())
	text := name(m.GetState(), "NOTIFICATION_STATE_")
	if m.GetState() == znsv1.NotificationState_NOTIFICATION_STATE_FAILED {
		text += ": " + name(m.GetReason(), "FAILURE_REASON_")
	}
	if f.newest() == nil {
		s.State = text + ", as zns.status says; the ledger has forgotten it"
	}
	s.Lines = append(s.Lines, Line{
		Time: f.Status.Time, Label: "snapshot",
		Text: fmt.Sprintf("zns.status[%d]@%d · %s · revision %d", f.Status.Partition, f.Status.Offset, text, m.GetRevision()),
	})
}

// head fills what is said once, from whatever was found.
func (s *Story) head(f Facts) {
	for _, list := range [][]event.Event{f.Requests, f.Events} {
		for i := range list {
			e := &list[i]
			s.IdempotencyKey = cmp.Or(s.IdempotencyKey, e.Key)
			s.Source = cmp.Or(s.Source, e.Source)
			s.Recipient = cmp.Or(s.Recipient, e.Recipient())
			switch m := e.Message.(type) {
			case interface{ GetTraceId() string }:
				s.TraceID = cmp.Or(s.TraceID, m.GetTraceId())
			}
			if m, ok := e.Message.(interface{ GetMsgId() string }); ok {
				s.MsgID = cmp.Or(s.MsgID, m.GetMsgId())
			}
			if m, ok := e.Message.(interface{ GetTemplateId() string }); ok {
				s.TemplateID = cmp.Or(s.TemplateID, m.GetTemplateId())
			}
		}
	}
	if entry := f.newest(); entry != nil {
		s.MsgID = cmp.Or(s.MsgID, entry.GetMsgId())
		s.Category = name(entry.GetCategory(), "CATEGORY_")
		s.TrackingIDs, s.attempts = trackingIDs(f.Ledger)
		if parts := strings.Split(entry.GetTraceparent(), "-"); len(parts) == 4 {
			s.TraceID = cmp.Or(s.TraceID, parts[1])
		}
	}
}

// newest is the newest version of the ledger entry that is no tombstone; nil when there is none.
func (f *Facts) newest() *ledgerv1.Entry {
	for _, v := range slices.Backward(f.Ledger) {
		if v.Entry != nil {
			return v.Entry
		}
	}
	return nil
}

// requests tells the request as its caller wrote it, its move to its own partition, and its repetitions.
func (s *Story) requests(f Facts) {
	moved := map[string]bool{}
	for i := range f.Requests {
		moved[f.Requests[i].MovedFrom()] = true
	}
	told := false
	for i := range f.Requests {
		e := &f.Requests[i]
		from := e.MovedFrom()
		l := Line{Time: e.Record.Time, Label: "requested", Text: place(e)}
		switch {
		case from != "" && told:
			l.Label, l.Text = "moved", "to "+place(e)+", its own partition"
		case from != "":
			l.Text += ", moved from [" + strings.Replace(render.OneLine(from, 40), "@", "]@", 1)
		case told:
			l.Label = "again"
		case !moved[fmt.Sprintf("%d@%d", e.Record.Partition, e.Record.Offset)]:
			l.Text += ", not moved"
		}
		told = true
		if e.Err != nil {
			l.Text, l.Tone = l.Text+" · "+e.Text(), Bad
		}
		s.Lines = append(s.Lines, l)
	}
}

// callbackLine tells a callback at the time at which webhook-ingest received it.
func callbackLine(e *event.Event) Line {
	text := "cannot be read"
	if e.Zalo != nil {
		text = render.OneLine(e.Zalo.Name, 60)
	}
	verdict, ok := e.Record.Header(raw.HeaderSignature)
	if !ok {
		verdict = []byte("not told")
	}
	return Line{Time: raw.Received(e.Record), Label: "callback", Text: text + " · signature " + render.OneLine(string(verdict), 20) + " · " + place(e)}
}

func eventLine(e *event.Event) Line {
	l := Line{Time: e.Record.Time, Label: "published", Text: place(e)}
	switch e.Kind {
	case event.Sent, event.Delivered:
		l.Tone = Good
	case event.Failed, event.DeadLetter:
		l.Tone = Bad
	case event.Unresolved, event.Overdue:
		l.Tone = Waiting
	}
	if text := e.Text(); text != "" {
		l.Text += " · " + text
	}
	return l
}
