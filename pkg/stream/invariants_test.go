package stream_test

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// ledger is the latest state of every id, as a successor would restore it.
func (w *world) ledger() map[string]entry {
	w.t.Helper()
	latest := map[string]entry{}
	for _, r := range w.read(w.cfg.Ledger) {
		if r.Key[0] == 0 {
			continue
		}
		var e entry
		if err := json.Unmarshal(r.Value, &e); err != nil {
			w.t.Fatalf("ledger: %v", err)
		}
		latest[string(r.Key)] = e
	}
	return latest
}

// finished waits until every id has ended.
func (w *world) finished(ids []string, within time.Duration) {
	w.t.Helper()
	within *= patience
	for deadline := time.Now().Add(within); ; time.Sleep(200 * time.Millisecond) {
		ledger := w.ledger()
		missing := 0
		for _, id := range ids {
			if s := ledger[id].State; s != "SENT" && s != "UNKNOWN" {
				missing++
			}
		}
		if missing == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%d of %d have not ended within %v", missing, len(ids), within)
		}
	}
}

// check asserts the invariants of the engine's users over everything that happened: nothing lost, nothing done
// twice, each result told once, and not more than unknown ids whose outcome nobody knows, each with a cause in the
// log of a member.
func (w *world) check(ids []string, unknown int) {
	w.t.Helper()
	ledger := w.ledger()
	told := map[string]int{}
	for _, r := range w.read(w.cfg.Sent) {
		told[string(r.Key)]++
	}
	explained := map[string]string{}
	for _, m := range w.members {
		for _, e := range m.events() {
			if e.Event == "unknown" {
				explained[e.ID] = e.Text
			}
		}
	}
	w.provider.mu.Lock()
	defer w.provider.mu.Unlock()
	unknowns, causes := 0, map[string]int{}
	for _, id := range ids {
		switch state, taken, told := ledger[id].State, w.provider.taken[id], told[id]; {
		case taken > 1:
			w.t.Errorf("%s: called %d times", id, taken)
		case state == "SENT" && (taken != 1 || told != 1):
			w.t.Errorf("%s: SENT, but called %d times and told %d times", id, taken, told)
		case state == "UNKNOWN":
			cause := explained[id]
			causes[cause]++
			// A call that ran into its timeout is the provider's affair: on a busy machine there are some.
			if !strings.HasPrefix(cause, "call failed") {
				unknowns++
			}
			if cause == "" {
				w.t.Errorf("%s: UNKNOWN without a cause in any log", id)
			}
			if told != 0 {
				w.t.Errorf("%s: UNKNOWN, but told %d times", id, told)
			}
		case state != "SENT":
			w.t.Errorf("%s: lost: state %q", id, state)
		}
	}
	if unknowns > unknown {
		w.t.Errorf("%d unknown, at most %d are explained by what the test did: %v", unknowns, unknown, causes)
	}
	if len(w.provider.late) > 0 {
		w.t.Errorf("called after the launch deadline: %v", w.provider.late)
	}
	for id := range w.provider.taken {
		if !slices.Contains(ids, id) {
			w.t.Errorf("%s was never asked for", id)
		}
	}
}
