// Package raw is the record of zalo.callback: a callback exactly as Zalo sent it, once its signature was verified.
//
// Value: the body, byte for byte. Key: the notification's id when the tracking_id is ours, else what the event is
// about. Headers: CloudEvents in binary mode (ce_id is a hash of the body, so resends of one event share it), Zalo's
// own headers, and what webhook-ingest saw:
//
//	zns-event           event_name, as Zalo wrote it, at most 100 bytes
//	zns-received        when it arrived, RFC 3339 with nanoseconds, UTC
//	zns-signature       the verdict; always "valid": what is not is never stored
//	x-zevent-signature  x-zevent-timestamp  x-zevent-server  num_retry   as Zalo sent them, when it did
//	traceparent         the span in which it was received
package raw

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/trackingid"
	"github.com/znshub/znshub/pkg/zalo"
	"github.com/znshub/znshub/proto/topic"
)

// Names of the headers that are not Zalo's.
const (
	HeaderEvent     = "zns-event"
	HeaderReceived  = "zns-received"
	HeaderSignature = "zns-signature"
)

const (
	maxEventName = 100
	maxHeader    = 200
)

// zaloHeaders are kept as they came.
var zaloHeaders = []string{zalo.HeaderSignature, zalo.HeaderTimestamp, zalo.HeaderServer, zalo.HeaderNumRetry}

// Callback is a verified callback on its way to zalo.callback.
type Callback struct {
	Topic       string
	Source      string // ce_source
	Body        []byte
	Header      http.Header // the request's
	Event       zalo.Callback
	Key         string
	Received    time.Time
	Traceparent string
	Tracestate  string
}

// Record returns the record of c.
func (c Callback) Record() (kafka.Record, error) {
	r, err := kafka.NewRawRecord(c.Topic, []byte(c.Key), kafka.Event{
		ID: Hash(c.Body), Source: c.Source, Type: topic.Callback, Subject: c.Key, Time: c.Received,
	}, "application/json", c.Body, c.Traceparent, c.Tracestate)
	if err != nil {
		return kafka.Record{}, fmt.Errorf("record of a callback: %w", err)
	}
	add := func(key, value string) {
		if value != "" {
			r.Headers = append(r.Headers, kafka.Header{Key: key, Value: []byte(value)})
		}
	}
	add(HeaderEvent, clip(c.Event.Event, maxEventName))
	add(HeaderReceived, c.Received.UTC().Format(time.RFC3339Nano))
	add(HeaderSignature, "valid")
	for _, name := range zaloHeaders {
		add(strings.ToLower(name), clip(c.Header.Get(name), maxHeader))
	}
	return r, nil
}

// longestSpool is more than a callback can have waited on a disk before Kafka stored it.
const longestSpool = 366 * 24 * time.Hour

// Received returns when the callback of r arrived; for a record without the header, or with one that cannot be true,
// when Kafka stored it.
func Received(r kafka.Record) time.Time {
	if v, ok := r.Header(HeaderReceived); ok {
		if t, err := time.Parse(time.RFC3339Nano, string(v)); err == nil && r.Time.Sub(t).Abs() < longestSpool {
			return t
		}
	}
	return r.Time
}

// Key returns the record key of an event: the notification's id when the tracking_id is of this cluster; else, so that
// what belongs together lies together, the message, the template, the person, or the OA. A body that tells none of
// them is keyed by its hash.
func Key(cluster string, c zalo.Callback, body []byte) string {
	if id, err := trackingid.Decode(cluster, c.TrackingID); err == nil {
		return id.Notification.String()
	}
	for _, subject := range []string{c.MsgID, c.TrackingID, templateID(c), c.UserID, c.RecipientID, c.SenderID, c.OAID} {
		if subject != "" {
			// Hashed when long or a person's: a phone number must not become a key.
			if subject == c.MsgID && len(subject) <= 64 {
				return subject
			}
			return Hash([]byte(subject))
		}
	}
	return Hash(body)
}

func templateID(c zalo.Callback) string {
	if c.Template != nil {
		return c.Template.TemplateID
	}
	return ""
}

// Hash returns the first 16 bytes of the SHA-256 of b in hexadecimal.
func Hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

func clip(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "")
	}
	return s
}
