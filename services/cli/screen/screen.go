// Package screen is the hub at a glance: who works on what, what waits and why, what nobody knows, and what is wrong.
// Judge is pure; Look asks the cluster.
package screen

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/services/cli/render"
)

// Screen is what is shown.
type Screen struct {
	Time     time.Time `json:"time"`
	Red      bool      `json:"red"`
	Problems []string  `json:"problems"` // why it is red
	Notes    []string  `json:"notes"`    // what deserves a look

	Brokers int      `json:"brokers"`
	Version string   `json:"kafka_version"`
	Topics  []string `json:"topics_wrong"` // what is wrong with topics
	Groups  []Group  `json:"groups"`
	Ledger  *Ledger  `json:"ledger,omitempty"` // nil: it was not read
	Quotas  []Quota  `json:"quotas"`
	Holds   []string `json:"holds"`   // standing rules of operators
	Ingests []Ingest `json:"ingests"` // webhook-ingest, as its metrics tell
}

// Group is a consumer group on its input.
type Group struct {
	Name       string  `json:"group"`
	Topic      string  `json:"topic"`
	State      string  `json:"state"`
	Members    int     `json:"members"`
	Partitions int     `json:"partitions"`
	Unowned    []int32 `json:"unowned"`
	Lag        int64   `json:"lag"` // records, markers of transactions included
}

// Ledger is where the notifications that are not done stand.
type Ledger struct {
	Accepted      int            `json:"accepted"`
	InFlight      int            `json:"in_flight"`
	Held          map[string]int `json:"held"` // by reason
	HeldUntil     *time.Time     `json:"held_until,omitempty"`
	Unknown       int            `json:"unknown"`
	OldestUnknown *time.Time     `json:"oldest_unknown,omitempty"`
	Overdue       int            `json:"decisions_overdue"` // unknown, and the policy should have acted
	Records       int64          `json:"records_read"`
	Incomplete    string         `json:"incomplete,omitempty"`
}

// Quota is what is known of an OA's quota, or of a template's.
type Quota struct {
	OA        string     `json:"oa_id"`
	Template  string     `json:"template_id,omitempty"`
	Daily     *int32     `json:"daily_quota,omitempty"`
	Remaining *int32     `json:"remaining_quota,omitempty"`
	Exhausted *time.Time `json:"exhausted_time,omitempty"`
	Refused   *time.Time `json:"refused_time,omitempty"` // since when Zalo refuses everything of the OA
	Code      int32      `json:"refused_code,omitempty"`
}

// Ingest is one webhook-ingest.
type Ingest struct {
	URL        string  `json:"url"`
	Error      string  `json:"error,omitempty"`
	Spooled    float64 `json:"spool_records"`
	Translates bool    `json:"translates"`
	Waiting    float64 `json:"receipts_waiting"`
}

// lagTold is from which lag on a group is told.
const lagTold = 10_000

// lateDecision is how much later than it should a policy may act before that is red.
const lateDecision = 5 * time.Minute

// stopped are the reasons for which nothing of an OA goes out until somebody does something.
var stopped = []ledgerv1.HoldReason{ledgerv1.HoldReason_HOLD_REASON_TOKEN, ledgerv1.HoldReason_HOLD_REASON_ACCOUNT, ledgerv1.HoldReason_HOLD_REASON_CIRCUIT}

// Judge fills Problems, Notes and Red from the rest.
func (s *Screen) Judge() {
	problem := func(format string, args ...any) { s.Problems = append(s.Problems, fmt.Sprintf(format, args...)) }
	note := func(format string, args ...any) { s.Notes = append(s.Notes, fmt.Sprintf(format, args...)) }
	for _, t := range s.Topics {
		problem("%s", t)
	}
	for _, g := range s.Groups {
		switch {
		case g.Members == 0:
			problem("nobody works in group %s: %s waits", g.Name, g.Topic)
		case g.State != "Stable":
			note("group %s is %s", g.Name, g.State)
		}
		if n := len(g.Unowned); n > 0 && g.Members > 0 && g.State == "Stable" {
			problem("%s of %s without an owner in group %s: %s", render.Plural(n, "partition"), g.Topic, g.Name, join(g.Unowned))
		}
		if g.Lag >= lagTold {
			note("group %s is %d records behind on %s", g.Name, g.Lag, g.Topic)
		}
	}
	if l := s.Ledger; l != nil {
		for _, reason := range stopped {
			if n := l.Held[hold(reason)]; n > 0 {
				problem("%s held for %s", render.Plural(n, "notification"), hold(reason))
			}
		}
		for _, reason := range []ledgerv1.HoldReason{ledgerv1.HoldReason_HOLD_REASON_OPERATOR, ledgerv1.HoldReason_HOLD_REASON_TEMPLATE_REVIEW} {
			if n := l.Held[hold(reason)]; n > 0 {
				note("%s held for %s", render.Plural(n, "notification"), hold(reason))
			}
		}
		if l.Overdue > 0 {
			problem("of %s the policy should have decided", render.Plural(l.Overdue, "unknown notification"))
		}
		if l.Incomplete != "" {
			note("the ledger was not read to its end: %s", l.Incomplete)
		}
	}
	for _, q := range s.Quotas {
		if q.Refused != nil {
			problem("Zalo refuses everything of %s since %s with code %d: its wallet, its permissions or its state want a person; then zns retry --oa %s, or wait for the next probe",
				q.name(), vietnam(*q.Refused), q.Code, q.OA)
		}
		if q.Remaining != nil && *q.Remaining == 0 {
			note("the quota of %s is used up", q.name())
		} else if q.Exhausted != nil {
			note("the quota of %s will be used up at %s", q.name(), vietnam(*q.Exhausted))
		}
	}
	for _, i := range s.Ingests {
		switch {
		case i.Error != "":
			problem("webhook-ingest at %s does not answer: %s", i.URL, i.Error)
		case !i.Translates:
			problem("webhook-ingest at %s does not translate callbacks", i.URL)
		}
		if i.Spooled > 0 {
			note("%d callbacks are on the disk of %s", int(i.Spooled), i.URL)
		}
	}
	s.Red = len(s.Problems) > 0
}

