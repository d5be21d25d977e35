package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/zalo"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/cli/operate"
	"github.com/znshub/znshub/services/cli/render"
)

type redriveCmd struct {
	Failed bool `help:"Failed notifications that were surely not sent, instead of dead letters."`

	IDs      []string `name:"id" placeholder:"UUID" help:"Only these notification_ids; may be repeated."`
	Reason   []string `placeholder:"REASON" help:"Only these reasons: of dead letters INVALID, MALFORMED, ID_REUSED, …; with --failed REJECTED, EXPIRED, CANCELLED, INVALID, …"`
	Source   string   `help:"Dead letters: only of this service."`
	Code     []int32  `placeholder:"CODE" help:"With --failed: only these error codes of Zalo; --code=-131."`
	Class    []string `placeholder:"CLASS" help:"With --failed: only these classes of Zalo's codes: TEMPLATE, ACCOUNT, QUOTA, …"`
	Template string   `placeholder:"ID" help:"With --failed: only of this template."`
	Campaign string   `placeholder:"ID" help:"With --failed: only of this campaign."`
	Since    ago      `placeholder:"TIME" help:"Failed, or dead, since this time: a time, or an age like 2h."`
	Until    ago      `placeholder:"TIME" help:"Failed, or dead, before this time."`
	All      bool     `help:"Everything: needed when nothing else is said."`

	Rate     float64 `placeholder:"N" help:"At most so many a second."`
	askFlags `set:"dry_run=Show what would be published"`
	Topic    string `default:"${requested}" help:"Input topic."`
}

// Help implements kong.HelpProvider.
func (redriveCmd) Help() string {
	return `Publishes dead letters again to the topic that they came from: after a newer release reads what an older one could not, or after the settings were mended.

With --failed: publishes failed notifications again from notification.requested, which keeps them for 7 days, and the sender opens each of them again as a new attempt. Only those that were surely not sent: UNRESOLVED ones are refused and listed, and so is what expired or is no longer there. No failure is opened twice, however often this runs; what is under way or was sent is left alone.

Examples:

    zns redrive --reason MALFORMED --since 2h --dry-run
    zns redrive --source order-service --all
    zns redrive --failed --template 300200 --class TEMPLATE --since 24h --dry-run
    zns redrive --failed --template 300200 --code=-1122 --since 24h --rate 50
    zns redrive --failed --id 93c1a1a0-6f8b-5d3e-8b6e-0c9a2f7d4e11 --yes`
}

// Run redrives.
func (c *redriveCmd) Run(ctx context.Context, a *App) error {
	if err := c.check(); err != nil {
		return err
	}
	o, err := a.redriver(ctx, c)
	if err != nil {
		return err
	}
	defer o.Close()
	id := uuid.Must(uuid.NewV7())
	var found []*operate.Candidate
	if c.Failed {
		found, err = c.failures(ctx, o, id)
	} else {
		found, err = operate.DeadLetters(ctx, o.log, c.Topic, c.Since.Time, c.letter, id)
	}
	if err != nil {
		return failed(err)
	}
	fit := 0
	for _, f := range found {
		if f.Refused == "" {
			fit++
		}
	}
	if c.DryRun || fit == 0 {
		return c.show(a, found, fit)
	}
	if err := a.confirm(c.Yes, fmt.Sprintf("publish %s again? %d that were found are refused.", render.Plural(fit, c.what()), len(found)-fit)); err != nil {
		return err
	}
	p := operate.Publisher{Client: o.opts, Rate: c.Rate, Progress: a.redriveProgress()}
	n, err := p.Publish(ctx, found)
	if err != nil {
		return failed(fmt.Errorf("after %d of %d: %w", n, fit, err), "running the same again is safe: nothing is opened twice")
	}
	return c.tell(a, found, n)
}

