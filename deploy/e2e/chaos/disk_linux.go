package chaos

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// diskSize is more than a run writes; what is not used costs nothing.
const diskSize = "size=1500m"

// disk is a small file system in memory that can be filled up.
type disk struct{ dir string }

func newDisk(dir string) (*disk, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := syscall.Mount("znshub-chaos", dir, "tmpfs", 0, diskSize); err != nil {
		return nil, fmt.Errorf("mount a tmpfs, which root may: %w", err)
	}
	// The broker's folder is below: in the root of a file system may lie what is not the broker's.
	d := &disk{dir: filepath.Join(dir, "kafka")}
	return d, os.Mkdir(d.dir, 0o755)
}

func (d *disk) ballast() string { return filepath.Join(filepath.Dir(d.dir), "ballast") }

// fill leaves no room.
func (d *disk) fill() error {
	f, err := os.Create(d.ballast())
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for size := len(block); size > 0; {
		_, err := f.Write(block[:size])
		switch {
		case errors.Is(err, syscall.ENOSPC):
			size /= 2
		case err != nil:
			return err
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// free makes room again.
func (d *disk) free() error { return os.Remove(d.ballast()) }

func (d *disk) close() error {
	return syscall.Unmount(filepath.Dir(d.dir), syscall.MNT_DETACH)
}
