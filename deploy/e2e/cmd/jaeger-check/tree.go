package main

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/proto/topic"
)

// step is one span that a trace must hold.
type step struct {
	service, name string
	parent        int               // index of the step that is its parent; -1: the trace begins here
	tags          map[string]string // attributes by the semantic conventions; "*" is any value that is not empty
}

// Steps of a notification that is sent at once and delivered, as indices into path(true).
const (
	stepCaller = iota
	stepProcess
	stepPost
	stepSent
	stepCallback
	stepDelivered
)

// path lists the spans of a notification; without a traceparent there is no caller.
func path(traced bool) []step {
	messaging := func(operation, name, kind string, more map[string]string) map[string]string {
		tags := map[string]string{
			"span.kind": kind, "messaging.system": "kafka", "messaging.destination.name": name,
			"messaging.operation.name": operation, "messaging.operation.type": operation, "messaging.message.id": "*",
		}
		maps.Copy(tags, more)
		return tags
	}
	steps := []step{
		stepCaller: {caller, "send " + topic.Requested, -1, messaging("send", topic.Requested, "producer", nil)},
		stepProcess: {"sender", "process " + topic.Requested, stepCaller, messaging("process", topic.Requested, "consumer", map[string]string{
			"messaging.consumer.group.name": "zns-sender", "messaging.destination.partition.id": "*", "messaging.kafka.offset": "*",
		})},
		stepPost: {"sender", "POST", stepProcess, map[string]string{
			"span.kind": "client", "http.request.method": "POST", "http.response.status_code": "200",
			"server.address": "127.0.0.1", "server.port": "*", "url.full": "*",
		}},
		stepSent: {"sender", "send " + topic.Sent, stepPost, messaging("send", topic.Sent, "producer", nil)},
		stepCallback: {"webhook-ingest", "POST /webhooks/zalo", stepPost, map[string]string{
			"span.kind": "server", "http.request.method": "POST", "http.route": "/webhooks/zalo", "http.response.status_code": "200",
		}},
		stepDelivered: {"webhook-ingest", "send " + topic.Delivered, stepCallback, messaging("send", topic.Delivered, "producer", nil)},
	}
	if traced {
		return steps
	}
	steps = steps[stepProcess:]
	for i := range steps {
		steps[i].parent--
	}
	return steps
}

// personal matches what no span may hold: phone numbers as the load makes them, and names.
var personal = regexp.MustCompile(`(?:\+?84|0)91\d{7}\b|Nguyễn|access_token`)

// compare returns nil when spans are exactly those of want: names, services, parents and attributes.
func compare(spans []span, want []step) error {
	var problems []error
	complain := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	at := make([]*span, len(want))
	for i, w := range want {
		for n := range spans {
			if s := &spans[n]; s.Service == w.service && s.Name == w.name {
				if at[i] != nil {
					complain("%s: more than one span %q", w.service, w.name)
				}
				at[i] = s
			}
		}
		if at[i] == nil {
			complain("%s: no span %q", w.service, w.name)
		}
	}
	if len(spans) != len(want) {
		complain("%d spans, want %d", len(spans), len(want))
	}
	for i, w := range want {
		s := at[i]
		if s == nil {
			continue
		}
		parent := ""
		if w.parent >= 0 && at[w.parent] != nil {
			parent = at[w.parent].ID
		}
		if s.Parent != parent {
			complain("%s: the parent of %q is span %q, want %q", w.service, w.name, s.Parent, parent)
		}
		if s.Duration < 0 {
			complain("%s: %q ends %s before it begins", w.service, w.name, -s.Duration)
		}
		if s.Trace != spans[0].Trace {
			complain("%s: %q is of another trace", w.service, w.name)
		}
		for _, key := range slices.Sorted(maps.Keys(w.tags)) {
			if got := s.Tags[key]; got == "" || w.tags[key] != "*" && got != w.tags[key] {
				complain("%s: %q has %s=%q, want %q", w.service, w.name, key, got, w.tags[key])
			}
		}
		for key, value := range s.Tags {
			if personal.MatchString(value) || personal.MatchString(key) {
				complain("%s: %q holds personal data or a token in %s", w.service, w.name, key)
			}
		}
	}
	return errors.Join(problems...)
}

// headers returns nil when the events on Kafka carry the context of the spans that published them.
func headers(spans []span, events ...kafka.Record) error {
	for _, r := range events {
		value, _ := r.Header(kafka.HeaderTraceparent)
		found := slices.ContainsFunc(spans, func(s span) bool {
			return s.Name == "send "+r.Topic && strings.Contains(string(value), "-"+s.Trace+"-"+s.ID+"-")
		})
		if !found {
			return fmt.Errorf("the record on %s has traceparent %q, which is not that of its span", r.Topic, value)
		}
	}
	return nil
}

// sameTrace returns nil when the spans are of the trace that the caller began; empty: the caller began none.
func sameTrace(spans []span, traceID string) error {
	if traceID != "" && len(spans) > 0 && spans[0].Trace != traceID {
		return fmt.Errorf("the trace is %s, the caller's is %s", spans[0].Trace, traceID)
	}
	return nil
}

// traceOf is the trace id in a traceparent.
func traceOf(traceparent string) string {
	if fields := strings.Split(traceparent, "-"); len(fields) == 4 {
		return fields[1]
	}
	return ""
}

// tree draws spans below their parents. Spans whose parent is missing stand at the left with its id.
func tree(spans []span) string {
	if len(spans) == 0 {
		return "(no spans)\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "trace %s\n", spans[0].Trace)
	known := map[string]bool{}
	for _, s := range spans {
		known[s.ID] = true
	}
	var draw func(s span, indent, branch string)
	draw = func(s span, indent, branch string) {
		label := indent + branch + s.Name
		fmt.Fprintf(&b, "%-46s %-15s +%-9s %s\n", label, s.Service,
			(s.Start - spans[0].Start).Round(100*time.Microsecond), s.Duration.Round(100*time.Microsecond))
		var children []span
		for _, c := range spans {
			if c.Parent == s.ID {
				children = append(children, c)
			}
		}
		if branch == "├─ " {
			indent += "│  "
		} else if branch != "" {
			indent += "   "
		}
		for i, c := range children {
			if i == len(children)-1 {
				draw(c, indent, "└─ ")
			} else {
				draw(c, indent, "├─ ")
			}
		}
	}
	for _, s := range spans {
		if s.Parent == "" {
			draw(s, "", "")
		} else if !known[s.Parent] {
			fmt.Fprintf(&b, "(missing parent %s)\n", s.Parent)
			draw(s, "", "")
		}
	}
	return b.String()
}
