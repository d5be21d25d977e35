package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/cli/render"
)

type transactionsCmd struct {
	List transactionsListCmd `cmd:"" help:"Show the transactions that hold readers back."`
	End  transactionsEndCmd  `cmd:"" help:"End those that hang, as their coordinators decided."`
}

// Help implements kong.HelpProvider.
func (transactionsCmd) Help() string {
	return `A transaction hangs when its coordinator is done with it and a partition never got its end: Kafka 4.3.1 forgets partitions that have no leader at that moment, as after the crash of a single broker. Readers wait there for ever, and the next transaction of the same producer would decide about both. What the coordinator decided stands in its own log, ` + kafka.TransactionState + `; "end" reads it there and writes what is missing. It never guesses.

The hub's topics are looked at, and where the offsets of its groups are. Needed: READ on the topics and on ` + kafka.TransactionState + `, DESCRIBE on transactional ids, and for "end" CLUSTER_ACTION on the cluster.`
}

// transactionsFlags say where is looked.
type transactionsFlags struct {
	Topic  string   `default:"${requested}" help:"Input topic."`
	Groups []string `name:"group" placeholder:"NAME" help:"Groups whose offsets are looked at; default: those of the settings here (SENDER_GROUP, INGEST_GROUP)."`
}

// openTransaction is a transaction with what is known of its end.
type openTransaction struct {
	kafka.OpenTransaction
	decision *kafka.Decision // nil: it does not hang, or nobody knows any more
}

// find returns what holds readers back now.
func (f *transactionsFlags) find(ctx context.Context, a *App, cl *cluster) ([]openTransaction, error) {
	groups := f.Groups
	if len(groups) == 0 {
		groups = []string{cmp.Or(a.getenv("SENDER_GROUP"), "zns-sender"), cmp.Or(a.getenv("INGEST_GROUP"), "zns-ingest")}
	}
	var found []openTransaction
	var hanging []kafka.OpenTransaction
	var places []int // in found
	for _, s := range append(specs(f.Topic), topic.Spec{Name: kafka.ConsumerOffsets}) {
		open, err := cl.admin.HeldBack(ctx, s.Name, groups...)
		if err != nil {
			return nil, refusedBy(err)
		}
		for _, t := range open {
			if t.Hangs() {
				hanging, places = append(hanging, t), append(places, len(found))
			}
			found = append(found, openTransaction{OpenTransaction: t})
		}
	}
	decisions, err := cl.admin.Decisions(ctx, hanging)
	if err != nil {
		return nil, refusedBy(err)
	}
	for i, d := range decisions {
		found[places[i]].decision = d
	}
	return found, nil
}

// refusedBy adds what helps to an error of the brokers.
func refusedBy(err error) error {
	for _, no := range []error{kerr.TopicAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed, kafka.ErrMayNotEnd} {
		if errors.Is(err, no) {
			return failed(err, "zns transactions --help   says which rights are needed", "KAFKA_SASL_USERNAME says who asks")
		}
	}
	return failed(err, "try again in a moment: partitions may be without a leader", "zns doctor   looks at the brokers")
}

// state tells what becomes of t.
func (t openTransaction) state() string {
	switch {
	case !t.Hangs() && t.Decided:
		return "is ending"
	case !t.Hangs():
		return "under way"
	case t.decision == nil:
		return "hangs, decision unknown"
	}
	return "hangs, decided: " + t.decision.String()
}

// id is the transactional id, as far as it is known.
func (t openTransaction) id() string {
	if t.decision != nil {
		return t.decision.ID
	}
	return t.ID
}

func (a *App) printTransactions(found []openTransaction) error {
	table := render.Table{Style: a.Style}
	table.Header("place", "transactional id", "last write", "state")
	for _, t := range found {
		if a.Globals.JSON {
			line := map[string]any{
				"topic": t.Topic, "partition": t.Partition, "start_offset": t.Start, "last_write": t.LastWrite, "transactional_id": t.id(),
				"producer_id": t.ProducerID, "producer_epoch": t.ProducerEpoch, "hangs": t.Hangs(),
			}
			if t.decision != nil {
				line["decision"] = t.decision.String()
			}
			if err := a.printJSON(line); err != nil {
				return err
			}
			continue
		}
		table.Row(t.String(), cmp.Or(render.OneLine(t.id(), 60), "-"), render.Duration(time.Since(t.LastWrite))+" ago", t.state())
	}
	if a.Globals.JSON {
		return nil
	}
	if len(found) == 0 {
		fmt.Fprintln(a.Out, "no transaction holds readers back")
		return nil
	}
	_, err := table.WriteTo(a.Out)
	return err
}

type transactionsListCmd struct{ transactionsFlags }

// Help implements kong.HelpProvider.
func (transactionsListCmd) Help() string {
	return `Those of a healthy hub are under way for some milliseconds.

Examples:

    zns transactions list
    zns transactions list --json | jq -r 'select(.hangs) | .topic'`
}

// Run lists.
func (c *transactionsListCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	found, err := c.find(ctx, a, cl)
	if err != nil {
		return err
	}
	return a.printTransactions(found)
}

type transactionsEndCmd struct {
	transactionsFlags
	askFlags `set:"dry_run=Show what would be ended"`
}

// Help implements kong.HelpProvider.
func (transactionsEndCmd) Help() string {
	return `Does nothing to transactions that are under way. The exit code is 0 when none hangs any more, 1 when one is left.

Examples:

    zns transactions end --dry-run
    zns transactions end --yes`
}

// Run ends what hangs.
func (c *transactionsEndCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	found, err := c.find(ctx, a, cl)
	if err != nil {
		return err
	}
	var hanging []openTransaction
	unknown := 0
	for _, t := range found {
		if t.Hangs() {
			hanging = append(hanging, t)
			if t.decision == nil {
				unknown++
			}
		}
	}
	if len(hanging) == 0 {
		return a.endedTransactions(nil, 0)
	}
	if c.DryRun {
		return a.printTransactions(hanging)
	}
	if !a.Globals.JSON {
		if err := a.printTransactions(hanging); err != nil {
			return err
		}
	}
	var ended []openTransaction
	if unknown < len(hanging) {
		if err := a.confirm(c.Yes, fmt.Sprintf("end %s as decided?", render.Plural(len(hanging)-unknown, "transaction"))); err != nil {
			return err
		}
	}
	for _, t := range hanging {
		if t.decision == nil {
			continue
		}
		if err := cl.admin.EndTransaction(ctx, t.OpenTransaction, *t.decision); err != nil {
			_ = a.endedTransactions(ended, len(hanging)-len(ended)) // err says more
			return refusedBy(err)
		}
		ended = append(ended, t)
	}
	return a.endedTransactions(ended, unknown)
}

// endedTransactions tells what was done; the error says that something is left.
func (a *App) endedTransactions(ended []openTransaction, left int) error {
	committed := 0
	for _, t := range ended {
		if t.decision.Commit {
			committed++
		}
	}
	switch {
	case a.Globals.JSON:
		if err := a.printJSON(map[string]any{"committed": committed, "aborted": len(ended) - committed, "left": left}); err != nil {
			return err
		}
	case len(ended) == 0 && left == 0:
		fmt.Fprintln(a.Out, "no transaction hangs")
	default:
		a.printRows([]row{
			{name: "committed", n: committed, always: true, paint: a.Style.Good},
			{name: "aborted", n: len(ended) - committed, always: true, paint: a.Style.Good},
			{name: "left", n: left, what: "still hanging", paint: a.Style.Bad},
		})
	}
	if left > 0 {
		return errQuiet
	}
	return nil
}
