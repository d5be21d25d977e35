package kafka_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"

	"github.com/znshub/znshub/pkg/kafka"
)

func sentEvent() kafka.Event {
	return kafka.Event{
		ID: "0190c2a4-5b7e-7c3f-8a51-2f4d6e8b9c01/sent/1", Source: "/znshub/test/sender", Subject: "0190c2a4-5b7e-7c3f-8a51-2f4d6e8b9c01",
		Time: time.Date(2026, 3, 1, 9, 30, 0, 120_000_000, time.FixedZone("ICT", 7*3600)),
		Data: &znsv1.Sent{NotificationId: "0190c2a4-5b7e-7c3f-8a51-2f4d6e8b9c01", Labels: map[string]string{"b": "2", "a": "1", "c": "3"}},
	}
}

// TestHeadersOnTheWire is the contract with consumers in other languages.
func TestHeadersOnTheWire(t *testing.T) {
	r, err := kafka.NewRecord("zns.sent", []byte("k"), sentEvent(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "vendor=1")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, h := range r.Headers {
		got = append(got, h.Key+": "+string(h.Value))
	}
	want := []string{
		"ce_specversion: 1.0",
		"ce_id: 0190c2a4-5b7e-7c3f-8a51-2f4d6e8b9c01/sent/1",
		"ce_source: /znshub/test/sender",
		"ce_type: zns.v1.Sent",
		"ce_time: 2026-03-01T02:30:00.12Z",
		"ce_subject: 0190c2a4-5b7e-7c3f-8a51-2f4d6e8b9c01",
		"content-type: application/protobuf",
		"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"tracestate: vendor=1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if r.Partition != -1 || r.Topic != "zns.sent" || string(r.Key) != "k" || !r.Time.Equal(sentEvent().Time) {
		t.Errorf("record %s/%d key %q time %s", r.Topic, r.Partition, r.Key, r.Time)
	}
	for range 20 {
		again, err := kafka.NewRecord("zns.sent", []byte("k"), sentEvent(), "", "")
		if err != nil || string(again.Value) != string(r.Value) {
			t.Fatalf("equal events gave different values (%v)", err)
		}
	}
	var back znsv1.Sent
	if err := kafka.Decode(r, &back); err != nil || !proto.Equal(&back, sentEvent().Data) {
		t.Errorf("decoded %v, %v", &back, err)
	}
}

func TestEmptyMessageIsNoTombstone(t *testing.T) {
	ev := sentEvent()
	ev.Data = &znsv1.Sent{}
	r, err := kafka.NewRecord("zns.sent", nil, ev, "", "")
	if err != nil || r.Value == nil {
		t.Errorf("value %v, error %v; want an empty value", r.Value, err)
	}
}

func TestEventNeedsItsIdentity(t *testing.T) {
	for name, breakIt := range map[string]func(*kafka.Event){
		"id":     func(e *kafka.Event) { e.ID = "" },
		"source": func(e *kafka.Event) { e.Source = "" },
		"time":   func(e *kafka.Event) { e.Time = time.Time{} },
		"data":   func(e *kafka.Event) { e.Data = nil },
		"utf-8":  func(e *kafka.Event) { e.Data = &znsv1.Sent{MsgId: "\xff"} },
	} {
		ev := sentEvent()
		breakIt(&ev)
		if _, err := kafka.NewRecord("zns.sent", nil, ev, "", ""); err == nil {
			t.Errorf("an event with bad %s was encoded", name)
		}
	}
}

func TestHeadersAreReadLiberally(t *testing.T) {
	header := func(kv ...string) (hs []kafka.Header) {
		for i := 0; i < len(kv); i += 2 {
			hs = append(hs, kafka.Header{Key: kv[i], Value: []byte(kv[i+1])})
		}
		return hs
	}
	at := time.Date(2026, 3, 1, 2, 30, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		headers []kafka.Header
		want    kafka.EventHeaders
	}{
		"none":            {nil, kafka.EventHeaders{}},
		"as written":      {header("ce_id", "1", "ce_type", "zns.v1.Sent", "ce_time", "2026-03-01T02:30:00Z"), kafka.EventHeaders{ID: "1", Type: "zns.v1.Sent", Time: at}},
		"HTTP's spelling": {header("Ce-Id", "1", "CE-SOURCE", "s", "Content-Type", "Application/JSON; charset=utf-8"), kafka.EventHeaders{ID: "1", Source: "s", ContentType: "application/json"}},
		"offset in time":  {header("ce_time", "2026-03-01T09:30:00+07:00"), kafka.EventHeaders{Time: at}},
		"garbled time":    {header("ce_time", "yesterday", "ce_id", "1"), kafka.EventHeaders{ID: "1"}},
		"twice":           {header("traceparent", "old", "traceparent", "new"), kafka.EventHeaders{Traceparent: "new"}},
		"others":          {header("b3", "x", "ce_extension", "y"), kafka.EventHeaders{}},
	} {
		if diff := cmp.Diff(c.want, kafka.DecodeHeaders(kafka.Record{Headers: c.headers})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestDecodeRefusesAnotherType(t *testing.T) {
	r, err := kafka.NewRecord("zns.sent", nil, sentEvent(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := kafka.Decode(r, &notificationv1.NotificationRequested{}); !errors.Is(err, kafka.ErrType) {
		t.Errorf("error %v, want ErrType", err)
	}
}
