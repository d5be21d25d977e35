package spool

import (
	"encoding/binary"
	"hash/crc32"
	"os"
)

// A slot of the position file is
//
//	magic    8 bytes  "ZNSPOS01"
//	counter  8 bytes  grows with every write: of two whole slots the larger one counts
//	segment  8 bytes
//	offset   8 bytes
//	crc      4 bytes  CRC-32C of all before
//
// The two slots lie in different blocks, so that a torn write hurts only the one that was being written.
const (
	slotSize    = 36
	slotStride  = 4096
	positionLen = 2 * slotStride
	slotMagic   = "ZNSPOS01"
)

type positionFile struct {
	f       *os.File
	fsync   func(*os.File) error
	counter uint64
}

// openPosition reads the position, or allocates a new file. found is false when neither slot can be read.
func openPosition(path string, fsync func(*os.File) error) (p *positionFile, pos position, found bool, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, position{}, false, err
	}
	p = &positionFile{f: f, fsync: fsync}
	b := make([]byte, positionLen)
	n, _ := f.ReadAt(b, 0)
	if n < positionLen {
		// New, or cut: write every block now, while there is room.
		clear(b[n:])
		if _, err := f.WriteAt(b, 0); err != nil {
			return p, position{}, false, diskError(err)
		}
		if err := fsync(f); err != nil {
			return p, position{}, false, diskError(err)
		}
	}
	for _, at := range []int{0, slotStride} {
		counter, q, ok := decodeSlot(b[at : at+slotSize])
		if ok && (!found || counter > p.counter) {
			p.counter, pos, found = counter, q, true
		}
	}
	return p, pos, found, nil
}

func decodeSlot(b []byte) (counter uint64, pos position, ok bool) {
	sum := binary.BigEndian.Uint32(b[slotSize-4:])
	if string(b[:8]) != slotMagic || sum != crc32.Checksum(b[:slotSize-4], castagnoli) {
		return 0, position{}, false
	}
	pos.segment = binary.BigEndian.Uint64(b[16:])
	pos.offset = int64(binary.BigEndian.Uint64(b[24:]))
	return binary.BigEndian.Uint64(b[8:]), pos, true
}

// store writes pos into the slot that does not hold the present position and syncs it.
func (p *positionFile) store(pos position) error {
	b := make([]byte, 0, slotSize)
	b = append(b, slotMagic...)
	b = binary.BigEndian.AppendUint64(b, p.counter+1)
	b = binary.BigEndian.AppendUint64(b, pos.segment)
	b = binary.BigEndian.AppendUint64(b, uint64(pos.offset))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := p.f.WriteAt(b, int64((p.counter+1)%2)*slotStride); err != nil {
		return err
	}
	if err := p.fsync(p.f); err != nil {
		return err
	}
	p.counter++
	return nil
}

func (p *positionFile) close() error {
	if p == nil {
		return nil
	}
	return p.f.Close()
}
