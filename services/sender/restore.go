package sender

import (
	"bytes"
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
	"github.com/znshub/znshub/services/sender/control"
	"github.com/znshub/znshub/services/sender/limit"
)

// glance is what a restore needs of a ledger entry: enough for a slot, and for the memory of what is finished.
type glance struct {
	minReader, state, offset, accepted, finished, failure int64
	expire, due, reason, until, category                  int64
	hash                                                  []byte
	open, flowHold, superseded, hasRequest                bool
	asked                                                 asked
}

// asked is what decides where a request stands. It refers to the record's memory.
type asked struct{ source, oa, template, ordering, collapse, campaign []byte }

// look reads a ledger entry without decoding it.
func look(value []byte) (g glance, err error) {
	err = fields(value, func(field protowire.Number, v uint64) {
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
		case fExpire:
			g.expire = int64(v)
		case fDue:
			g.due = int64(v)
		case fReason:
			g.reason = int64(v)
		case fUntil:
			g.until = int64(v)
		case fCategory:
			g.category = int64(v)
		case fFlowHold:
			g.flowHold = v != 0
		case fSuperseded:
			g.superseded = v != 0
		}
	}, func(field protowire.Number, v []byte) error {
		switch field {
		case fHash:
			g.hash = v
		case fOpen:
			g.open = true
		case fRequest:
			g.hasRequest = true
			return g.asked.look(v)
		}
		return nil
	})
	return g, err
}

// Field numbers of notification.v1.NotificationRequested, see notification.proto.
const (
	rSource   = 3
	rOA       = 4
	rTemplate = 6
	rOrdering = 17
	rCollapse = 18
	rCampaign = 20
)

func (a *asked) look(request []byte) error {
	return fields(request, func(protowire.Number, uint64) {}, func(field protowire.Number, v []byte) error {
		switch field {
		case rSource:
			a.source = v
		case rOA:
			a.oa = v
		case rTemplate:
			a.template = v
		case rOrdering:
			a.ordering = v
		case rCollapse:
			a.collapse = v
		case rCampaign:
			a.campaign = v
		}
		return nil
	})
}

// fields hands over the fields of an encoded message.
func fields(b []byte, number func(protowire.Number, uint64), bytes func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		field, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("decode ledger entry: %w", protowire.ParseError(n))
		}
		b = b[n:]
		switch typ {
		case protowire.VarintType:
			v, size := protowire.ConsumeVarint(b)
			if n = size; n >= 0 {
				number(field, v)
			}
		case protowire.BytesType:
			v, size := protowire.ConsumeBytes(b)
			if n = size; n >= 0 {
				if err := bytes(field, v); err != nil {
					return err
				}
			}
		default:
			n = protowire.ConsumeFieldValue(field, typ, b)
		}
		if n < 0 {
			return fmt.Errorf("decode ledger entry: %w", protowire.ParseError(n))
		}
		b = b[n:]
	}
	return nil
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
		return p.restoreReserved(r)
	}
	id, err := uuid.ParseBytes(r.Key)
	if err != nil {
		return fmt.Errorf("ledger record at offset %d: its key is no notification_id", r.Offset)
	}
	if r.Value == nil {
		p.forgetLive(id)
		p.finished.Delete(id)
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
	p.rebuilt = false
	p.lastAccepted = max(p.lastAccepted, g.accepted)
	if !g.live() {
		p.forgetLive(id)
		p.finished.Add(id, hashFinished(shortHash(g.hash), ledgerv1.State(g.state) == stateFailed && g.failure != int64(znsv1.FailureReason_FAILURE_REASON_UNRESOLVED)), g.offset, g.finished)
		return nil
	}
	p.finished.Delete(id)
	p.restoreLive(id, &g, r)
	return nil
}

// restoreLive makes or changes the slot of one that is not finished. It gets its place when all was read.
func (p *partition) restoreLive(id uuid.UUID, g *glance, record kafka.Record) {
	r := p.find(id)
	if r != 0 && p.at(r).offset.get() != g.offset { // another life
		p.forgetLive(id)
		r = 0
	}
	if r == 0 {
		r = p.slots.alloc()
		s := p.at(r)
		s.id, s.offset, s.expire, s.due, s.hash = id, to48(g.offset), to48(g.expire), to48(g.due), shortHash(g.hash)
		f := p.restoreFlow(g)
		f.members++
		s.flow = f.index
		p.ids.insert(&p.slots, r)
		if len(g.asked.ordering) > 0 {
			s.scope = p.scopes.enter(hashOf(g.asked.oa, g.asked.ordering))
		}
		if len(g.asked.collapse) > 0 {
			p.joinCollapse(r, s, hashOf(g.asked.oa, g.asked.source, g.asked.collapse))
		}
	}
	s := p.at(r)
	if !s.has(flagRestored) {
		p.unplace(r, s)
		s.set(flagRestored, true)
	}
	s.state, s.reason, s.ledger = uint8(g.state), uint8(g.reason), to48(record.Offset)
	s.at = to48(g.until) // until it gets its place
	s.set(flagFlowHold, g.flowHold && ledgerv1.State(g.state) == stateHeld)
	s.set(flagDue, g.superseded)
	if s := ledgerv1.State(g.state); s == stateSending || s == stateUnknown || s == stateFailed || g.open || !g.hasRequest {
		p.restoring[id] = bytes.Clone(record.Value)
	} else {
		delete(p.restoring, id)
	}
}

