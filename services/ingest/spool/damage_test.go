package spool

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// stored fills a spool with ten records in one segment and closes it.
func stored(tb testing.TB) (dir, segment string, records []string, frame int) {
	tb.Helper()
	dir = tb.TempDir()
	s, _ := open(tb, dir)
	records = numbered(0, 10)
	put(tb, s, records...)
	if err := s.Close(); err != nil {
		tb.Fatal(err)
	}
	return dir, segmentFiles(tb, dir)[0], records, headerSize + len(records[0])
}

// Every way of cutting the last frame loses that frame only, tells of it and keeps the bytes.
func TestTornTail(t *testing.T) {
	for cut := 1; cut <= headerSize+13; cut++ {
		dir, segment, records, frame := stored(t)
		size := int64(10*frame - cut)
		if err := os.Truncate(segment, size); err != nil {
			t.Fatal(err)
		}
		s, told := open(t, dir)
		put(t, s, "after")
		if got, want := drain(t, s, 100), slices.Concat(records[:9], []string{"after"}); !slices.Equal(got, want) {
			t.Fatalf("cut %d: %q", cut, got)
		}
		if left := frame - cut; left == 0 {
			if len(*told) != 0 {
				t.Errorf("cut between frames: %+v", *told)
			}
		} else if len(*told) != 1 || !(*told)[0].Torn || (*told)[0].Bytes != int64(left) || (*told)[0].Offset != int64(9*frame) {
			t.Errorf("cut %d: told %+v", cut, *told)
		} else if b, err := os.ReadFile(filepath.Join(dir, (*told)[0].File)); err != nil || len(b) != left {
			t.Errorf("cut %d: kept %d bytes, %v", cut, len(b), err)
		}
		s.Close()
	}
}

// What a power cut leaves: the size reached the disk, the bytes did not.
func TestTailOfZeros(t *testing.T) {
	dir, segment, records, _ := stored(t)
	f, err := os.OpenFile(segment, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 5000)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	s, told := open(t, dir)
	if got := drain(t, s, 100); !slices.Equal(got, records) {
		t.Fatalf("%q", got)
	}
	if len(*told) != 1 || (*told)[0].File != "" || (*told)[0].Bytes != 5000 {
		t.Errorf("told %+v", *told)
	}
}

// Whatever bit flips, one record is lost to the reader at most, it is told, its bytes are kept, all others come in order.
func TestFlippedBit(t *testing.T) {
	_, _, _, frame := stored(t)
	for at := 2 * frame; at < 4*frame; at++ {
		dir, segment, records, _ := stored(t)
		b, err := os.ReadFile(segment)
		if err != nil {
			t.Fatal(err)
		}
		b[at] ^= 1 << (at % 8)
		if err := os.WriteFile(segment, b, 0o600); err != nil {
			t.Fatal(err)
		}
		hurt := at / frame
		s, told := open(t, dir)
		want := slices.Delete(slices.Clone(records), hurt, hurt+1)
		if got := drain(t, s, 100); !slices.Equal(got, want) {
			t.Fatalf("byte %d: %q", at, got)
		}
		if len(*told) != 1 || (*told)[0].Torn || (*told)[0].Bytes != int64(frame) || (*told)[0].Offset != int64(hurt*frame) {
			t.Fatalf("byte %d: told %+v", at, *told)
		}
		kept, err := os.ReadFile(filepath.Join(dir, (*told)[0].File))
		if err != nil || !bytes.Equal(kept, b[hurt*frame:(hurt+1)*frame]) {
			t.Fatalf("byte %d: kept %q %v", at, kept, err)
		}
		s.Close()
	}
}

// Damage that a running process meets is told as well; a segment that is not the last one is never cut silently.
func TestDamageWhileRunning(t *testing.T) {
	dir := t.TempDir()
	s, told := open(t, dir, func(c *Config) { c.SegmentBytes = 100 })
	records := numbered(0, 12)
	put(t, s, records...)
	first := segmentFiles(t, dir)[0]
	info, err := os.Stat(first)
	if err != nil {
		t.Fatal(err)
	}
	frame := headerSize + len(records[0])
	in := int(info.Size()) / frame
	if err := os.Truncate(first, info.Size()-5); err != nil {
		t.Fatal(err)
	}
	want := slices.Delete(slices.Clone(records), in-1, in)
	if got := drain(t, s, 100); !slices.Equal(got, want) {
		t.Fatalf("%q", got)
	}
	if len(*told) != 1 || (*told)[0].Torn || (*told)[0].Bytes != int64(frame) {
		t.Fatalf("told %+v", *told)
	}
}

