package sender

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/notification"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// Headers of moved and dead-lettered records.
const (
	headerMoved     = "zns-moved"      // "<partition>@<offset>" at which the caller wrote it
	headerMovedTime = "zns-moved-time" // the original record's time, Unix milliseconds

	headerDLQReason    = "zns-dlq-reason"
	headerDLQMessage   = "zns-dlq-message"
	headerDLQField     = "zns-dlq-field"
	headerDLQTopic     = "zns-dlq-topic"
	headerDLQPartition = "zns-dlq-partition"
	headerDLQOffset    = "zns-dlq-offset"
	headerDLQTimestamp = "zns-dlq-timestamp"
	headerDLQSize      = "zns-dlq-value-size"
	headerDLQHash      = "zns-dlq-value-sha256"
)

// Reasons of dead letters that are not reasons of pkg/notification.
const (
	dlqIDReused  = "ID_REUSED"
	dlqTooLarge  = "REFUSED_BY_BROKER"
	dlqMisplaced = "MISPLACED"
)

// maxDLQValue is the largest value that a dead letter carries: what fits into a broker's default limit of a record
// with room for headers.
const maxDLQValue = 900 << 10

// What a dead letter without its value keeps of the record: small enough that no broker refuses it a second time.
const (
	maxDLQKey     = 16 << 10
	maxDLQHeaders = 16 << 10
)

// accept takes one record of the input.
//
//	cannot be read, no id            dead letter
//	belongs to another partition     published there again, with zns-moved
//	known id, same content           counted; taken again when it is redriven and FAILED surely unsent
//	known id, other content          dead letter ID_REUSED
//	breaks a rule                    dead letter, zns.failed INVALID, remembered as FAILED
//	older than SENDER_MAX_AGE        zns.failed EXPIRED, remembered as FAILED
//	cancelled by an operator         zns.failed CANCELLED, remembered as FAILED
//	else                             remembered as ACCEPTED or HELD
func (h *handler) accept(u unit, r kafka.Record) {
	if u.Poison() != nil {
		h.deadLetter(u, r, dlqTooLarge, "the broker refused what was to be written for this record", "", false)
		return
	}
	req, broken, invalid := h.read(r)
	if req == nil {
		h.deadLetter(u, r, broken.reason, broken.message, broken.field, true)
		return
	}
	id, hasID := notification.ID(req)
	key := notification.PartitionKey(req)
	if key != "" {
		if to := kafka.Murmur2Partition([]byte(key), u.LedgerPartitions()); to != r.Partition {
			h.misplaced(u, r, to)
			return
		}
	}
	if !hasID || r.Partition >= u.LedgerPartitions() {
		if broken == nil {
			broken = describe(invalid)
		}
		h.deadLetter(u, r, broken.reason, broken.message, broken.field, true)
		return
	}
	p := h.partition(r.Partition)
	a := h.arrival(u, p, r, id, req)
	if known, hash, offset := p.known(id); known && !(broken == nil && hash == hashFinished(shortHash(a.e.hash[:]), false) && h.revive(u, &a)) {
		switch {
		case broken != nil:
			h.deadLetter(u, r, broken.reason, broken.message, broken.field, true)
		case hash != hashFinished(shortHash(a.e.hash[:]), false):
			h.deadLetter(u, r, dlqIDReused, "this notification_id was used before with other content", "notification_id", true)
			u.OnCommit(func() {
				h.metrics.reused.Inc()
				h.log.Warn("notification_id reused with other content", "notification_id", id, "partition", r.Partition, "offset", r.Offset)
			})
		case offset != uint32(r.Offset): //nolint:gosec // G115: memory has the low half
			u.OnCommit(h.metrics.duplicates.Inc)
		}
		return
	}
	switch now := ms(u.Now()); {
	case len(invalid) > 0 || broken != nil:
		if broken == nil {
			broken = describe(invalid)
		}
		h.deadLetter(u, r, broken.reason, broken.message, broken.field, true)
		h.refuse(u, a, failure{reason: znsv1.FailureReason_FAILURE_REASON_INVALID, advice: znsv1.Advice_ADVICE_FIX_REQUEST, violations: violations(invalid, broken)})
	case h.clock.trusted() && (now-a.e.requested > h.settings.maxAge.Milliseconds() || now > a.e.expire):
		h.refuse(u, a, failure{reason: znsv1.FailureReason_FAILURE_REASON_EXPIRED, advice: znsv1.Advice_ADVICE_TRY_LATER})
	case !h.settings.allows(req.GetRecipient().GetPhone()):
		h.refuse(u, a, failure{reason: znsv1.FailureReason_FAILURE_REASON_NOT_ALLOWED, advice: znsv1.Advice_ADVICE_ASK_OPERATOR})
	case h.cancelledBy(a.e, u.Now()) != nil:
		h.refuse(u, a, cancellation(a.e, h.cancelledBy(a.e, u.Now()), now))
	default:
		h.take(u, a)
	}
}

