package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/pause"
)

// Config is one run.
type Config struct {
	Seed      uint64
	Length    time.Duration // of the traffic and of what goes wrong
	PerSecond int           // requests
	Bin       string        // programs of Build
	Dir       string        // for the artefacts; is made
	Out       io.Writer     // progress lines
	Only      []Kind        // what goes wrong; empty: everything

	// For tests: when the attendant takes a healthy group for damaged, by its setting; and what is done beside the plan.
	provoke map[string]time.Duration
	during  func(context.Context, *Stage)
}

// settleTime bounds how long after the last trouble everything that can end must have ended: windows of policies, the
// minute in which a new owner decides nothing, pauses between retries, resends of callbacks.
const settleTime = 4 * time.Minute

// Run makes one run. The error says that it could not be made; what broke is in the Verdict.
func Run(ctx context.Context, cfg Config) (*Verdict, error) {
	plan := slices.DeleteFunc(Plan(cfg.Seed, cfg.Length), func(e Event) bool { return len(cfg.Only) > 0 && !slices.Contains(cfg.Only, e.Kind) })
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(cfg.Dir, "plan.txt"), []byte(Text(plan)), 0o600); err != nil {
		return nil, err
	}
	say := func(format string, args ...any) { fmt.Fprintf(cfg.Out, format+"\n", args...) }
	opening, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	say("starting a broker, webhook-ingest, the simulator and %d senders", 1+int(cfg.Seed%3))
	s, err := Open(opening, cfg.Bin, cfg.Dir, 1+int(cfg.Seed%3))
	if err != nil {
		return nil, err
	}
	defer s.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what stops badly was looked at before
	if s.Remark != "" {
		say("note: %s", s.Remark)
	}
	traffic := &Traffic{Seed: cfg.Seed, PerSecond: cfg.PerSecond, Keys: 300}
	begin := time.Now()
	duty, err := s.attend(ctx, begin, cfg.provoke)
	if err != nil {
		return nil, err
	}
	off := sync.OnceFunc(duty.off)
	defer off()
	over, stop := context.WithDeadline(ctx, begin.Add(cfg.Length))
	defer stop()
	published := make(chan error, 1)
	go func() { published <- traffic.Publish(over, s.Brokers) }()
	var performing sync.WaitGroup
	performing.Go(func() { s.Perform(over, begin, plan) })
	if cfg.during != nil {
		performing.Go(func() { cfg.during(over, s) })
	}
	s.report(over, begin, cfg.Length, traffic, say)
	performing.Wait()
	for i := range 4 { // a hold that could not be ended in time
		if err := s.release(ctx, fmt.Sprintf("campaign-%d", i)); err != nil {
			s.note("%v", err)
		}
	}
	if err := s.Heal(ctx); err != nil {
		return nil, err
	}
	healed := time.Now()
	say("everything is well again; waiting for what can still end")
	if err := <-published; err != nil {
		return nil, err
	}
	v, err := s.settle(ctx, traffic, duty, healed, say)
	off()
	if v != nil {
		v.Faults, v.Attended = duty.told()
	}
	if err == nil {
		err = s.finish(ctx, v)
	}
	return v, errors.Join(err, s.write(cfg, v, begin))
}

// report prints a line now and then.
func (s *Stage) report(ctx context.Context, begin time.Time, length time.Duration, t *Traffic, say func(string, ...any)) {
	for pause.For(ctx, 10*time.Second) {
		made, confirmed := t.Progress()
		n := s.Results.Counts()
		say("%5s of %s: %d records made, %d on the broker; ids: %d ended, %d open, %d delivered; %d things went wrong",
			time.Since(begin).Round(time.Second), length, made, confirmed, n.Ended, n.Open, n.Delivered, len(s.Happened()))
	}
}

// settle judges again and again until nothing is broken that time may mend, or too much of it has passed. Two looks in a
// row must find that: nothing may happen any more that breaks it. What is just under way, such as a request whose time
// has come, may look broken for a moment: one topic is read after another. What the attendant mends makes everything
// well only then.
func (s *Stage) settle(ctx context.Context, t *Traffic, duty *attendant, healed time.Time, say func(string, ...any)) (*Verdict, error) {
	var v *Verdict // the latest
	for held := false; ; {
		healed = duty.settled(healed)
		look, cancel := context.WithTimeout(ctx, time.Minute)
		next, err := s.Judge(look, t, healed)
		cancel()
		if err == nil {
			v = next
		}
		good := err == nil && !v.mayMend()
		if good && held || ctx.Err() != nil || time.Since(healed) > settleTime {
			return v, err
		}
		if held = good; held {
			pause.For(ctx, 3*time.Second)
			continue
		}
		if err != nil {
			say("cannot judge yet: %v", err)
		} else {
			say("%5s after the end: %d equations do not hold yet (%s)", time.Since(healed).Round(time.Second), len(v.Broken), v.Broken[0])
		}
		pause.For(ctx, 10*time.Second)
	}
}

// mayMend reports whether an equation is broken that time may mend.
func (v *Verdict) mayMend() bool {
	return slices.ContainsFunc(v.Broken, func(b harness.Violation) bool { return b.Rule != RuleAlone })
}

// finish stops the programs: each must end cleanly.
func (s *Stage) finish(ctx context.Context, v *Verdict) error {
	if len(v.Broken) > 0 {
		s.Autopsy(ctx)
		look, cancel := context.WithTimeout(ctx, time.Minute)
		if err := s.witness(look, v); err != nil {
			_ = os.WriteFile(filepath.Join(s.dir, "records-failed.txt"), []byte(err.Error()), 0o600)
		}
		cancel()
	}
	stop, cancel := context.WithTimeout(ctx, stopTime)
	defer cancel()
	if err := s.Stop(stop); err != nil {
		v.Broken = append(v.Broken, harness.Violation{Rule: RuleAlone, Count: 1, IDs: []string{"-"}, Detail: err.Error()})
	}
	return nil
}

// write leaves what happened and the verdict beside the logs.
func (s *Stage) write(cfg Config, v *Verdict, begin time.Time) error {
	var b strings.Builder
	for _, h := range s.Happened() {
		fmt.Fprintf(&b, "%s to %s (%.1fs): %s %s\n", h.From.Format("15:04:05.000"), h.To.Format("15:04:05.000"), h.From.Sub(begin).Seconds(), h.Event, h.Note)
	}
	err := os.WriteFile(filepath.Join(cfg.Dir, "happened.txt"), []byte(b.String()), 0o600)
	if v != nil {
		err = errors.Join(err, os.WriteFile(filepath.Join(cfg.Dir, "verdict.txt"), []byte(v.Table()), 0o600))
	}
	return err
}
