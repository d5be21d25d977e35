// Package event reads the records of the hub's topics for people: it decodes what a record says, hides personal data
// and writes it as one line of text or as JSON.
//
// Decoding never fails: a record that cannot be read is an Event that says so.
package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/notification"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// Kind is what an event tells.
type Kind string

// The kinds of events.
const (
	Requested  Kind = "requested"
	Sent       Kind = "sent"
	Delivered  Kind = "delivered"
	Failed     Kind = "failed"
	Unresolved Kind = "unresolved"
	Overdue    Kind = "overdue"
	Snapshot   Kind = "snapshot"
	Callback   Kind = "callback"
	DeadLetter Kind = "dead letter"
)

// Event is one record, decoded.
type Event struct {
	Record  kafka.Record
	Kind    Kind
	ID      string        // notification_id; empty when the record does not tell
	Key     string        // idempotency_key; empty when there is none
	Source  string        // the service that asked
	Message proto.Message // the decoded value; nil when it is none of the contract's messages or cannot be read
	Zalo    *ZaloCallback // what a callback says; nil for other kinds
	Err     error         // why the value cannot be read
}

// ZaloCallback is what a raw callback of Zalo says about itself.
type ZaloCallback struct {
	Name       string `json:"event_name"`
	MsgID      string `json:"msg_id"`
	TrackingID string `json:"tracking_id"`
}

// result is what every message of zns.v1 has in common.
type result interface {
	proto.Message
	GetNotificationId() string
	GetIdempotencyKey() string
	GetSource() string
	GetRecipient() *znsv1.Recipient
	GetAttempt() int32
	GetMsgId() string
	GetTrackingId() string
	GetTraceId() string
}

// Topics are the topics that Decode knows, in the order of a notification's life. input is the sender's input topic.
func Topics(input string) []string {
	return []string{
		input, topic.Sent, topic.Failed, topic.Unresolved, topic.Callback, topic.Delivered, topic.Overdue, topic.DLQOf(input),
	}
}

// Decode reads r.
func Decode(r kafka.Record) Event {
	e := Event{Record: r}
	switch r.Topic {
	case topic.Sent:
		e.result(Sent, &znsv1.Sent{})
	case topic.Delivered:
		e.result(Delivered, &znsv1.Delivered{})
	case topic.Failed:
		e.result(Failed, &znsv1.Failed{})
	case topic.Unresolved:
		e.result(Unresolved, &znsv1.Unresolved{})
	case topic.Overdue:
		e.result(Overdue, &znsv1.Overdue{})
	case topic.Status:
		e.result(Snapshot, &znsv1.Status{})
	case topic.Callback:
		e.callback()
	default:
		e.Kind = Requested
		if strings.HasSuffix(r.Topic, topic.DLQOf("")) {
			e.Kind = DeadLetter
		}
		e.request()
	}
	return e
}

func (e *Event) result(kind Kind, m result) {
	e.Kind = kind
	if e.Err = proto.Unmarshal(e.Record.Value, m); e.Err != nil {
		return
	}
	e.Message, e.ID, e.Key, e.Source = m, m.GetNotificationId(), m.GetIdempotencyKey(), m.GetSource()
}

func (e *Event) request() {
	req, err := notification.Decode(e.Record)
	if broken, ok := errors.AsType[*notification.Error](err); ok {
		e.Err, req = err, broken.Partial
	}
	if req == nil {
		return
	}
	e.Message, e.Key, e.Source = req, req.GetIdempotencyKey(), req.GetSource()
	if id, ok := notification.ID(req); ok {
		e.ID = id.String()
	}
}

func (e *Event) callback() {
	e.Kind = Callback
	e.ID = e.header("ce_subject")
	var body struct {
		EventName string `json:"event_name"`
		MsgID     string `json:"msg_id"`
		Message   struct {
			MsgID      string `json:"msg_id"`
			TrackingID string `json:"tracking_id"`
		} `json:"message"`
	}
	if err := json.Unmarshal(e.Record.Value, &body); err != nil {
		e.Err = err
		return
	}
	e.Zalo = &ZaloCallback{Name: body.EventName, MsgID: body.MsgID, TrackingID: body.Message.TrackingID}
	if e.Zalo.MsgID == "" {
		e.Zalo.MsgID = body.Message.MsgID
	}
}

func (e *Event) header(name string) string {
	value, _ := e.Record.Header(name)
	return string(value)
}

// MovedFrom is where the caller first wrote the request, "<partition>@<offset>"; empty when it was not moved.
func (e *Event) MovedFrom() string {
	return e.header("zns-moved")
}

// Name is how a person calls the notification: the natural key, else the id.
func (e *Event) Name() string {
	if e.Key != "" {
		return e.Key
	}
	if e.ID != "" {
		return e.ID
	}
	return "(no id)"
}

// jsonEvent is the form of --json. Its names are contract with scripts.
type jsonEvent struct {
	Time           time.Time       `json:"time"`
	Kind           Kind            `json:"kind"`
	NotificationID string          `json:"notification_id,omitempty"`
	IdempotencyKey string          `json:"idempotency_key,omitempty"`
	Source         string          `json:"source,omitempty"`
	Topic          string          `json:"topic"`
	Partition      int32           `json:"partition"`
	Offset         int64           `json:"offset"`
	MovedFrom      string          `json:"moved_from,omitempty"`
	Event          json.RawMessage `json:"event,omitempty"`
	Callback       *ZaloCallback   `json:"callback,omitempty"`
	Error          string          `json:"error,omitempty"`
}

// MarshalJSON writes the event without personal data.
func (e Event) MarshalJSON() ([]byte, error) {
	out := jsonEvent{
		Time: e.Record.Time.UTC(), Kind: e.Kind, NotificationID: e.ID, IdempotencyKey: e.Key, Source: e.Source,
		Topic: e.Record.Topic, Partition: e.Record.Partition, Offset: e.Record.Offset, MovedFrom: e.MovedFrom(),
		Callback: e.Zalo,
	}
	if e.Err != nil {
		out.Error = e.Err.Error()
	}
	if e.Message != nil {
		body, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(Redact(e.Message))
		if err != nil {
			return nil, err
		}
		// protojson varies its spacing on purpose.
		var compact bytes.Buffer
		if err := json.Compact(&compact, body); err != nil {
			return nil, err
		}
		out.Event = compact.Bytes()
	}
	return json.Marshal(out)
}
