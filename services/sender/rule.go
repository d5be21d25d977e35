package sender

import (
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/services/sender/control"
	"github.com/znshub/znshub/services/sender/limit"
)

// heldByID is the rule that holds one notification by its id; nil: none.
func (h *handler) heldByID(id uuid.UUID, now time.Time) *limit.Hold {
	if h.control == nil {
		return nil
	}
	if hold, held := h.control.View().ForID(now, id); held {
		return &hold
	}
	return nil
}

// cancelledBy is the operator's command that ends e before its next call; nil: none. One that was given before an operator
// had e sent again does not.
func (h *handler) cancelledBy(e *entry, now time.Time) *control.Command {
	if h.control == nil {
		return nil
	}
	again, _ := uuid.FromBytes(e.resentBy)
	return h.control.View().Cancelled(now, fromMs(e.requested), e.id, e.flow, again)
}

// calledBack is the operator's command that e is not wanted any longer, whatever else they said of it; nil: none.
func (h *handler) calledBack(e *entry, now time.Time) *control.Command {
	if h.control == nil {
		return nil
	}
	return h.control.View().Cancelled(now, fromMs(e.requested), e.id, e.flow, uuid.Nil)
}

// mustStop reports whether operators said something of one that would start now. The commands' own jobs may not have
// come to it yet, above all after a restore.
func (h *handler) mustStop(e *entry, now time.Time) bool {
	return h.control != nil && (e.early(ms(now)) || h.heldByID(e.id, now) != nil || h.cancelledBy(e, now) != nil)
}

// stop puts one for which mustStop is true where it belongs.
func (h *handler) stop(u unit, e *entry) {
	now := u.Now()
	if c := h.cancelledBy(e, now); c != nil {
		h.cancel(u, e, c)
		return
	}
	if rule := h.heldByID(e.id, now); rule != nil {
		h.update(u, e, func() { e.hold(rule.Reason, untilMs(rule.Until), ms(now)) })
		return
	}
	h.update(u, e, func() { e.waitsNoMore(ms(now)) }) // its id was held beyond the end of its wait for not_before
}
