//go:build !linux

package harness

import "os/exec"

// endWithParent does nothing here: only Linux can tie a process to its parent.
func endWithParent(*exec.Cmd) {}
