package spool

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// open fills s from the directory.
func (s *Spool) open() (err error) {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return err
	}
	if s.lock, err = lockDir(filepath.Join(s.cfg.Dir, "lock")); err != nil {
		return err
	}
	var found bool
	if s.pos, s.done, found, err = openPosition(filepath.Join(s.cfg.Dir, "position"), s.fsync); err != nil {
		return err
	}
	// The names of position, lock and whatever segment the last owner made.
	if err := s.syncDir(s.cfg.Dir); err != nil {
		return err
	}
	numbers, err := s.segmentNumbers()
	if err != nil {
		return err
	}
	switch {
	case found:
	case len(numbers) > 0:
		s.cfg.Log.Warn("spool: no readable position; everything that is still here is handed out again", "dir", s.cfg.Dir)
	default: // new: from now on a position that cannot be read means damage
		if err := s.pos.store(s.done); err != nil {
			return diskError(err)
		}
	}
	s.next = s.done.segment + 1
	for i, number := range numbers {
		s.next = max(s.next, number+1)
		if err := s.recoverSegment(number, i == len(numbers)-1); err != nil {
			return fmt.Errorf("segment %d: %w", number, err)
		}
	}
	if len(s.segments) > 0 {
		notify(s.arrived)
	}
	return nil
}

func (s *Spool) segmentNumbers() ([]uint64, error) {
	entries, err := os.ReadDir(s.cfg.Dir) // sorted by name, so by number
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), ".seg")
		if !ok || len(digits) != 20 {
			continue
		}
		number, err := strconv.ParseUint(digits, 10, 64)
		if err != nil {
			continue
		}
		numbers = append(numbers, number)
	}
	return numbers, nil
}

// recoverSegment counts the records of a segment that are still to be handed out, and cuts a torn tail off the last
// one. A segment of an earlier owner never gets a further frame.
func (s *Spool) recoverSegment(number uint64, last bool) error {
	path := s.segmentPath(number)
	var from int64
	if number == s.done.segment {
		from = s.done.offset
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	size := int64(len(data))
	if number < s.done.segment || size <= from {
		return os.Remove(path)
	}
	records, good := countFrames(data, number, from)
	end := size
	if last && good < size {
		// On a full disk the tail stays where it is; nothing is written behind it, so it only comes up again.
		if err := s.cutTail(path, data, position{segment: number, offset: good}); err != nil && !errors.Is(diskError(err), ErrFull) {
			return err
		}
		if end = good; end <= from {
			return os.Remove(path)
		}
	}
	s.segments = append(s.segments, segment{number: number, end: end, sealed: true})
	s.records += records
	s.bytes += end
	return nil
}

// countFrames returns how many whole frames stand behind from and where the last of them ends.
func countFrames(data []byte, number uint64, from int64) (records, good int64) {
	good = from
	for at := from; at < int64(len(data)); {
		_, n, err := decodeFrame(data[at:], number, at)
		if err != nil {
			at += int64(nextFrame(data[at:], number, at))
			continue
		}
		at += int64(n)
		good = at
		records++
	}
	return records, good
}

// cutTail sets aside what follows the last whole frame and truncates the segment there.
func (s *Spool) cutTail(path string, data []byte, at position) error {
	tail := data[at.offset:]
	if err := s.setAside(at, tail, Damage{Bytes: int64(len(tail)), Torn: true}); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(at.offset); err != nil {
		return err
	}
	return s.fsync(f)
}

// setAside keeps bytes that are no frame for a person to look at, and tells of them. All zeros are what a file system
// leaves where a write did not arrive: they are told, not kept.
func (s *Spool) setAside(at position, data []byte, d Damage) error {
	d.Segment, d.Offset = at.segment, at.offset
	if strings.Trim(string(data), "\x00") != "" {
		name := fmt.Sprintf("%020d-%d.bin", at.segment, at.offset)
		if err := s.keep("damaged", name, data); err != nil {
			return fmt.Errorf("set damaged bytes aside: %w", err)
		}
		d.File = filepath.Join("damaged", name)
	}
	s.cfg.Log.Error("spool: bytes that are no record", "segment", d.Segment, "offset", d.Offset, "bytes", d.Bytes, "torn", d.Torn, "kept", d.File)
	if s.cfg.OnDamage != nil {
		s.cfg.OnDamage(d)
	}
	return nil
}

// Refuse keeps a record that its destination will never take in the directory "refused", so that Done may pass it.
// The same record is kept once. It returns the file's name within the spool directory.
func (s *Spool) Refuse(payload []byte) (string, error) {
	name := fmt.Sprintf("%x.bin", sha256.Sum256(payload))
	if err := s.keep("refused", name, payload); err != nil {
		return "", fmt.Errorf("set refused record aside: %w", err)
	}
	return filepath.Join("refused", name), nil
}

// keep stores a file durably in a directory below the spool's. Doing it again is harmless.
func (s *Spool) keep(dir, name string, data []byte) error {
	path := filepath.Join(s.cfg.Dir, dir)
	if err := os.Mkdir(path, 0o700); err == nil {
		if err := s.syncDir(s.cfg.Dir); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := os.OpenFile(filepath.Join(path, name), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = s.fsync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return s.syncDir(path)
}
