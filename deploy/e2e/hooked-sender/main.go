// Command hooked-sender is the sender with a hook for tests: it kills itself with -9 at a step of the engine's work or
// of a call.
//
//	ZNS_CRASH_AT='tick: produced#3'   at the third passing of that step
//
// The steps of the engine are those of package stream. A call has three more:
//
//	call: dialled    a connection to Zalo is open, nothing was written to it
//	call: written    a request has left, its answer has not come
//	call: answered   the answer has come, nobody has looked at it
//
// Without the variable it is the sender. Its clock can be set when it is built with harness.BuildWithClock.
package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/pkg/stream"
	"github.com/znshub/znshub/services/sender"
)

// Steps of a call, besides those of the engine.
const (
	stepDialled  stream.Step = "call: dialled"
	stepWritten  stream.Step = "call: written"
	stepAnswered stream.Step = "call: answered"
)

func main() {
	hook, err := newHook(os.Getenv("ZNS_CRASH_AT"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	var cfg sender.Config
	os.Exit(service.Main(service.Program{
		Name: "sender", Help: "hooked-sender is the sender with a hook for tests: ZNS_CRASH_AT='step#n'.", Settings: []any{&cfg},
		Run: func(ctx context.Context, svc *service.Service) error {
			s, err := sender.New(svc, cfg, sender.Extras{Step: hook.pass, Dial: hook.dial})
			if err != nil {
				return err
			}
			return s.Run(ctx)
		},
	}))
}

// hook kills the process at the nth passing of a step.
type hook struct {
	at   stream.Step
	mu   sync.Mutex // guards left
	left int
}

// newHook reads "step#n"; without #n it is the first passing.
func newHook(at string) (*hook, error) {
	step, n, _ := strings.Cut(at, "#")
	left, err := strconv.Atoi(cmp.Or(n, "1"))
	if err != nil || left < 1 {
		return nil, fmt.Errorf("ZNS_CRASH_AT=%q: want a step and the number of its passing; for example ZNS_CRASH_AT='tick: produced#3'", at)
	}
	return &hook{at: stream.Step(step), left: left}, nil
}

func (h *hook) pass(s stream.Step) {
	if s != h.at {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.left--; h.left == 0 {
		fmt.Fprintf(os.Stderr, "hooked-sender: killed at %q\n", s)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func (h *hook) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil || !strings.HasPrefix(string(h.at), "call: ") {
		return c, err
	}
	h.pass(stepDialled)
	return &conn{Conn: c, hook: h}, nil
}

// conn is a connection to Zalo whose traffic passes the hook.
type conn struct {
	net.Conn
	hook *hook
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.hook.pass(stepWritten)
	return n, err
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.hook.pass(stepAnswered)
	}
	return n, err
}
