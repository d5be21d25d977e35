package main

import (
	"context"
	"fmt"
	"time"
)

// The subjects.
const (
	subjectSender   = "sender"
	subjectLoop     = "loop"
	subjectParallel = "parallel-consumer"
)

// readings are the numbers of one run by name; the units stand in report.go.
type readings map[string]float64

// kase is one case of the benchmark.
type kase struct {
	name  string
	group string // cases of a group are compared, and run in turns
	about string
	once  bool // one run, whatever -runs says
	run   func(context.Context, *runner) (readings, error)
}

// cases lists all of them.
func cases(o options) (all []kase) {
	add := func(group, name, about string, once bool, run func(context.Context, *runner) (readings, error)) {
		all = append(all, kase{name: name, group: group, about: about, once: once, run: run})
	}
	work := func(group, about string, s spec) {
		name := group + "/" + s.Subject
		add(group, name, about, false, func(ctx context.Context, b *runner) (readings, error) { return b.work(ctx, s) })
	}
	ordered := spec{Keys: 1000, N: o.n, InFlight: o.inFlight}
	for _, latency := range []time.Duration{10 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond} {
		for _, subject := range []string{subjectLoop, subjectSender, subjectParallel} {
			s := ordered
			s.Subject, s.Latency = subject, latency
			if subject == subjectParallel {
				s.N = max(o.n/4, 100) // it is several times slower
			}
			work("ordered/"+latency.String(), fmt.Sprintf("1,000 keys, provider of %s, %d calls in flight", latency, o.inFlight), s)
		}
	}
	for _, subject := range []string{subjectLoop, subjectSender} {
		s := ordered
		s.Subject = subject
		work("in-process", "1,000 keys, a provider in the process that answers at once", s)
	}
	slots := ordered
	slots.Subject, slots.Latency, slots.InFlight, slots.N = subjectSender, 50*time.Millisecond, 20, max(o.n/6, 100)
	work("20-in-flight", "1,000 keys, provider of 50ms, 20 calls in flight: at most 400/s", slots)
	add("latency", "latency/idle", "one OTP at a time through an idle hub", false, func(ctx context.Context, b *runner) (readings, error) { return b.idle(ctx) })
	add("backlog", "backlog", fmt.Sprintf("OTPs behind %d promotions that wait: latency and memory", o.waiting), true, func(ctx context.Context, b *runner) (readings, error) { return b.backlog(ctx) })
	add("restore", "restore", fmt.Sprintf("a start over %d finished notifications: time and memory", o.finished), true, func(ctx context.Context, b *runner) (readings, error) { return b.restore(ctx) })
	for _, subject := range []string{subjectLoop, subjectSender, subjectParallel} {
		s := ordered
		s.Subject, s.Latency, s.Kill = subject, 50*time.Millisecond, true
		if subject == subjectParallel {
			s.N = max(o.n/4, 100)
		}
		work("kill", "kill -9 half-way and a start at once, provider of 50ms", s)
	}
	for senders, name := range []string{1: "own-restart", 2: "takeover"} {
		about := map[int]string{1: "kill -9 of the only sender and a start at once", 2: "kill -9 of one of two senders: when the other has its work"}[senders]
		if name != "" {
			add(name, name, about+", under steady load", false, func(ctx context.Context, b *runner) (readings, error) { return b.takeover(ctx, senders) })
		}
	}
	add("rolling", "rolling", "three senders are terminated and started again in turn, under load", true, func(ctx context.Context, b *runner) (readings, error) { return b.rolling(ctx) })
	for _, half := range []bool{false, true} {
		name := "head-of-line/healthy-alone"
		if half {
			name = "head-of-line/half-failing"
		}
		add("head-of-line", name, "500 keys that work, with or without 500 others that fail for ever", false,
			func(ctx context.Context, b *runner) (readings, error) { return b.headOfLine(ctx, half) })
	}
	return all
}

// chosen is those of the cases that -only names.
func chosen(o options) (some []kase) {
	for _, c := range cases(o) {
		if o.only == nil || o.only.MatchString(c.name) {
			some = append(some, c)
		}
	}
	return some
}
