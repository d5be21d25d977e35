//go:build unix

package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// watch ends process $1 and removes folder $2 when its standard input closes without a line: the program at the other
// end of the pipe died. A line means that this program has ended the process itself. The process is waited for before
// the folder goes, so that it creates no file behind the removal; not for ever, because a process that nobody reaps
// stays visible.
const watch = `read -r line && exit 0
kill -9 "$1" 2>/dev/null
n=0; while kill -0 "$1" 2>/dev/null && [ $n -lt 20 ]; do sleep 0.1; n=$((n+1)); done
rm -rf "$2"`

const (
	sigStop = syscall.SIGSTOP
	sigCont = syscall.SIGCONT
)

// process is a child with its watchdog.
type process struct {
	cmd   *exec.Cmd
	guard *exec.Cmd
	pipe  io.WriteCloser // the guard's standard input
	ended chan struct{}  // closed when the child was reaped
}

func supported() error { return nil }

func startProcess(args []string, dir string, log *os.File) (*process, error) {
	p := &process{cmd: exec.Command(args[0], args[1:]...), ended: make(chan struct{})} //nolint:noctx // it outlives the call; end ends it
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// A group of their own: Ctrl-C on the terminal is for the program, which then ends the broker.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // how it ended is in its log
	}()
	p.guard = exec.Command("/bin/sh", "-c", watch, "sh", strconv.Itoa(p.pid()), dir) //nolint:noctx // as above
	p.guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := p.guard.StdinPipe()
	if err == nil {
		p.pipe, err = pipe, p.guard.Start()
	}
	if err != nil {
		_ = p.cmd.Process.Kill()
		<-p.ended
		return nil, fmt.Errorf("start the watchdog: %w", err)
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// end signals the child and waits until it is gone, then sends the watchdog home.
func (p *process) end(sig syscall.Signal) error {
	err := p.signal(sig)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	if err == nil && sig != syscall.SIGKILL {
		_ = p.signal(syscall.SIGCONT) // a paused process takes no SIGTERM
	}
	if err != nil {
		return err
	}
	<-p.ended
	_, err = io.WriteString(p.pipe, "done\n")
	return errors.Join(err, p.pipe.Close(), p.guard.Wait())
}

// lock takes an exclusive lock on the file at path, which it makes, and waits for it.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
