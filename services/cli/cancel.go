package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	controlv1 "github.com/znshub/znshub/proto/control/v1"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/services/cli/operate"
	"github.com/znshub/znshub/services/cli/render"
	"github.com/znshub/znshub/services/sender/control"
)

type cancelCmd struct {
	scopeFlags
	giveFlags
	askFlags `set:"dry_run=Count"`
}

// Help implements kong.HelpProvider.
func (cancelCmd) Help() string {
	return `Ends what was requested before now and not yet sent, as zns.failed CANCELLED; what is requested later is not touched (zns hold is for that). A call that is under way, or whose outcome is unknown, cannot be called back, and what was sent is sent: the command tells how many it came too late for. For a single notification that is exit code 1.

Examples:

    zns cancel --campaign tet-2027 --reason "wrong price" --dry-run
    zns cancel --campaign tet-2027 --reason "wrong price"
    zns cancel --id 93c1a1a0-6f8b-5d3e-8b6e-0c9a2f7d4e11 --yes`
}

// Run cancels.
func (c *cancelCmd) Run(ctx context.Context, a *App) error {
	scopes, err := c.scopes("zns cancel --help")
	if err != nil {
		return err
	}
	o, err := a.operator(ctx, c.Topic)
	if err != nil {
		return err
	}
	defer o.Close()
	items, err := operate.Scan(ctx, o.log, c.Topic, matches(scopes))
	if err != nil {
		return err
	}
	before := operate.Count(items)
	if c.DryRun {
		if a.Globals.JSON {
			g := a.given("cancel", scopes, nil, &operate.Answer{}, before)
			g.DryRun = true
			return a.printJSON(g)
		}
		a.printRows(append([]row{{name: "would be cancelled", n: before.Waiting, always: true, paint: a.Style.Warn}}, tooLate(before)...))
		return nil
	}
	question := fmt.Sprintf("cancel %s of %s? %d are in flight or unknown and %d sent: for those it is too late.",
		render.Plural(before.Waiting, "unsent notification"), scopeText(scopes), before.InFlight+before.Unknown, before.Sent)
	if err := a.confirm(c.Yes, question); err != nil {
		return err
	}
	commands := c.commands(controlv1.Action_ACTION_CANCEL, scopes)
	answer, err := o.give(ctx, c.Timeout, commands)
	if err != nil {
		return err
	}
	if items, err = operate.Scan(ctx, o.log, c.Topic, matches(scopes)); err != nil {
		return err
	}
	counts := operate.Count(items)
	if a.Globals.JSON {
		if err := a.printJSON(a.given("cancel", scopes, commands, answer, counts)); err != nil {
			return err
		}
	} else {
		a.printRows(append([]row{{name: "cancelled", n: answer.Changed, always: true, paint: a.Style.Good}}, tooLate(counts)...))
	}
	if err := a.answered(answer, c.Timeout); err != nil {
		return err
	}
	return tooLateForSome(scopes, items)
}

func tooLate(c operate.Counts) []row {
	return []row{
		{name: "in flight", n: c.InFlight, what: "too late: their calls are under way"},
		{name: "unknown", n: c.Unknown, what: "too late: perhaps sent; zns unknown fail ends them"},
		{name: "already sent", n: c.Sent, what: "too late"},
		{name: "failed", n: c.Failed, what: "before or by this command"},
	}
}

// tooLateForSome is the error of a cancel of single notifications that came too late for one of them.
func tooLateForSome(scopes []control.Scope, items []*operate.Item) error {
	if _, single := scopes[0].ID(); !single {
		return nil
	}
	var texts []string
	for _, i := range items {
		switch {
		case i.Unknown():
			texts = append(texts, fmt.Sprintf("%s: it is not known whether it was sent", i.ID))
		case i.State == ledgerv1.State_STATE_SENDING:
			texts = append(texts, fmt.Sprintf("%s: its call is under way", i.ID))
		case i.State == ledgerv1.State_STATE_SENT:
			texts = append(texts, fmt.Sprintf("%s: it was sent at %s", i.ID, i.Finished.Local().Format("2006-01-02 15:04:05")))
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return failed(errors.New("too late for "+strings.Join(texts, "\n")), "zns explain ID   tells its story")
}

type retryCmd struct {
	scopeFlags
	giveFlags
}

// Help implements kong.HelpProvider.
func (retryCmd) Help() string {
	return `Tries now what waits for a retry, a quota, an access token, an account, the approval of a template or an operator, instead of when its time comes: after an account was paid, a template was approved, a quota was raised. What waits for its not_before, for its order or by a rule (zns hold) stays; so does what may have been sent (zns unknown resend).

Examples:

    zns retry --oa 2893352839501541173 --reason "wallet topped up"
    zns retry --id 93c1a1a0-6f8b-5d3e-8b6e-0c9a2f7d4e11
    zns retry --all`
}

// Run has things tried again.
func (c *retryCmd) Run(ctx context.Context, a *App) error {
	scopes, err := c.scopes("zns retry --help")
	if err != nil {
		return err
	}
	o, err := a.operator(ctx, c.Topic)
	if err != nil {
		return err
	}
	defer o.Close()
	commands := c.commands(controlv1.Action_ACTION_RETRY, scopes)
	answer, err := o.give(ctx, c.Timeout, commands)
	if err != nil {
		return err
	}
	if a.Globals.JSON {
		if err := a.printJSON(a.given("retry", scopes, commands, answer, operate.Counts{})); err != nil {
			return err
		}
	} else {
		a.printRows([]row{
			{name: "tried now", n: answer.Changed, always: true, paint: a.Style.Good},
			{name: "left", n: answer.Left, what: "wait for their not_before, their order or a rule, are ready anyway, or may have been sent"},
		})
	}
	return a.answered(answer, c.Timeout)
}

// scopeArg is the flag that names a scope.
func scopeArg(s control.Scope) string {
	kind, value, ok := strings.Cut(s.String(), "/")
	if !ok {
		return "--" + kind
	}
	return "--" + kind + " " + render.OneLine(value, 80)
}
