package harness

import (
	"os/exec"
	"syscall"
)

// endWithParent makes the kernel kill the program when the test that started it dies, however it dies.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
