package dev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/znshub/znshub/pkg/config"
	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/services/ingest"
	"github.com/znshub/znshub/services/sender"
)

// group runs the programs of a stack and stops them in the reverse order of their start.
type group struct {
	failed chan error // the first end that nobody asked for

	mu      sync.Mutex // guards running
	running []*running
}

// running is one program that was started.
type running struct {
	name  string
	stop  context.CancelFunc
	ended chan struct{}
	err   error // valid once ended is closed
	admin func(context.Context) error
	Admin string // address of /readyz and /metrics
	svc   *service.Service
}

func newGroup() *group { return &group{failed: make(chan error, 1)} }

// start runs a program with an admin server of its own until stop.
func (g *group) start(ctx context.Context, svc *service.Service, adminAddr string, run func(context.Context) error) (*running, error) {
	r := &running{name: svc.Name, svc: svc, ended: make(chan struct{})}
	addr, stopAdmin, err := svc.ServeAdmin(ctx, adminAddr)
	if err != nil {
		return nil, err
	}
	r.Admin, r.admin = addr.String(), stopAdmin
	runCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	r.stop = stop
	go func() {
		defer close(r.ended)
		r.err = run(runCtx)
		if runCtx.Err() == nil {
			// It ended by itself: the stack is broken.
			select {
			case g.failed <- fmt.Errorf("%s ended: %w", r.name, orEnded(r.err)):
			default:
			}
		}
	}()
	g.mu.Lock()
	g.running = append(g.running, r)
	g.mu.Unlock()
	return r, nil
}

var errEnded = errors.New("without an error")

func orEnded(err error) error {
	if err == nil {
		return errEnded
	}
	return err
}

// close stops the program and waits for its orderly end.
func (r *running) close(ctx context.Context) error {
	r.svc.Stopping()
	r.stop()
	select {
	case <-r.ended:
	case <-ctx.Done():
		return fmt.Errorf("%s does not stop: %w", r.name, ctx.Err())
	}
	err := r.err
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", r.name, err)
	}
	return errors.Join(err, r.svc.Close(ctx), r.admin(ctx))
}

// close stops all programs, the last one first.
func (g *group) close(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	for _, r := range slices.Backward(g.running) {
		errs = append(errs, r.close(ctx))
	}
	g.running = nil
	return errors.Join(errs...)
}

// LoadSender reads a sender's settings from environ.
func LoadSender(environ []string) (sender.Config, service.Config, error) {
	var cfg sender.Config
	var common service.Config
	_, err := config.LoadFrom(environ, &common, &cfg)
	return cfg, common, err
}

// RunSender runs a sender with the settings in environ until ctx ends: what the program sender does, without its admin
// server and traces. It calls ready once the sender works.
func RunSender(ctx context.Context, environ []string, logTo *os.File, ready func()) error {
	cfg, common, err := LoadSender(environ)
	if err != nil {
		return err
	}
	svc := service.New("sender", common.InstanceID, common.Cluster, service.NewLogger(logTo, common.LogFormat, common.LogLevel), nil)
	snd, err := sender.New(svc, cfg, sender.Extras{})
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		if waitReady(ctx, "sender", ended, snd.Ready) == nil {
			ready()
		}
	})
	err = snd.Run(ctx)
	close(ended)
	watching.Wait()
	return err
}

// startSender adds a sender to the stack.
func (s *Stack) startSender(ctx context.Context) error {
	cfg, common, err := LoadSender(s.Environ)
	if err != nil {
		return err
	}
	svc, err := s.service(ctx, "sender", common)
	if err != nil {
		return err
	}
	snd, err := sender.New(svc, cfg, sender.Extras{})
	if err != nil {
		return err
	}
	r, err := s.group.start(ctx, svc, s.cfg.address(8081), snd.Run)
	if err != nil {
		return err
	}
	s.SenderAdmin = r.Admin
	return waitReady(ctx, "sender", r.ended, snd.Ready)
}

// startIngest adds a webhook-ingest that listens on ln.
func (s *Stack) startIngest(ctx context.Context, ln net.Listener) error {
	var cfg ingest.Config
	var common service.Config
	if _, err := config.LoadFrom(s.Environ, &common, &cfg); err != nil {
		return err
	}
	svc, err := s.service(ctx, "webhook-ingest", common)
	if err != nil {
		return err
	}
	//nolint:contextcheck // it works until it is stopped, not until this start is over
	in, err := ingest.New(svc, cfg, ingest.Extras{Listener: ln})
	if err != nil {
		return err
	}
	r, err := s.group.start(ctx, svc, s.cfg.address(8082), in.Run)
	if err != nil {
		return err
	}
	s.IngestAdmin = r.Admin
	return waitReady(ctx, "webhook-ingest", r.ended, in.Ready)
}

// waitReady asks until the program is ready, ended or out of time.
func waitReady(ctx context.Context, name string, ended <-chan struct{}, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("%s ended before it was ready: %w", name, err)
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", name, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Without returns environ without the variables that begin with one of the prefixes.
func Without(environ []string, prefixes ...string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(v string) bool {
		return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(v, prefix) })
	})
}
