package spool

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// On a file system without one free block: appends are refused, Done still works, and then there is room again.
func TestFullFileSystem(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=262144"); err != nil {
		t.Skipf("no right to mount a small tmpfs: %v", err)
	}
	defer syscall.Unmount(dir, 0)
	s, told := open(t, dir, func(c *Config) { c.SegmentBytes = 30_000 })
	defer s.Close()
	stored := 0
	for {
		err := s.Append(t.Context(), make([]byte, 1000))
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		stored++
	}
	// The last free bytes go to somebody else.
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	filler.Close()
	if err := s.Append(t.Context(), make([]byte, 1000)); !errors.Is(err, ErrFull) {
		t.Fatalf("append to a full disk: %v", err)
	}
	if got := len(drain(t, s, 10)); got != stored {
		t.Fatalf("%d acknowledged, %d handed out", stored, got)
	}
	waitFor(t, "room again", func() bool { return s.Append(t.Context(), make([]byte, 1000)) == nil })
	if len(*told) > 0 {
		t.Errorf("damage: %+v", *told)
	}
}
