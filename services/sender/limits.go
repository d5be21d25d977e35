package sender

import (
	"strconv"
	"time"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

// limit makes the limits that hold what Zalo would refuse anyway, and what it would not survive.
func (h *handler) limit(cfg limit.Config) {
	h.limits = limit.New(cfg)
	h.gates = append(h.gates, h.limits)
	h.pace = h.limits
	h.arrived = func(f limit.Flow) { h.limits.Arrived(time.Now(), f) }
	h.seedHold = func(f limit.Flow, hold limit.Hold) { h.limits.Seed(f, hold, time.Now()) }
}

// codeLabel is Zalo's error code as a label; empty: there was none.
func codeLabel(code int) string {
	if code == 0 {
		return ""
	}
	return strconv.Itoa(code)
}

// advance lets the limits do what is due, and tells what opened and closed.
func (h *handler) advance(now time.Time) {
	h.limitsNext = h.limits.Advance(now)
	for _, e := range h.limits.Events() {
		h.tellLimit(e)
	}
}

// tellLimit logs what opened or closed. Operators must see why nothing goes out; what they must act upon is an error.
func (h *handler) tellLimit(e limit.Event) {
	attrs := []any{"cause", e.Cause}
	if h.wholeOA != nil && e.WholeOA() {
		h.wholeOA()
	}
	if e.OA != "" {
		attrs = append(attrs, "oa_id", e.OA)
	}
	if e.Template != "" {
		attrs = append(attrs, "template_id", e.Template)
	}
	if e.Category != 0 {
		attrs = append(attrs, "category", category(e.Category))
	}
	if e.Open {
		h.log.Info("requests go out again", attrs...)
		return
	}
	attrs = append(attrs, "reason", holdName(e.Reason))
	if e.Code != 0 {
		attrs = append(attrs, "code", e.Code)
	}
	if !e.Until.IsZero() {
		attrs = append(attrs, "until", e.Until)
	}
	if e.NeedsPerson() {
		h.log.Error("requests are held until somebody acts", attrs...)
		return
	}
	h.log.Warn("requests are held", attrs...)
}

// circuitOpen reports whether nothing goes out because Zalo is failing.
func (h *handler) circuitOpen() bool {
	for _, oa := range h.limits.State(time.Now(), 0).OAs {
		for _, c := range oa.Closed {
			if c.Reason == ledgerv1.HoldReason_HOLD_REASON_CIRCUIT {
				return true
			}
		}
	}
	return false
}
