package sender

import (
	"context"
	"strconv"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
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

// forecasts publishes on oa.quota what is foreseen about the quotas, until ctx ends. Of several senders the one speaks
// that owns the partition of the OA's id, so that nobody hears it twice.
func (s *Sender) forecasts(ctx context.Context) {
	var w *kafka.Writer
	defer func() {
		if w != nil {
			w.Close()
		}
	}()
	for pause(ctx, forecastEvery); ctx.Err() == nil; pause(ctx, forecastEvery) {
		now := time.Now()
		for _, f := range s.h.limits.Forecasts(now) {
			owner := kafka.Murmur2Partition([]byte(f.OA), s.engine.LedgerPartitions())
			if s.h.partition(owner) == nil {
				continue
			}
			if !f.Exhausted.IsZero() {
				s.h.log.Warn("the quota will be used up", "oa_id", f.OA, "template_id", f.Template, "exhausted_time", f.Exhausted)
			}
			r, err := s.tables.forecast(f, now)
			if err == nil && w == nil {
				w, err = kafka.NewWriter(s.kafka...)
			}
			if err == nil {
				within, cancel := context.WithTimeout(ctx, 10*time.Second)
				err = w.Write(within, r)
				cancel()
			}
			if err != nil && ctx.Err() == nil {
				s.h.log.Warn("a forecast cannot be published", "oa_id", f.OA, "err", err)
			}
		}
	}
}

const forecastEvery = time.Minute

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