// arrival is a request on its way into the ledger.
type arrival struct {
	e         *entry
	req       *notificationv1.NotificationRequested
	record    kafka.Record
	movedFrom string
}

// problem is why a record goes to the dead letters.
type problem struct{ reason, message, field string }

func describe(invalid []notification.Violation) *problem {
	p := &problem{reason: "INVALID", message: "breaks the rules"}
	if len(invalid) > 0 {
		p.field, p.message = invalid[0].Field, invalid[0].String()
	}
	return p
}

func violations(invalid []notification.Violation, broken *problem) []*znsv1.Violation {
	out := make([]*znsv1.Violation, 0, len(invalid)+1)
	for _, v := range invalid {
		out = append(out, &znsv1.Violation{Field: v.Field, Rule: v.Rule, Message: v.Message})
	}
	if len(out) == 0 {
		out = append(out, &znsv1.Violation{Field: broken.field, Rule: "readable", Message: broken.message})
	}
	return out
}

// read decodes and checks a record. req is what could be read, nil when nothing; broken says why it is no request;
// invalid lists the rules that it breaks. The request is normalised.
func (h *handler) read(r kafka.Record) (req *notificationv1.NotificationRequested, broken *problem, invalid []notification.Violation) {
	req, err := notification.Decode(r)
	if err != nil {
		broken = &problem{reason: "MALFORMED", message: err.Error()}
		if e, ok := errors.AsType[*notification.Error](err); ok {
			broken.reason, broken.message = reasonName(e.Reason), e.Message
			if len(e.Violations) > 0 {
				broken.field = e.Violations[0].Field
			}
			return e.Partial, broken, e.Violations
		}
		return nil, broken, nil
	}
	invalid = notification.Validate(req, r.Time)
	if req.GetOaId() == "" && h.settings.oaID == "" {
		invalid = append(invalid, notification.Violation{Field: "oa_id", Rule: "required", Message: "the hub has no single Official Account to fall back to: name one"})
	}
	notification.Normalise(req)
	return req, nil, invalid
}

func reasonName(r notification.Reason) string {
	switch r {
	case notification.Empty:
		return "EMPTY"
	case notification.UnknownType:
		return "UNKNOWN_TYPE"
	case notification.Invalid:
		return "INVALID"
	}
	return "MALFORMED"
}

// misplaced publishes the record again on the partition that it belongs to, where its id is remembered. The sender
// moves a record once and to the right place: one that says it was moved and is wrong again was written by somebody
// who copied the headers, and taking it here could send a second message.
func (h *handler) misplaced(u unit, r kafka.Record, to int32) {
	if _, moved := r.Header(headerMoved); moved {
		h.deadLetter(u, r, dlqMisplaced, "it carries zns-moved but is not on the partition of its key: publish it without that header", "", true)
		return
	}
	out := r
	out.Partition = to
	out.Headers = append(slices.Clip(r.Headers),
		kafka.Header{Key: headerMoved, Value: fmt.Appendf(nil, "%d@%d", r.Partition, r.Offset)},
		kafka.Header{Key: headerMovedTime, Value: strconv.AppendInt(nil, ms(r.Time), 10)})
	u.Publish(out)
	u.OnCommit(h.metrics.moved.Inc)
}

