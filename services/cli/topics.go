package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/cli/render"
)

type topicsCmd struct {
	Ensure topicsEnsureCmd `cmd:"" help:"Create the topics that are missing, and check the others."`
	List   topicsListCmd   `cmd:"" help:"Show the topics, and what is wrong with them."`
}

type topicsEnsureCmd struct {
	Topic             string `default:"${requested}" help:"Input topic; its ledger and dead letters are named after it."`
	Partitions        int32  `help:"Partitions of new topics, fixed for their life. Default: 12, or as many as the input topic has."`
	ReplicationFactor int16  `help:"Replicas of new topics. Default: 3, or the number of brokers when that is less."`

	Wait time.Duration `help:"Wait so long for a broker, as where both are started together."`
}

type topicsListCmd struct {
	Topic string `default:"${requested}" help:"Input topic."`
}

// Help implements kong.HelpProvider.
func (topicsEnsureCmd) Help() string {
	return `Existing topics are never changed: what is wrong with one is told with the command that mends it. The exit code is 1 while a program would refuse a topic.

Examples:

    zns topics ensure
    zns topics ensure --partitions 24 --replication-factor 3
    zns topics ensure --wait 1m
    zns topics ensure --topic notification.requested.urgent`
}

// Help implements kong.HelpProvider.
func (topicsListCmd) Help() string {
	return `Examples:

    zns topics list
    zns topics list --json | jq -r 'select(.problems | length > 0) | .topic'`
}

// specs are the table's topics for an input topic.
func specs(input string) []topic.Spec {
	if input == topic.Requested {
		return topic.Table()
	}
	return append(topic.ForInput(input), topic.Table()[len(topic.ForInput(input)):]...)
}

// Run creates what is missing.
func (c *topicsEnsureCmd) Run(ctx context.Context, a *App) error {
	if c.Partitions < 0 || c.ReplicationFactor < 0 {
		return usage(errors.New("--partitions and --replication-factor must be positive"), "zns topics ensure --help")
	}
	if !kafka.IsTopicName(topic.LedgerOf(c.Topic)) {
		return usage(fmt.Errorf("--topic %q and the names made of it are no topic names of Kafka: letters, digits, '.', '_' and '-', at most 249 with .ledger", c.Topic), "zns topics ensure --help")
	}
	cl, err := a.connectWithin(ctx, c.Wait)
	if err != nil {
		return err
	}
	defer cl.Close()
	partitions := c.Partitions
	if partitions == 0 {
		// What already is there decides: the topics are read side by side.
		found, err := cl.admin.Topics(ctx, c.Topic, topic.Sent)
		if err != nil {
			return err
		}
		partitions = cmp.Or(found[c.Topic].Partitions, found[topic.Sent].Partitions)
	}
	created, err := cl.admin.Ensure(ctx, specs(c.Topic), partitions, c.ReplicationFactor)
	if err != nil {
		if errors.Is(err, kafka.ErrReplication) {
			return failed(err, "--replication-factor: no more than there are brokers; without it zns takes 3, or as many as there are")
		}
		return failed(err, "may this user create topics? see KAFKA_SASL_USERNAME and the cluster's ACLs")
	}
	problems, err := cl.admin.Check(ctx, specs(c.Topic))
	if err != nil {
		return err
	}
	if a.Globals.JSON {
		if err := a.printJSON(map[string]any{"created": orEmpty(created), "problems": problemsJSON(problems)}); err != nil {
			return err
		}
		return refused(problems)
	}
	for _, name := range created {
		fmt.Fprintf(a.Out, "%s %s\n", a.Style.Good("created"), name)
	}
	if len(created) == 0 {
		fmt.Fprintln(a.Out, "every topic is there")
	}
	a.printProblems(problems)
	return refused(problems)
}

