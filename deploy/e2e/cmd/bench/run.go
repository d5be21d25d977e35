package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/proto/topic"
)

// The subjects.
const (
	subjectSender = "sender"
	subjectLoop   = "loop"
)

// spec is one case.
type spec struct {
	Subject string
	Latency time.Duration // 0: a provider in the process
	Keys    int
	Kill    bool // kill -9 half-way and start again
}

func (s spec) name() string { return s.Subject + "/" + s.pair() }

// pair names the case without its subject.
func (s spec) pair() string {
	name := fmt.Sprintf("%s/%d", s.Latency, s.Keys)
	if s.Kill {
		name += "/kill"
	}
	return name
}

// result is one run of one case.
type result struct {
	// PerSecond is notifications divided by the time from the first call (at latency 0: from the first zns.sent's own
	// time) until a read-committed consumer holds the last zns.sent.
	PerSecond float64 `json:"records_per_second"`
	// Ceiling is PerSecond divided by what Little's law allows: calls in flight / latency. 0 at latency 0.
	Ceiling float64 `json:"share_of_ceiling"`

	// Commit: of the sender whole transactions, from the first record's way to the confirmation, of the loop the flush
	// of zns.sent and the offset commit.
	CommitP50 float64 `json:"commit_p50_ms"`
	CommitP99 float64 `json:"commit_p99_ms"`
	Commits   int     `json:"commits"`

	CPU      float64 `json:"cpu_ms_per_record"`           // of the subject's process, start and stop included
	PeakRSS  float64 `json:"peak_rss_mib"`                // of the subject's process
	SimCPU   float64 `json:"simulator_cpu_ms_per_record"` // what the provider took of the same machine
	Inverted int     `json:"key_order_inversions"`        // acceptances before which a later one of their key was accepted

	Duplicates int     `json:"duplicates"` // messages that a phone got beyond its first
	Lost       int     `json:"lost"`       // notifications that no phone got and no event tells of
	Unknown    int     `json:"unknown"`    // outcomes that were unknown after the kill
	Unresolved int     `json:"unresolved"` // those of them that no callback settled: told on zns.unresolved
	Pause      float64 `json:"pause_s"`    // from the kill to the first message after it

	Error string `json:"error,omitempty"`
}

// timeout bounds one run.
const timeout = 4 * time.Minute

// runner runs cases.
type runner struct {
	options
	brokers string
	bin     string
	dir     string
	admin   *kafka.Admin
	count   int
}

func (b *runner) addrs() []string { return strings.Split(b.brokers, ",") }

// run measures one case on a fresh topic, with fresh processes.
func (b *runner) run(ctx context.Context, s spec) (r result, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	b.count++
	input := fmt.Sprintf("bench-%d-%d", os.Getpid(), b.count)
	specs := topic.ForInput(input)
	if _, err := b.admin.Ensure(ctx, specs, int32(b.partitions), 1); err != nil {
		return r, err
	}
	defer func() {
		for _, spec := range specs {
			err = errors.Join(err, b.admin.Delete(context.WithoutCancel(ctx), spec.Name))
		}
	}()
	load := &harness.Load{Seed: uint64(b.count), Total: b.n, Keys: s.Keys}
	requests, err := preload(ctx, b.addrs(), input, load)
	if err != nil {
		return r, err
	}
	w, err := newWatch(ctx, b.addrs(), requests)
	if err != nil {
		return r, err
	}
	defer w.close()

	system, subject, err := b.subject(s, input)
	if err != nil {
		return r, err
	}
	started := []*harness.Process{subject}
	defer func() {
		for _, p := range started {
			err = errors.Join(err, p.Kill()) // does nothing where p has ended in good order
		}
	}()
	if s.Latency > 0 {
		started = append(started, system.Sim)
		if err := system.Sim.Restart(ctx); err != nil {
			return r, err
		}
	}
	if s.Kill && s.Subject == subjectSender {
		// What was in flight at the kill is settled by callbacks.
		started = append(started, system.Ingest)
		if err := system.Ingest.Restart(ctx); err != nil {
			return r, err
		}
	}
	if err := subject.Start(); err != nil {
		return r, err
	}
	if b.profile != "" && s.Subject == subjectSender {
		go b.takeProfile(ctx, subject, fmt.Sprintf("%s-%d.pprof", strings.ReplaceAll(s.pair(), "/", "-"), b.count))
	}
	var killed time.Time
	if s.Kill {
		if killed, err = b.killHalfway(ctx, system, subject); err != nil {
			return r, err
		}
	}
	end, err := w.wait(ctx)
	if err != nil {
		return r, fmt.Errorf("%w; end of the log of %s:\n%s", err, subject.Name, subject.LogTail(5))
	}
	if err := b.drained(ctx, input); err != nil {
		return r, err
	}
	return b.measure(ctx, s, system, subject, w, end, killed)
}

