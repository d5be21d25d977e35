package explain

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	controlv1 "github.com/znshub/znshub/proto/control/v1"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/cli/event"
	"github.com/znshub/znshub/services/cli/render"
)

// ledger tells the entry's steps and where it stands now.
func (s *Story) ledger(f Facts, now time.Time) {
	entry := f.newest()
	if entry != nil {
		s.State = state(f, entry, now)
		s.waits(f, entry, now)
	}
	if n := len(f.Ledger); n > 0 && f.Ledger[n-1].Entry == nil {
		last := f.Ledger[n-1]
		s.State = "forgotten: its dedupe window has passed"
		s.Lines = append(s.Lines, Line{Time: last.Time, Label: "forgotten", Text: version(last) + ": a tombstone, the dedupe window has passed"})
	}
	steps := entry.GetHistory()
	for i, step := range steps {
		var next time.Time
		if i+1 < len(steps) {
			next = time.UnixMilli(steps[i+1].GetTimeMs())
		}
		s.Lines = append(s.Lines, stepLine(f, entry, step, next, now))
	}
}

func stepLine(f Facts, entry *ledgerv1.Entry, step *ledgerv1.Step, next, now time.Time) Line {
	l := Line{Time: time.UnixMilli(step.GetTimeMs())}
	attempt := fmt.Sprintf("attempt %d", step.GetAttempt())
	took := render.Duration(time.Duration(step.GetDurationMs()) * time.Millisecond)
	switch step.GetKind() {
	case ledgerv1.StepKind_STEP_KIND_ACCEPTED:
		l.Label, l.Text = "accepted", f.acceptedAt(entry)+f.expires(l.Time)
	case ledgerv1.StepKind_STEP_KIND_HELD:
		l.Label, l.Tone = "waited", Waiting
		l.Text = name(step.GetHoldReason(), "HOLD_REASON_") + waited(step, next, now)
		if next.IsZero() {
			l.Label = "waits"
		}
	case ledgerv1.StepKind_STEP_KIND_INTENT:
		l.Label = fmt.Sprintf("intent %d", step.GetAttempt())
		at, _ := f.find(intentOf(step.GetAttempt()))
		l.Text = at + by(step)
	case ledgerv1.StepKind_STEP_KIND_SENT:
		l.Label, l.Text, l.Tone = attempt, took+" · Zalo accepted", Good
	case ledgerv1.StepKind_STEP_KIND_REJECTED:
		l.Label, l.Text, l.Tone = attempt, fmt.Sprintf("%s · Zalo refused: %d", took, step.GetCode()), Bad
	case ledgerv1.StepKind_STEP_KIND_NOT_SENT:
		l.Label, l.Text, l.Tone = attempt, took+" · not sent: no byte of the request left", Waiting
	case ledgerv1.StepKind_STEP_KIND_UNKNOWN:
		l.Label, l.Tone = attempt, Waiting
		l.Text = took + " · UNKNOWN: " + cause(step.GetCause()) + decide(step.GetUntilMs(), "")
		if step.GetCause() == int32(znsv1.UnknownCause_UNKNOWN_CAUSE_OWNER_DIED) {
			l.Text = "UNKNOWN: " + cause(step.GetCause()) + by(step) + decide(step.GetUntilMs(), "")
		}
	case ledgerv1.StepKind_STEP_KIND_UNRESOLVED_PUBLISHED:
		l.Label, l.Text, l.Tone = "told", "zns.unresolved was published", Waiting
	case ledgerv1.StepKind_STEP_KIND_CALLBACK:
		l.Label, l.Text, l.Tone = "settled", "by Zalo's signed callback", Good
	case ledgerv1.StepKind_STEP_KIND_FAILED:
		l.Label, l.Text, l.Tone = "failed", failure(entry), Bad
	case ledgerv1.StepKind_STEP_KIND_DUPLICATE:
		l.Label, l.Text = "repeated", "the same request came again and was ignored"
	case ledgerv1.StepKind_STEP_KIND_OPERATOR:
		l.Label, l.Text = "operator", name(controlv1.Action(step.GetCode()), "ACTION_")+prefixed(" · command ", render.OneLine(step.GetOwner(), 60))
	case ledgerv1.StepKind_STEP_KIND_REDRIVEN:
		l.Label, l.Text = "redriven", "an operator let it be sent again"
	case ledgerv1.StepKind_STEP_KIND_TRUNCATED:
		l.Label, l.Text = "…", "steps that no longer fit stood here"
	default:
		l.Label, l.Text = "?", fmt.Sprintf("step %d, unknown to this version of zns", step.GetKind())
	}
	return l
}

const compactedAway = "its ledger record was compacted away"

// find is where the first version that fits stands.
func (f *Facts) find(fits func(*ledgerv1.Entry) bool) (string, bool) {
	for _, v := range f.Ledger {
		if v.Entry != nil && fits(v.Entry) {
			return version(v), true
		}
	}
	return compactedAway, false
}

// accepted fits the versions from before the first intent.
func accepted(e *ledgerv1.Entry) bool { return e.GetAttempt() == 0 && len(e.GetHistory()) > 0 }

