package main

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/proto/topic"
)

// valid is the trace that path(traced) asks for.
func valid(traced bool) []span {
	var spans []span
	for i, w := range path(traced) {
		s := span{Trace: "t", ID: fmt.Sprint("s", i), Service: w.service, Name: w.name, Tags: maps.Clone(w.tags), Duration: time.Millisecond}
		if w.parent >= 0 {
			s.Parent = spans[w.parent].ID
		}
		spans = append(spans, s)
	}
	return spans
}

func TestCompare(t *testing.T) {
	for _, traced := range []bool{true, false} {
		if err := compare(valid(traced), path(traced)); err != nil {
			t.Errorf("a valid trace, traced=%t: %v", traced, err)
		}
	}
	for name, test := range map[string]struct {
		change func([]span) []span
		want   string
	}{
		"no event of the delivery": {func(s []span) []span { return s[:stepDelivered] }, `no span "send zns.delivered"`},
		"a span twice":             {func(s []span) []span { return append(s, s[stepPost]) }, `more than one span "POST"`},
		"a span too many":          {func(s []span) []span { return append(s, span{Trace: "t", Name: "other"}) }, "7 spans, want 6"},
		"callback below the event": {func(s []span) []span { s[stepCallback].Parent = s[stepSent].ID; return s }, `the parent of "POST /webhooks/zalo"`},
		"process begins a trace":   {func(s []span) []span { s[stepProcess].Parent = ""; return s }, `the parent of "process notification.requested"`},
		"another trace":            {func(s []span) []span { s[stepDelivered].Trace = "u"; return s }, "of another trace"},
		"another service":          {func(s []span) []span { s[stepSent].Service = "zns"; return s }, `sender: no span "send zns.sent"`},
		"an old attribute's name":  {func(s []span) []span { delete(s[stepSent].Tags, "messaging.operation.type"); return s }, "messaging.operation.type"},
		"a wrong status":           {func(s []span) []span { s[stepPost].Tags["http.response.status_code"] = "502"; return s }, `"502", want "200"`},
		"it ends before it begins": {func(s []span) []span { s[stepSent].Duration = -1; return s }, "before it begins"},
		"a phone number":           {func(s []span) []span { s[stepPost].Tags["phone"] = "84912345678"; return s }, "personal data or a token in phone"},
	} {
		t.Run(name, func(t *testing.T) {
			err := compare(test.change(valid(true)), path(true))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}

func TestHeaders(t *testing.T) {
	spans := valid(true)
	record := func(id string) kafka.Record {
		return kafka.Record{Topic: topic.Sent, Headers: []kafka.Header{{Key: kafka.HeaderTraceparent, Value: []byte("00-t-" + id + "-01")}}}
	}
	if err := headers(spans, record(spans[stepSent].ID)); err != nil {
		t.Error(err)
	}
	if headers(spans, record(spans[stepPost].ID)) == nil {
		t.Error("an event with the context of another span is taken")
	}
}