func (q *Quota) name() string {
	if q.Template != "" {
		return "template " + q.Template + " of OA " + q.OA
	}
	return "OA " + q.OA
}

func hold(r ledgerv1.HoldReason) string { return strings.TrimPrefix(r.String(), "HOLD_REASON_") }

func join(numbers []int32) string {
	texts := make([]string, len(numbers))
	for i, n := range numbers {
		texts[i] = fmt.Sprint(n)
	}
	return strings.Join(texts, ", ")
}

// Text is the screen for a terminal.
func (s *Screen) Text(style render.Style) string {
	table := render.Table{Style: style}
	row := func(label, text string) { table.Row(label, text) }
	verdict := render.Cell{Text: "green", Paint: style.Good}
	if s.Red {
		verdict = render.Cell{Text: "red: " + render.Plural(len(s.Problems), "problem"), Paint: style.Bad}
	}
	table.Cells(render.Cell{Text: "state", Paint: style.Bold}, verdict)
	for _, p := range s.Problems {
		table.Cells(render.Cell{}, render.Cell{Text: render.OneLine(p, 200), Paint: style.Bad})
	}
	for _, n := range s.Notes {
		table.Cells(render.Cell{}, render.Cell{Text: render.OneLine(n, 200), Paint: style.Warn})
	}
	row("Kafka", render.Plural(s.Brokers, "broker")+", "+s.Version)
	for _, g := range s.Groups {
		row(g.Name, fmt.Sprintf("%s, %s, %d of %d partitions owned, lag %d on %s", cmp.Or(g.State, "not looked at"), render.Plural(g.Members, "member"), g.Partitions-len(g.Unowned), g.Partitions, g.Lag, g.Topic))
	}
	if l := s.Ledger; l != nil {
		row("waiting", l.waiting())
		row("in flight", fmt.Sprint(l.InFlight))
		text := fmt.Sprint(l.Unknown)
		if l.OldestUnknown != nil {
			text += ", the oldest for " + render.Duration(s.Time.Sub(*l.OldestUnknown))
		}
		row("unknown", text)
	}
	for i := range s.Quotas {
		row("quota", s.Quotas[i].text())
	}
	for _, h := range s.Holds {
		row("hold", render.OneLine(h, 160))
	}
	for _, i := range s.Ingests {
		if i.Error != "" {
			row("spool", "not known of "+i.URL+": it did not tell")
			continue
		}
		row("spool", fmt.Sprintf("%d callbacks on the disk of %s, %d receipts wait for their send", int(i.Spooled), i.URL, int(i.Waiting)))
	}
	if len(s.Ingests) == 0 {
		row("spool", "not asked; --ingest URL of a webhook-ingest's ADMIN_ADDR asks")
	}
	return table.String()
}

func (l *Ledger) waiting() string {
	sum := l.Accepted
	var parts []string
	if l.Accepted > 0 {
		parts = append(parts, fmt.Sprintf("%d for their turn", l.Accepted))
	}
	for _, reason := range slices.SortedFunc(maps.Keys(l.Held), func(a, b string) int { return cmp.Or(cmp.Compare(l.Held[b], l.Held[a]), cmp.Compare(a, b)) }) {
		sum += l.Held[reason]
		parts = append(parts, fmt.Sprintf("%d %s", l.Held[reason], reason))
	}
	text := fmt.Sprint(sum)
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	if l.HeldUntil != nil {
		text += "; the first until " + vietnam(*l.HeldUntil)
	}
	return text
}

func (q *Quota) text() string {
	number := func(n *int32) string {
		if n == nil {
			return "?"
		}
		return fmt.Sprint(*n)
	}
	text := fmt.Sprintf("%s: %s of %s left today", q.name(), number(q.Remaining), number(q.Daily))
	if q.Exhausted != nil {
		text += ", used up at " + vietnam(*q.Exhausted)
	}
	return text
}
