package sender

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

// formatVersion is the ledger format that this program writes and reads. It grows one release after the programs
// that can read the next one are out.
const formatVersion = 1

const (
	stateAccepted = ledgerv1.State_STATE_ACCEPTED
	stateSending  = ledgerv1.State_STATE_SENDING
	stateHeld     = ledgerv1.State_STATE_HELD
	stateUnknown  = ledgerv1.State_STATE_UNKNOWN
	stateSent     = ledgerv1.State_STATE_SENT
	stateFailed   = ledgerv1.State_STATE_FAILED
)

// entry is a notification that is not terminal, or that FAILED as UNRESOLVED and is still watched for a callback.
// The tick lock guards it. What was asked is kept encoded, as it stands in the ledger, and decoded when it is needed:
// that is a fraction of the memory of a decoded message, and a new state is written by appending to it.
type entry struct {
	id     uuid.UUID
	p      *partition
	hash   [16]byte
	offset int64
	fixed  []byte // the ledger entry's fields that do not change while it lives, encoded

	requested, accepted, expire, due int64 // Unix milliseconds

	category    notificationv1.Category
	policy      znsv1.UnknownPolicy
	window      int64 // how long UNKNOWN lasts before the policy may act, milliseconds
	traceparent string
	tracestate  string

	req *notificationv1.NotificationRequested // decoded on demand; nil while it waits in a long queue

	mut

	ref      ref // its slot
	flow     limit.Flow
	order    uint64 // hash of its order's key; 0: none
	collapse uint64 // hash of its collapse_key; 0: none
	ledger   int64  // offset of its latest ledger record that is committed; 0: none
	mine     bool   // accepted by this process, and in memory since
	pins     int    // uncommitted writes, and who else needs it in memory
	listened bool   // the reconciler listens for its callbacks
	wanting  bool   // and only a callback can settle an attempt of it
	watch    watch  // and this is what it was told of the wait
	decideAt int64  // when to look again whether the policy may act

	heard *heardCallback // a callback about an open attempt that came while another was under way
}

// mut is the part of an entry that changes with its state. Copying the struct is a snapshot: slices are appended to,
// never modified in place.
type mut struct {
	state        ledgerv1.State
	attempt      int32
	open         []openAttempt
	reason       ledgerv1.HoldReason
	until        int64
	flowHold     bool // HELD because its whole flow is closed, not for a reason of its own
	superseded   bool // a newer request with its collapse_key was taken
	unknownSince int64
	decideBy     int64
	cause        znsv1.UnknownCause
	unresolved   bool // zns.unresolved was published for the present unknown state
	msgID        string
	sent         int64
	finished     int64
	failure      znsv1.FailureReason
	code         int32
	retries      int32
	resentBy     []byte // id of the operator's command that had an unknown one sent again last
	history      history
	results      []attemptResult
}

type openAttempt struct {
	number     int32
	trackingID string
	intent     int64
	deadline   int64
	owner      string
}

type attemptResult struct {
	openAttempt
	duration int32
	outcome  znsv1.AttemptOutcome
	code     int32
	cause    znsv1.UnknownCause
}

// know takes from the request what decides where the entry stands. The category is known already.
func (e *entry) know(req *notificationv1.NotificationRequested) {
	e.flow = limit.Flow{OA: req.GetOaId(), Template: req.GetTemplateId(), Campaign: req.GetCampaignId(), Category: e.category}
	e.order, e.collapse = orderOf(req), collapseOf(req)
}

// request returns what was asked for. The caller must not change it.
func (e *entry) request() *notificationv1.NotificationRequested {
	if e.req == nil {
		var le ledgerv1.Entry
		if err := proto.Unmarshal(e.fixed, &le); err == nil {
			e.req = le.GetRequest()
		}
	}
	return e.req
}

// size is what the entry costs in memory, roughly.
func (e *entry) size() int64 { return int64(len(e.fixed)) + 512 }

// Field numbers of ledger.v1.Entry, see ledger.proto.
const (
	fMinReader = iota + 1
	fID
	fState
	fOffset
	fHash
	fRequested
	fAccepted
	fExpire
	fCategory
	fRequest
	fTraceparent
	fTracestate
	fAttempt
	fOpen
	fReason
	fUntil
	fUnknownSince
	fDecideBy
	fCause
	fUnresolved
	fMsgID
	fSent
	fFinished
	fFailure
	fCode
	fRetries
	fHistory
	fMovedFrom
	fDue
	fResults
	fOA
	fTemplate
	fCampaign
	fResentBy

	fFlowHold   = 40
	fSuperseded = 41
)

