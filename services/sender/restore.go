package sender

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/znshub/znshub/pkg/kafka"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// glance is what a restore needs of most records: they are superseded or terminal.
type glance struct {
	minReader, state, offset, accepted, finished, failure int64
	hash                                                  []byte
	open                                                  bool
}

// look reads a ledger entry without decoding it.
func look(value []byte) (glance, error) {
	var g glance
	for b := value; len(b) > 0; {
		field, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return g, fmt.Errorf("decode ledger entry: %w", protowire.ParseError(n))
		}
		b = b[n:]
		if typ == protowire.VarintType {
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return g, fmt.Errorf("decode ledger entry: %w", protowire.ParseError(n))
			}
			switch field {
			case fMinReader:
				g.minReader = int64(v)
			case fState:
				g.state = int64(v)
			case fOffset:
				g.offset = int64(v)
			case fAccepted:
				g.accepted = int64(v)
			case fFinished:
				g.finished = int64(v)
			case fFailure:
				g.failure = int64(v)
			}
			b = b[n:]
			continue
		}
		n = protowire.ConsumeFieldValue(field, typ, b)
		if n < 0 {
			return g, fmt.Errorf("decode ledger entry: %w", protowire.ParseError(n))
		}
		switch field {
		case fHash:
			g.hash, _ = protowire.ConsumeBytes(b)
		case fOpen:
			g.open = true
		}
		b = b[n:]
	}
	return g, nil
}

func (g *glance) live() bool {
	switch ledgerv1.State(g.state) {
	case stateSent:
		return false
	case stateFailed:
		return g.open && g.failure == int64(znsv1.FailureReason_FAILURE_REASON_UNRESOLVED)
	}
	return true
}

// restore takes one record of the partition's ledger.
func (p *partition) restore(r kafka.Record) error {
	if len(r.Key) > 0 && r.Key[0] == 0 {
		p.restoreReserved(r)
		return nil
	}
	id, err := uuid.ParseBytes(r.Key)
	if err != nil {
		return fmt.Errorf("ledger record at offset %d: its key is no notification_id", r.Offset)
	}
	if r.Value == nil {
		delete(p.restoring, id)
		delete(p.done, id)
		return nil
	}
	g, err := look(r.Value)
	if err != nil {
		return fmt.Errorf("ledger record at offset %d: %w", r.Offset, err)
	}
	if g.minReader > formatVersion {
		return fmt.Errorf("ledger record at offset %d needs format %d and this program reads %d: run the newer release", r.Offset, g.minReader, formatVersion)
	}
	if s := ledgerv1.State(g.state); s < stateAccepted || s > stateFailed {
		return fmt.Errorf("ledger record at offset %d has state %d, which this program does not know: run the newer release", r.Offset, g.state)
	}
	p.lastAccepted = max(p.lastAccepted, g.accepted)
	if g.live() {
		delete(p.done, id)
		p.restoring[id] = bytes.Clone(r.Value)
		return nil
	}
	delete(p.restoring, id)
	p.finish(id, doneEntry{offset: g.offset, hash: shortHash(g.hash), finished: g.finished})
	return nil
}

// restoreReserved keeps the latest record under a key that is no notification's: state of a partition's own.
func (p *partition) restoreReserved(r kafka.Record) {
	if r.Value == nil {
		delete(p.reserved, string(r.Key))
		return
	}
	p.reserved[string(r.Key)] = bytes.Clone(r.Value)
}

// rebuild makes the live state from what the ledger held. It returns how many were SENDING, and how many records
// could not be decoded: those stay known, so that nothing is ever sent for them.
func (h *handler) rebuild(p *partition, at time.Time) (orphans, broken int) {
	now := ms(at)
	p.upSince = now
	entries := make([]*entry, 0, len(p.restoring))
	for id, value := range p.restoring {
		e, err := decodeEntry(value)
		if err != nil || e.id != id || e.fixed == nil || (e.state == stateSending || e.state == stateUnknown) && len(e.open) == 0 {
			broken++
			p.done[id] = doneEntry{finished: now}
			continue
		}
		entries = append(entries, e)
	}
	p.restoring = nil
	slices.SortFunc(entries, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.due, b.due), cmp.Compare(a.offset, b.offset))
	})
	oldest := int64(0)
	for _, e := range entries {
		req := e.request()
		h.judge(e, req)
		if e.state == stateSending {
			orphans++
			const cause = znsv1.UnknownCause_UNKNOWN_CAUSE_OWNER_DIED
			e.addResult(attemptResult{openAttempt: e.open[len(e.open)-1], outcome: znsv1.AttemptOutcome_ATTEMPT_OUTCOME_UNKNOWN, cause: cause})
			h.becomeUnknown(e, cause, 0, 0, now)
			p.orphans.pushBack(e)
		}
		for _, a := range e.open {
			if oldest == 0 || a.intent < oldest {
				oldest = a.intent
			}
		}
		p.add(e, now)
		e.req = nil
		if e.flowHold {
			h.seed(e)
		}
	}
	if oldest != 0 {
		h.callbacks.need(fromMs(oldest), true)
	}
	return orphans, broken
}

// judge sets what follows from the request and the configuration together.
func (h *handler) judge(e *entry, req *notificationv1.NotificationRequested) {
	e.policy = h.settings.policy(req.GetOnUnknown(), e.category)
	e.window = h.settings.window(e.category)
}

func shortHash(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}