// arrival makes the entry of a request that was not seen before. It is not yet known to the partition.
func (h *handler) arrival(u unit, p *partition, r kafka.Record, id uuid.UUID, req *notificationv1.NotificationRequested) arrival {
	now := ms(u.Now())
	e := &entry{id: id, p: p, offset: r.Offset, hash: notification.PayloadHash(req), category: h.category(req)}
	trusted := h.clock.trusted()
	// A record's time is the producer's word: a clock that is ahead must not lengthen a life.
	if e.requested = ms(r.Time); trusted {
		e.requested = min(e.requested, now)
	}
	movedFrom, moved := r.Header(headerMoved)
	if moved {
		if at, ok := r.Header(headerMovedTime); ok {
			if t, err := strconv.ParseInt(string(at), 10, 64); err == nil && t > 0 {
				e.requested = min(e.requested, t)
			}
		}
	}
	if e.accepted = now; !trusted {
		e.accepted = min(now, e.requested) // else those to come would seem to be accepted tomorrow too
	}
	e.accepted = max(e.accepted, p.lastAccepted)
	e.expire = ms(notification.Expiry(req, fromMs(e.requested), func(notificationv1.Category) time.Duration { return h.settings.defaultTTL(e.category) }))
	if maxAge := h.settings.maxAge.Milliseconds(); !trusted && now-e.requested > maxAge {
		// Whether it is too old is not known: when the clock is right its timer tells.
		e.expire = min(e.expire, e.requested+maxAge)
	}
	e.due = e.accepted
	if req.GetNotBefore() != nil {
		e.due = max(e.due, ms(req.NotBefore.AsTime()))
	}
	if req.GetOaId() == "" {
		req.OaId = h.settings.oaID
	}
	e.know(req)
	h.judge(e, req)
	return arrival{e: e, req: req, record: r, movedFrom: string(movedFrom)}
}

// take remembers a new request, and starts it at once when its turn is now.
func (h *handler) take(u unit, a arrival) {
	e, p := a.e, a.e.p
	now := ms(u.Now())
	process := h.tracer.accept(a.record, e)
	e.req = a.req
	if err := e.seal(a.req, a.movedFrom); err != nil {
		// A request that was decoded is encoded: only a bug comes here. Refusing it is the safe end.
		h.refuse(u, a, failure{reason: znsv1.FailureReason_FAILURE_REASON_INVALID, advice: znsv1.Advice_ADVICE_ASK_OPERATOR})
		return
	}
	e.state, e.mine = stateAccepted, true
	e.history.add(&ledgerv1.Step{TimeMs: now, Kind: ledgerv1.StepKind_STEP_KIND_ACCEPTED, Owner: h.settings.instance})
	f := p.flowOf(e.flow)
	if rule := h.heldByID(e.id, u.Now()); rule != nil {
		e.hold(rule.Reason, untilMs(rule.Until), now)
	} else if nb := a.req.GetNotBefore(); nb != nil && ms(nb.AsTime()) > now {
		e.hold(ledgerv1.HoldReason_HOLD_REASON_NOT_BEFORE, ms(nb.AsTime()), now)
	} else if !h.isOpen(f, u.Now()) {
		e.holdOfFlow(f.hold.Reason, untilMs(f.hold.Until), now)
	} else if s := p.scopes.find(e.order); s != nil && s.head != 0 {
		e.hold(ledgerv1.HoldReason_HOLD_REASON_ORDER, 0, now)
	}
	last := p.lastAccepted
	p.lastAccepted = e.accepted
	p.add(e, now)
	p.supersede(e)
	u.OnAbort(func() {
		p.remove(e)
		p.lastAccepted = last
	})
	u.OnCommit(func() {
		process.End()
		h.metrics.accepted(e.category)
		h.clock.committed(p.id, u.Now())
		if h.arrived != nil {
			h.arrived(e.flow)
		}
	})
	if h.startNow(u, e, f) {
		return
	}
	h.write(u, e)
	if f.ready() > keepDecoded || !p.at(e.ref).has(flagRunnable) {
		e.req = nil
	}
}

// startNow begins the call of a new request at once when nothing else waits to start: one transaction less.
func (h *handler) startNow(u unit, e *entry, f *flow) bool {
	if e.state != stateAccepted || f.place == 0 || f.parked || f.ready() != 1 || f.first(&e.p.slots) != e.ref {
		return false
	}
	if h.dispatch.room() <= h.uncommitted || !h.clock.trusted() || !h.onlyOpen(f) {
		return false
	}
	permit, ok := h.takePace(e.p, f, u.Now())
	return ok && h.launch(u, e, permit)
}