// redriver is an operator without a need for zns.control.
func (a *App) redriver(ctx context.Context, c *redriveCmd) (*operator, error) {
	needs := []string{c.Topic, topic.DLQOf(c.Topic)}
	if c.Failed {
		needs[1] = topic.LedgerOf(c.Topic)
	}
	return a.operatorWith(ctx, c.Topic, needs...)
}

func (c *redriveCmd) what() string {
	if c.Failed {
		return "failed notification"
	}
	return "dead letter"
}

func (c *redriveCmd) check() error {
	const help = "zns redrive --help"
	for _, id := range c.IDs {
		if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
			return usage(fmt.Errorf("--id %q is no notification_id, a UUID such as 018f3c5e-7b1a-7c3e-9c39-5c1f1b9f2a10", id), help)
		}
	}
	ofFailures := len(c.Code) > 0 || len(c.Class) > 0 || c.Template != "" || c.Campaign != ""
	switch {
	case c.Failed && c.Source != "":
		return usage(errors.New("--source is for dead letters: the ledger of what failed does not tell the service"), help)
	case !c.Failed && ofFailures:
		return usage(errors.New("--code, --class, --template and --campaign need --failed"), help)
	case c.Rate < 0:
		return usage(errors.New("--rate must not be negative"), help)
	case !c.All && len(c.IDs) == 0 && len(c.Reason) == 0 && c.Source == "" && !ofFailures && c.Since.IsZero() && c.Until.IsZero():
		return usage(errors.New("say which: by a filter, or --all"), help)
	}
	for _, r := range c.Reason {
		if _, known := znsv1.FailureReason_value["FAILURE_REASON_"+strings.ToUpper(r)]; c.Failed && !known {
			return usage(fmt.Errorf("--reason %q is no reason of zns.failed; it has %s", r, names(znsv1.FailureReason_name, "FAILURE_REASON_")), help)
		}
	}
	for _, class := range c.Class {
		if _, known := znsv1.ErrorClass_value["ERROR_CLASS_"+strings.ToUpper(class)]; !known {
			return usage(fmt.Errorf("--class %q is no class of zns.failed; it has %s", class, names(znsv1.ErrorClass_name, "ERROR_CLASS_")), help)
		}
	}
	return nil
}

// names are the values of an enum without their prefix, in their order.
func names(values map[int32]string, prefix string) string {
	var out []string
	for _, n := range slices.Sorted(maps.Keys(values)) {
		if n != 0 {
			out = append(out, strings.TrimPrefix(values[n], prefix))
		}
	}
	return strings.Join(out, ", ")
}

// oneOf reports whether list is empty or has the value, in any case.
func oneOf(list []string, value string) bool {
	return len(list) == 0 || slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, value) })
}

// within reports whether at lies in the time that the flags name.
func (c *redriveCmd) within(at time.Time) bool {
	return !at.Before(c.Since.Time) && (c.Until.IsZero() || at.Before(c.Until.Time))
}

func (c *redriveCmd) letter(l operate.Letter) bool {
	return c.within(l.At) && oneOf(c.Reason, l.Reason) && oneOf(c.IDs, l.ID) && (c.Source == "" || c.Source == l.Source)
}

// failures finds the failed notifications that the flags name. What was superseded by a newer one, or was never a valid
// request, comes only when its reason or id is named.
func (c *redriveCmd) failures(ctx context.Context, o *operator, id uuid.UUID) ([]*operate.Candidate, error) {
	now := time.Now()
	items, err := operate.Scan(ctx, o.log, c.Topic, func(i *operate.Item) bool {
		if i.State != ledgerv1.State_STATE_FAILED || !c.within(i.Finished) {
			return false
		}
		reason := strings.TrimPrefix(i.Failure.String(), "FAILURE_REASON_")
		aside := i.Failure == znsv1.FailureReason_FAILURE_REASON_SUPERSEDED || i.Failure == znsv1.FailureReason_FAILURE_REASON_INVALID
		if aside && len(c.Reason) == 0 && len(c.IDs) == 0 {
			return false
		}
		return oneOf(c.Reason, reason) && oneOf(c.IDs, i.ID.String()) && (len(c.Code) == 0 || slices.Contains(c.Code, i.Code)) &&
			oneOf(c.Class, classOf(i.Code)) && (c.Template == "" || c.Template == i.Template) && (c.Campaign == "" || c.Campaign == i.Campaign)
	})
	if err != nil {
		return nil, err
	}
	return operate.Failures(ctx, o.log, c.Topic, items, id, now)
}

