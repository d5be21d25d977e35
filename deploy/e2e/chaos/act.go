package chaos

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/pause"
)

// Perform does what the plan says, from begin on, and returns when the last event is over. When ctx ends it does nothing
// more, and what is under way is cut short.
func (s *Stage) Perform(ctx context.Context, begin time.Time, plan []Event) {
	var acting sync.WaitGroup
	for _, e := range plan {
		if !pause.For(ctx, time.Until(begin.Add(e.At))) {
			break
		}
		acting.Go(func() {
			turn := s.turn(e.Target())
			turn.Lock()
			defer turn.Unlock()
			if ctx.Err() != nil {
				return
			}
			h := Happened{Event: e, From: time.Now()}
			note, err := s.act(ctx, e)
			if err != nil {
				s.note("%s: %v", e, err)
			}
			h.To, h.Note = time.Now(), note
			s.mu.Lock()
			s.done = append(s.done, h)
			s.mu.Unlock()
		})
	}
	acting.Wait()
}

// stopTime bounds a clean stop: the drain, and calls to a broker that is away.
const stopTime = time.Minute

func (s *Stage) act(ctx context.Context, e Event) (note string, err error) {
	switch e.Kind {
	case Killed:
		return s.stopAndStart(ctx, e, (*harness.Process).Kill)
	case Terminated:
		return s.stopAndStart(ctx, e, func(p *harness.Process) error { return terminate(ctx, p) })
	case Crashed:
		return s.crash(ctx, e)
	case Paused:
		return s.pause(ctx, e, s.process(e.Who))
	case ZaloPause:
		return s.pause(ctx, e, s.Sim)
	case CutBroker:
		weather(ctx, s.toKafka[e.Who], e)
		return "", nil
	case CutZalo:
		weather(ctx, s.toZalo[e.Who], e)
		return "", nil
	case CutWebhook:
		weather(ctx, s.webhook, e)
		return "", nil
	case ClockSet:
		p := s.process(e.Who)
		if err := p.SetClock(e.Skew); err != nil {
			return "", err
		}
		pause.For(ctx, e.For)
		return "", p.SetClock(0)
	case BrokerKill:
		err = s.broker.Kill()
		pause.For(ctx, e.For)
		return s.restartBroker(ctx, err)
	case BrokerPause:
		if err := s.broker.Pause(); err != nil {
			return "", err
		}
		pause.For(ctx, e.For)
		return "", s.broker.Resume()
	case DiskFull:
		return s.fillDisk(ctx, e)
	case Misanswer, Miscallback:
		return s.fault(ctx, e)
	case Held:
		return s.hold(ctx, e)
	case Cancelled:
		return s.cancel(ctx, e)
	}
	return "", fmt.Errorf("unknown kind %q", e.Kind)
}

// terminate stops a process with SIGTERM, and kills it when that takes too long.
func terminate(ctx context.Context, p *harness.Process) error {
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	err := p.Terminate(stop)
	if err != nil && strings.Contains(err.Error(), "signal: terminated") {
		return nil // one that has hardly begun to run does not yet listen: it ends by the signal, and has done nothing
	}
	return err
}

// stopAndStart stops a process in some way, if it runs, and starts it after a while.
func (s *Stage) stopAndStart(ctx context.Context, e Event, stop func(*harness.Process) error) (string, error) {
	p := s.process(e.Who)
	var note string
	if p.Running() {
		begin := time.Now()
		if err := stop(p); err != nil {
			s.note("%s: %v", e, err)
		}
		note = fmt.Sprintf("stopped in %.1fs", time.Since(begin).Seconds())
	} else {
		note = "it did not run: started"
	}
	pause.For(ctx, e.For)
	return note, p.Start()
}

// crash starts a sender so that it kills itself at a step, and then starts it as it was. Steps of a revoke or a stop
// need one: it gets SIGTERM.
func (s *Stage) crash(ctx context.Context, e Event) (string, error) {
	p := s.process(e.Who)
	if err := p.Kill(); err != nil {
		return "", err
	}
	whole := slices.Clone(p.Env)
	p.Env = append(slices.Clone(whole), "ZNS_CRASH_AT="+e.Step)
	err := p.Start()
	p.Env = whole
	if err != nil {
		return "", err
	}
	p.MayEnd()
	note := "it crashed"
	patience := 4*time.Second + e.For
	if strings.HasPrefix(e.Step, "revoke") || strings.HasPrefix(e.Step, "stop") {
		patience = 6 * time.Second
	}
	select {
	case <-p.Ended():
	case <-ctx.Done():
	case <-time.After(patience):
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		note = "SIGTERM"
		if err := p.Terminate(stop); err != nil {
			if !strings.Contains(err.Error(), "signal: killed") {
				return note, err
			}
			note = "it crashed at SIGTERM"
		}
	}
	if p.Running() {
		return note + ", not at all", nil
	}
	return note, p.Start()
}

func (s *Stage) pause(ctx context.Context, e Event, p *harness.Process) (string, error) {
	if err := p.Pause(); err != nil {
		return "it did not run", nil //nolint:nilerr // another event has stopped it
	}
	pause.For(ctx, e.For)
	return "", p.Resume()
}

func weather(ctx context.Context, p *harness.Proxy, e Event) {
	p.Set(e.Weather)
	pause.For(ctx, e.For)
	p.Set(harness.Clear)
}

func (s *Stage) restartBroker(ctx context.Context, before error) (string, error) {
	if before != nil {
		return "", before
	}
	begin := time.Now()
	// Also when the run is over: nothing can be summed up without it.
	restart, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	err := s.broker.Restart(restart)
	return fmt.Sprintf("it took %.1fs to start", time.Since(begin).Seconds()), err
}

// fillDisk takes the broker's room away. Kafka gives up a log folder that it cannot write to, and itself with the last
// one: an operator makes room and starts it again.
func (s *Stage) fillDisk(ctx context.Context, e Event) (string, error) {
	if s.disk == nil {
		return "not done", nil
	}
	if err := s.disk.fill(); err != nil {
		return "", err
	}
	pause.For(ctx, max(e.For, 5*time.Second))
	died := !s.broker.Running()
	if err := s.disk.free(); err != nil {
		return "", err
	}
	if !died {
		return "the broker lived on", nil
	}
	note, err := s.restartBroker(ctx, nil)
	return "the broker gave up; " + note, err
}

func (s *Stage) fault(ctx context.Context, e Event) (string, error) {
	admin, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	id, err := s.Simulator().AddFault(admin, e.Fault)
	if err != nil {
		return "", err
	}
	pause.For(ctx, e.For)
	return "", s.Simulator().ClearFault(context.WithoutCancel(admin), id)
}

// Heal makes everything well: what is stopped goes on, all senders run, nothing is in the way.
func (s *Stage) Heal(ctx context.Context) error {
	defer s.takeTurns(s.Processes())()
	for _, p := range s.Processes() {
		_ = p.Resume()
	}
	for _, proxies := range []map[string]*harness.Proxy{s.toKafka, s.toZalo, {"": s.webhook}} {
		for _, p := range proxies {
			p.Set(harness.Clear)
		}
	}
	for _, p := range s.Processes() {
		if err := p.SetClock(0); err != nil {
			return err
		}
		if !p.Running() {
			if err := p.Start(); err != nil {
				return err
			}
		}
	}
	return s.Simulator().Heal(ctx)
}
