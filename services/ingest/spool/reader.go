package spool

import (
	"context"
	"fmt"
	"io"
	"os"
)

// Batch is a run of records, oldest first.
type Batch struct {
	Records [][]byte
	end     position
}

// Next returns up to maxRecords records, or as many as fit maxBytes but at least one, that follow the last Done. It
// blocks until there is one or ctx ends. A batch may be empty when all that stood in a stretch was damaged: pass it
// to Done like any other. Next does not advance: without Done it returns the same records again.
func (s *Spool) Next(ctx context.Context, maxRecords, maxBytes int) (Batch, error) {
	for {
		s.mu.Lock()
		from, seg, ok := s.readable()
		closed := s.closed
		s.mu.Unlock()
		if ok {
			return s.read(from, seg, maxRecords, maxBytes)
		}
		if closed {
			return Batch{}, ErrClosed
		}
		select {
		case <-s.arrived:
		case <-ctx.Done():
			return Batch{}, context.Cause(ctx)
		}
	}
}

// readable returns where reading goes on and the segment that holds it.
func (s *Spool) readable() (position, segment, bool) {
	for _, seg := range s.segments {
		if seg.number < s.done.segment {
			continue
		}
		from := position{segment: seg.number}
		if seg.number == s.done.segment {
			from.offset = s.done.offset
		}
		if from.offset < seg.end {
			return from, seg, true
		}
	}
	return position{}, segment{}, false
}

// read decodes frames of one segment from a place on. What is no frame is set aside.
func (s *Spool) read(from position, seg segment, maxRecords, maxBytes int) (Batch, error) {
	f, err := os.Open(s.segmentPath(seg.number))
	if err != nil {
		return Batch{}, fmt.Errorf("read spool: %w", err)
	}
	defer f.Close()
	load := func(at, size int64) ([]byte, error) {
		b := make([]byte, min(size, seg.end-at))
		n, err := f.ReadAt(b, at)
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("read spool: %w", err)
		}
		return b[:n], nil
	}
	// A chunk always holds one whole frame of the largest size, so that "runs past the end" means damage.
	chunk, err := load(from.offset, int64(maxBytes)+headerSize+MaxRecord)
	if err != nil {
		return Batch{}, err
	}
	batch := Batch{end: from}
	size := 0
	for len(batch.Records) < maxRecords {
		at := int(batch.end.offset - from.offset)
		payload, n, err := decodeFrame(chunk[at:], seg.number, batch.end.offset)
		if err != nil {
			if batch.end.offset == seg.end || len(batch.Records) > 0 {
				break // the end, or damage that the next call will meet at its start
			}
			return s.skip(load, batch.end, seg)
		}
		if len(batch.Records) > 0 && size+len(payload) > maxBytes {
			break
		}
		batch.Records = append(batch.Records, payload)
		size += len(payload)
		batch.end.offset += int64(n)
	}
	return batch, nil
}

// skip sets aside the bytes up to the next whole frame and returns an empty batch that ends there.
func (s *Spool) skip(load func(at, size int64) ([]byte, error), from position, seg segment) (Batch, error) {
	rest, err := load(from.offset, seg.end-from.offset)
	if err != nil {
		return Batch{}, err
	}
	n := nextFrame(rest, seg.number, from.offset)
	end := from.offset + int64(n)
	if n == len(rest) {
		end = seg.end // the file may be shorter than it was
	}
	if err := s.setAside(from, rest[:n], Damage{Bytes: end - from.offset}); err != nil {
		return Batch{}, err
	}
	return Batch{end: position{segment: seg.number, offset: end}}, nil
}

// Done says that the records of b are safe elsewhere. The position is on stable storage when Done returns nil; on
// error nothing changed, and the records will come again.
func (s *Spool) Done(b Batch) error {
	if err := s.pos.store(b.end); err != nil {
		return fmt.Errorf("store spool position: %w", err)
	}
	s.mu.Lock()
	s.done = b.end
	s.records -= int64(len(b.Records))
	s.mu.Unlock()
	notify(s.wake)
	return nil
}
