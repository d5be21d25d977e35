package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/proto/topic"
)

// timeout bounds one run.
const timeout = 12 * time.Minute

// runner runs cases.
type runner struct {
	options
	brokers string
	bin     string
	dir     string
	admin   *kafka.Admin
	java    *parallelConsumer // nil: without that arm
	count   int
}

func (b *runner) addrs() []string { return strings.Split(b.brokers, ",") }

// bed is what one run works on: a topic of its own, with all that belongs to it, and the programs.
type bed struct {
	*runner
	input  string
	system *harness.System
	specs  []topic.Spec
	probed uint64 // how often restored has sent probes
	cancel context.CancelFunc
}

// bed makes a topic and the programs; none is started. sim and sender are settings beside those of the harness. Without
// callbacks the simulator calls nobody back.
func (b *runner) bed(ctx context.Context, callbacks bool, sim, sender []string) (context.Context, *bed, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	b.count++
	d := &bed{runner: b, input: fmt.Sprintf("bench-%d-%d", os.Getpid(), b.count), cancel: cancel}
	d.specs = topic.ForInput(d.input)
	quiet := []string{"SIM_CALLBACK_URL="}
	if callbacks {
		quiet = nil
	}
	if b.profile != "" {
		sender = append(sender, "ADMIN_PPROF=true")
	}
	_, err := b.admin.Ensure(ctx, d.specs, int32(b.partitions), 1) //nolint:gosec // G115: a handful
	if err == nil {
		env := []string{"SENDER_TOPIC=" + d.input, "SENDER_GROUP=" + d.input, "SENDER_MAX_IN_FLIGHT=" + strconv.Itoa(b.inFlight), "LOG_LEVEL=warn"}
		d.system, err = harness.NewSystem(harness.Config{
			Brokers: b.brokers, Bin: b.bin, Dir: filepath.Join(b.dir, d.input), IngestEnv: []string{"LOG_LEVEL=error"},
			SimEnv:    slices.Concat([]string{"SIM_LATENCY=0s", "SIM_DELIVERY=50ms", "LOG_LEVEL=error"}, quiet, sim),
			SenderEnv: slices.Concat(env, sender),
		})
	}
	if err != nil {
		cancel()
		return ctx, nil, err
	}
	return ctx, d, nil
}

// simulated is bed, with the simulator started and without callbacks.
func (b *runner) simulated(ctx context.Context, sim, sender []string) (context.Context, *bed, error) {
	ctx, d, err := b.bed(ctx, false, sim, sender)
	if err != nil {
		return ctx, nil, err
	}
	if err = d.system.Sim.Restart(ctx); err != nil {
		d.close(ctx, &err)
	}
	return ctx, d, err
}

// close ends what still runs and removes the topics. It adds to the error that a run ends with.
func (d *bed) close(ctx context.Context, err *error) {
	defer d.cancel()
	for _, p := range d.system.Processes() {
		if tail := p.Crashes(); len(tail) > 0 && *err == nil {
			*err = fmt.Errorf("%s: %s", tail[0], p.LogTail(5))
		}
		*err = errors.Join(*err, p.Kill()) // does nothing where p has ended in good order
	}
	for _, s := range d.specs {
		*err = errors.Join(*err, d.admin.Delete(context.WithoutCancel(ctx), s.Name))
	}
}

// send publishes a load to the run's topic.
func (d *bed) send(ctx context.Context, load *harness.Load) ([]harness.Request, error) {
	load.Seed = uint64(d.count)*100 + load.Seed //nolint:gosec // G115: small
	return preload(ctx, d.addrs(), d.input, load)
}

// sender adds a sender and starts it.
func (d *bed) sender(ctx context.Context) (*harness.Process, error) {
	p, err := d.system.NewSender()
	if err != nil {
		return nil, err
	}
	return p, p.Restart(ctx)
}

// drained waits until the group has committed all of the input.
func (d *bed) drained(ctx context.Context) error {
	for {
		lag, err := harness.Lag(ctx, d.addrs(), d.input, d.input)
		if err == nil && lag == 0 {
			return nil
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("waiting for the end of the input, lag %d: %w", lag, errors.Join(err, ctx.Err()))
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// accepted waits until the simulator has accepted n messages.
func (d *bed) accepted(ctx context.Context, n int) error {
	for {
		totals, err := d.system.Simulator().Totals(ctx)
		if err != nil {
			return err
		}
		if totals.Accepted >= n {
			return nil
		}
		if pause(ctx, 20*time.Millisecond) != nil {
			return fmt.Errorf("%d of %d messages were accepted: %w", totals.Accepted, n, ctx.Err())
		}
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func admin(p *harness.Process) string { return strings.TrimSuffix(p.ReadyURL, "/readyz") }

// resident is the memory of a running process in bytes, now and at most; 0 where the system does not tell.
func resident(p *harness.Process) (now, peak float64) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(fields[1], 64)
		switch fields[0] {
		case "VmRSS:":
			now = kib * 1024
		case "VmHWM:":
			peak = kib * 1024
		}
	}
	return now, peak
}

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