// classOf is the class of one of Zalo's codes, as zns.failed tells it.
func classOf(code int32) string {
	if code == 0 {
		return ""
	}
	return strings.TrimPrefix(zalo.LookupCode(zalo.HostBusiness, int(code)).Class.Proto().String(), "ERROR_CLASS_")
}

// redriveProgress writes how far the work is, on terminals.
func (a *App) redriveProgress() func(done, all int) {
	if !render.IsTerminal(a.Err) || a.Globals.JSON {
		return nil
	}
	return func(done, all int) {
		fmt.Fprintf(a.Err, "\r%d of %d", done, all)
		if done == all {
			fmt.Fprintln(a.Err)
		}
	}
}

// show prints every candidate.
func (c *redriveCmd) show(a *App, found []*operate.Candidate, fit int) error {
	now := time.Now()
	table := render.Table{Style: a.Style}
	table.Header("notification_id", "reason", "code", "when", "from", "redrive")
	for _, f := range found {
		if a.Globals.JSON {
			if err := a.printJSON(candidateJSON(f, false)); err != nil {
				return err
			}
			continue
		}
		verdict := render.Cell{Text: "yes", Paint: a.Style.Good}
		if f.Refused != "" {
			verdict = render.Cell{Text: "refused: " + f.Refused, Paint: a.Style.Bad}
		}
		code := ""
		if f.Code != 0 {
			code = fmt.Sprint(f.Code)
		}
		table.Cells(render.Cell{Text: cmp.Or(f.ID, "-")}, render.Cell{Text: render.OneLine(f.Reason, 40)}, render.Cell{Text: code},
			render.Cell{Text: render.Clock(f.At, now)}, render.Cell{Text: f.From}, verdict)
	}
	if a.Globals.JSON {
		return c.verdict(found, fit)
	}
	if len(found) > 0 {
		if _, err := table.WriteTo(a.Out); err != nil {
			return err
		}
	}
	fmt.Fprintf(a.Err, "%s would be published again, %d refused\n", render.Plural(fit, c.what()), len(found)-fit)
	return c.verdict(found, fit)
}

// verdict is exit code 1 when nothing of what was found may be redriven.
func (c *redriveCmd) verdict(found []*operate.Candidate, fit int) error {
	if len(found) > 0 && fit == 0 {
		return errQuiet
	}
	return nil
}

func candidateJSON(f *operate.Candidate, published bool) map[string]any {
	return map[string]any{
		"notification_id": f.ID, "reason": f.Reason, "provider_code": f.Code, "time": f.At, "from": f.From, "refused": f.Refused, "published": published,
	}
}

// tell says what was published, and lists what was refused.
func (c *redriveCmd) tell(a *App, found []*operate.Candidate, n int) error {
	refusals := 0
	for _, f := range found {
		if a.Globals.JSON {
			if err := a.printJSON(candidateJSON(f, f.Refused == "")); err != nil {
				return err
			}
			continue
		}
		if f.Refused != "" {
			refusals++
			fmt.Fprintf(a.Out, "%s %s: %s\n", a.Style.Bad("refused"), cmp.Or(f.ID, f.From), f.Refused)
		}
	}
	if !a.Globals.JSON {
		fmt.Fprintf(a.Out, "%s %s\n", a.Style.Good("published"), render.Plural(n, c.what()))
		fmt.Fprintf(a.Err, "%d refused; what becomes of each: zns explain ID\n", refusals)
	}
	return nil
}
