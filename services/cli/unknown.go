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

	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/znshub/znshub/proto/control/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/cli/operate"
	"github.com/znshub/znshub/services/cli/render"
	"github.com/znshub/znshub/services/sender/control"
)

type unknownCmd struct {
	List   unknownListCmd   `cmd:"" help:"Show what is unknown."`
	Resend unknownResendCmd `cmd:"" help:"Send again what is unknown. A person may get it twice."`
	Fail   unknownFailCmd   `cmd:"" help:"End what is unknown as failed: nobody learns whether it was sent."`
}

// Help implements kong.HelpProvider.
func (unknownCmd) Help() string {
	return `A notification is unknown while Zalo's answer is lost and no signed callback has come: it may have been sent. A policy ends that by itself (on_unknown, SENDER_ON_UNKNOWN); these commands let a person decide for a whole blip.`
}

// unknownFlags say which of what is unknown is meant.
type unknownFlags struct {
	scopeFlags
	Cause []string `enum:"timeout,reset,http_5xx,unreadable,ambiguous_code,owner_died" placeholder:"CAUSE" help:"Why nobody knows: timeout, reset, http_5xx, unreadable, ambiguous_code (codes in no table included), owner_died; several with commas."`
	Since ago      `placeholder:"TIME" help:"Unknown since this time or later: a time, or an age like 2h."`
	Until ago      `placeholder:"TIME" help:"Unknown since before this time."`
}

// filter is what the flags narrow a command to, beside its scope.
func (f *unknownFlags) filter() *controlv1.UnknownFilter {
	out := &controlv1.UnknownFilter{}
	for _, name := range f.Cause {
		out.Causes = append(out.Causes, controlv1.UnknownCause(controlv1.UnknownCause_value["UNKNOWN_CAUSE_"+strings.ToUpper(name)]))
	}
	if !f.Since.IsZero() {
		out.Since = timestamppb.New(f.Since.Time)
	}
	if !f.Until.IsZero() {
		out.Until = timestamppb.New(f.Until.Time)
	}
	return out
}

// which returns the scope and the filter. A template beside another scope becomes part of the filter; a filter alone
// is for everything.
func (f *unknownFlags) which(help string) ([]control.Scope, *controlv1.UnknownFilter, error) {
	scope, filter := f.scopeFlags, f.filter()
	if scope.Template != "" && (scope.Campaign != "" || scope.OA != "" || len(scope.IDs) > 0 || scope.All) {
		filter.TemplateId, scope.Template = scope.Template, ""
	}
	narrowed := len(filter.Causes) > 0 || filter.Since != nil || filter.Until != nil
	if len(scope.IDs) == 0 && scope.Campaign == "" && scope.Template == "" && scope.OA == "" && !scope.All && narrowed {
		scope.All = true
	}
	if !f.Since.IsZero() && !f.Until.IsZero() && !f.Since.Before(f.Until.Time) {
		return nil, nil, usage(errors.New("--since must be before --until"), help)
	}
	scopes, err := scope.scopes(help)
	return scopes, filter, err
}