// seal encodes the fields that do not change. It keeps no reference to req's memory.
func (e *entry) seal(req *notificationv1.NotificationRequested, movedFrom string) error {
	n := proto.Size(req)
	b := make([]byte, 0, n+len(e.traceparent)+len(e.tracestate)+len(movedFrom)+96)
	b = e.appendHead(b)
	b = appendInt(b, fExpire, e.expire)
	b = appendInt(b, fDue, e.due)
	b = appendString(b, fTracestate, e.tracestate)
	b = appendString(b, fMovedFrom, movedFrom)
	b = protowire.AppendTag(b, fRequest, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(n))
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, req)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	e.fixed = b
	return nil
}

// appendHead appends what a terminal entry keeps too.
func (e *entry) appendHead(b []byte) []byte {
	b = appendInt(b, fMinReader, formatVersion)
	b = appendBytes(b, fID, e.id[:])
	b = appendInt(b, fOffset, e.offset)
	b = appendBytes(b, fHash, e.hash[:])
	b = appendInt(b, fRequested, e.requested)
	b = appendInt(b, fAccepted, e.accepted)
	b = appendInt(b, fCategory, int64(e.category))
	return appendString(b, fTraceparent, e.traceparent)
}

// encode returns the ledger record's value for the entry's present state.
func (e *entry) encode() []byte {
	var b []byte
	if e.keepsRequest() {
		b = make([]byte, len(e.fixed), len(e.fixed)+len(e.history.b)+len(e.results)*80+256)
		copy(b, e.fixed)
	} else {
		b = e.appendHead(make([]byte, 0, len(e.history.b)+384))
		b = appendString(b, fOA, e.flow.OA)
		b = appendString(b, fTemplate, e.flow.Template)
		b = appendString(b, fCampaign, e.flow.Campaign)
	}
	return e.append(b, e.keepsRequest())
}

// keepsRequest reports whether the ledger still holds the request: while something may have to be sent or told.
func (e *entry) keepsRequest() bool {
	switch e.state {
	case stateSent:
		return false
	case stateFailed:
		return e.watched()
	}
	return true
}

// watched reports whether the entry FAILED as UNRESOLVED and a late callback may still revise that.
func (e *entry) watched() bool {
	return e.state == stateFailed && e.failure == znsv1.FailureReason_FAILURE_REASON_UNRESOLVED && len(e.open) > 0
}

func (m *mut) append(b []byte, attempts bool) []byte {
	b = appendInt(b, fState, int64(m.state))
	b = appendInt(b, fAttempt, int64(m.attempt))
	b = appendInt(b, fReason, int64(m.reason))
	b = appendInt(b, fUntil, m.until)
	b = appendInt(b, fFlowHold, boolInt(m.flowHold))
	b = appendInt(b, fSuperseded, boolInt(m.superseded))
	if len(m.resentBy) > 0 {
		b = appendBytes(b, fResentBy, m.resentBy)
	}
	b = appendInt(b, fUnknownSince, m.unknownSince)
	b = appendInt(b, fDecideBy, m.decideBy)
	b = appendInt(b, fCause, int64(m.cause))
	b = appendInt(b, fUnresolved, boolInt(m.unresolved))
	b = appendString(b, fMsgID, m.msgID)
	b = appendInt(b, fSent, m.sent)
	b = appendInt(b, fFinished, m.finished)
	b = appendInt(b, fFailure, int64(m.failure))
	b = appendInt(b, fCode, int64(m.code))
	b = appendInt(b, fRetries, int64(m.retries))
	if attempts {
		for _, a := range m.open {
			b = appendMessage(b, fOpen, func(b []byte) []byte {
				b = a.append(b)
				b = appendInt(b, 4, a.deadline)
				return appendString(b, 5, a.owner)
			})
		}
		for _, r := range m.results {
			b = appendMessage(b, fResults, func(b []byte) []byte {
				b = r.append(b)
				b = appendInt(b, 4, int64(r.duration))
				b = appendInt(b, 5, int64(r.outcome))
				b = appendInt(b, 6, int64(r.code))
				return appendInt(b, 7, int64(r.cause))
			})
		}
	}
	return append(b, m.history.b...)
}

func (a *openAttempt) append(b []byte) []byte {
	b = appendInt(b, 1, int64(a.number))
	b = appendString(b, 2, a.trackingID)
	return appendInt(b, 3, a.intent)
}

