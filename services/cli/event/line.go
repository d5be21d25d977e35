package event

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/cli/render"
)

// Line writes the event as one line, without its line break: time, kind, name, recipient, what it says.
func (e *Event) Line(style render.Style, now time.Time) string {
	fields := []string{
		style.Dim(render.Clock(e.Record.Time, now)),
		e.paint(style)(fmt.Sprintf("%-11s", e.Kind)),
		style.Bold(render.OneLine(e.Name(), 60)),
	}
	if to := e.Recipient(); to != "" {
		fields = append(fields, to)
	}
	if text := e.Text(); text != "" {
		fields = append(fields, text)
	}
	return strings.Join(fields, "  ")
}

func (e *Event) paint(style render.Style) func(string) string {
	switch e.Kind {
	case Sent:
		return style.Info
	case Delivered:
		return style.Good
	case Failed, DeadLetter:
		return style.Bad
	case Unresolved, Overdue:
		return style.Warn
	default:
		return style.Dim
	}
}

// Recipient is the person, masked; empty when the record does not tell.
func (e *Event) Recipient() string {
	switch m := e.Message.(type) {
	case *notificationv1.NotificationRequested:
		r := m.GetRecipient()
		return recipient(r.GetPhone(), r.GetPhoneSha256(), r.GetUserId())
	case result:
		r := m.GetRecipient()
		return recipient(r.GetPhone(), r.GetPhoneSha256(), r.GetUserId())
	}
	return ""
}

func recipient(phone, hash, user string) string {
	switch {
	case phone != "":
		return render.Phone(phone)
	case hash != "":
		return "sha256:" + render.OneLine(render.Short(hash, 8), 12)
	case user != "":
		return "user *****"
	}
	return ""
}

// Text is what the event says, in words, without name and recipient.
func (e *Event) Text() string {
	if text := e.deadLetter(); e.Kind == DeadLetter && text != "" {
		return text
	}
	if e.Err != nil {
		return "cannot be read: " + render.OneLine(e.Err.Error(), 160)
	}
	switch m := e.Message.(type) {
	case *notificationv1.NotificationRequested:
		return e.requested(m)
	case *znsv1.Sent:
		return join("Zalo accepted", after(m.GetRequestedTime(), m.GetEventTime(), "the request"), attempt(m.GetAttempt()),
			"msg_id "+render.OneLine(m.GetMsgId(), 40), bySource(m), corrects(m))
	case *znsv1.Delivered:
		return join("on the phone", after(m.GetRequestedTime(), m.GetEventTime(), "the request"), billable(m))
	case *znsv1.Failed:
		return FailedText(m)
	case *znsv1.Overdue:
		return join("no receipt in time", after(m.GetRequestedTime(), m.GetEventTime(), "the request"))
	case *znsv1.Unresolved:
		return join("nobody knows whether Zalo took it: "+enum(m.GetCause(), "UNKNOWN_CAUSE_"),
			"policy "+enum(m.GetPolicy(), "UNKNOWN_POLICY_"), until(m.GetDecideBy()))
	}
	if e.Zalo != nil {
		return join(render.OneLine(e.Zalo.Name, 60), prefixed("msg_id ", render.OneLine(e.Zalo.MsgID, 40)))
	}
	return ""
}

func (e *Event) requested(m *notificationv1.NotificationRequested) string {
	var moved string
	if from := e.MovedFrom(); from != "" {
		moved = "moved from " + render.OneLine(from, 40)
	}
	return join(prefixed("template ", render.OneLine(m.GetTemplateId(), 40)), enum(m.GetCategory(), "CATEGORY_"), notBefore(m.GetNotBefore()), moved)
}

// deadLetter says why the sender put a record aside and where it stood, from the headers that the sender added.
func (e *Event) deadLetter() string {
	header := func(name string) string {
		return render.OneLine(e.header("zns-dlq-"+name), 160)
	}
	var from string
	if header("offset") != "" {
		from = fmt.Sprintf("was %s[%s]@%s", header("topic"), header("partition"), header("offset"))
	}
	return join(header("reason"), header("message"), from)
}

// FailedText says why a notification failed.
func FailedText(m *znsv1.Failed) string {
	parts := []string{enum(m.GetReason(), "FAILURE_REASON_")}
	if m.GetProviderCode() != 0 {
		parts = append(parts, fmt.Sprintf("%d %s", m.GetProviderCode(), render.OneLine(m.GetProviderMessage(), 80)))
	}
	for _, v := range m.GetViolations() {
		text := render.OneLine(v.GetMessage(), 120)
		if v.GetField() != "" { // empty: it is about the request as a whole
			text = render.OneLine(v.GetField(), 80) + ": " + text
		}
		parts = append(parts, text)
	}
	if advice := enum(m.GetAdvice(), "ADVICE_"); advice != "" {
		parts = append(parts, advice)
	}
	if m.GetPossiblySent() {
		parts = append(parts, "the person may have got it")
	}
	if len(m.GetFallback()) > 0 {
		parts = append(parts, "fallback handed on: "+strings.Join(sortedKeys(m.GetFallback()), ", "))
	}
	return join(parts...)
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, render.OneLine(k, 40))
	}
	slices.Sort(keys)
	return keys
}

func bySource(m *znsv1.Sent) string {
	if m.GetOutcomeSource() == znsv1.OutcomeSource_OUTCOME_SOURCE_RESPONSE {
		return ""
	}
	return prefixed("known from ", enum(m.GetOutcomeSource(), "OUTCOME_SOURCE_"))
}

func corrects(m *znsv1.Sent) string {
	if m.GetCorrects() {
		return "corrects an earlier zns.failed"
	}
	return ""
}

func billable(m *znsv1.Delivered) string {
	switch {
	case m.Billable == nil:
		return ""
	case m.GetBillable():
		return "billed"
	default:
		return "late, not billed"
	}
}

func attempt(n int32) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("attempt %d", n)
}

func after(from, to *timestamppb.Timestamp, what string) string {
	if from == nil || to == nil {
		return ""
	}
	return render.Duration(to.AsTime().Sub(from.AsTime())) + " after " + what
}

func until(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return "until " + render.Vietnam(t.AsTime()) + " VN"
}

func notBefore(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return "not before " + render.Vietnam(t.AsTime()) + " VN"
}

// enum is the value's name without its prefix; empty for UNSPECIFIED.
func enum(v fmt.Stringer, prefix string) string {
	name := strings.TrimPrefix(v.String(), prefix)
	if name == "UNSPECIFIED" {
		return ""
	}
	return name
}

func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

// join puts the parts that are not empty beside each other.
func join(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return strings.TrimSpace(s) == "" }), " · ")
}
