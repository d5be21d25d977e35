//go:build !unix

package spool

import (
	"errors"
	"os"
)

// lockDir refuses: the order of writes that the spool relies on is known for Unix file systems only.
func lockDir(string) (*os.File, error) {
	return nil, errors.New("the spool runs on Unix systems only")
}
