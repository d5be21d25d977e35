package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/term"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/config"
	controlv1 "github.com/znshub/znshub/proto/control/v1"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/cli/explain"
	"github.com/znshub/znshub/services/cli/operate"
	"github.com/znshub/znshub/services/cli/render"
	"github.com/znshub/znshub/services/sender/control"
)

// scopeFlags name what a command is about.
type scopeFlags struct {
	IDs      []string `name:"id" placeholder:"UUID" help:"One notification, by its notification_id; may be repeated."`
	Campaign string   `placeholder:"ID" help:"Every notification with this campaign_id."`
	Template string   `placeholder:"ID" help:"Every notification with this template_id."`
	OA       string   `name:"oa" placeholder:"ID" help:"Every notification of this Official Account."`
	All      bool     `help:"Every notification."`
}

// scopes are what the flags name: one scope, or one for each id.
func (f *scopeFlags) scopes(help string) ([]control.Scope, error) {
	var out []control.Scope
	kinds := 0
	for _, value := range f.IDs {
		id, err := uuid.Parse(value)
		if err != nil || len(value) != 36 {
			return nil, usage(fmt.Errorf("--id %q is no notification_id, a UUID such as 018f3c5e-7b1a-7c3e-9c39-5c1f1b9f2a10", value), "zns explain KEY   tells the id of a natural key")
		}
		out = append(out, control.ID(id))
	}
	if len(out) > 0 {
		kinds++
	}
	for _, named := range []struct {
		value string
		scope func(string) control.Scope
	}{{f.Campaign, control.Campaign}, {f.Template, control.Template}, {f.OA, control.OA}} {
		if named.value != "" {
			kinds++
			out = append(out, named.scope(named.value))
		}
	}
	if f.All {
		kinds++
		out = append(out, control.All())
	}
	if kinds != 1 {
		return nil, usage(errors.New("say what is meant, by exactly one of --id, --campaign, --template, --oa and --all"), help)
	}
	return out, nil
}

// matches is what keeps the items of any of the scopes.
func matches(scopes []control.Scope) func(*operate.Item) bool {
	ids := map[uuid.UUID]bool{}
	var rest []control.Scope
	for _, s := range scopes {
		if id, single := s.ID(); single {
			ids[id] = true
		} else {
			rest = append(rest, s)
		}
	}
	return func(i *operate.Item) bool {
		return ids[i.ID] || slices.ContainsFunc(rest, func(s control.Scope) bool { return s.Matches(i.ID, i.Flow()) })
	}
}

// scopeText names the scopes for people.
func scopeText(scopes []control.Scope) string {
	if len(scopes) > 1 {
		return render.Plural(len(scopes), "notification")
	}
	if scopes[0] == control.All() {
		return "everything"
	}
	kind, value, _ := strings.Cut(scopes[0].String(), "/")
	name := map[string]string{"id": "notification", "oa": "OA"}[kind]
	return cmp.Or(name, kind) + " " + render.OneLine(value, 80)
}

// giveFlags are those of every command to the senders.
type giveFlags struct {
	Reason  string        `placeholder:"TEXT" help:"Why; it is logged and kept: no personal data."`
	Actor   string        `env:"ZNS_ACTOR,USER" placeholder:"NAME" help:"Who gives the command."`
	Topic   string        `default:"${requested}" help:"Input topic of the senders whose answer is waited for."`
	Timeout time.Duration `default:"15s" help:"How long to wait until every partition has obeyed."`
}

// askFlags are those of every command that asks before it acts; the variable dry_run says what --dry-run does.
type askFlags struct {
	Yes    bool `short:"y" help:"Do not ask."`
	DryRun bool `name:"dry-run" help:"${dry_run}, and do nothing."`
}

// obeyWithin is how long what is done once stays to be obeyed by partitions that nobody owns now.
const obeyWithin = 7 * 24 * time.Hour

// command makes one command; those that are done once expire.
func (f *giveFlags) command(action controlv1.Action, s control.Scope) *controlv1.Command {
	now := time.Now()
	c := &controlv1.Command{
		CommandId: newID(), Time: timestamppb.New(now), Actor: f.Actor, Reason: f.Reason, Scope: s.Proto(), Action: action,
	}
	if action != controlv1.Action_ACTION_HOLD && action != controlv1.Action_ACTION_RELEASE {
		c.ExpireTime = timestamppb.New(now.Add(obeyWithin))
	}
	return c
}

func (f *giveFlags) commands(action controlv1.Action, scopes []control.Scope) []*controlv1.Command {
	out := make([]*controlv1.Command, len(scopes))
	for i, s := range scopes {
		out[i] = f.command(action, s)
	}
	return out
}

// operator is a cluster at which commands are given.
type operator struct {
	*cluster
	giver operate.Giver
	log   operate.Log
	input string
}

func (a *App) operator(ctx context.Context, input string) (*operator, error) {
	return a.operatorWith(ctx, input, topic.Control, input, topic.LedgerOf(input))
}

func (a *App) operatorWith(ctx context.Context, input string, needs ...string) (*operator, error) {
	cl, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := cl.require(ctx, needs...); err != nil {
		cl.Close()
		return nil, err
	}
	source := "/znshub/" + cmp.Or(a.getenv("ZNS_CLUSTER"), "default") + "/operator"
	return &operator{
		cluster: cl, input: input, log: explain.NewLog(cl.admin, cl.opts),
		giver: operate.Giver{Client: cl.opts, Source: source, Input: input},
	}, nil
}

// atOnce is how many commands are waited for together: an answer tells of no more.
const atOnce = 32

