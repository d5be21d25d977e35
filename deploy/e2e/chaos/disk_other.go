//go:build !linux

package chaos

import "errors"

// disk is a small file system that can be filled up.
type disk struct{ dir string }

func newDisk(string) (*disk, error) { return nil, errors.New("on Linux only") }

func (d *disk) fill() error  { return nil }
func (d *disk) free() error  { return nil }
func (d *disk) close() error { return nil }
