package translate

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/services/ingest/sends"
	"github.com/znshub/znshub/services/ingest/timerheap"
)

// key names a receipt in memory, small because there is one for every message of the dedupe window. As text it is the
// ledger's record key: "<uuid>/<16 hex digits>", or "foreign-<32 hex digits>/<16 hex digits>".
type key struct {
	id      uuid.UUID // the notification's; for a foreign message a hash of what names it
	dedupe  uint64    // hash of the callback's dedupe key
	foreign bool
}

const foreignPrefix = "foreign-"

func newKey(notification uuid.UUID, dedupeKey string) key {
	return key{id: notification, dedupe: hash64(dedupeKey)}
}

func foreignKey(dedupeKey string) key {
	sum := sha256.Sum256([]byte(dedupeKey))
	return key{id: uuid.UUID(sum[:16]), dedupe: hash64(dedupeKey), foreign: true}
}

func hash64(s string) uint64 {
	sum := sha256.Sum256([]byte(s))
	return binary.BigEndian.Uint64(sum[16:])
}

func (k key) String() string {
	if k.foreign {
		return fmt.Sprintf("%s%x/%016x", foreignPrefix, k.id[:], k.dedupe)
	}
	return fmt.Sprintf("%s/%016x", k.id, k.dedupe)
}

func parseKey(s string) (key, error) {
	subject, dedupe, ok := strings.Cut(s, "/")
	if !ok {
		return key{}, fmt.Errorf("ledger key %.100q is not one of a receipt", s)
	}
	var k key
	var err error
	if rest, foreign := strings.CutPrefix(subject, foreignPrefix); foreign {
		k.foreign = true
		var b []byte
		if b, err = hex.DecodeString(rest); err == nil {
			k.id, err = uuid.FromBytes(b)
		}
	} else {
		k.id, err = uuid.Parse(subject)
	}
	if err == nil {
		k.dedupe, err = strconv.ParseUint(dedupe, 16, 64)
	}
	if err != nil {
		return key{}, fmt.Errorf("ledger key %.100q is not one of a receipt", s)
	}
	return k, nil
}

// receipt is a delivery callback that is not published yet.
type receipt struct {
	key       key
	state     *ledgerv1.Receipt // WAITING
	waitUntil time.Time
	best      *sends.Send // the best outcome found so far
	exact     bool        // best is the outcome of this very attempt
	timerheap.Place
}

// Due implements [timerheap.Timer].
func (r *receipt) Due() time.Time { return r.waitUntil }

// offer takes note of an outcome of the receipt's notification.
func (r *receipt) offer(s *sends.Send) {
	switch {
	case r.exact:
	case matches(r.state, s):
		r.best, r.exact = s, true
	case r.best == nil || s.Kind == sends.KindSent || r.best.Kind != sends.KindSent:
		r.best = s
	}
}

// matches reports whether s is the outcome of the attempt whose receipt r is.
func matches(r *ledgerv1.Receipt, s *sends.Send) bool {
	if s.Kind != sends.KindSent {
		return false
	}
	if r.GetMsgId() != "" && s.MsgID != "" {
		return r.GetMsgId() == s.MsgID
	}
	return r.GetAttempt() == s.Attempt
}

// add makes r wait.
func (p *partition) add(r *receipt) {
	p.waiting[r.key] = r
	p.waits.Add(1)
	if !r.key.foreign {
		p.of[r.key.id] = append(p.of[r.key.id], r)
	}
	p.due.Push(r)
}

// remove ends r's waiting. It reports whether another receipt of the same notification still waits.
func (p *partition) remove(r *receipt) (others bool) {
	delete(p.waiting, r.key)
	p.waits.Add(-1)
	p.due.Remove(r)
	left := slices.DeleteFunc(p.of[r.key.id], func(o *receipt) bool { return o == r })
	if len(left) == 0 {
		delete(p.of, r.key.id)
		return false
	}
	p.of[r.key.id] = left
	return true
}

// offer hands an outcome to the receipts of its notification.
func (p *partition) offer(s *sends.Send) {
	for _, r := range p.of[s.Notification] {
		if r.exact {
			continue
		}
		if r.offer(s); r.exact {
			p.ready = append(p.ready, r)
		}
	}
}

// decodeReceipt reads a ledger record. The receipt is nil when it was published.
func decodeReceipt(k key, r kafka.Record) (rec *receipt, stored time.Time, err error) {
	m := &ledgerv1.Receipt{}
	if err := proto.Unmarshal(r.Value, m); err != nil {
		return nil, time.Time{}, fmt.Errorf("decode receipt at %s/%d@%d: %w", r.Topic, r.Partition, r.Offset, err)
	}
	if m.GetMinReader() > formatVersion {
		return nil, time.Time{}, fmt.Errorf("receipt at %s/%d@%d needs a program that reads format %d; this one reads up to %d: upgrade it",
			r.Topic, r.Partition, r.Offset, m.GetMinReader(), formatVersion)
	}
	stored = time.UnixMilli(m.GetStoredMs())
	if m.GetState() == ledgerv1.ReceiptState_RECEIPT_STATE_PUBLISHED {
		return nil, stored, nil
	}
	return &receipt{key: k, state: m, waitUntil: time.UnixMilli(m.GetWaitUntilMs())}, stored, nil
}

// published is the ledger's state once the event is written: what dedupe and explain need.
func published(r *ledgerv1.Receipt) *ledgerv1.Receipt {
	return &ledgerv1.Receipt{
		MinReader:      formatVersion,
		DedupeKey:      r.GetDedupeKey(),
		State:          ledgerv1.ReceiptState_RECEIPT_STATE_PUBLISHED,
		CallbackMs:     r.GetCallbackMs(),
		StoredMs:       r.GetStoredMs(),
		CallbackOffset: r.GetCallbackOffset(),
		NotificationId: r.GetNotificationId(),
	}
}

func marshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err) // only invalid UTF-8 makes Marshal fail, and every string was cleaned
	}
	return b
}
