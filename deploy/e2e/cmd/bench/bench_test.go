package main

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/proto/topic"
)

func TestInversionsAndCopies(t *testing.T) {
	requests := []harness.Request{
		{ID: "a1", Key: "a", Rank: 0}, {ID: "b1", Key: "b", Rank: 1}, {ID: "a2", Key: "a", Rank: 2}, {ID: "a3", Key: "a", Rank: 3}, {ID: "lost", Rank: 4}, {ID: "told", Rank: 5},
	}
	call := func(sequence int64, id string) harness.Call { return harness.Call{ID: id, Sequence: sequence} }
	for name, test := range map[string]struct {
		calls                        []harness.Call
		inversions, duplicates, lost int
	}{
		"in order":         {[]harness.Call{call(0, "a1"), call(1, "b1"), call(2, "a2"), call(3, "a3")}, 0, 0, 1},
		"by sequence":      {[]harness.Call{call(3, "a3"), call(2, "a2"), call(1, "b1"), call(0, "a1")}, 0, 0, 1},
		"one overtakes":    {[]harness.Call{call(0, "a2"), call(1, "a1"), call(2, "b1"), call(3, "a3")}, 1, 0, 1},
		"one is overtaken": {[]harness.Call{call(0, "a2"), call(1, "a3"), call(2, "a1"), call(3, "b1")}, 1, 0, 1},
		"a copy":           {[]harness.Call{call(0, "a1"), call(1, "a2"), call(2, "a1"), call(3, "a1")}, 0, 2, 3},
	} {
		t.Run(name, func(t *testing.T) {
			duplicates, lost := copies(test.calls, requests, map[string]bool{"told": true})
			got, want := []int{inversions(test.calls, requests), duplicates, lost}, []int{test.inversions, test.duplicates, test.lost}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("inversions, duplicates, lost (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPause(t *testing.T) {
	killed := time.Now()
	at := func(d time.Duration) harness.Call { return harness.Call{Time: killed.Add(d)} }
	calls := []harness.Call{at(-time.Second), at(20 * time.Millisecond), at(9 * time.Second), at(4 * time.Second)}
	if got := pauseAfter(calls, killed); got != 4*time.Second {
		t.Errorf("got %s, want 4s: what was in the sockets at the kill does not count", got)
	}
}

func TestQuantile(t *testing.T) {
	metrics := map[string]float64{
		`x_bucket{le="0.001"}`: 0, `x_bucket{le="0.01"}`: 90, `x_bucket{le="0.1"}`: 100, `x_bucket{le="+Inf"}`: 100, "x_count": 100,
		`y_bucket{le="0.001"}`: 100,
	}
	for q, want := range map[float64]float64{.5: .006, .9: .01, .95: .055} {
		if got := quantile(metrics, "x", q); math.Abs(got-want) > 1e-9 {
			t.Errorf("quantile %g: got %g, want %g", q, got, want)
		}
	}
	if got := quantile(metrics, "z", .5); got != 0 {
		t.Errorf("of nothing: %g", got)
	}
}

func TestWatch(t *testing.T) {
	w := &watch{
		requests: make([]harness.Request, 3), complete: make(chan struct{}), silent: 3,
		open: map[string]bool{"a": true, "b": true, "c": true}, events: map[string]bool{}, unknown: map[string]bool{},
	}
	event := func(name, id string) []kafka.Record {
		return []kafka.Record{{Topic: name, Key: []byte(id), Time: time.Now()}}
	}
	complete := func() bool {
		select {
		case <-w.complete:
			return true
		default:
			return false
		}
	}
	for _, r := range [][]kafka.Record{event(topic.Sent, "a"), event(topic.Sent, "a"), event(topic.Sent, "foreign"), event(topic.Unresolved, "b"), event(topic.Sent, "b")} {
		w.take(r)
		if complete() {
			t.Fatal("complete before every notification has an event")
		}
	}
	w.take(event(topic.Unresolved, "c"))
	if !complete() || w.unresolved() != 1 || len(w.told()) != 3 {
		t.Errorf("complete %t, unresolved %d, told %v", complete(), w.unresolved(), w.told())
	}
}

func TestWatchOnly(t *testing.T) {
	w := &watch{
		requests: []harness.Request{{ID: "a"}, {ID: "b"}, {ID: "never published"}}, complete: make(chan struct{}), silent: 3,
		open: map[string]bool{"a": true, "b": true, "never published": true}, events: map[string]bool{}, unknown: map[string]bool{},
	}
	w.take([]kafka.Record{{Topic: topic.Sent, Key: []byte("a"), Time: time.Now()}})
	w.only(2)
	select {
	case <-w.complete:
		t.Fatal("complete without b")
	default:
	}
	w.take([]kafka.Record{{Topic: topic.Sent, Key: []byte("b"), Time: time.Now()}})
	select {
	case <-w.complete:
	default:
		t.Error("what was not published is waited for")
	}
}

func TestNamed(t *testing.T) {
	calls := []harness.Call{{ID: "known", TrackingID: "00000000000000000000000000000001"}, {TrackingID: "018f3c5e7b1a7c3e9c395c1f1b9f2a10"}, {TrackingID: "foreign"}}
	named(calls)
	if calls[0].ID != "known" || calls[1].ID != "018f3c5e-7b1a-7c3e-9c39-5c1f1b9f2a10" || calls[2].ID != "" {
		t.Errorf("%+v", calls)
	}
}

func TestGoals(t *testing.T) {
	r := &report{}
	add := func(name string, runs ...readings) {
		for _, one := range runs {
			r.add(kase{name: name}, one, nil)
		}
	}
	add("ordered/50ms/loop", readings{"per_second": 100}, readings{"per_second": 200})
	add("ordered/50ms/sender", readings{"per_second": 90, "cpu": .1}, readings{"per_second": 240, "cpu": .3})
	add("kill/sender", readings{"lost": 1, "inversions": 2}, readings{"lost": 0, "inversions": 0}, readings{"lost": 0, "inversions": 0})
	add("own-restart", readings{"pause": 1}, readings{"pause": 4})
	want := map[string][2]string{
		"key-ordered, 50ms, of the loop":                 {"1.05 × (0.90 ×–1.20 ×)", "met"},
		"key-ordered, 10ms, of the loop":                 {"–", "not measured"},
		"CPU per notification, 50 ms":                    {"0.200 ms (0.100 ms–0.300 ms)", "missed"},
		"kill -9: duplicates, lost and inversions":       {"0 (0–3)", "missed"}, // what may never happen may not happen once
		"kill -9: own restart works again after":         {"2.5 s (1.0 s–4.0 s)", "missed"},
		"key-ordered, 50ms, of Parallel Consumer":        {"–", "not measured"},
		"rolling restart of three: ever unknown":         {"–", "not measured"},
		"latency added, idle, p50":                       {"–", "not measured"},
		"healthy half beside a half that fails for ever": {"–", "not measured"},
	}
	for _, g := range judge(r) {
		if w, ok := want[g.Measure]; ok && [2]string{g.Result, g.Verdict} != w {
			t.Errorf("%s: got %s, %s; want %v", g.Measure, g.Result, g.Verdict, w)
		}
		delete(want, g.Measure)
	}
	if len(want) > 0 {
		t.Errorf("no such goals: %v", want)
	}
	if err := r.failed(); err == nil || !strings.Contains(err.Error(), "kill/sender, run 1") {
		t.Errorf("a loss is no failure: %v", err)
	}
}

// TestGoalsHaveCases: each goal is about a reading of a case that exists.
func TestGoalsHaveCases(t *testing.T) {
	o, err := flags(nil)
	if err != nil {
		t.Fatal(err)
	}
	full := &report{}
	for _, c := range cases(o) {
		one := readings{}
		for _, u := range units {
			one[u.reading] = 1
		}
		full.add(c, one, nil)
	}
	for _, g := range goals {
		if len(g.of(full)) == 0 {
			t.Errorf("%s: no case measures it", g.measure)
		}
	}
}

func TestFlags(t *testing.T) {
	o, err := flags([]string{"-quick", "-runs", "3", "-only", "sender$"})
	if err != nil || o.n != 5000 || o.runs != 3 || o.waiting != 50_000 || o.finished != 200_000 {
		t.Errorf("-quick -runs 3: %+v, %v", o, err)
	}
	for _, c := range chosen(o) {
		if !strings.HasSuffix(c.name, "sender") {
			t.Errorf("-only sender$ runs %s", c.name)
		}
	}
	names := map[string]bool{}
	for _, c := range cases(o) {
		if names[c.name] {
			t.Errorf("%s is there twice", c.name)
		}
		names[c.name] = true
	}
	if _, err := flags([]string{"-n", "1"}); err == nil {
		t.Error("-n 1 is taken")
	}
}
