package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/znshub/znshub/services/cli/render"
)

// Text writes the story for a terminal. traceURL is where a trace is shown, "{trace_id}" standing for its id; empty:
// the id alone is printed.
func (s *Story) Text(style render.Style, now time.Time, traceURL string) string {
	var b strings.Builder
	title := s.ID
	if s.IdempotencyKey != "" {
		title = s.IdempotencyKey + " of " + s.Source
	}
	b.WriteString(style.Bold(render.OneLine(title, 120)))
	for _, part := range []string{s.Category, prefixed("template ", s.TemplateID), prefixed("to ", s.Recipient)} {
		if part != "" {
			b.WriteString(" · " + render.OneLine(part, 80))
		}
	}
	b.WriteByte('\n')
	head := render.Table{Style: style}
	if s.IdempotencyKey != "" {
		head.Row("notification_id", s.ID)
	}
	if s.MsgID != "" {
		head.Row("msg_id", render.OneLine(s.MsgID, 60))
	}
	for i, id := range s.TrackingIDs {
		head.Row("tracking_id", id+fmt.Sprintf(" (attempt %d)", s.attempts[i]))
	}
	head.Cells(render.Cell{Text: "state"}, render.Cell{Text: s.State, Paint: style.Bold})
	if s.Because != "" {
		head.Row("because", s.Because)
	}
	for _, h := range s.HeldBy {
		head.Cells(render.Cell{Text: "held by"}, render.Cell{Text: h, Paint: style.Warn})
	}
	b.WriteString(head.String())
	b.WriteByte('\n')

	table := render.Table{Style: style}
	var before time.Time
	for _, l := range s.Lines {
		since := ""
		if !before.IsZero() {
			since = "+" + render.Duration(max(0, l.Time.Sub(before)))
		}
		before = l.Time
		table.Cells(
			render.Cell{Text: render.Clock(l.Time, now), Paint: style.Dim},
			render.Cell{Text: since, Paint: style.Dim},
			render.Cell{Text: l.Label, Paint: l.Tone.paint(style)},
			render.Cell{Text: l.Text},
		)
	}
	b.WriteString(table.String())
	b.WriteByte('\n')
	if s.TraceID != "" {
		b.WriteString("trace     " + strings.ReplaceAll(cmp.Or(traceURL, "{trace_id}"), "{trace_id}", s.TraceID) + "\n")
	}
	b.WriteString(style.Dim(Searched(s.Searched)))
	return b.String()
}

func (t Tone) paint(style render.Style) func(string) string {
	switch t {
	case Good:
		return style.Good
	case Bad:
		return style.Bad
	case Waiting:
		return style.Warn
	default:
		return func(text string) string { return text }
	}
}

// byTopic puts the ranges of one topic beside each other where several topics were read at once. A partition that was
// read again later stays later.
func byTopic(ranges []Range) []Range {
	var groups [][]Range
	for _, r := range ranges {
		at := len(groups)
		for i, g := range slices.Backward(groups) {
			if g[0].Topic != r.Topic {
				continue
			}
			if i == len(groups)-1 || !slices.ContainsFunc(g, func(o Range) bool { return o.Partition == r.Partition }) {
				at = i
			}
			break
		}
		if at == len(groups) {
			groups = append(groups, nil)
		}
		groups[at] = append(groups[at], r)
	}
	return slices.Concat(groups...)
}

// Searched says what was read, one line a topic.
func Searched(ranges []Range) string {
	ranges = byTopic(ranges)
	table := render.Table{}
	for i := 0; i < len(ranges); {
		topicName := ranges[i].Topic
		var parts []string
		var records int64
		partitions := map[int32]bool{}
		incomplete := ""
		for ; i < len(ranges) && ranges[i].Topic == topicName; i++ {
			r := ranges[i]
			parts = append(parts, fmt.Sprintf("[%d] %d–%d", r.Partition, r.From, r.To))
			records += r.Records
			partitions[r.Partition] = true
			incomplete = cmp.Or(incomplete, r.Incomplete)
		}
		where := strings.Join(parts, " ")
		if len(parts) > 3 {
			where = render.Plural(len(partitions), "partition")
		}
		text := fmt.Sprintf("%s, %s read", where, render.Plural(int(records), "record"))
		if incomplete != "" {
			text += "; not to the end: " + incomplete
		}
		label := ""
		if table.Empty() {
			label = "searched"
		}
		table.Row(label, topicName, text)
	}
	return table.String()
}
