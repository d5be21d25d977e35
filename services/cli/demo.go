package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/znshub/znshub/services/cli/demo"
	"github.com/znshub/znshub/services/cli/dev"
	"github.com/znshub/znshub/services/cli/render"
)

type demoCmd struct {
	Force   bool `help:"Use the cluster in KAFKA_BROKERS although it holds records that no zns dev or demo wrote."`
	Explain bool `help:"Also tell the stories of the requests whose answer was lost and whose sender was killed."`
	Verbose bool `short:"v" help:"Print the sender's log."`
}

// Help implements kong.HelpProvider.
func (demoCmd) Help() string {
	return `Runs the hub on a fake broker in this process, or on the cluster in KAFKA_BROKERS, with the Zalo simulator and the sender as a process of its own, which is killed inside a call. Takes about 15 seconds. The exit code is 0 only when the sums are right.

Examples:

    zns demo
    KAFKA_BROKERS=localhost:9092 zns demo
    zns demo --json | jq .sums`
}

// Run runs the demo and prints its table.
func (c *demoCmd) Run(ctx context.Context, a *App) error {
	external, err := a.externalKafka()
	if err != nil {
		return err
	}
	level := "ERROR"
	if c.Verbose {
		level = "INFO"
	}
	senders := &senders{environ: a.Environ}
	progress := a.progress()
	result, err := demo.Run(ctx, demo.Config{
		Kafka: external, Force: c.Force, Environ: append(a.Environ, "LOG_LEVEL="+level), Sender: senders.start, Stories: c.Explain, Progress: progress,
	})
	progress("")
	if c.Verbose || err != nil || !result.OK {
		_, _ = io.Copy(a.Err, bytes.NewReader(senders.log.bytes()))
	}
	if err != nil {
		return stackFailed(err)
	}
	if a.Globals.JSON {
		err = a.printJSON(result)
	} else {
		for i := range result.Stories {
			fmt.Fprintf(a.Out, "%s\n\n", result.Stories[i].Text(a.Style, time.Now(), ""))
		}
		fmt.Fprintf(a.Out, "broker %s · zalo simulator seed %d\n", result.Broker, result.Seed)
		_, err = io.WriteString(a.Out, demo.Table(a.Style, result.Rows, result.Sums))
	}
	if err == nil && !result.OK {
		err = errQuiet
	}
	return err
}

// progress shows one line on a terminal that the next one replaces; elsewhere nothing.
func (a *App) progress() func(string) {
	if a.Globals.JSON || !render.IsTerminal(a.Err) {
		return func(string) {}
	}
	style := render.StyleFor(a.Err, a.getenv)
	return func(text string) {
		fmt.Fprint(a.Err, "\r\x1b[K")
		if text != "" {
			fmt.Fprint(a.Err, style.Dim(text+" …"))
		}
	}
}

// senders starts this program again as sender processes.
type senders struct {
	environ []string
	log     logBuffer
}

// start implements demo.Config.Sender.
func (s *senders) start(environ []string) (demo.Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.Command(self, "demo-sender") //nolint:noctx // it is killed or stopped by hand
	cmd.Env, cmd.Stderr = environ, &s.log
	said, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a sender: %w", err)
	}
	p := &senderProcess{cmd: cmd, ready: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		if line, _ := bufio.NewReader(said).ReadString('\n'); line == readyLine {
			close(p.ready)
		}
		_, _ = io.Copy(io.Discard, said)
		p.err = cmd.Wait()
	}()
	return p, nil
}

// readyLine is what a sender process says once it works.
const readyLine = "ready\n"

// senderProcess is a running sender.
type senderProcess struct {
	cmd   *exec.Cmd
	ready chan struct{}
	ended chan struct{}
	err   error // valid once ended is closed
}

// Ready implements demo.Process.
func (p *senderProcess) Ready(ctx context.Context) error {
	select {
	case <-p.ready:
		return nil
	case <-p.ended:
		return fmt.Errorf("the sender ended: %w", p.err)
	case <-ctx.Done():
		return fmt.Errorf("the sender does not get ready: %w", ctx.Err())
	}
}

// Kill implements demo.Process.
func (p *senderProcess) Kill() error {
	select {
	case <-p.ended:
		return fmt.Errorf("it ended before: %w", p.err)
	default:
	}
	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	<-p.ended
	return nil
}

// Stop implements demo.Process.
func (p *senderProcess) Stop() error {
	select {
	case <-p.ended:
		return p.killedOrNil()
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.ended:
		return p.killedOrNil()
	case <-time.After(20 * time.Second):
		return errors.Join(errors.New("the sender does not stop"), p.Kill())
	}
}

// killedOrNil is nil for an orderly end and for one by Kill.
func (p *senderProcess) killedOrNil() error {
	exit, ok := errors.AsType[*exec.ExitError](p.err)
	if p.err == nil || ok && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return nil
	}
	return fmt.Errorf("the sender ended: %w", p.err)
}

// logBuffer keeps the last part of what senders log.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf []byte
}

const maxLog = 64 << 10

// Write implements io.Writer.
func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, b...)
	if len(l.buf) > maxLog {
		l.buf = append([]byte(nil), l.buf[len(l.buf)-maxLog:]...)
	}
	return len(b), nil
}

func (l *logBuffer) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.buf)
}

// demoSenderCmd is the sender of zns demo, in a process of its own so that it can be killed.
type demoSenderCmd struct{}

// Run sends until ctx ends.
func (demoSenderCmd) Run(ctx context.Context, a *App) error {
	f, ok := a.Err.(*os.File)
	if !ok {
		f = os.Stderr
	}
	return dev.RunSender(ctx, a.Environ, f, func() { fmt.Fprint(a.Out, readyLine) })
}
