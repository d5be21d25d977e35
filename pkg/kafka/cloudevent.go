package kafka

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
)

// Headers of the CloudEvents 1.0 Kafka binding in binary mode, and of W3C trace context.
const (
	HeaderID          = "ce_id"
	HeaderSource      = "ce_source"
	HeaderType        = "ce_type"
	HeaderSpecVersion = "ce_specversion"
	HeaderTime        = "ce_time"
	HeaderSubject     = "ce_subject"
	HeaderContentType = "content-type"
	HeaderTraceparent = "traceparent"
	HeaderTracestate  = "tracestate"
)

// ContentTypeProtobuf is the content-type of every record that the hub publishes.
const ContentTypeProtobuf = "application/protobuf"

const specVersion = "1.0"

// Event is one CloudEvent.
type Event struct {
	ID      string // unique per Source and deterministic: "<notification_id>/<kind>/<attempt>"
	Source  string // "/znshub/<cluster>/sender": never an instance
	Type    string // empty: the full name of Data
	Subject string // the notification's id; may be empty
	Time    time.Time
	Data    proto.Message
}

// NewRecord encodes ev in binary mode: the value is the bare protobuf, everything else stands in headers. Equal events
// give equal records. The record's partition is left to murmur2 of key (-1), its time is the event's. traceparent and
// tracestate may be empty.
func NewRecord(topic string, key []byte, ev Event, traceparent, tracestate string) (Record, error) {
	if ev.Data == nil {
		return Record{}, fmt.Errorf("event for %s has no data", topic)
	}
	if ev.Type == "" {
		ev.Type = string(ev.Data.ProtoReflect().Descriptor().FullName())
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(ev.Data)
	if err != nil {
		return Record{}, fmt.Errorf("encode %s: %w", ev.Type, err)
	}
	if value == nil {
		value = []byte{} // an empty message is not a tombstone
	}
	return NewRawRecord(topic, key, ev, ContentTypeProtobuf, value, traceparent, tracestate)
}

// NewRawRecord is NewRecord for a value that is encoded already; ev.Data is not looked at and ev.Type must be set.
func NewRawRecord(topic string, key []byte, ev Event, contentType string, value []byte, traceparent, tracestate string) (Record, error) {
	switch {
	case ev.ID == "":
		return Record{}, fmt.Errorf("event for %s has no id", topic)
	case ev.Source == "":
		return Record{}, fmt.Errorf("event for %s has no source", topic)
	case ev.Type == "":
		return Record{}, fmt.Errorf("event for %s has no type", topic)
	case ev.Time.IsZero():
		return Record{}, fmt.Errorf("event for %s has no time", topic)
	}
	r := Record{Topic: topic, Partition: -1, Time: ev.Time, Key: key, Value: value}
	add := func(key, value string) {
		if value != "" {
			r.Headers = append(r.Headers, Header{Key: key, Value: []byte(value)})
		}
	}
	add(HeaderSpecVersion, specVersion)
	add(HeaderID, ev.ID)
	add(HeaderSource, ev.Source)
	add(HeaderType, ev.Type)
	add(HeaderTime, ev.Time.UTC().Format(time.RFC3339Nano))
	add(HeaderSubject, ev.Subject)
	add(HeaderContentType, contentType)
	add(HeaderTraceparent, traceparent)
	add(HeaderTracestate, tracestate)
	return r, nil
}

// EventHeaders is what a record's headers say of its event. What a header lacks or garbles is empty: other producers
// need not set any.
type EventHeaders struct {
	SpecVersion string
	ID          string
	Source      string
	Type        string
	Subject     string
	Time        time.Time
	ContentType string // lower case, without parameters: "application/json"
	Traceparent string
	Tracestate  string
}

// DecodeHeaders reads the headers of r liberally: names in any case, "ce-id" and "ce_id" alike, the last of several.
func DecodeHeaders(r Record) EventHeaders {
	var e EventHeaders
	for _, h := range r.Headers {
		value := string(h.Value)
		switch name := strings.ToLower(h.Key); strings.Replace(name, "ce-", "ce_", 1) {
		case HeaderSpecVersion:
			e.SpecVersion = value
		case HeaderID:
			e.ID = value
		case HeaderSource:
			e.Source = value
		case HeaderType:
			e.Type = value
		case HeaderSubject:
			e.Subject = value
		case HeaderTime:
			e.Time, _ = time.Parse(time.RFC3339Nano, value)
		case HeaderContentType, "content_type", "contenttype":
			media, _, _ := strings.Cut(value, ";")
			e.ContentType = strings.ToLower(strings.TrimSpace(media))
		case HeaderTraceparent:
			e.Traceparent = value
		case HeaderTracestate:
			e.Tracestate = value
		}
	}
	return e
}

// ErrType is wrapped by the error of Decode for a record of another event type.
var ErrType = errors.New("another event type")

// Decode reads the value of r, one of the hub's own records, into m. A header ce_type that names another message is an
// error that wraps ErrType.
func Decode(r Record, m proto.Message) error {
	want := string(m.ProtoReflect().Descriptor().FullName())
	if got, ok := r.Header(HeaderType); ok && string(got) != want {
		return fmt.Errorf("%w: %.100q, want %s", ErrType, got, want)
	}
	if err := proto.Unmarshal(r.Value, m); err != nil {
		return fmt.Errorf("decode %s at %s/%d@%d: %w", want, r.Topic, r.Partition, r.Offset, err)
	}
	return nil
}
