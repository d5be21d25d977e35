package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Process is one program that can be started, killed, paused and started again with the same settings. Its output goes
// to one log file, over all its lives. Its methods may be called from any goroutine.
type Process struct {
	Name    string // of the instance, "sender-2"
	Path    string
	Args    []string
	Env     []string // added to a small clean environment
	LogFile string
	// ReadyURL answers 200 when the program works; empty: a started program counts as ready.
	ReadyURL string

	mu      sync.Mutex // guards what follows
	cmd     *exec.Cmd
	ended   chan struct{} // closed when cmd has ended
	asked   bool          // somebody here ended cmd
	paused  bool
	starts  int
	crashes []string
}

// Start starts the program and returns at once.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running() {
		return fmt.Errorf("start %s: it runs already", p.Name)
	}
	log, err := os.OpenFile(p.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", p.Name, err)
	}
	defer log.Close()
	p.starts++
	fmt.Fprintf(log, "--- %s: start %d of %s\n", time.Now().Format(time.StampMilli), p.starts, p.Name)
	cmd := exec.Command(p.Path, p.Args...) //nolint:noctx // it is ended by Kill or Terminate
	cmd.Env = append(append(environment(), clockVariable+"="+p.clockFile()), p.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	endWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	ended := make(chan struct{})
	p.cmd, p.ended, p.asked, p.paused = cmd, ended, false, false
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.asked {
			p.crashes = append(p.crashes, fmt.Sprintf("%s ended by itself: %v", p.Name, exitText(err)))
		}
		close(ended)
	}()
	return nil
}

func exitText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// environment is what programs inherit: nothing that a developer's shell may hold about Kafka, Zalo or telemetry.
func environment() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GOCOVERDIR", "GORACE", "GODEBUG", "GOGC", "GOMEMLIMIT"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func (p *Process) running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Running reports whether the program lives.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running()
}

// Pid is the process id, 0 when the program does not run.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return 0
	}
	return p.cmd.Process.Pid
}

// Crashes tells how often the program ended though nobody here asked it to.
func (p *Process) Crashes() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.crashes)
}

// Ask sends SIGTERM and does not wait.
func (p *Process) Ask() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return fmt.Errorf("%s does not run", p.Name)
	}
	p.asked = true
	return p.cmd.Process.Signal(syscall.SIGTERM)
}

// ReadyNow returns nil when the program says that it works, and else why not.
func (p *Process) ReadyNow(ctx context.Context) error { return get(ctx, p.ReadyURL) }

// MayEnd says that the present life of the program may end by itself: that is no crash.
func (p *Process) MayEnd() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = true
}

// Ended is closed when the present life of the program has ended; nil when it was never started.
func (p *Process) Ended() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

// Kill ends the program with SIGKILL and waits until it is gone.
func (p *Process) Kill() error { return p.end(context.Background(), syscall.SIGKILL) }

// Terminate asks the program with SIGTERM to end and waits for it. When ctx ends first the program is killed and the
// error says that it did not stop.
func (p *Process) Terminate(ctx context.Context) error {
	err := p.end(ctx, syscall.SIGTERM)
	if err != nil {
		return errors.Join(err, p.end(context.WithoutCancel(ctx), syscall.SIGKILL))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil && !p.cmd.ProcessState.Success() {
		return fmt.Errorf("%s stopped with %s, see %s", p.Name, p.cmd.ProcessState, p.LogFile)
	}
	return nil
}

func (p *Process) end(ctx context.Context, sig syscall.Signal) error {
	p.mu.Lock()
	if !p.running() {
		p.mu.Unlock()
		return nil
	}
	p.asked = true
	ended := p.ended
	err := p.cmd.Process.Signal(sig)
	if p.paused && sig != syscall.SIGKILL {
		err = errors.Join(err, p.cmd.Process.Signal(syscall.SIGCONT))
	}
	p.mu.Unlock()
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s %s: %w", sig, p.Name, err)
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s does not end after %s: %w", p.Name, sig, ctx.Err())
	}
}

// Pause stops the program with SIGSTOP: its connections stay open and it does nothing until Resume.
func (p *Process) Pause() error { return p.hold(true, syscall.SIGSTOP) }

// Resume continues a paused program.
func (p *Process) Resume() error { return p.hold(false, syscall.SIGCONT) }

func (p *Process) hold(paused bool, sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return fmt.Errorf("%s does not run", p.Name)
	}
	p.paused = paused
	return p.cmd.Process.Signal(sig)
}

// Ready waits until the program says that it works.
func (p *Process) Ready(ctx context.Context) error {
	var last error
	for {
		if p.ReadyURL == "" {
			return nil
		}
		if last = get(ctx, p.ReadyURL); last == nil {
			return nil
		}
		p.mu.Lock()
		ended := p.ended
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; end of its log:\n%s", p.Name, last, p.LogTail(15))
		case <-ended:
			return fmt.Errorf("%s ended before it was ready; end of its log:\n%s", p.Name, p.LogTail(15))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Restart starts the program again after Kill or Terminate and waits until it is ready.
func (p *Process) Restart(ctx context.Context) error {
	if err := p.Start(); err != nil {
		return err
	}
	return p.Ready(ctx)
}

func get(ctx context.Context, url string) error {
	_, err := fetch(ctx, url)
	return err
}

// fetch returns the body of an answer 200.
func fetch(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(body[:min(len(body), 512)]))
	}
	return body, err
}

// Log is all that the program has written, over all its lives.
func (p *Process) Log() string {
	text, _ := os.ReadFile(p.LogFile)
	return string(text)
}

// LogTail is the end of Log.
func (p *Process) LogTail(lines int) string {
	all := bytes.Split(bytes.TrimSpace([]byte(p.Log())), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}