// Run lists the topics.
func (c *topicsListCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	list := specs(c.Topic)
	problems, err := cl.admin.Check(ctx, list)
	if err != nil {
		return err
	}
	names := make([]string, len(list))
	for i, s := range list {
		names[i] = s.Name
	}
	found, err := cl.admin.Topics(ctx, names...)
	if err != nil {
		return err
	}
	table := render.Table{Style: a.Style}
	table.Header("topic", "partitions", "replicas", "policy", "records", "written by", "state")
	for _, s := range list {
		row, err := describe(ctx, cl, s, found, problems)
		if err != nil {
			return err
		}
		if a.Globals.JSON {
			if err := a.printJSON(row); err != nil {
				return err
			}
			continue
		}
		table.Cells(row.cells(a.Style)...)
	}
	if a.Globals.JSON {
		return refused(problems)
	}
	if _, err := table.WriteTo(a.Out); err != nil {
		return err
	}
	a.printProblems(problems)
	return refused(problems)
}

// topicRow is one topic as zns topics list shows it.
type topicRow struct {
	Topic      string         `json:"topic"`
	Exists     bool           `json:"exists"`
	Partitions int32          `json:"partitions"`
	Replicas   int            `json:"replicas"`
	Policy     topic.Policy   `json:"policy"`
	Records    int64          `json:"records"` // offsets between the oldest and the end: on compacted topics fewer are left
	Writer     string         `json:"written_by"`
	Key        string         `json:"key"`
	Type       string         `json:"ce_type,omitempty"`
	Problems   []topicProblem `json:"problems"`
}

type topicProblem struct {
	Topic   string `json:"topic"`
	Warning bool   `json:"warning"`
	What    string `json:"what"`
	Command string `json:"command"`
}

func describe(ctx context.Context, cl *cluster, s topic.Spec, found map[string]kafka.TopicInfo, problems []kafka.Problem) (topicRow, error) {
	row := topicRow{Topic: s.Name, Policy: s.Policy, Writer: s.Writer, Key: s.Key, Type: s.Type, Problems: []topicProblem{}}
	for _, p := range problemsJSON(problems) {
		if p.Topic == s.Name {
			row.Problems = append(row.Problems, p)
		}
	}
	info, ok := found[s.Name]
	if !ok {
		return row, nil
	}
	row.Exists, row.Partitions, row.Replicas = true, info.Partitions, info.Replication
	starts, err := cl.admin.StartOffsets(ctx, s.Name)
	if err != nil {
		return row, err
	}
	ends, err := cl.admin.EndOffsets(ctx, s.Name)
	if err != nil {
		return row, err
	}
	for p, end := range ends {
		row.Records += end - starts[p]
	}
	return row, nil
}

func (r *topicRow) cells(style render.Style) []render.Cell {
	state := render.Cell{Text: "ok", Paint: style.Good}
	for _, p := range r.Problems {
		switch {
		case !p.Warning:
			state = render.Cell{Text: "refused", Paint: style.Bad}
		case state.Text == "ok":
			state = render.Cell{Text: "warning", Paint: style.Warn}
		}
	}
	if !r.Exists {
		return []render.Cell{{Text: r.Topic}, {Text: "-"}, {Text: "-"}, {Text: string(r.Policy)}, {Text: "-"}, {Text: r.Writer}, {Text: "missing", Paint: style.Bad}}
	}
	return []render.Cell{
		{Text: r.Topic}, {Text: strconv.Itoa(int(r.Partitions))}, {Text: strconv.Itoa(r.Replicas)}, {Text: string(r.Policy)},
		{Text: strconv.FormatInt(r.Records, 10)}, {Text: r.Writer}, state,
	}
}

func (a *App) printProblems(problems []kafka.Problem) {
	for _, p := range problems {
		label := a.Style.Bad("problem")
		if p.Warning {
			label = a.Style.Warn("warning")
		}
		fmt.Fprintf(a.Out, "%s %s: %s\n        mend: %s\n", label, p.Topic, p.What, p.Command)
	}
}

func problemsJSON(problems []kafka.Problem) []topicProblem {
	out := make([]topicProblem, 0, len(problems))
	for _, p := range problems {
		out = append(out, topicProblem{Topic: p.Topic, Warning: p.Warning, What: p.What, Command: p.Command})
	}
	return out
}

// refused is exit code 1 when a program would refuse one of the topics.
func refused(problems []kafka.Problem) error {
	for _, p := range problems {
		if !p.Warning {
			return errQuiet
		}
	}
	return nil
}