// measure ends the processes and puts together what they did.
func (b *runner) measure(ctx context.Context, s spec, system *harness.System, subject *harness.Process, w *watch, end, killed time.Time) (r result, err error) {
	begin := w.first()
	if s.Latency > 0 {
		calls, err := system.Simulator().Calls(ctx)
		if err != nil {
			return r, err
		}
		if len(calls) == 0 {
			return r, errors.New("the simulator accepted nothing")
		}
		begin = calls[0].Time
		r.Inverted = inversions(calls, w.requests)
		r.Duplicates, r.Lost = copies(calls, w.requests, w.told())
		if s.Kill {
			r.Pause = pause(calls, killed).Seconds()
		}
	} else {
		r.Lost = len(w.requests) - len(w.told())
	}
	if s.Subject == subjectSender {
		metrics, err := scrape(ctx, admin(subject)+"/metrics")
		if err != nil {
			return r, err
		}
		r.CommitP50, r.CommitP99 = 1000*quantile(metrics, "znshub_sender_commit_seconds", .5), 1000*quantile(metrics, "znshub_sender_commit_seconds", .99)
		r.Commits = int(metrics["znshub_sender_commit_seconds_count"])
		for name, value := range metrics {
			if strings.HasPrefix(name, "znshub_sender_unknown_total") {
				r.Unknown += int(value)
			}
		}
	}
	if r.Unresolved = w.unresolved(); r.Unresolved > 0 && !s.Kill {
		return r, fmt.Errorf("%d outcomes are unknown though nothing was killed", r.Unresolved)
	}
	if err := subject.Terminate(ctx); err != nil {
		return r, err
	}
	if s.Subject == subjectLoop {
		stats, err := readStats(statsFile(subject))
		if err != nil {
			return r, err
		}
		r.CommitP50, r.CommitP99, r.Commits = stats.P50, stats.P99, stats.Commits
	}
	cpu, rss := subject.Usage()
	r.PerSecond = float64(b.n) / end.Sub(begin).Seconds()
	r.CPU, r.PeakRSS = milliseconds(cpu)/float64(b.n), float64(rss)/(1<<20)
	if s.Latency > 0 {
		r.Ceiling = r.PerSecond / (float64(b.inFlight) / s.Latency.Seconds())
		if err := system.Sim.Terminate(ctx); err != nil {
			return r, err
		}
		cpu, _ = system.Sim.Usage()
		r.SimCPU = milliseconds(cpu) / float64(b.n)
	}
	return r, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// subject makes the processes of one run; none is started.
func (b *runner) subject(s spec, input string) (*harness.System, *harness.Process, error) {
	dir := filepath.Join(b.dir, input)
	sim := []string{"SIM_LATENCY=" + s.Latency.String(), "SIM_DELIVERY=50ms", "LOG_LEVEL=error"}
	if !s.Kill {
		sim = append(sim, "SIM_CALLBACK_URL=")
	}
	system, err := harness.NewSystem(harness.Config{
		Brokers: b.brokers, Bin: b.bin, Dir: dir, SimEnv: sim, IngestEnv: []string{"LOG_LEVEL=error"},
		SenderEnv: b.senderEnv(s, input),
	})
	if err != nil {
		return nil, nil, err
	}
	if s.Subject == subjectSender {
		p, err := system.NewSender()
		return system, p, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	p := &harness.Process{Name: "loop", Path: self, LogFile: filepath.Join(dir, "loop.log")}
	p.Env = loopConfig{
		Brokers: b.brokers, Topic: input, Group: input, InFlight: b.inFlight, Latency: s.Latency, URL: system.SimURL, Stats: statsFile(p),
	}.env()
	return system, p, nil
}

func (b *runner) senderEnv(s spec, input string) []string {
	env := []string{"SENDER_TOPIC=" + input, "SENDER_GROUP=" + input, "SENDER_MAX_IN_FLIGHT=" + strconv.Itoa(b.inFlight), "LOG_LEVEL=warn"}
	if s.Latency == 0 {
		env = append(env, "SENDER_MODE=simulate")
	}
	if s.Kill {
		// What the simulator never got can be settled by nobody and would hold back its key for a minute.
		env = append(env, "SENDER_ORDER_WAIT=5s")
	}
	if b.profile != "" {
		env = append(env, "ADMIN_PPROF=true")
	}
	return env
}

func statsFile(p *harness.Process) string { return p.LogFile + ".json" }

// killHalfway kills the subject when half of the messages are out, and starts it again.
func (b *runner) killHalfway(ctx context.Context, system *harness.System, subject *harness.Process) (time.Time, error) {
	for {
		totals, err := system.Simulator().Totals(ctx)
		if err != nil {
			return time.Time{}, err
		}
		if totals.Accepted >= b.n/2 {
			break
		}
		select {
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("waiting for half of the messages: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	killed := time.Now()
	return killed, errors.Join(subject.Kill(), subject.Start())
}

// drained waits until the subject's group has committed all of the input: only then can nothing be sent again.
func (b *runner) drained(ctx context.Context, input string) error {
	for {
		lag, err := harness.Lag(ctx, b.addrs(), input, input)
		if err == nil && lag == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the end of the input, lag %d: %w", lag, errors.Join(err, ctx.Err()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func admin(p *harness.Process) string { return strings.TrimSuffix(p.ReadyURL, "/readyz") }

// takeProfile is best effort: a run may be over before the profile is.
func (b *runner) takeProfile(ctx context.Context, p *harness.Process, name string) {
	if p.Ready(ctx) != nil || os.MkdirAll(b.profile, 0o755) != nil {
		return
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, admin(p)+"/debug/pprof/profile?seconds=5", nil)
	if err != nil {
		return
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	f, err := os.Create(filepath.Join(b.profile, name))
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = io.Copy(f, resp.Body)
}

// scrape reads metrics in Prometheus' text format: name with labels, and value.
func scrape(ctx context.Context, url string) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("scrape: %w", err)
	}
	defer resp.Body.Close()
	metrics := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			metrics[name] = v
		}
	}
	return metrics, nil
}

// quantile reads a histogram, with linear interpolation inside a bucket as Prometheus' histogram_quantile does it.
// 0: nothing was observed.
func quantile(metrics map[string]float64, name string, q float64) float64 {
	want := q * metrics[name+"_count"]
	if want == 0 {
		return 0
	}
	// The bucket is the one with the least upper bound whose cumulated count reaches want.
	upper, lower := math.Inf(1), 0.0
	var atUpper, atLower float64
	for key, count := range metrics {
		text, ok := strings.CutPrefix(key, name+`_bucket{le="`)
		bound, err := strconv.ParseFloat(strings.TrimSuffix(text, `"}`), 64)
		if !ok || err != nil {
			continue
		}
		if count >= want && bound <= upper {
			upper, atUpper = bound, count
		}
		if count < want && bound >= lower {
			lower, atLower = bound, count
		}
	}
	if math.IsInf(upper, 1) {
		return lower
	}
	return lower + (upper-lower)*(want-atLower)/(atUpper-atLower)
}
