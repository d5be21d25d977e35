//go:build unix

package harness

import (
	"runtime"
	"syscall"
	"time"
)

// Usage is what the program's latest life took of the machine: processor time in user and system mode, and the most
// memory that was resident, in bytes. Both are 0 while it runs, and before its first start.
func (p *Process) Usage() (cpu time.Duration, peak int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil || p.running() || p.cmd.ProcessState == nil {
		return 0, 0
	}
	cpu = p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	if usage, ok := p.cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		peak = usage.Maxrss
		if runtime.GOOS == "linux" {
			peak <<= 10 // there in KiB, elsewhere in bytes
		}
	}
	return cpu, peak
}
