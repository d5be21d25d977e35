package sender

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// HeaderRedrive marks a request that is published again so that it is tried again although it failed: a [Redrive].
const HeaderRedrive = "zns-redrive"

// Redrive names the failure that a redrive is about. Each failure is reopened at most once: a notification that lives
// again, or has ended again, has another input offset.
type Redrive struct {
	ID      uuid.UUID // of the redrive, for histories
	Offset  int64     // input offset of the request that failed, as its ledger entry tells
	Attempt int32     // its latest attempt
}

// String is the header's value.
func (r Redrive) String() string { return fmt.Sprintf("%s/%d/%d", r.ID, r.Offset, r.Attempt) }

// ParseRedrive reads the header's value.
func ParseRedrive(value string) (Redrive, error) {
	id, rest, _ := strings.Cut(value, "/")
	offset, attempt, _ := strings.Cut(rest, "/")
	r := Redrive{}
	var err error
	if r.ID, err = uuid.Parse(id); err != nil {
		return r, fmt.Errorf("%s: its first part is no UUID", HeaderRedrive)
	}
	if r.Offset, err = strconv.ParseInt(offset, 10, 64); err != nil || r.Offset < 0 {
		return r, fmt.Errorf("%s: its second part is no offset", HeaderRedrive)
	}
	n, err := strconv.ParseInt(attempt, 10, 31)
	if err != nil || n < 0 {
		return r, fmt.Errorf("%s: its third part is no attempt", HeaderRedrive)
	}
	r.Attempt = int32(n)
	return r, nil
}

// revive makes a request that failed, and is redriven, a new one: the caller takes it as if it had not been known. It
// refuses, and the request is a repetition like any other, unless the notification is finished, FAILED, surely not
// sent, and has had no other life since the failure that the header names.
func (h *handler) revive(u unit, a *arrival) bool {
	value, marked := a.record.Header(HeaderRedrive)
	if !marked {
		return false
	}
	p, id := a.e.p, a.e.id
	refused := func() bool {
		u.OnCommit(func() { h.operators.redriven(false) })
		return false
	}
	r, err := ParseRedrive(string(value))
	if err != nil {
		u.OnCommit(func() {
			h.log.Warn("a redrive cannot be read and is taken as a repetition", "notification_id", id, "partition", a.record.Partition, "offset", a.record.Offset, "err", err)
		})
		return refused()
	}
	hash, offset, finished := p.finishedAs(id)
	if !finished || hash&unsentBit == 0 || offset != uint32(r.Offset) { //nolint:gosec // G115: the low half is what memory has
		return refused()
	}
	u.OnAbort(p.forget(id))
	a.e.attempt = r.Attempt + 1 // no event of the new life has the id of an earlier one
	a.e.history.add(&ledgerv1.Step{TimeMs: ms(u.Now()), Kind: ledgerv1.StepKind_STEP_KIND_REDRIVEN, Attempt: a.e.attempt, Owner: r.ID.String()})
	u.OnCommit(func() {
		h.operators.redriven(true)
		h.log.Info("reopened by a redrive", "notification_id", id, "redrive", r.ID, "attempt", r.Attempt+1)
	})
	return true
}

// RedriveRecord makes of a request, as it stands in its topic, one that is redriven: without what the hub added on its
// first way, and on the partition of its key.
func RedriveRecord(request kafka.Record, r Redrive) kafka.Record {
	out := kafka.Record{Topic: request.Topic, Partition: -1, Key: request.Key, Value: request.Value}
	for _, header := range request.Headers {
		if header.Key != headerMoved && header.Key != headerMovedTime && header.Key != HeaderRedrive && !strings.HasPrefix(header.Key, headerDLQ) {
			out.Headers = append(out.Headers, header)
		}
	}
	out.Headers = append(out.Headers, kafka.Header{Key: HeaderRedrive, Value: []byte(r.String())})
	return out
}

// headerDLQ begins the headers that dead letters have of the hub.
const headerDLQ = "zns-dlq-"

// Reopenable reports whether a notification that failed for this reason was surely not sent. While an attempt may have
// reached Zalo, every failure is UNRESOLVED.
func Reopenable(reason znsv1.FailureReason) bool {
	return reason != znsv1.FailureReason_FAILURE_REASON_UNRESOLVED && reason != znsv1.FailureReason_FAILURE_REASON_UNSPECIFIED
}