// A frame inside a payload is not taken for a record when the frame around it is damaged.
func TestEmbeddedFrame(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	for segment := range uint64(3) {
		put(t, s, string(appendFrame(nil, segment, 0, []byte("forged"))))
	}
	if _, _, err := decodeFrame(appendFrame(nil, 1, 0, []byte("old block")), 2, 0); err == nil {
		t.Error("a frame of another segment was taken: a block that the file system handed out again would be")
	}
	s.Close()
	segment := segmentFiles(t, dir)[0]
	b, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if err := os.WriteFile(segment, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s, told := open(t, dir)
	if got := drain(t, s, 10); len(got) != 2 || slices.Contains(got, "forged") {
		t.Fatalf("%q", got)
	}
	if len(*told) != 1 {
		t.Fatalf("told %+v", *told)
	}
}

func TestDamagedPosition(t *testing.T) {
	tests := []struct {
		name string
		hurt func(b []byte)
		want int // first record that comes after the restart
	}{
		{"whole", func([]byte) {}, 4},
		{"newer slot", func(b []byte) { b[slotStride+20] ^= 1 }, 2},
		{"older slot", func(b []byte) { b[20] ^= 1 }, 4},
		{"both", func(b []byte) { clear(b) }, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s, _ := open(t, dir)
			records := numbered(0, 10)
			put(t, s, records...)
			for range 2 {
				if err := s.Done(next(t, s, 2)); err != nil {
					t.Fatal(err)
				}
			}
			s.Close()
			path := filepath.Join(dir, "position")
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			tt.hurt(b)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			s, _ = open(t, dir)
			if got := drain(t, s, 100); !slices.Equal(got, records[tt.want:]) {
				t.Fatalf("%q", got)
			}
		})
	}
}

func FuzzDecodeFrame(f *testing.F) {
	f.Add(appendFrame(nil, 1, 0, []byte("payload")), uint64(1), int64(0))
	f.Add([]byte("ZNS1\xff\xff\xff\xff"), uint64(1), int64(9))
	f.Add([]byte{}, uint64(0), int64(0))
	f.Fuzz(func(t *testing.T, b []byte, segment uint64, offset int64) {
		payload, size, err := decodeFrame(b, segment, offset)
		if err == nil && !bytes.Equal(appendFrame(nil, segment, offset, payload), b[:size]) {
			t.Fatalf("accepted %d bytes that encode otherwise", size)
		}
		if at := nextFrame(b, segment, offset); at < len(b) {
			if _, _, err := decodeFrame(b[at:], segment, offset+int64(at)); err != nil {
				t.Fatalf("nextFrame found %v", err)
			}
		} else if err == nil {
			t.Fatal("nextFrame missed a frame at 0")
		}
	})
}

// Whatever stands in a segment and in the position file, the spool opens, can be emptied and takes records.
func FuzzOpen(f *testing.F) {
	frames := appendFrame(nil, 1, 0, []byte("one"))
	frames = appendFrame(frames, 1, int64(len(frames)), []byte("two"))
	f.Add(frames, []byte{})
	f.Add(frames[:20], bytes.Repeat([]byte("ZNSPOS01"), 1024))
	f.Add(append([]byte("rubbish"), frames...), []byte("x"))
	f.Fuzz(func(t *testing.T, segment, pos []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "00000000000000000001.seg"), segment, 0o600); err != nil {
			t.Fatal(err)
		}
		if len(pos) > 0 {
			if err := os.WriteFile(filepath.Join(dir, "position"), pos, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := Open(Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		put(t, s, "new")
		if got := drain(t, s, 10); len(got) == 0 || got[len(got)-1] != "new" {
			t.Fatalf("%q", got)
		}
	})
}