func intentOf(n int32) func(*ledgerv1.Entry) bool {
	return func(e *ledgerv1.Entry) bool {
		return e.GetState() == ledgerv1.State_STATE_SENDING && e.GetAttempt() == n
	}
}

func version(v Version) string { return fmt.Sprintf("ledger[%d]@%d", v.Partition, v.Offset) }

func place(e *event.Event) string {
	return fmt.Sprintf("%s[%d]@%d", e.Record.Topic, e.Record.Partition, e.Record.Offset)
}

// acceptedAt is where the entry was first written. A request that can be sent at once is accepted and sent by one
// transaction, which leaves one record of both.
func (f *Facts) acceptedAt(entry *ledgerv1.Entry) string {
	if at, ok := f.find(accepted); ok {
		return at
	}
	steps := entry.GetHistory()
	if len(steps) > 1 && steps[1].GetKind() == ledgerv1.StepKind_STEP_KIND_INTENT && steps[1].GetTimeMs() == steps[0].GetTimeMs() {
		return "in one transaction with intent 1"
	}
	return compactedAway
}

// expires says until when a call may start; entries forget it when they are done, so older versions are asked too.
func (f *Facts) expires(from time.Time) string {
	for _, v := range f.Ledger {
		if ms := v.Entry.GetExpireMs(); ms != 0 {
			at := time.UnixMilli(ms)
			return fmt.Sprintf(" · expires %s, %s later", stamp(at), render.Duration(at.Sub(from)))
		}
	}
	return ""
}

func waited(step *ledgerv1.Step, next, now time.Time) string {
	from := time.UnixMilli(step.GetTimeMs())
	if !next.IsZero() {
		return " for " + render.Duration(next.Sub(from))
	}
	text := " for " + render.Duration(now.Sub(from)) + " so far"
	if step.GetUntilMs() != 0 {
		text += ", until " + stamp(time.UnixMilli(step.GetUntilMs()))
	}
	return text
}

func decide(ms int64, policy string) string {
	if ms == 0 {
		return ""
	}
	return " · the policy " + spaced(policy) + "may act from " + stamp(time.UnixMilli(ms))
}

// policy is what will be done about an unresolved notification, as its latest zns.unresolved tells.
func (f *Facts) policy() string {
	for i := range slices.Backward(f.Events) {
		if m, ok := f.Events[i].Message.(*znsv1.Unresolved); ok {
			return name(m.GetPolicy(), "UNKNOWN_POLICY_")
		}
	}
	return ""
}

func by(step *ledgerv1.Step) string { return prefixed(" · by ", render.OneLine(step.GetOwner(), 60)) }

func cause(n int32) string {
	return cmp.Or(name(znsv1.UnknownCause(n), "UNKNOWN_CAUSE_"), fmt.Sprintf("cause %d", n))
}

func failure(entry *ledgerv1.Entry) string {
	text := name(znsv1.FailureReason(entry.GetFailureReason()), "FAILURE_REASON_")
	if entry.GetProviderCode() != 0 {
		text += fmt.Sprintf(" · Zalo's code %d", entry.GetProviderCode())
	}
	return text
}

// state says where the entry stands and, when it waits, for what.
func state(f Facts, entry *ledgerv1.Entry, now time.Time) string {
	text := name(entry.GetState(), "STATE_")
	switch entry.GetState() {
	case ledgerv1.State_STATE_HELD:
		text += ": " + name(entry.GetHoldReason(), "HOLD_REASON_")
		if entry.GetHoldUntilMs() != 0 {
			at := time.UnixMilli(entry.GetHoldUntilMs())
			text += ", until " + stamp(at)
			if left := at.Sub(now); left > 0 {
				text += ", in " + render.Duration(left)
			} else {
				text += ", which has passed"
			}
		}
	case ledgerv1.State_STATE_UNKNOWN:
		text += ": " + cause(entry.GetUnknownCause()) + decide(entry.GetDecideByMs(), f.policy())
	case ledgerv1.State_STATE_FAILED:
		text += ": " + failure(entry)
	}
	return text
}

func stamp(t time.Time) string { return render.Vietnam(t) + " VN" }

func name(v fmt.Stringer, prefix string) string {
	text := strings.TrimPrefix(v.String(), prefix)
	if text == "UNSPECIFIED" {
		return ""
	}
	return text
}

func spaced(text string) string {
	if text == "" {
		return ""
	}
	return text + " "
}

func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

// trackingIDs are the tracking_ids of the attempts that any version of the entry names, oldest first, and the attempts'
// numbers: one that was cancelled before its call has none, and compaction forgets.
func trackingIDs(versions []Version) (ids []string, attempts []int32) {
	byAttempt := map[int32]string{}
	for _, v := range versions {
		for _, a := range v.Entry.GetOpenAttempts() {
			byAttempt[a.GetNumber()] = a.GetTrackingId()
		}
		for _, a := range v.Entry.GetAttemptResults() {
			byAttempt[a.GetNumber()] = a.GetTrackingId()
		}
	}
	attempts = slices.Sorted(maps.Keys(byAttempt))
	for _, n := range attempts {
		ids = append(ids, render.OneLine(byAttempt[n], 64))
	}
	return ids, attempts
}