// decodeEntry reads a ledger record. It fails for a format or a state that this program does not know.
func decodeEntry(value []byte) (*entry, error) {
	var le ledgerv1.Entry
	if err := proto.Unmarshal(value, &le); err != nil {
		return nil, fmt.Errorf("decode ledger entry: %w", err)
	}
	if le.MinReader > formatVersion {
		return nil, fmt.Errorf("ledger entry needs format %d, this program reads %d: run the newer release", le.MinReader, formatVersion)
	}
	id, err := uuid.FromBytes(le.NotificationId)
	if err != nil {
		return nil, fmt.Errorf("ledger entry without a notification_id")
	}
	if le.State < stateAccepted || le.State > stateFailed {
		return nil, fmt.Errorf("ledger entry in unknown state %d: run the newer release", le.State)
	}
	e := &entry{
		id: id, offset: le.InputOffset,
		requested: le.RequestedMs, accepted: le.AcceptedMs, expire: le.ExpireMs, due: le.DueMs,
		category: le.Category, traceparent: le.Traceparent, tracestate: le.Tracestate,
		mut: mut{
			state: le.State, attempt: le.Attempt, reason: le.HoldReason, until: le.HoldUntilMs, flowHold: le.FlowHold,
			superseded: le.Superseded, resentBy: le.ResentBy,
			unknownSince: le.UnknownSinceMs, decideBy: le.DecideByMs, cause: znsv1.UnknownCause(le.UnknownCause),
			unresolved: le.UnresolvedPublished, msgID: le.MsgId, sent: le.SentMs, finished: le.FinishedMs,
			failure: znsv1.FailureReason(le.FailureReason), code: le.ProviderCode, retries: le.Retries,
		},
	}
	copy(e.hash[:], le.PayloadHash)
	for _, a := range le.OpenAttempts {
		e.open = append(e.open, openAttempt{a.Number, a.TrackingId, a.IntentMs, a.LaunchDeadlineMs, a.Owner})
	}
	for _, a := range le.AttemptResults {
		e.results = append(e.results, attemptResult{
			openAttempt: openAttempt{number: a.Number, trackingID: a.TrackingId, intent: a.IntentMs},
			duration:    a.DurationMs, outcome: znsv1.AttemptOutcome(a.Outcome), code: a.ProviderCode, cause: znsv1.UnknownCause(a.Cause),
		})
	}
	for _, s := range le.History {
		e.history.add(s)
	}
	e.flow = limit.Flow{OA: le.OaId, Template: le.TemplateId, Campaign: le.CampaignId, Category: le.Category}
	if le.Request != nil {
		e.know(le.Request)
		if err := e.seal(le.Request, le.MovedFrom); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// history is the encoded steps of an entry, at most maxSteps and maxHistory bytes: when it is full the third step
// gives way, so that the beginning and the latest remain.
type history struct {
	b []byte
	n int
}

const (
	maxSteps   = 32
	maxHistory = 1024
	maxOwner   = 64 // bytes of an INSTANCE_ID in a step
)

func (h *history) add(s *ledgerv1.Step) {
	h.b = appendMessage(h.b, fHistory, func(b []byte) []byte {
		b = appendInt(b, 1, s.TimeMs)
		b = appendInt(b, 2, int64(s.Kind))
		b = appendInt(b, 3, int64(s.Attempt))
		b = appendInt(b, 4, int64(s.HoldReason))
		b = appendInt(b, 5, int64(s.Code))
		b = appendInt(b, 6, int64(s.DurationMs))
		b = appendInt(b, 7, int64(s.Cause))
		b = appendInt(b, 8, s.UntilMs)
		return appendString(b, 9, strings.ToValidUTF8(s.Owner[:min(len(s.Owner), maxOwner)], ""))
	})
	h.n++
	for h.n > maxSteps || len(h.b) > maxHistory {
		h.truncate(s.TimeMs)
	}
}

// truncate replaces the third step, and the one after it when that is not yet the mark, by one TRUNCATED mark.
func (h *history) truncate(now int64) {
	first := stepEnd(h.b, 0)
	from := stepEnd(h.b, first)
	to := stepEnd(h.b, stepEnd(h.b, from))
	mark := history{}
	var le ledgerv1.Entry
	at := now
	if err := proto.Unmarshal(h.b[from:to], &le); err == nil && len(le.History) > 0 {
		at = le.History[0].TimeMs
	}
	mark.b = appendMessage(nil, fHistory, func(b []byte) []byte {
		b = appendInt(b, 1, at)
		return appendInt(b, 2, int64(ledgerv1.StepKind_STEP_KIND_TRUNCATED))
	})
	h.b = slices.Concat(h.b[:from], mark.b, h.b[to:])
	h.n--
}

func stepEnd(b []byte, from int) int {
	_, _, n := protowire.ConsumeField(b[from:])
	return from + max(n, 0)
}

func appendInt(b []byte, field protowire.Number, v int64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(v))
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

// appendMessage appends a message of any length below 16 KiB: its length prefix is written with two bytes.
func appendMessage(b []byte, field protowire.Number, body func([]byte) []byte) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	at := len(b)
	b = body(append(b, 0, 0))
	n := len(b) - at - 2
	b[at], b[at+1] = byte(n)|0x80, byte(n>>7)
	return b
}

func boolInt(v bool) int64 {
	if v {
		return 1
	}
	return 0
}

func ms(t time.Time) int64 { return t.UnixMilli() }

func fromMs(v int64) time.Time { return time.UnixMilli(v).UTC() }
