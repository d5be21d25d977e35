package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/cli/render"
	"github.com/znshub/znshub/services/cli/screen"
	"github.com/znshub/znshub/services/ingest/status"
)

type statusCmd struct {
	Topic       string        `default:"${requested}" help:"Input topic."`
	SenderGroup string        `name:"sender-group" env:"SENDER_GROUP" default:"zns-sender" help:"Consumer group of the sender."`
	IngestGroup string        `name:"ingest-group" env:"INGEST_GROUP" default:"zns-ingest" help:"Consumer group of webhook-ingest's translation."`
	Ingest      []string      `placeholder:"URL" help:"ADMIN_ADDR of a webhook-ingest, for its spool; may be repeated."`
	NoLedger    bool          `help:"Do not read the ledger: no waiting, no unknown. Faster where millions wait."`
	Verify      bool          `help:"Instead: fold all events again and compare the result with zns.status."`
	Timeout     time.Duration `default:"2m" help:"How long to look."`
}

// Help implements kong.HelpProvider.
func (statusCmd) Help() string {
	return `One screen: brokers, groups with their lag and partitions without an owner, what waits by reason, what nobody knows, quotas, holds, spools. The exit code is 1 when it is red: the reasons stand on top.

With --verify it reads every event of zns.sent, zns.failed, zns.unresolved, zns.delivered and zns.overdue, folds them as webhook-ingest does, and tells each snapshot in zns.status that is not what its events say; exit code 1 when there is one.

Examples:

    zns status
    zns status --ingest 127.0.0.1:9464
    zns status --json | jq .ledger
    zns status --verify`
}

// Run prints the screen.
func (c *statusCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if c.Verify {
		return c.verify(ctx, a, cl)
	}
	var total int64
	if !c.NoLedger {
		ends, err := cl.admin.EndOffsets(ctx, topic.LedgerOf(c.Topic))
		if err == nil { // else the screen tells what is wrong
			for _, end := range ends {
				total += end
			}
		}
	}
	progress := a.readProgress("reading the ledger", total)
	s, err := screen.Look(ctx, screen.Config{
		Admin: cl.admin, Client: cl.opts, Input: c.Topic, SenderGroup: c.SenderGroup, IngestGroup: c.IngestGroup,
		NoLedger: c.NoLedger, Ingests: c.Ingest, Read: progress.at,
	})
	progress.end()
	if err != nil {
		return failed(fmt.Errorf("look at the cluster: %w", err), "zns doctor   tells what is wrong with the cluster")
	}
	if a.Globals.JSON {
		if err := a.printJSON(s); err != nil {
			return err
		}
	} else if _, err := fmt.Fprint(a.Out, s.Text(a.Style)); err != nil {
		return err
	}
	if s.Red {
		return errQuiet
	}
	return nil
}

// verify rebuilds zns.status and tells each difference.
func (c *statusCmd) verify(ctx context.Context, a *App, cl *cluster) error {
	topics := status.Topics{
		Unresolved: topic.Unresolved, Failed: topic.Failed, Sent: topic.Sent, Delivered: topic.Delivered, Overdue: topic.Overdue, Status: topic.Status,
	}
	if err := cl.require(ctx, topics.Unresolved, topics.Failed, topics.Sent, topics.Delivered, topics.Overdue, topics.Status); err != nil {
		return err
	}
	terminal := !a.Globals.JSON && render.IsTerminal(a.Err)
	report, err := status.Verify(ctx, status.VerifyConfig{
		Client: cl.opts, Topics: topics,
		Progress: func(done, all int) {
			if terminal {
				fmt.Fprintf(a.Err, "\r%d of %d partitions\x1b[K", done, all)
			}
		},
		Found: func(d status.Difference) error {
			if a.Globals.JSON {
				return a.printJSON(d)
			}
			_, err := fmt.Fprintf(a.Out, "%s  %s (snapshot %s, events %s)\n", d.NotificationID, d.What, or(d.State, "none"), or(d.Want, "none"))
			return err
		},
	})
	if terminal {
		fmt.Fprint(a.Err, "\r\x1b[K")
	}
	if err != nil {
		return failed(fmt.Errorf("verify zns.status: %w", err), "a longer --timeout")
	}
	if a.Globals.JSON {
		err = a.printJSON(report)
	} else {
		_, err = fmt.Fprintf(a.Out, "%s folded into %s, %s read: %s\n", render.Plural(int(report.Events), "event"),
			render.Plural(int(report.Notifications), "notification"), render.Plural(int(report.Snapshots), "snapshot"), render.Plural(int(report.Differences), "difference"))
	}
	if err == nil && report.Differences > 0 {
		return errQuiet
	}
	return err
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