// restoreFlow returns the flow of a record. Its name is looked up as bytes, so that a million records make no strings.
func (p *partition) restoreFlow(g *glance) *flow {
	p.name = p.name[:0]
	for _, b := range [][]byte{g.asked.oa, g.asked.template, g.asked.campaign} {
		p.name = append(append(p.name, b...), 0)
	}
	p.name = append(p.name, byte(g.category))
	if i, ok := p.flowNames[string(p.name)]; ok && p.flows[i] != nil {
		if f := p.flows[i]; f.key.OA == string(g.asked.oa) && f.key.Template == string(g.asked.template) &&
			f.key.Campaign == string(g.asked.campaign) && f.key.Category == notificationv1.Category(g.category) {
			return f
		}
	}
	f := p.flowOf(limit.Flow{
		OA: string(g.asked.oa), Template: string(g.asked.template), Campaign: string(g.asked.campaign), Category: notificationv1.Category(g.category),
	})
	if len(p.flowNames) > 100_000 {
		clear(p.flowNames)
	}
	p.flowNames[string(p.name)] = f.index
	return f
}

// forgetLive drops what was restored of one that is finished.
func (p *partition) forgetLive(id uuid.UUID) {
	delete(p.restoring, id)
	r := p.find(id)
	if r == 0 {
		return
	}
	s := p.at(r)
	p.unplace(r, s)
	p.release(r, s)
}

// restoreReserved keeps the latest record under a key that is no notification's: state of a partition's own.
func (p *partition) restoreReserved(r kafka.Record) error {
	if r.Value == nil {
		delete(p.reserved, string(r.Key))
		return nil
	}
	if string(r.Key) == control.AckKey {
		if _, err := control.DecodeAck(r.Value); err != nil {
			return fmt.Errorf("ledger record at offset %d: %w", r.Offset, err)
		}
	}
	p.reserved[string(r.Key)] = bytes.Clone(r.Value)
	return nil
}

// Rebuild gives everything that was restored its place. It touches p only: the tick lock need not be held.
func (h *handler) Rebuild(id int32) {
	p := h.partition(id)
	if p == nil || p.rebuilt {
		return
	}
	now := ms(time.Now())
	p.rebuilt, p.upSince = true, now
	var inOrder []ref
	for r := ref(1); uint32(r) <= p.slots.top; r++ {
		switch s := p.at(r); {
		case !s.has(flagRestored):
		case s.scope != 0:
			inOrder = append(inOrder, r)
		default:
			h.rebuildOne(p, r, s, now)
		}
	}
	// In the order in which they stand in line, so that each joins at the end.
	slices.SortFunc(inOrder, func(a, b ref) int {
		if p.earlier(p.at(a), p.at(b)) {
			return -1
		}
		return 1
	})
	for _, r := range inOrder {
		h.rebuildOne(p, r, p.at(r), now)
	}
	p.supersedeRestored()
	p.restoring, p.flowNames = map[uuid.UUID][]byte{}, map[string]uint32{}
}

func (h *handler) rebuildOne(p *partition, r ref, s *slot, now int64) {
	until, superseded := s.at.get(), s.has(flagDue)
	s.at = u48{}
	s.set(flagDue|flagRestored|flagLame, false)
	value, withEntry := p.restoring[s.id]
	if !withEntry {
		e := entry{expire: s.expire.get(), mut: mut{
			state: ledgerv1.State(s.state), reason: ledgerv1.HoldReason(s.reason), until: until, flowHold: s.has(flagFlowHold),
		}}
		line, runnable, timer := e.wants(now, p.rules)
		p.count(s, 1+waitIndex(&e))
		p.arrange(r, s, line, runnable, timer)
		if superseded {
			p.superseded.pushBack(supersession{s.id, s.id})
		}
		if f := p.flows[s.flow]; e.flowHold && (f.restored.Reason == 0 || f.restored.Until.Before(fromMs(until))) {
			f.restored = limit.Hold{Reason: e.reason}
			if until != 0 {
				f.restored.Until = fromMs(until)
			}
		}
		return
	}
	e, err := h.decodeEntry(value)
	if err != nil || e.id != s.id || e.fixed == nil || (e.state == stateSending || e.state == stateUnknown) && len(e.open) == 0 {
		p.broken++
		p.lame(r, s)
		return
	}
	e.p, e.ref, e.flow, e.ledger = p, r, p.flows[s.flow].key, s.ledger.get()
	p.attach(e)
	if e.state == stateSending {
		p.orphaned++
		was := e.mut
		h.orphan(e, now)
		e.pins++ // until that is written
		p.orphans.pushBack(orphan{e, was})
	}
	for _, a := range e.open {
		if p.oldest == 0 || a.intent < p.oldest {
			p.oldest = a.intent
		}
	}
	p.place(e, now)
	e.req = nil
}

// decodeEntry is an entry as the ledger has it, with what the configuration makes of it.
func (h *handler) decodeEntry(value []byte) (*entry, error) {
	e, err := decodeEntry(value)
	if err != nil {
		return nil, err
	}
	h.judge(e, e.request())
	return e, nil
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
