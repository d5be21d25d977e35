package demo

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/cli/event"
	"github.com/znshub/znshub/services/cli/render"
)

// Outcome is what the topics and the simulator hold about one case.
type Outcome struct {
	Requests   []event.Event
	Sent       []*znsv1.Sent
	Failed     []*znsv1.Failed
	Unresolved []*znsv1.Unresolved
	Delivered  []*znsv1.Delivered
	Entry      *ledgerv1.Entry // the ledger's newest version; nil: none
	Copies     int             // messages that the phone got
	Killed     time.Time       // when the sender was killed; zero: it was not
}

func (o *Outcome) add(e event.Event) {
	switch m := e.Message.(type) {
	case *znsv1.Sent:
		o.Sent = append(o.Sent, m)
	case *znsv1.Failed:
		o.Failed = append(o.Failed, m)
	case *znsv1.Unresolved:
		o.Unresolved = append(o.Unresolved, m)
	case *znsv1.Delivered:
		o.Delivered = append(o.Delivered, m)
	default:
		if e.Kind == event.Requested && e.MovedFrom() == "" {
			o.Requests = append(o.Requests, e)
		}
	}
}

// state is what the case ended in; empty when it is in no state that is promised.
func (o *Outcome) state() state {
	switch {
	case len(o.Sent) == 1 && len(o.Failed) == 0:
		return sent
	case len(o.Sent) == 0 && len(o.Failed) == 1:
		return failed
	case len(o.Sent) == 0 && len(o.Failed) == 0 && o.Entry.GetState() == ledgerv1.State_STATE_HELD:
		return held
	}
	return ""
}

// done reports whether nothing more is to come for a case that should end in want.
func (o *Outcome) done(want state) bool {
	if want == sent {
		return len(o.Delivered) > 0 && len(o.Sent) > 0
	}
	return o.state() == want
}

type state string

const (
	sent   state = "sent"
	failed state = "failed"
	held   state = "held"
)

// step returns the last step of the kind in the entry's history.
func (o *Outcome) step(kind ledgerv1.StepKind) *ledgerv1.Step {
	for _, step := range slices.Backward(o.Entry.GetHistory()) {
		if step.GetKind() == kind {
			return step
		}
	}
	return nil
}

// The tellers say what happened in a case, from the facts alone. wrong says what is not as promised.

func tellSent(o *Outcome) (what, wrong string) {
	if len(o.Sent) == 0 || len(o.Delivered) == 0 {
		return "", "not delivered"
	}
	s, d := o.Sent[0], o.Delivered[0]
	return fmt.Sprintf("accepted %s · sent %s · delivered %s",
		between(s.GetRequestedTime(), s.GetAcceptedTime()), between(s.GetRequestedTime(), s.GetEventTime()), between(s.GetRequestedTime(), d.GetEventTime())), ""
}

func tellTwice(o *Outcome) (what, wrong string) {
	if len(o.Requests) != 2 {
		return "", fmt.Sprintf("%d requests in the topic, not 2", len(o.Requests))
	}
	if len(o.Sent) != 1 {
		return "", fmt.Sprintf("%d times zns.sent", len(o.Sent))
	}
	return "second ignored: same idempotency_key", ""
}

func tellAnswerLost(o *Outcome) (what, wrong string) {
	unknown := o.step(ledgerv1.StepKind_STEP_KIND_UNKNOWN)
	if cause := znsv1.UnknownCause(unknown.GetCause()); cause != znsv1.UnknownCause_UNKNOWN_CAUSE_TIMEOUT {
		return "", "its history tells of no timeout but of " + cause.String()
	}
	after, wrong := settled(o)
	return fmt.Sprintf("POST timed out after Zalo accepted · UNKNOWN · signed callback %s → sent", after), wrong
}

func tellKilled(o *Outcome) (what, wrong string) {
	unknown := o.step(ledgerv1.StepKind_STEP_KIND_UNKNOWN)
	if cause := znsv1.UnknownCause(unknown.GetCause()); cause != znsv1.UnknownCause_UNKNOWN_CAUSE_OWNER_DIED {
		return "", "its history tells of no dead owner but of " + cause.String()
	}
	_, wrong = settled(o)
	took := time.UnixMilli(unknown.GetTimeMs()).Sub(o.Killed)
	return fmt.Sprintf("sender killed -9 inside the call · successor took over in %s · callback → sent", render.Duration(took)), wrong
}

// settled is how long after the request a callback settled it.
func settled(o *Outcome) (after, wrong string) {
	if len(o.Sent) == 0 {
		return "", "not sent"
	}
	s := o.Sent[0]
	if s.GetOutcomeSource() != znsv1.OutcomeSource_OUTCOME_SOURCE_CALLBACK {
		return "", "known from " + s.GetOutcomeSource().String() + ", not from the callback"
	}
	return between(s.GetRequestedTime(), s.GetEventTime()), ""
}

func tellRefused(o *Outcome) (what, wrong string) {
	if len(o.Failed) == 0 {
		return "", "no zns.failed"
	}
	f := o.Failed[0]
	if f.GetProviderCode() != noAccount || f.GetAdvice() != znsv1.Advice_ADVICE_TRY_OTHER_CHANNEL {
		wrong = fmt.Sprintf("Zalo's code is %d, want %d with TRY_OTHER_CHANNEL", f.GetProviderCode(), noAccount)
	}
	handed := "no fallback"
	if f.GetFallback()["sms_text"] != "" {
		handed = "sms_text handed on"
	} else {
		wrong = "the fallback is not handed on"
	}
	return fmt.Sprintf("%d · zns.failed %s, %s, %s", f.GetProviderCode(), short(f.GetReason(), "FAILURE_REASON_"), short(f.GetAdvice(), "ADVICE_"), handed), wrong
}

func tellHeld(now time.Time) func(o *Outcome) (what, wrong string) {
	return func(o *Outcome) (what, wrong string) {
		if o.Entry.GetHoldReason() != ledgerv1.HoldReason_HOLD_REASON_NOT_BEFORE {
			return "", "it waits for " + o.Entry.GetHoldReason().String()
		}
		until := time.UnixMilli(o.Entry.GetHoldUntilMs()).In(vietnam)
		day := until.Format("02.01.")
		switch until.Format(time.DateOnly) {
		case now.In(vietnam).Format(time.DateOnly):
			day = "today"
		case now.In(vietnam).AddDate(0, 0, 1).Format(time.DateOnly):
			day = "tomorrow"
		}
		return fmt.Sprintf("held: not_before, until %s %s", until.Format("15:04"), day), ""
	}
}

func tellInvalid(o *Outcome) (what, wrong string) {
	if len(o.Failed) == 0 {
		return "", "no zns.failed"
	}
	f := o.Failed[0]
	var texts []string
	for _, v := range f.GetViolations() {
		what, _, _ := strings.Cut(v.GetMessage(), ":") // the value's shape and what to do stand behind it
		texts = append(texts, v.GetField()+": "+what)
	}
	if f.GetReason() != znsv1.FailureReason_FAILURE_REASON_INVALID || len(texts) == 0 {
		wrong = "no violation is told"
	}
	return render.OneLine("zns.failed "+short(f.GetReason(), "FAILURE_REASON_")+" "+strings.Join(texts, "; "), 96), wrong
}

func between(from, to *timestamppb.Timestamp) string {
	return render.Duration(to.AsTime().Sub(from.AsTime()))
}

func short(v fmt.Stringer, prefix string) string { return strings.TrimPrefix(v.String(), prefix) }
