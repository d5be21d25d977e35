package main

import (
	"fmt"
	"slices"
)

// goal is one line of the table of goals.
type goal struct {
	measure, goal string
	format        string
	of            func(*report) []float64 // a value for each run; none: it was not measured
	met           func(float64) bool      // of the median
	always        bool                    // of every run, not of the median
}

// outcome is what became of a goal.
type outcome struct {
	Measure string `json:"measure"`
	Goal    string `json:"goal"`
	Result  string `json:"result"`
	Verdict string `json:"verdict"` // met, missed, not measured
}

func judge(r *report) (list []outcome) {
	for _, g := range goals {
		o := outcome{Measure: g.measure, Goal: g.goal, Result: "–", Verdict: "not measured"}
		if v := g.of(r); len(v) > 0 {
			o.Result, o.Verdict = spread(g.format, v), "missed"
			if g.met(median(v)) && (!g.always || g.met(slices.Max(v))) {
				o.Verdict = "met"
			}
		}
		list = append(list, o)
	}
	return list
}

func reading(name, reading string) func(*report) []float64 {
	return func(r *report) []float64 { return r.values(name, reading) }
}

// ratio divides run by run: what was measured one after the other had the same machine.
func ratio(name, of, reading string) func(*report) []float64 {
	return func(r *report) (v []float64) {
		a, b := r.values(name, reading), r.values(of, reading)
		for i := range min(len(a), len(b)) {
			v = append(v, a[i]/b[i])
		}
		return v
	}
}

// total adds up several readings of each run.
func total(name string, names ...string) func(*report) []float64 {
	return func(r *report) (v []float64) {
		for _, n := range names {
			for i, x := range r.values(name, n) {
				if i == len(v) {
					v = append(v, 0)
				}
				v[i] += x
			}
		}
		return v
	}
}

// bothOf lists the values of several.
func bothOf(several ...func(*report) []float64) func(*report) []float64 {
	return func(r *report) (v []float64) {
		for _, of := range several {
			v = append(v, of(r)...)
		}
		return v
	}
}

func atLeast(limit float64) func(float64) bool { return func(v float64) bool { return v >= limit } }
func atMost(limit float64) func(float64) bool  { return func(v float64) bool { return v <= limit } }

var goals = func() (list []goal) {
	for _, latency := range []string{"10ms", "50ms", "100ms"} {
		ordered := "ordered/" + latency + "/"
		list = append(list,
			goal{"key-ordered, " + latency + ", of the loop", "≥ 1.0 ×", "%.2f ×", ratio(ordered+subjectSender, ordered+subjectLoop, "per_second"), atLeast(1), false},
			goal{"key-ordered, " + latency + ", of Parallel Consumer", "≥ 4 ×", "%.1f ×", ratio(ordered+subjectSender, ordered+subjectParallel, "per_second"), atLeast(4), false})
	}
	return append(list,
		goal{"CPU per notification, 50 ms", "≤ 0.15 ms", "%.3f ms", reading("ordered/50ms/sender", "cpu"), atMost(.15), false},
		goal{"20 in flight, 50 ms, of the ceiling of 400/s", "≥ 0.95", "%.2f", reading("20-in-flight/sender", "ceiling"), atLeast(.95), false},
		goal{"in-process provider", "≥ 30,000/s", "%.0f/s", reading("in-process/sender", "per_second"), atLeast(30_000), false},
		goal{"latency added, idle, p50", "≤ 10 ms", "%.1f ms", reading("latency/idle", "otp_p50"), atMost(10), false},
		goal{"latency added, idle, p99", "≤ 40 ms", "%.1f ms", reading("latency/idle", "otp_p99"), atMost(40), false},
		goal{"OTP behind the promotions that wait, p99", "≤ 100 ms", "%.1f ms", reading("backlog", "otp_p99"), atMost(100), false},
		goal{"index for each waiting notification", "≤ 100 bytes", "%.1f bytes", reading("backlog", "index_bytes"), atMost(100), false},
		goal{"counted memory with them waiting", fmt.Sprintf("≤ %d MiB (SENDER_MEMORY)", backlogMemory>>20), "%.0f MiB", reading("backlog", "counted"), atMost(backlogMemory >> 20), false},
		goal{"memory for each finished id", "≤ 32 bytes", "%.1f bytes", reading("restore", "finished_bytes"), atMost(32), false},
		goal{"restore of the finished ids", "≤ 20 s", "%.1f s", reading("restore", "restore"), atMost(20), false},
		goal{"kill -9: duplicates, lost and inversions", "0", "%.0f", total("kill/sender", "duplicates", "lost", "inversions"), atMost(0), true},
		goal{"kill -9: own restart works again after", "≤ 2 s", "%.1f s", reading("own-restart", "pause"), atMost(2), false},
		goal{"kill -9: duplicates and lost, own restart and peer", "0", "%.0f", bothOf(total("own-restart", "duplicates", "lost"), total("takeover", "duplicates", "lost")), atMost(0), true},
		goal{"kill -9: a peer works on after", "≤ 8 s", "%.1f s", reading("takeover", "pause"), atMost(8), false},
		goal{"rolling restart of three: ever unknown", "0", "%.0f", reading("rolling", "unknown"), atMost(0), true},
		goal{"rolling restart of three: a partition idle at most", "≤ 1 s + restore + slowest call", "%.2f s", reading("rolling", "idle"), atMost(1 + steadyLatency.Seconds()), false},
		goal{"healthy half beside a half that fails for ever", "≥ 0.95", "%.2f", ratio("head-of-line/half-failing", "head-of-line/healthy-alone", "per_second"), atLeast(.95), false},
	)
}()