// give gives the commands and waits for the answers.
func (o *operator) give(ctx context.Context, within time.Duration, commands []*controlv1.Command) (*operate.Answer, error) {
	sum := &operate.Answer{}
	for part := range slices.Chunk(commands, atOnce) {
		a, err := o.giver.Give(ctx, within, part...)
		if err != nil {
			return nil, failed(err, "may this user write to "+topic.Control+"? see KAFKA_SASL_USERNAME and the cluster's ACLs")
		}
		a.Changed, a.TooLate, a.Left, a.Took = a.Changed+sum.Changed, a.TooLate+sum.TooLate, a.Left+sum.Left, a.Took+sum.Took
		a.Missing, a.Skipped = union(a.Missing, sum.Missing), union(a.Skipped, sum.Skipped)
		sum = a
	}
	o.tidy(ctx)
	return sum, nil
}

func union(a, b []int32) []int32 {
	out := append(slices.Clone(a), b...)
	slices.Sort(out)
	return slices.Compact(out)
}

// tidyAfter is how long what has expired stays in zns.control for people to read.
const tidyAfter = 7 * 24 * time.Hour

// tidy takes old commands out of the topic. That it fails harms nobody: the next command tries again.
func (o *operator) tidy(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if view, err := operate.Rules(ctx, o.opts); err == nil {
		_, _ = o.giver.Tidy(ctx, view, tidyAfter)
	}
}

// given is what a command came to, as JSON.
type given struct {
	Action     string   `json:"action"`
	Scopes     []string `json:"scopes"`
	CommandIDs []string `json:"command_ids"`
	DryRun     bool     `json:"dry_run,omitempty"`
	Changed    int      `json:"changed"`
	TooLate    int      `json:"too_late"`
	operate.Counts
	Partitions int     `json:"partitions"`
	Missing    []int32 `json:"missing"`
	TookMs     int64   `json:"took_ms"`
}

func (a *App) given(action string, scopes []control.Scope, commands []*controlv1.Command, answer *operate.Answer, counts operate.Counts) given {
	g := given{
		Action: action, Scopes: []string{}, CommandIDs: []string{}, Changed: answer.Changed, TooLate: answer.TooLate, Counts: counts,
		Partitions: answer.Partitions, Missing: append([]int32{}, answer.Missing...), TookMs: answer.Took.Milliseconds(),
	}
	for _, s := range scopes {
		g.Scopes = append(g.Scopes, s.String())
	}
	for _, c := range commands {
		g.CommandIDs = append(g.CommandIDs, c.GetCommandId())
	}
	return g
}

// row is one line of what a command came to; it is left out when n is 0 and always is false.
type row struct {
	name   string
	n      int
	what   string
	always bool
	paint  func(string) string
}

func (a *App) printRows(rows []row) {
	table := render.Table{Style: a.Style}
	for _, r := range rows {
		if r.n > 0 || r.always {
			table.Cells(render.Cell{Text: r.name, Paint: r.paint}, render.Cell{Text: strconv.Itoa(r.n)}, render.Cell{Text: r.what, Paint: a.Style.Dim})
		}
	}
	_, _ = table.WriteTo(a.Out)
}

// answered tells who answered, and is the error of a command that not everybody obeyed in time.
func (a *App) answered(answer *operate.Answer, within time.Duration) error {
	if len(answer.Missing) == 0 && len(answer.Skipped) == 0 {
		if !a.Globals.JSON {
			fmt.Fprintf(a.Err, "all %d partitions obeyed within %s\n", answer.Partitions, render.Duration(answer.Took))
		}
		return nil
	}
	if len(answer.Skipped) > 0 {
		return failed(fmt.Errorf("the owner of %s did not understand the command", partitions(answer.Skipped)), "run the newer release of sender there, and give the command again")
	}
	return failed(fmt.Errorf("%s of %d did not answer within %s", partitions(answer.Missing), answer.Partitions, within),
		"the command stands: whoever owns them next obeys it before anything else",
		"is a sender running, and may it read "+topic.Control+"? its /readyz tells")
}

func partitions(list []int32) string {
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = strconv.Itoa(int(p))
	}
	if len(list) == 1 {
		return "partition " + texts[0]
	}
	return "partitions " + strings.Join(texts, ", ")
}

// confirm asks a person at the terminal.
func (a *App) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if f, ok := a.In.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return usage(errors.New("a person must agree, and none can be asked here"), "--yes agrees", "--dry-run shows what would be done")
	}
	fmt.Fprintf(a.Err, "%s [y/N] ", question)
	line, _ := bufio.NewReader(a.In).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return failed(operate.ErrNotConfirmed)
	}
	return nil
}

// ago is a point in time on the command line: a time, or how long before now.
type ago struct{ time.Time }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (t *ago) UnmarshalText(text []byte) error {
	if d, err := config.ParseDuration(string(text)); err == nil && d >= 0 {
		t.Time = time.Now().Add(-d)
		return nil
	}
	if at, err := time.ParseInLocation("15:04", string(text), time.Local); err == nil {
		now := time.Now()
		t.Time = time.Date(now.Year(), now.Month(), now.Day(), at.Hour(), at.Minute(), 0, 0, time.Local)
		return nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if at, err := time.ParseInLocation(layout, string(text), time.Local); err == nil {
			t.Time = at
			return nil
		}
	}
	return fmt.Errorf("%q is neither a time like 14:05 or 2026-12-01T06:00:00+07:00 nor an age like 30m or 7d", text)
}

var _ operate.Log = (*explain.KafkaLog)(nil)
