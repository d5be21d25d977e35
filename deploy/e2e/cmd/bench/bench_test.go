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
	if got := pause(calls, killed); got != 4*time.Second {
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

func TestFlags(t *testing.T) {
	o, err := flags([]string{"-quick", "-runs", "3", "-only", "sender/"})
	if err != nil || o.n != 5000 || o.runs != 3 || len(o.keys) != 1 || len(o.latencies) != 2 {
		t.Errorf("-quick -runs 3: %+v, %v", o, err)
	}
	for _, s := range cases(o) {
		if !strings.HasPrefix(s.name(), "sender/") {
			t.Errorf("-only sender/ runs %s", s.name())
		}
	}
	o, err = flags(nil)
	if err != nil || len(cases(o)) != 18 {
		t.Errorf("%d cases by default, want 4 latencies, 2 numbers of keys and a kill for two subjects; %v", len(cases(o)), err)
	}
	if _, err := flags([]string{"-n", "1"}); err == nil {
		t.Error("-n 1 is taken")
	}
}