// onlyOpen reports whether f is the only flow in which something may start.
func (h *handler) onlyOpen(f *flow) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, p := range h.parts {
		if !p.restored {
			continue
		}
		for i := range p.lanes {
			if open := p.lanes[i].open; len(open) > 1 || len(open) == 1 && open[0] != f {
				return false
			}
		}
	}
	return true
}

// category is the one that applies: the request's, but never above what the template allows, else the template's.
func (h *handler) category(req *notificationv1.NotificationRequested) notificationv1.Category {
	asked := req.GetCategory()
	if h.templateCategory == nil {
		return notification.Category(req)
	}
	allowed, known := h.templateCategory(cmp.Or(req.GetOaId(), h.settings.oaID), req.GetTemplateId())
	switch {
	case !known:
		return notification.Category(req)
	case asked == notificationv1.Category_CATEGORY_UNSPECIFIED, laneOf(asked) < laneOf(allowed):
		return allowed
	}
	return asked
}

// keepDecoded is how many may wait to start in a flow with their requests kept decoded.
const keepDecoded = 512

// refuse remembers a new request as FAILED and publishes why.
func (h *handler) refuse(u unit, a arrival, f failure) {
	e, p := a.e, a.e.p
	now := ms(u.Now())
	process := h.tracer.accept(a.record, e)
	e.req = a.req
	e.history.add(&ledgerv1.Step{TimeMs: now, Kind: ledgerv1.StepKind_STEP_KIND_ACCEPTED, Owner: h.settings.instance})
	last := p.lastAccepted
	p.lastAccepted = e.accepted
	e.order, e.collapse = 0, 0
	p.add(e, now)
	u.OnAbort(func() {
		p.remove(e)
		p.lastAccepted = last
	})
	u.OnCommit(func() { process.End() })
	h.fail(u, e, f)
}

// deadLetter publishes r to the dead letters with where it came from and why. The value is carried when it fits.
func (h *handler) deadLetter(u unit, r kafka.Record, reason, message, field string, withValue bool) {
	headers := slices.Clone(r.Headers)
	if !withValue {
		headers = smallHeaders(r.Headers)
	}
	headers = append(headers,
		kafka.Header{Key: headerDLQReason, Value: []byte(reason)},
		kafka.Header{Key: headerDLQMessage, Value: []byte(message)},
		kafka.Header{Key: headerDLQTopic, Value: []byte(r.Topic)},
		kafka.Header{Key: headerDLQPartition, Value: strconv.AppendInt(nil, int64(r.Partition), 10)},
		kafka.Header{Key: headerDLQOffset, Value: strconv.AppendInt(nil, r.Offset, 10)},
		kafka.Header{Key: headerDLQTimestamp, Value: r.Time.UTC().AppendFormat(nil, time.RFC3339Nano)})
	if field != "" {
		headers = append(headers, kafka.Header{Key: headerDLQField, Value: []byte(field)})
	}
	out := kafka.Record{Topic: h.settings.dlqTopic, Partition: -1, Time: u.Now(), Key: r.Key, Value: r.Value, Headers: headers}
	if !withValue || len(r.Value) > maxDLQValue {
		sum := sha256.Sum256(r.Value)
		out.Headers = append(out.Headers,
			kafka.Header{Key: headerDLQSize, Value: strconv.AppendInt(nil, int64(len(r.Value)), 10)},
			kafka.Header{Key: headerDLQHash, Value: []byte(hex.EncodeToString(sum[:]))})
		out.Value = nil
		if len(r.Key) > maxDLQKey {
			out.Key = nil
		}
	}
	u.Publish(out)
	u.OnCommit(func() {
		h.metrics.deadLetters.WithLabelValues(reason).Inc()
		h.log.Warn("record sent to the dead letters", "reason", reason, "field", field, "topic", r.Topic, "partition", r.Partition, "offset", r.Offset)
	})
}

// smallHeaders are the first headers of a record, as far as they are small together.
func smallHeaders(headers []kafka.Header) (small []kafka.Header) {
	room := maxDLQHeaders
	for _, h := range headers {
		if room -= len(h.Key) + len(h.Value); room < 0 {
			break
		}
		small = append(small, h)
	}
	return small
}