// find returns what is unknown now and fits, the oldest first.
func (o *operator) unknown(ctx context.Context, scopes []control.Scope, filter *controlv1.UnknownFilter) ([]*operate.Item, error) {
	// The same judgement as the senders': a command made of the filter.
	var fit []*control.Command
	for _, s := range scopes {
		c, err := control.Judge(&controlv1.Command{
			CommandId: newID(), Scope: s.Proto(), Action: controlv1.Action_ACTION_FAIL_UNKNOWN, Unknown: filter,
		}, time.Now().Add(time.Minute))
		if err != nil {
			return nil, err
		}
		fit = append(fit, c)
	}
	items, err := operate.Scan(ctx, o.log, o.input, func(i *operate.Item) bool {
		return i.Unknown() && slices.ContainsFunc(fit, func(c *control.Command) bool {
			return c.Scope.Matches(i.ID, i.Flow()) && c.FitsUnknown(controlv1.UnknownCause(i.Cause), i.Since, i.Template)
		})
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(items, func(a, b *operate.Item) int { return a.Since.Compare(b.Since) })
	return items, nil
}

type unknownListCmd struct {
	unknownFlags
	Topic string `default:"${requested}" help:"Input topic."`
}

// Help implements kong.HelpProvider.
func (unknownListCmd) Help() string {
	return `Examples:

    zns unknown list
    zns unknown list --cause http_5xx --since 2h
    zns unknown list --campaign tet-2027 --json | jq -r .notification_id`
}

// Run lists.
func (c *unknownListCmd) Run(ctx context.Context, a *App) error {
	scope := &c.scopeFlags
	narrowed := len(scope.IDs) > 0 || scope.Campaign != "" || scope.Template != "" || scope.OA != "" || len(c.Cause) > 0 || !c.Since.IsZero() || !c.Until.IsZero()
	if len(scope.IDs) == 0 && scope.Campaign == "" && scope.Template == "" && scope.OA == "" {
		scope.All = true
	}
	scopes, filter, err := c.which("zns unknown list --help")
	if err != nil {
		return err
	}
	o, err := a.operator(ctx, c.Topic)
	if err != nil {
		return err
	}
	defer o.Close()
	items, err := o.unknown(ctx, scopes, filter)
	if err != nil {
		return err
	}
	if len(items) == 0 && narrowed && !a.Globals.JSON {
		fmt.Fprintln(a.Out, nothingFits)
		return nil
	}
	return a.printUnknown(items)
}

// nothingFits is what is told where something else may be unknown.
const nothingFits = "nothing is unknown that fits"

func (a *App) printUnknown(items []*operate.Item) error {
	now := time.Now()
	table := render.Table{Style: a.Style}
	table.Header("notification_id", "cause", "for", "decided by itself in", "template", "campaign", "OA", "attempt")
	for _, i := range items {
		decide := "never: a person must"
		if left := i.DecideBy.Sub(now); !i.DecideBy.IsZero() && left > 0 {
			decide = render.Duration(left)
		} else if !i.DecideBy.IsZero() {
			decide = "now"
		}
		if a.Globals.JSON {
			line := map[string]any{
				"notification_id": i.ID, "cause": causeName(i.Cause), "unknown_since": i.Since, "template_id": i.Template, "campaign_id": i.Campaign,
				"oa_id": i.OA, "attempt": i.Attempt, "unlisted_code": i.Unlisted,
			}
			if !i.DecideBy.IsZero() {
				line["decide_by"] = i.DecideBy
			}
			if err := a.printJSON(line); err != nil {
				return err
			}
			continue
		}
		table.Row(i.ID.String(), causeName(i.Cause), render.Duration(now.Sub(i.Since)), decide, render.OneLine(i.Template, 40), cmp.Or(render.OneLine(i.Campaign, 40), "-"), render.OneLine(i.OA, 40), fmt.Sprint(i.Attempt))
	}
	if a.Globals.JSON {
		return nil
	}
	if len(items) == 0 {
		fmt.Fprintln(a.Out, "nothing is unknown")
		return nil
	}
	if _, err := table.WriteTo(a.Out); err != nil {
		return err
	}
	fmt.Fprintf(a.Err, "%s unknown: %s\n", render.Plural(len(items), "notification"), byCause(items))
	return nil
}

// byCause sums items up: "3 timeout, 1 owner_died".
func byCause(items []*operate.Item) string {
	n := map[string]int{}
	for _, i := range items {
		n[causeName(i.Cause)]++
	}
	texts := make([]string, 0, len(n))
	for _, name := range slices.Sorted(maps.Keys(n)) {
		texts = append(texts, fmt.Sprintf("%d %s", n[name], name))
	}
	return strings.Join(texts, ", ")
}

func causeName(c znsv1.UnknownCause) string {
	return strings.ToLower(strings.TrimPrefix(c.String(), "UNKNOWN_CAUSE_"))
}

type unknownResendCmd struct {
	unknownFlags
	giveFlags
	askFlags `set:"dry_run=Show what would be sent again"`
}

// Help implements kong.HelpProvider.
func (unknownResendCmd) Help() string {
	return `Begins a new attempt for what is unknown and has not expired. Where the lost one did reach Zalo the person gets the message twice, and both are billed. Callbacks of the earlier attempt still count.

Examples:

    zns unknown resend --cause http_5xx --since 2h --dry-run
    zns unknown resend --cause http_5xx,timeout --since 14:00 --until 14:05 --template 300200
    zns unknown resend --id 93c1a1a0-6f8b-5d3e-8b6e-0c9a2f7d4e11 --yes`
}

// Run has them sent again.
func (c *unknownResendCmd) Run(ctx context.Context, a *App) error {
	return decide{
		name: "resend", action: controlv1.Action_ACTION_RESEND_UNKNOWN, flags: &c.unknownFlags, give: &c.giveFlags, ask: &c.askFlags,
		did: "sent again", would: "would be sent again", question: "send %s again? Whom the lost call reached gets it twice.",
	}.run(ctx, a)
}

type unknownFailCmd struct {
	unknownFlags
	giveFlags
	askFlags `set:"dry_run=Show what would be ended"`
}

// Help implements kong.HelpProvider.
func (unknownFailCmd) Help() string {
	return `Ends what is unknown as zns.failed UNRESOLVED with possibly_sent, without waiting for its policy: whoever reads that can use another channel. A callback that comes within 24 h still yields zns.sent with corrects.

Examples:

    zns unknown fail --cause owner_died --dry-run
    zns unknown fail --campaign tet-2027 --yes`
}

// Run has them ended.
func (c *unknownFailCmd) Run(ctx context.Context, a *App) error {
	return decide{
		name: "fail", action: controlv1.Action_ACTION_FAIL_UNKNOWN, flags: &c.unknownFlags, give: &c.giveFlags, ask: &c.askFlags,
		did: "failed", would: "would be failed", question: "end %s as failed? Perhaps they were sent.",
	}.run(ctx, a)
}

// decide is a decision about what is unknown.
type decide struct {
	name                 string
	action               controlv1.Action
	flags                *unknownFlags
	give                 *giveFlags
	ask                  *askFlags
	did, would, question string
}

func (d decide) run(ctx context.Context, a *App) error {
	help := "zns unknown " + d.name + " --help"
	scopes, filter, err := d.flags.which(help)
	if err != nil {
		return err
	}
	o, err := a.operator(ctx, d.give.Topic)
	if err != nil {
		return err
	}
	defer o.Close()
	items, err := o.unknown(ctx, scopes, filter)
	if err != nil {
		return err
	}
	if d.ask.DryRun {
		if err := a.printUnknown(items); err != nil || a.Globals.JSON {
			return err
		}
		fmt.Fprintf(a.Err, "%s %s\n", render.Plural(len(items), "notification"), d.would)
		return nil
	}
	if len(items) == 0 {
		if a.Globals.JSON {
			return a.printJSON(a.given(d.name, scopes, nil, &operate.Answer{}, operate.Counts{}))
		}
		fmt.Fprintln(a.Out, nothingFits)
		return nil
	}
	what := fmt.Sprintf("%s of unknown outcome (%s)", render.Plural(len(items), "notification"), byCause(items))
	if err := a.confirm(d.ask.Yes, fmt.Sprintf(d.question, what)); err != nil {
		return err
	}
	commands := d.give.commands(d.action, scopes)
	for _, c := range commands {
		c.Unknown = filter
	}
	answer, err := o.give(ctx, d.give.Timeout, commands)
	if err != nil {
		return err
	}
	if a.Globals.JSON {
		if err := a.printJSON(a.given(d.name, scopes, commands, answer, operate.Counts{Unknown: answer.Left})); err != nil {
			return err
		}
	} else {
		a.printRows([]row{
			{name: d.did, n: answer.Changed, always: true, paint: a.Style.Good},
			{name: "too late", n: answer.TooLate, what: "expired, or no longer unknown"},
			{name: "left", n: answer.Left, what: "unknown, but not meant"},
		})
	}
	return a.answered(answer, d.give.Timeout)
}
