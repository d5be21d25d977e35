// Package spool keeps records on the local disk until they can go where they belong: an append-only queue for one
// writer process and one reader.
//
// # Promises
//
// Append returns nil only when the record is on stable storage: a kill -9 or a power cut afterwards does not lose it.
// Records come back in the order in which Append took them. A record is handed out again until Done said that it is
// dealt with, so a crash repeats the records of at most one batch and drops none. What cannot be read is set aside in
// the directory "damaged" and told to Config.OnDamage, and the records behind it are still handed out. When there is
// no room, Append returns ErrFull and nothing else changes. Appends of many callers share one fsync (group commit).
//
// All methods are safe for concurrent use, but only one goroutine may run Next and Done.
//
// # On disk
//
//	lock                    flock(2) by the owner; a second Open fails with ErrLocked
//	position                two slots, written in turn: everything before it was handed on
//	<20 digits>.seg         frames, see frame.go; numbers only grow and are never used twice
//	damaged/<segment>-<offset>.bin   bytes that are no frame
//	refused/<hash>.bin      records that Refuse set aside
//
// # Order of system calls
//
//	new segment   create the file; fsync the directory; only then write frames into it
//	append        write all waiting frames with one call; fsync the segment; only then return to the callers
//	failed write  truncate to the last synced end; when that fails too, or after a failed fsync (the kernel may have
//	              dropped the pages), the segment gets no further frame: the next append begins a new one
//	done          overwrite the older slot of "position"; fsync it; only then remove segments before it
//	set aside     write the bytes to "damaged"; fsync file and directory; only then move on (or truncate a torn tail)
//
// The position is overwritten in place, in blocks that were allocated at the start, because a full disk must not keep
// the spool from being emptied.
package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
)

var (
	// ErrFull says that the disk or the configured size is used up. The record was not stored.
	ErrFull = errors.New("spool is full")
	// ErrLocked says that another process owns the directory.
	ErrLocked = errors.New("spool belongs to another process")
	// ErrClosed says that Close was called.
	ErrClosed = errors.New("spool is closed")
	// ErrTooLarge says that a record is larger than MaxRecord. It was not stored.
	ErrTooLarge = errors.New("record is too large for the spool")
)

// Config says where a spool lives and how large it may grow.
type Config struct {
	Dir          string       // made when it does not exist, for the owner's eyes only: records hold personal data
	MaxBytes     int64        // all segments together; default 1 GiB
	SegmentBytes int64        // a segment that has reached this size gets no further frame; default 16 MiB
	OnDamage     func(Damage) // told of every stretch that is no frame; may be nil; must not call the spool
	Log          *slog.Logger // default: slog.Default
}

// Damage is a stretch of a segment that is not a whole frame.
type Damage struct {
	Segment uint64
	Offset  int64
	Bytes   int64
	Torn    bool   // at the end of the last segment when it was opened: most likely a write that was cut and never acknowledged
	File    string // where the bytes were set aside; empty when they were all zero
}

// Stats is a snapshot for metrics.
type Stats struct {
	Records  int64 // not yet done, including appends that wait for their fsync
	Bytes    int64 // size of all segments
	Segments int
}

// Spool is an open spool directory.
type Spool struct {
	cfg   Config
	lock  *os.File
	pos   *positionFile
	fsync func(*os.File) error // (*os.File).Sync; tests watch it

	wake    chan struct{} // capacity 1: there is something for the writer
	arrived chan struct{} // capacity 1: there may be something for the reader
	stopped chan struct{} // closed when the writer has ended

	active *os.File // the writer goroutine's own: the segment that gets the frames, nil when there is none

	mu       sync.Mutex // guards everything below; never held over I/O
	waiting  []*request // appends that the writer has not taken yet
	writing  int        // appends that the writer is writing
	segments []segment  // ascending by number
	next     uint64     // number of the next segment
	done     position   // everything before it was handed on
	records  int64
	bytes    int64 // of all segments, plus what waiting appends need
	closed   bool
}

// segment is one file. Frames stand in [0, end): what lies behind was never acknowledged.
type segment struct {
	number uint64
	end    int64
	sealed bool // gets no further frame
}

// request is one Append.
type request struct {
	payload []byte
	done    chan error // capacity 1
}

// position is a place between two records.
type position struct {
	segment uint64
	offset  int64
}

// Open takes the directory, removes what was handed on, and cuts a torn tail off the last segment.
func Open(cfg Config) (*Spool, error) {
	return openWith(cfg, (*os.File).Sync)
}

func openWith(cfg Config, fsync func(*os.File) error) (*Spool, error) {
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 1 << 30
	}
	if cfg.SegmentBytes == 0 {
		cfg.SegmentBytes = 16 << 20
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	s := &Spool{
		cfg:     cfg,
		fsync:   fsync,
		wake:    make(chan struct{}, 1),
		arrived: make(chan struct{}, 1),
		stopped: make(chan struct{}),
	}
	if err := s.open(); err != nil {
		_ = s.pos.close()
		if s.lock != nil {
			s.lock.Close()
		}
		return nil, fmt.Errorf("open spool %s: %w", cfg.Dir, err)
	}
	go s.write()
	return s, nil
}

// Append stores payload and returns when it is on stable storage. Errors: ErrFull, ErrTooLarge, ErrClosed, an error
// of the disk, or ctx's own; after that last one the record may have been stored all the same.
func (s *Spool) Append(ctx context.Context, payload []byte) error {
	if len(payload) > MaxRecord {
		return ErrTooLarge
	}
	r := &request{payload: payload, done: make(chan error, 1)}
	size := int64(headerSize + len(payload))
	s.mu.Lock()
	switch {
	case s.closed:
		s.mu.Unlock()
		return ErrClosed
	case s.bytes+size > s.cfg.MaxBytes:
		s.mu.Unlock()
		return ErrFull
	}
	s.bytes += size
	s.records++
	s.waiting = append(s.waiting, r)
	s.mu.Unlock()
	notify(s.wake)
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("append to spool: %w", context.Cause(ctx))
	}
}

// Empty reports whether every record was handed on and no append is under way.
func (s *Spool) Empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.idle()
}

func (s *Spool) idle() bool {
	_, _, ok := s.readable()
	return len(s.waiting) == 0 && s.writing == 0 && !ok
}

// Stats returns how full the spool is.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Records: s.records, Bytes: s.bytes, Segments: len(s.segments)}
}

// Close finishes the appends under way, refuses new ones and gives the directory free. What is stored stays.
func (s *Spool) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		<-s.stopped
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	notify(s.wake)
	<-s.stopped
	err := s.pos.close()
	if s.active != nil {
		err = errors.Join(err, s.active.Close())
	}
	return errors.Join(err, s.lock.Close())
}

func (s *Spool) segmentPath(number uint64) string {
	return filepath.Join(s.cfg.Dir, fmt.Sprintf("%020d.seg", number))
}

// notify wakes whoever reads c; one pending signal is enough.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
