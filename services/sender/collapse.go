package sender

import (
	"slices"

	"github.com/google/uuid"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// A request supersedes older ones of the same OA, source and collapse_key in its partition that are not sent. One that
// is under way, or of which nobody knows whether Zalo has it, is left alone; should it turn out unsent, it ends then.
// Requests without a collapse_key cost nothing.

// collapseBytes is about what one with a collapse_key costs beside its slot.
const collapseBytes = 96

// supersession is an older request that a newer one ends.
type supersession struct{ older, newer uuid.UUID }

// collapseOf names the collapse_key of a request; 0: it has none.
func collapseOf(req *notificationv1.NotificationRequested) uint64 {
	if req.GetCollapseKey() == "" {
		return 0
	}
	return hashOf(req.GetOaId(), req.GetSource(), req.GetCollapseKey())
}

// joinCollapse remembers that r has a collapse_key.
func (p *partition) joinCollapse(r ref, s *slot, hash uint64) {
	if p.collapse == nil {
		p.collapse, p.collapseOf = map[uint64][]ref{}, map[ref]uint64{}
	}
	s.set(flagCollapse, true)
	p.collapse[hash] = append(p.collapse[hash], r)
	p.collapseOf[r] = hash
}

func (p *partition) leaveCollapse(r ref) {
	hash := p.collapseOf[r]
	delete(p.collapseOf, r)
	rest := p.collapse[hash]
	if i := slices.Index(rest, r); i >= 0 {
		rest = slices.Delete(rest, i, i+1)
	}
	if p.collapse[hash] = rest; len(rest) == 0 {
		delete(p.collapse, hash)
	}
}

// supersede notes which older ones a new request ends, each once.
func (p *partition) supersede(e *entry) {
	if e.collapse == 0 {
		return
	}
	for _, r := range p.collapse[e.collapse] {
		if s := p.at(r); !s.has(flagStale) && s.offset.get() < e.offset {
			p.ends(supersession{s.id, e.id})
		}
	}
}

// ends notes that one is to be ended.
func (p *partition) ends(x supersession) {
	if r := p.find(x.older); r != 0 {
		p.at(r).set(flagStale, true)
		p.superseded.pushBack(x)
	}
}

// hasNewer reports whether one with the collapse_key of r is newer, and not finished.
func (p *partition) hasNewer(r ref) bool {
	offset := p.at(r).offset.get()
	for _, x := range slices.Backward(p.collapse[p.collapseOf[r]]) {
		if p.at(x).offset.get() > offset {
			return true
		}
	}
	return false
}

// supersedeRestored is supersede for all that was restored: the owner before may have ended before it came to the older
// ones.
func (p *partition) supersedeRestored() {
	for _, refs := range p.collapse {
		newest := refs[0]
		for _, r := range refs {
			if p.at(r).offset.get() > p.at(newest).offset.get() {
				newest = r
			}
		}
		for _, r := range refs {
			if r != newest {
				p.ends(supersession{p.at(r).id, p.at(newest).id})
			}
		}
	}
}

// supersessions ends the older ones.
func (h *handler) supersessions(tx tick) (again bool) {
	for _, p := range h.openParts(tx) {
		for n := p.superseded.len(); n > 0; n-- {
			if tx.Full() {
				return true
			}
			x, _ := p.superseded.popFront()
			r := p.find(x.older)
			if r == 0 {
				continue // ended by itself
			}
			p.at(r).set(flagStale, false)
			if known, _, _ := p.known(x.newer); p.at(r).has(flagLame) || !known && !p.hasNewer(r) {
				continue // the newer one was not taken after all
			}
			e := p.entries[r]
			if e == nil {
				h.load(p, r, loadUrgent)
				p.ends(x)
				continue
			}
			u := tx.Unit(p.id, x.older.String())
			if u == nil {
				p.ends(x)
				return true
			}
			u.OnAbort(func() { p.ends(x) })
			switch {
			case e.mayBeSuperseded():
				h.failSuperseded(u, e)
			case !e.superseded && e.state != stateFailed:
				h.update(u, e, func() { e.superseded = true })
			}
		}
	}
	return false
}

func (h *handler) failSuperseded(u unit, e *entry) {
	h.fail(u, e, failure{
		reason: znsv1.FailureReason_FAILURE_REASON_SUPERSEDED, code: e.code, class: h.classOf(e), advice: znsv1.Advice_ADVICE_UNSPECIFIED,
	})
}

// mayBeSuperseded reports whether e waits for a call, its first or a further one, that a newer request makes pointless.
// One that was under way or unknown, and may have been sent, then ends as UNRESOLVED.
func (e *entry) mayBeSuperseded() bool {
	return (e.state == stateAccepted || e.state == stateHeld) && !e.unlisted()
}

// obsolete reports whether e was superseded while it was under way or unknown, and would be sent again now.
func (e *entry) obsolete() bool { return e.superseded && e.mayBeSuperseded() }
