package demo

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/znshub/znshub/services/cli/render"
)

// Row is what became of one case.
type Row struct {
	Case  string `json:"case"`
	What  string `json:"what_happened"`
	Got   int    `json:"phone_got"`       // copies that the phone got, by the simulator's books
	Wrong string `json:"wrong,omitempty"` // why this is not what was promised
}

// Sums is the equation that the demo ends with. Every number is counted: records and duplicates in the input topic,
// sent and failed in the read-committed result topics, held in the ledger, copies at the simulator.
type Sums struct {
	Records    int `json:"records"`    // requests in the input topic, moved copies not counted
	Duplicates int `json:"duplicates"` // of those, requests whose id was there before
	Sent       int `json:"sent"`       // ids with exactly one zns.sent and no zns.failed
	Failed     int `json:"failed"`     // ids with exactly one zns.failed and no zns.sent
	Held       int `json:"held"`       // ids that the ledger holds, with neither
	TwoCopies  int `json:"two_copies"` // phones that got more than one message
	Messages   int `json:"messages"`   // messages that the simulator accepted
	Unexpected int `json:"unexpected"` // ids in another state, or with more events than promised
}

// OK reports whether the sums are right.
func (s Sums) OK() bool {
	return s.Records > 0 && s.Records-s.Duplicates == s.Sent+s.Failed+s.Held &&
		s.Messages == s.Sent && s.TwoCopies == 0 && s.Unexpected == 0
}

// String writes the equation.
func (s Sums) String() string {
	sign := "="
	if s.Records-s.Duplicates != s.Sent+s.Failed+s.Held {
		sign = "≠"
	}
	text := fmt.Sprintf("%d records - %s = %d %s %d sent + %d failed + %d held · phones with two copies: %d",
		s.Records, render.Plural(s.Duplicates, "duplicate"), s.Records-s.Duplicates, sign, s.Sent, s.Failed, s.Held, s.TwoCopies)
	if s.Messages != s.Sent {
		text += fmt.Sprintf(" · but Zalo accepted %d", s.Messages)
	}
	if s.Unexpected > 0 {
		text += fmt.Sprintf(" · in no right state: %d", s.Unexpected)
	}
	return text
}

// Table writes the cases and the equation.
func Table(style render.Style, rows []Row, sums Sums) string {
	table := render.Table{Style: style}
	table.Header("case", "what happened", "phone got")
	for _, r := range rows {
		what := render.Cell{Text: r.What}
		if r.Wrong != "" {
			what = render.Cell{Text: strings.TrimSpace(r.What + "  WRONG: " + r.Wrong), Paint: style.Bad}
		}
		table.Cells(render.Cell{Text: r.Case, Paint: style.Bold}, what, render.Cell{Text: strconv.Itoa(r.Got)})
	}
	verdict := style.Good("OK")
	if !sums.OK() || anyWrong(rows) {
		verdict = style.Bad("WRONG")
	}
	return table.String() + sums.String() + "  " + verdict + "\n"
}

func anyWrong(rows []Row) bool {
	for _, r := range rows {
		if r.Wrong != "" {
			return true
		}
	}
	return false
}
