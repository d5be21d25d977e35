// Package trackingid packs what is needed to understand a callback into the tracking_id of the send.
//
// Zalo echoes a tracking_id in the delivery callback and recommends at most 48 characters without special ones. The
// hub's is always 48 characters of [0-9A-Za-z] and holds the notification's UUID, the trace, the sampling decision and
// the attempt, so that a callback finds its notification and its place in the trace without any lookup.
//
// # Layout
//
// A 285-bit number, written in base 62 with the digits 0-9, A-Z, a-z, most significant first, padded with '0' to 48
// characters (62^48 > 2^285). As 36 bytes in big-endian order, bit 287 being the highest:
//
//	bits     width  field
//	287-285      3  zero
//	284-282      3  version, 1
//	    281      1  sampled: the trace flag of the process span
//	280-275      6  attempt
//	274-256     19  checksum
//	255-128    128  notification_id, the UUID's 16 bytes
//	127-0      128  trace id, 16 bytes; all zero: no trace
//
// The checksum is the first 19 bits of HMAC-SHA256 with the UTF-8 bytes of ZNS_CLUSTER as key over 34 bytes: the
// version, sampled << 7 | attempt, the UUID, the trace id. It tells this hub's ids from those of other programs and of
// other installations on the same Official Account: one of 524,288 foreign ids of this very format passes. It is no
// protection against forgery; a callback's signature is.
//
// # Attempts
//
// Attempts count from 1. The field holds 1 to 62 as they are; 63 means "63 or later" and stays. From there on the
// attempts of one notification share one tracking_id: a callback still finds its notification and its trace, but it no
// longer says which of those late attempts it belongs to. [ID.Saturated] tells.
//
// All functions are pure and safe for concurrent use.
package trackingid

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"
)

const (
	// Len is the length of every tracking_id.
	Len = 48
	// MaxAttempt is the attempt that stands for itself and all later ones.
	MaxAttempt = 63

	version      = 1
	checksumBits = 19

	digits     = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	chunkLen   = 10                 // digits that are converted at a time
	chunkValue = 839299365868340224 // 62^10, the highest power of 62 below 2^64
)

// ErrForeign is in the chain of every error of [Decode]: the tracking_id is not of this hub.
var ErrForeign = errors.New("tracking_id of another program")

var (
	errShape    = fmt.Errorf("%w: not %d letters and digits", ErrForeign, Len)
	errRange    = fmt.Errorf("%w: number out of range", ErrForeign)
	errVersion  = fmt.Errorf("%w: unknown version", ErrForeign)
	errChecksum = fmt.Errorf("%w: checksum differs: another ZNS_CLUSTER, or altered", ErrForeign)
)

// ID is what a tracking_id says.
type ID struct {
	Notification uuid.UUID
	Trace        trace.TraceID // zero: the send had no trace
	Sampled      bool
	Attempt      int32 // from 1; MaxAttempt: that one or a later one
}

// Saturated reports whether several attempts share this tracking_id, see the package comment.
func (id ID) Saturated() bool { return id.Attempt >= MaxAttempt }

// Encode returns the tracking_id of an attempt. The cluster is the value of ZNS_CLUSTER.
// An attempt above MaxAttempt is written as MaxAttempt, one below 0 as 0.
func Encode(cluster string, notification uuid.UUID, traceID trace.TraceID, sampled bool, attempt int32) string {
	flags := byte(min(max(attempt, 0), MaxAttempt))
	if sampled {
		flags |= 1 << 7
	}
	return encode(number{
		uint64(version)<<26 | uint64(flags>>7)<<25 | uint64(flags&MaxAttempt)<<checksumBits |
			uint64(checksum(cluster, version, flags, notification, traceID)),
		binary.BigEndian.Uint64(notification[:8]), binary.BigEndian.Uint64(notification[8:]),
		binary.BigEndian.Uint64(traceID[:8]), binary.BigEndian.Uint64(traceID[8:]),
	})
}

// Decode reads a tracking_id that Encode wrote with the same cluster.
// Anything else is an error with ErrForeign in its chain; the error does not contain s.
func Decode(cluster, s string) (ID, error) {
	n, err := decode(s)
	if err != nil {
		return ID{}, err
	}
	if n[0]>>26 != version {
		return ID{}, errVersion
	}
	id := ID{Sampled: n[0]>>25&1 == 1, Attempt: int32(n[0] >> checksumBits & MaxAttempt)}
	binary.BigEndian.PutUint64(id.Notification[:8], n[1])
	binary.BigEndian.PutUint64(id.Notification[8:], n[2])
	binary.BigEndian.PutUint64(id.Trace[:8], n[3])
	binary.BigEndian.PutUint64(id.Trace[8:], n[4])

	flags := byte(n[0]>>25&1)<<7 | byte(id.Attempt)
	if uint32(n[0]&(1<<checksumBits-1)) != checksum(cluster, version, flags, id.Notification, id.Trace) {
		return ID{}, errChecksum
	}
	return id, nil
}

func checksum(cluster string, version, flags byte, notification uuid.UUID, traceID trace.TraceID) uint32 {
	mac := hmac.New(sha256.New, []byte(cluster))
	msg := make([]byte, 0, 34)
	msg = append(msg, version, flags)
	msg = append(msg, notification[:]...)
	msg = append(msg, traceID[:]...)
	mac.Write(msg)
	return binary.BigEndian.Uint32(mac.Sum(nil)) >> (32 - checksumBits)
}

// number is a 320-bit integer, most significant word first. Of the first word 29 bits are used.
type number [5]uint64

func encode(n number) string {
	var out [Len]byte
	for end := Len; end > 0; {
		var chunk uint64
		for i := range n {
			n[i], chunk = bits.Div64(chunk, n[i], chunkValue)
		}
		for range min(chunkLen, end) {
			end--
			out[end] = digits[chunk%62]
			chunk /= 62
		}
	}
	return string(out[:])
}

func decode(s string) (number, error) {
	var n number
	if len(s) != Len {
		return n, errShape
	}
	for start := 0; start < Len; {
		var chunk, scale uint64 = 0, 1
		for range min(chunkLen, Len-start) {
			d, ok := digit(s[start])
			if !ok {
				return n, errShape
			}
			chunk = chunk*62 + d
			scale *= 62
			start++
		}
		for i := len(n) - 1; i >= 0; i-- { // n = n*scale + chunk; 62^48 < 2^286, so nothing leaves the top
			hi, lo := bits.Mul64(n[i], scale)
			var carry uint64
			n[i], carry = bits.Add64(lo, chunk, 0)
			chunk = hi + carry
		}
	}
	if n[0]>>29 != 0 {
		return n, errRange
	}
	return n, nil
}

func digit(c byte) (uint64, bool) {
	switch {
	case '0' <= c && c <= '9':
		return uint64(c - '0'), true
	case 'A' <= c && c <= 'Z':
		return uint64(c-'A') + 10, true
	case 'a' <= c && c <= 'z':
		return uint64(c-'a') + 36, true
	}
	return 0, false
}
