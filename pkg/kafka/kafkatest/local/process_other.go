//go:build !unix

package local

import (
	"errors"
	"os"
	"syscall"
)

var errUnsupported = errors.New("a local broker needs a Unix system; set KAFKA_BROKERS")

// The system has no such signals; startProcess never gets so far.
const sigStop, sigCont = syscall.Signal(0), syscall.Signal(0)

type process struct{ ended chan struct{} }

func supported() error { return errUnsupported }

func startProcess([]string, string, *os.File) (*process, error) { return nil, errUnsupported }

func (p *process) pid() int { return 0 }

func (p *process) signal(syscall.Signal) error { return errUnsupported }

func (p *process) end(syscall.Signal) error { return errUnsupported }

func lock(string) (func(), error) { return nil, errUnsupported }
