package spool

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// maxWrite bounds the frames that share one write and one fsync.
const maxWrite = 8 << 20

// write is the writer goroutine: it owns the active segment and removes those that were handed on.
func (s *Spool) write() {
	defer close(s.stopped)
	var buf []byte
	for range s.wake {
		for {
			batch := s.take()
			if len(batch) == 0 {
				break
			}
			var err error
			buf, err = s.store(buf[:0], batch)
			s.settle(batch, err)
		}
		s.trim()
		s.mu.Lock()
		stop := s.closed && len(s.waiting) == 0
		s.mu.Unlock()
		if stop {
			return
		}
	}
}

// take takes the appends that fit one write.
func (s *Spool) take() []*request {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, size := 0, 0
	for n < len(s.waiting) && (n == 0 || size+headerSize+len(s.waiting[n].payload) <= maxWrite) {
		size += headerSize + len(s.waiting[n].payload)
		n++
	}
	batch := s.waiting[:n:n]
	s.waiting = s.waiting[n:]
	s.writing = n
	return batch
}

// store writes the batch as one piece and syncs it. On error nothing of it counts as stored.
func (s *Spool) store(buf []byte, batch []*request) ([]byte, error) {
	seg, err := s.writable()
	if err != nil {
		return buf, err
	}
	for _, r := range batch {
		buf = appendFrame(buf, seg.number, seg.end+int64(len(buf)), r.payload)
	}
	if _, err := s.active.WriteAt(buf, seg.end); err != nil {
		if terr := s.active.Truncate(seg.end); terr != nil {
			s.seal()
		}
		return buf, fmt.Errorf("write segment: %w", diskError(err))
	}
	if err := s.fsync(s.active); err != nil {
		// Whether the frames are on the disk is not known any more, and a later fsync that succeeds says nothing about
		// them: they are cut off if possible, and the segment ends here.
		_ = s.active.Truncate(seg.end)
		s.seal()
		return buf, fmt.Errorf("sync segment: %w", diskError(err))
	}
	s.mu.Lock()
	last := &s.segments[len(s.segments)-1]
	last.end += int64(len(buf))
	full := last.end >= s.cfg.SegmentBytes
	s.mu.Unlock()
	if full {
		s.seal()
	}
	return buf, nil
}

// writable returns the segment that takes the next frame and makes one when there is none.
func (s *Spool) writable() (segment, error) {
	s.mu.Lock()
	if n := len(s.segments); n > 0 && !s.segments[n-1].sealed {
		seg := s.segments[n-1]
		s.mu.Unlock()
		return seg, nil
	}
	number := s.next
	s.next++
	s.mu.Unlock()

	f, err := os.OpenFile(s.segmentPath(number), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return segment{}, fmt.Errorf("make segment: %w", diskError(err))
	}
	if err := s.syncDir(s.cfg.Dir); err != nil {
		f.Close()
		_ = os.Remove(f.Name())
		return segment{}, fmt.Errorf("make segment: %w", diskError(err))
	}
	s.active = f
	seg := segment{number: number}
	s.mu.Lock()
	s.segments = append(s.segments, seg)
	s.mu.Unlock()
	return seg, nil
}

// seal ends the active segment.
func (s *Spool) seal() {
	if s.active == nil {
		return
	}
	if err := s.active.Close(); err != nil {
		s.cfg.Log.Warn("spool: closing a segment failed", "error", err)
	}
	s.active = nil
	s.mu.Lock()
	s.segments[len(s.segments)-1].sealed = true
	s.mu.Unlock()
}

// settle answers the callers of a batch.
func (s *Spool) settle(batch []*request, err error) {
	s.mu.Lock()
	s.writing = 0
	if err != nil {
		for _, r := range batch {
			s.bytes -= int64(headerSize + len(r.payload))
			s.records--
		}
	}
	s.mu.Unlock()
	for _, r := range batch {
		r.done <- err
	}
	if err == nil {
		notify(s.arrived)
	}
}

// trim removes the segments that were handed on, the active one too when nothing waits for it.
func (s *Spool) trim() {
	s.mu.Lock()
	var gone []segment
	for len(s.segments) > 0 {
		seg := s.segments[0]
		handedOn := s.done.segment > seg.number || s.done.segment == seg.number && s.done.offset >= seg.end
		if !handedOn || len(s.segments) == 1 && len(s.waiting) > 0 {
			break
		}
		if !seg.sealed && seg.end == 0 {
			break // just made
		}
		gone = append(gone, seg)
		s.segments = s.segments[1:]
		s.bytes -= seg.end
	}
	if s.idle() {
		s.records = 0
	}
	s.mu.Unlock()
	for _, seg := range gone {
		if !seg.sealed {
			if err := s.active.Close(); err != nil {
				s.cfg.Log.Warn("spool: closing a segment failed", "error", err)
			}
			s.active = nil
		}
		// A removal that does not reach the disk is made good by Open: the position is behind the segment.
		if err := os.Remove(s.segmentPath(seg.number)); err != nil {
			s.cfg.Log.Error("spool: removing a finished segment failed", "segment", seg.number, "error", err)
		}
	}
}

// syncDir makes names in a directory durable.
func (s *Spool) syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return s.fsync(d)
}

// diskError turns the system's ways of saying "no room" into ErrFull.
func diskError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
