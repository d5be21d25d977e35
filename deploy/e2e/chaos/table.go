package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/znshub/znshub/deploy/e2e/harness"
)

// equations are all rules in the order of the table.
var equations = []string{
	harness.RuleKnown, harness.RuleOnce, harness.RuleResend, harness.RuleSum, harness.RuleOneSent, harness.RuleSentReached, harness.RuleAcceptedIs,
	harness.RuleOneFailed, harness.RuleFailedTrue, harness.RuleOneEnd, harness.RuleEventIDs, harness.RuleExplained, RuleCause, harness.RuleOrder,
	RuleLedger, RuleStuck, RuleExpired, RuleLetters, RuleInvalid, harness.RuleDelivOnce, RuleReceipts, RuleStatus, RuleHeld, RuleCancelled, RuleAlone,
}

// Err is nil when every equation holds.
func (v *Verdict) Err() error {
	if len(v.Broken) == 0 {
		return nil
	}
	lines := make([]string, 0, len(v.Broken))
	for _, b := range v.Broken {
		lines = append(lines, b.String())
	}
	return fmt.Errorf("%d equations are broken:\n%s", len(v.Broken), strings.Join(lines, "\n"))
}

// Table is the verdict for people.
func (v *Verdict) Table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	r := v.Report
	fmt.Fprintf(w, "records published\t%d\n", r.Records)
	fmt.Fprintf(w, "notifications\t%d\t= %d sent + %d failed + %d open + %d waiting\n", r.Requests, r.Sent, r.Failed, r.Open, r.Waiting)
	for _, state := range slices.Sorted(maps.Keys(v.States)) {
		fmt.Fprintf(w, "  in the ledger as %s\t%d\n", state, v.States[state])
	}
	fmt.Fprintf(w, "calls\t%d\t%d accepted, %d of them again by policy\n", r.Posts, r.Accepted, v.Resent)
	fmt.Fprintf(w, "outcomes that were unknown\t%d\t%d told in zns.unresolved\n", v.Unknowns, r.Unresolved)
	fmt.Fprintf(w, "delivered\t%d\n", r.Delivered)
	fmt.Fprintf(w, "dead letters\t%d\tof %d bad records\n", v.Letters, v.Expected)
	if v.Faults == 0 {
		fmt.Fprintln(w, "Kafka's own faults\t0")
	} else {
		fmt.Fprintf(w, "Kafka's own faults\t%d\t%s\n", v.Faults, v.Attended)
	}
	fmt.Fprintln(w, "\nequation\tholds")
	broken := map[string]harness.Violation{}
	for _, x := range v.Broken {
		broken[x.Rule] = x
	}
	for _, rule := range equations {
		if x, ok := broken[rule]; ok {
			fmt.Fprintf(w, "%s\tNO: %d times\n", rule, x.Count)
			delete(broken, rule)
			continue
		}
		fmt.Fprintf(w, "%s\tyes\n", rule)
	}
	for _, rule := range slices.Sorted(maps.Keys(broken)) {
		fmt.Fprintf(w, "%s\tNO: %d times\n", rule, broken[rule].Count)
	}
	_ = w.Flush()
	for _, x := range v.Broken {
		fmt.Fprintf(&b, "broken: %s\n", x)
	}
	return b.String()
}
