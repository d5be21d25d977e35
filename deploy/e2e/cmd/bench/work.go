package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/znshub/znshub/deploy/e2e/harness"
)

// spec is a case that works off a preloaded topic.
type spec struct {
	Subject  string
	Latency  time.Duration // 0: a provider in the process
	Keys     int
	N        int
	InFlight int
	Kill     bool // kill -9 half-way and start again
}

// afterLoss is how long after a kill the last event of a subject that may lose some is waited for.
const afterLoss = 90 * time.Second

// work measures one subject on a preloaded topic. The clock runs from the first call (in-process: the first event's own
// time) until a read-committed consumer holds the last event.
func (b *runner) work(ctx context.Context, s spec) (r readings, err error) {
	sim := []string{"SIM_LATENCY=" + s.Latency.String()}
	env := []string{"SENDER_MAX_IN_FLIGHT=" + strconv.Itoa(s.InFlight)}
	if s.Latency == 0 {
		env = append(env, "SENDER_MODE=simulate")
	}
	if s.Kill {
		// What the simulator never got can be settled by nobody and would hold back its key for a minute.
		env = append(env, "SENDER_ORDER_WAIT=5s")
	}
	ctx, d, err := b.bed(ctx, s.Kill && s.Subject == subjectSender, sim, env)
	if err != nil {
		return nil, err
	}
	defer d.close(ctx, &err)
	requests, err := d.send(ctx, &harness.Load{Total: s.N, Keys: s.Keys})
	if err != nil {
		return nil, err
	}
	w, err := newWatch(ctx, d.addrs(), requests)
	if err != nil {
		return nil, err
	}
	defer w.close()
	subject, err := d.subject(s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, subject.Kill()) }()
	if s.Latency > 0 {
		if err := d.system.Sim.Restart(ctx); err != nil {
			return nil, err
		}
	}
	if s.Kill && s.Subject == subjectSender {
		// What was in flight at the kill is settled by callbacks.
		if err := d.system.Ingest.Restart(ctx); err != nil {
			return nil, err
		}
	}
	if err := subject.Start(); err != nil {
		return nil, err
	}
	if b.profile != "" && s.Subject == subjectSender {
		go b.takeProfile(ctx, subject, fmt.Sprintf("%s-%d-%d.pprof", s.Latency, s.InFlight, b.count))
	}
	var killed time.Time
	if s.Kill {
		if err := d.accepted(ctx, s.N/2); err != nil {
			return nil, err
		}
		killed = time.Now()
		if err := errors.Join(subject.Kill(), subject.Start()); err != nil {
			return nil, err
		}
	}
	mayLose := s.Kill && s.Subject != subjectSender
	waitCtx, stop := ctx, context.CancelFunc(func() {})
	if mayLose {
		waitCtx, stop = context.WithTimeout(ctx, afterLoss)
	}
	end, err := w.wait(waitCtx)
	stop()
	if err != nil && !(mayLose && ctx.Err() == nil) {
		return nil, fmt.Errorf("%w; end of the log of %s:\n%s", err, subject.Name, subject.LogTail(5))
	}
	if !mayLose {
		if err := d.drained(ctx); err != nil {
			return nil, err
		}
	}
	return d.measure(ctx, s, subject, w, end, killed)
}

// subject makes the process of one run; it is not started.
func (d *bed) subject(s spec) (*harness.Process, error) {
	switch s.Subject {
	case subjectLoop:
		return d.loop(s)
	case subjectParallel:
		return d.java.process(d, s), nil
	}
	return d.system.NewSender()
}

// measure ends the processes and puts together what they did.
func (d *bed) measure(ctx context.Context, s spec, subject *harness.Process, w *watch, end, killed time.Time) (r readings, err error) {
	r = readings{}
	begin := w.first()
	var calls []harness.Call
	if s.Latency > 0 {
		if calls, err = d.system.Simulator().Calls(ctx); err != nil {
			return nil, err
		}
		if len(calls) == 0 {
			return nil, errors.New("the simulator accepted nothing")
		}
		named(calls)
		begin = calls[0].Time
		duplicates, lost := copies(calls, w.requests, w.told())
		r["inversions"], r["duplicates"], r["lost"] = float64(inversions(calls, w.requests)), float64(duplicates), float64(lost)
		if s.Kill {
			r["pause"] = pauseAfter(calls, killed).Seconds()
		}
	} else {
		r["lost"] = float64(len(w.requests) - len(w.told()))
	}
	if s.Subject == subjectSender {
		metrics, err := scrape(ctx, admin(subject)+"/metrics")
		if err != nil {
			return nil, err
		}
		r["commit_p50"], r["commit_p99"] = 1000*quantile(metrics, "znshub_sender_commit_seconds", .5), 1000*quantile(metrics, "znshub_sender_commit_seconds", .99)
		if s.Kill {
			r["unknown"], r["unresolved"] = sum(metrics, "znshub_sender_unknown_total"), float64(w.unresolved())
			r["unsettled"] = float64(w.unsettled(calls))
		}
	}
	if n := w.unresolved(); n > 0 && !s.Kill {
		return nil, fmt.Errorf("%d outcomes are unknown though nothing was killed", n)
	}
	if err := subject.Terminate(ctx); err != nil {
		return nil, err
	}
	if s.Subject == subjectLoop {
		stats, err := readStats(statsFile(subject))
		if err != nil {
			return nil, err
		}
		r["commit_p50"], r["commit_p99"] = stats.P50, stats.P99
	}
	if !s.Kill {
		cpu, rss := subject.Usage()
		r["per_second"] = float64(s.N) / end.Sub(begin).Seconds()
		r["cpu"], r["rss"] = milliseconds(cpu)/float64(s.N), float64(rss)/(1<<20)
		if s.Latency > 0 {
			r["ceiling"] = r["per_second"] / (float64(s.InFlight) / s.Latency.Seconds())
			if err := d.system.Sim.Terminate(ctx); err != nil {
				return nil, err
			}
			cpu, _ = d.system.Sim.Usage()
			r["sim_cpu"] = milliseconds(cpu) / float64(s.N)
		}
	}
	return r, nil
}

// loop is this program again, as the plain loop.
func (d *bed) loop(s spec) (*harness.Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &harness.Process{Name: "loop", Path: self, LogFile: filepath.Join(d.dir, d.input, "loop.log")}
	p.Env = loopConfig{
		Brokers: d.brokers, Topic: d.input, Group: d.input, InFlight: s.InFlight, Latency: s.Latency, URL: d.system.SimURL, Stats: statsFile(p),
	}.env()
	return p, nil
}

func statsFile(p *harness.Process) string { return p.LogFile + ".json" }

// sum adds up a metric over its labels.
func sum(metrics map[string]float64, name string) (total float64) {
	for key, value := range metrics {
		if key == name || strings.HasPrefix(key, name+"{") {
			total += value
		}
	}
	return total
}
