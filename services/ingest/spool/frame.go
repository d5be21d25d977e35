package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A frame is
//
//	magic   4 bytes  "ZNS1"; the digit is the format's version
//	length  4 bytes  of the payload, big endian
//	crc     4 bytes  CRC-32C over segment number, offset of the frame, length and payload
//	payload
//
// The checksum covers where the frame stands, so neither a block that the file system handed out again nor a frame
// that somebody embeds in a payload passes for a record.
const (
	headerSize = 12
	// MaxRecord is the largest payload: a callback's body of 1 MiB with its headers.
	MaxRecord = 2 << 20
)

var (
	magic      = []byte("ZNS1")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

var (
	errShort  = errors.New("frame runs past the end")
	errMagic  = errors.New("no frame begins here")
	errLength = errors.New("impossible length")
	errSum    = errors.New("checksum does not match")
)

func checksum(segment uint64, offset int64, payload []byte) uint32 {
	var place [20]byte
	binary.BigEndian.PutUint64(place[0:], segment)
	binary.BigEndian.PutUint64(place[8:], uint64(offset))
	binary.BigEndian.PutUint32(place[16:], uint32(len(payload)))
	return crc32.Update(crc32.Checksum(place[:], castagnoli), castagnoli, payload)
}

// appendFrame appends the frame of payload, which will stand at offset of segment, to b.
func appendFrame(b []byte, segment uint64, offset int64, payload []byte) []byte {
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	b = binary.BigEndian.AppendUint32(b, checksum(segment, offset, payload))
	return append(b, payload...)
}

// decodeFrame reads the frame with which b begins. It returns the payload, which aliases b, and the frame's size.
func decodeFrame(b []byte, segment uint64, offset int64) (payload []byte, size int, err error) {
	if len(b) < headerSize {
		return nil, 0, errShort
	}
	if !bytes.Equal(b[:4], magic) {
		return nil, 0, errMagic
	}
	length := binary.BigEndian.Uint32(b[4:])
	if length > MaxRecord {
		return nil, 0, fmt.Errorf("%w: %d bytes", errLength, length)
	}
	size = headerSize + int(length)
	if len(b) < size {
		return nil, 0, errShort
	}
	payload = b[headerSize:size:size]
	if binary.BigEndian.Uint32(b[8:]) != checksum(segment, offset, payload) {
		return nil, 0, errSum
	}
	return payload, size, nil
}

// nextFrame returns where in b, which stands at offset of segment, the first whole frame begins, or len(b).
func nextFrame(b []byte, segment uint64, offset int64) int {
	for at := 0; ; at++ {
		i := bytes.Index(b[at:], magic)
		if i < 0 {
			return len(b)
		}
		at += i
		if _, _, err := decodeFrame(b[at:], segment, offset+int64(at)); err == nil {
			return at
		}
	}
}
