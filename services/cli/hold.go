package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/znshub/znshub/proto/control/v1"
	"github.com/znshub/znshub/services/cli/operate"
	"github.com/znshub/znshub/services/cli/render"
	"github.com/znshub/znshub/services/sender/control"
)

type holdCmd struct {
	scopeFlags
	giveFlags
	For  time.Duration `placeholder:"DURATION" help:"Release by itself after this time."`
	List bool          `help:"Show what is held."`
}

// Help implements kong.HelpProvider.
func (holdCmd) Help() string {
	return `From now on no call is begun for what is named, also for requests that are still to come, until zns release names the same. Calls that are under way end as they end. Rules of different scopes stand beside each other: what any of them names is held.

The command waits until every partition's sender has obeyed, then counts in the ledger. What a request's life is does not change: it expires while it is held. Notifications that ended before the senders' SENDER_DEDUPE_WINDOW are not counted.

Examples:

    zns hold --campaign tet-2027 --reason "wrong price"
    zns hold --oa 2893352839501541173 --for 2h
    zns hold --id 93c1a1a0-6f8b-5d3e-8b6e-0c9a2f7d4e11
    zns hold --list
    zns hold --all --reason "Zalo double-bills" --json | jq .held`
}

// Run gives the rule and tells what it came to.
func (c *holdCmd) Run(ctx context.Context, a *App) error {
	if c.List {
		return c.list(ctx, a)
	}
	scopes, err := c.scopes("zns hold --help")
	if err != nil {
		return err
	}
	if c.For < 0 {
		return usage(errors.New("--for must be positive"), "zns hold --help")
	}
	commands := c.commands(controlv1.Action_ACTION_HOLD, scopes)
	if c.For > 0 {
		for _, command := range commands {
			command.ExpireTime = timestamppb.New(time.Now().Add(c.For))
		}
	}
	return c.giveRule(ctx, a, "hold", scopes, commands)
}

// giveRule gives standing rules, counts and prints.
func (f *giveFlags) giveRule(ctx context.Context, a *App, action string, scopes []control.Scope, commands []*controlv1.Command) error {
	o, err := a.operator(ctx, f.Topic)
	if err != nil {
		return err
	}
	defer o.Close()
	answer, err := o.give(ctx, f.Timeout, commands)
	if err != nil {
		return err
	}
	items, err := operate.Scan(ctx, o.log, f.Topic, matches(scopes))
	if err != nil {
		return err
	}
	counts := operate.Count(items)
	if a.Globals.JSON {
		g := a.given(action, scopes, commands, answer, counts)
		held := 0
		if action == "hold" {
			held = counts.Waiting
		}
		if err := a.printJSON(struct {
			given
			Held int `json:"held"`
		}{g, held}); err != nil {
			return err
		}
		return a.answered(answer, f.Timeout)
	}
	unknown := row{name: "unknown", n: counts.Unknown, what: "zns unknown list tells more"}
	rows := []row{{name: "released", n: counts.Waiting, what: "go on when their turn comes, unless another rule holds them", always: true, paint: a.Style.Good}, unknown}
	if action == "hold" {
		rows = []row{
			{name: "held", n: counts.Waiting, what: "wait and are not begun", always: true, paint: a.Style.Warn},
			{name: "in flight", n: counts.InFlight, what: "their calls were under way; they end as they end", always: true},
			{name: "already sent", n: counts.Sent, always: true},
			{name: "failed", n: counts.Failed},
			unknown,
		}
	}
	a.printRows(rows)
	err = a.answered(answer, f.Timeout)
	if err == nil && action == "hold" {
		fmt.Fprintf(a.Err, "requests still to come are held too; end it with: zns release %s\n", scopeArgs(scopes))
	}
	return err
}

// scopeArgs are the flags that name the scopes.
func scopeArgs(scopes []control.Scope) string {
	text := ""
	for i, s := range scopes {
		if i == 3 {
			return text + " …"
		}
		if i > 0 {
			text += " "
		}
		text += scopeArg(s)
	}
	return text
}

func (c *holdCmd) list(ctx context.Context, a *App) error {
	o, err := a.operator(ctx, c.Topic)
	if err != nil {
		return err
	}
	defer o.Close()
	view, err := operate.Rules(ctx, o.opts)
	if err != nil {
		return failed(err)
	}
	now := time.Now()
	table := render.Table{Style: a.Style}
	table.Header("scope", "since", "until", "by", "reason")
	n := 0
	for _, rule := range view.Holding(now) {
		n++
		if a.Globals.JSON {
			line := map[string]any{"scope": rule.Scope.String(), "command_id": rule.ID, "since": rule.At, "actor": rule.Actor, "reason": rule.Reason}
			if !rule.Expires.IsZero() {
				line["until"] = rule.Expires
			}
			if err := a.printJSON(line); err != nil {
				return err
			}
			continue
		}
		until := "released"
		if !rule.Expires.IsZero() {
			until = render.Clock(rule.Expires, now)
		}
		table.Row(render.OneLine(rule.Scope.String(), 80), render.Clock(rule.At, now), until, render.OneLine(rule.Actor, 40), render.OneLine(rule.Reason, 200))
	}
	if a.Globals.JSON {
		return nil
	}
	if n == 0 {
		fmt.Fprintln(a.Out, "nothing is held by a rule")
		return nil
	}
	_, err = table.WriteTo(a.Out)
	return err
}

type releaseCmd struct {
	scopeFlags
	giveFlags
}

// Help implements kong.HelpProvider.
func (releaseCmd) Help() string {
	return `Ends the hold of exactly what is named; holds of other scopes stay: zns hold --list shows them. What was held goes on when its turn comes.

Examples:

    zns release --campaign tet-2027
    zns release --all`
}

// Run gives the rule and tells what it came to.
func (c *releaseCmd) Run(ctx context.Context, a *App) error {
	scopes, err := c.scopes("zns release --help")
	if err != nil {
		return err
	}
	return c.giveRule(ctx, a, "release", scopes, c.commands(controlv1.Action_ACTION_RELEASE, scopes))
}
