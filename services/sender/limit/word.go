package limit

import (
	"time"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
)

// Own says that this process now owns partition p of so many. Its part of the pace follows after the wait.
func (l *Limits) Own(p, of int32, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p >= of {
		return // not one over which the pace is shared
	}
	l.settle(now)
	l.share.of = int(of)
	l.share.own(p, now)
	if l.paced() {
		l.changed(now.Add(l.cfg.GainWait))
	}
}

// Lose says that this process owns a partition no more. Its part of the pace goes at once.
func (l *Limits) Lose(p int32, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(now)
	l.share.lose(p)
	l.changed()
}

func (l *Limits) settle(now time.Time) {
	l.hostPace.settle(now, &l.share)
	for _, o := range l.oas {
		o.pace.settle(now, &l.share)
	}
	l.share.count(now)
}

// Token says that the OA has a token, and which: any other generation is newer. Once it was called, OAs without a token
// are held.
func (l *Limits) Token(oa string, generation uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tokens == nil {
		l.tokens = map[string]uint64{}
	}
	if l.tokens[oa] == generation {
		return
	}
	if generation == 0 {
		delete(l.tokens, oa)
	} else {
		l.tokens[oa] = generation
	}
	if o := l.oas[oa]; o != nil {
		if g := o.gates.find(kindToken, 0); g != nil {
			l.ajar(g)
		}
	}
	l.changed()
}

// ajar lets one call through a closed gate as soon as it comes; the probe under way counts no more.
func (l *Limits) ajar(g *gate) {
	g.probe, g.probeAt, g.pause, g.told = nil, time.Unix(1, 0), 0, true
}

// Release lets one call through every gate of the OA, and of the template where one is named, that waits for a person
// or an event. It reports how many there were. What it finds closed again stays so.
func (l *Limits) Release(oaID, templateID string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, o := range l.oas {
		if oaID != "" && id != oaID {
			continue
		}
		if templateID == "" {
			n += l.release(o.gates)
		}
		for id, t := range o.templates {
			if templateID == "" || id == templateID {
				n += l.release(t.gates)
			}
		}
	}
	if n > 0 {
		l.changed()
	}
	return n
}

func (l *Limits) release(gs gates) int {
	for _, g := range gs {
		l.ajar(g)
	}
	return len(gs)
}

// TemplateEnabled says that Zalo has approved a template, at the given time.
func (l *Limits) TemplateEnabled(oaID, templateID string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.oas[oaID]
	if o == nil || o.templates[templateID] == nil {
		return
	}
	if g := o.templates[templateID].gates.find(kindReview, 0); g != nil && at.After(g.since) {
		l.ajar(g)
		l.changed()
	}
}

// Seed says what an entry that an earlier owner left held tells about its flow: the flow begins with one call at a time
// instead of many that will be refused.
func (l *Limits) Seed(f Flow, h Hold, now time.Time) {
	switch h.Reason {
	case ledgerv1.HoldReason_HOLD_REASON_TOKEN, ledgerv1.HoldReason_HOLD_REASON_ACCOUNT, ledgerv1.HoldReason_HOLD_REASON_QUOTA,
		ledgerv1.HoldReason_HOLD_REASON_TEMPLATE_REVIEW, ledgerv1.HoldReason_HOLD_REASON_OPERATOR:
	default:
		return // the clock and the provider tell the rest
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !h.Until.IsZero() && !h.Until.After(now) {
		return
	}
	o := l.oa(f.OA, now)
	t := l.template(o, f.Template)
	if t == nil || len(o.gates) > 0 || t.gates.find(kindSeed, f.Category) != nil {
		return
	}
	g := l.shut(&t.gates, kindSeed, f.Category, 0, h.Until, now, nil)
	g.reason = h.Reason
	l.ajar(g)
	g.pause = probing[kindSeed].first
}
