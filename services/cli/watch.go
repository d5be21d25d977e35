package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/services/cli/event"
	"github.com/znshub/znshub/services/cli/render"
)

type watchCmd struct {
	For    string        `arg:"" optional:"" help:"Only this notification: its id or its natural key."`
	Topic  string        `default:"${requested}" help:"Input topic."`
	Kind   []string      `enum:"requested,sent,delivered,failed,unresolved,overdue,callback,dead-letter" help:"Only these kinds: requested, sent, delivered, failed, unresolved, overdue, callback, dead-letter."`
	Source string        `help:"Only requests of this service."`
	Since  time.Duration `help:"Begin that long ago instead of now."`
	All    bool          `help:"Begin with the oldest record that Kafka still has."`
}

// Help implements kong.HelpProvider.
func (watchCmd) Help() string {
	return `One line an event, as it is committed: requested, sent, delivered, failed, unresolved, overdue, callbacks and dead letters. Phone numbers are masked. Ends with Ctrl-C.

Examples:

    zns watch
    zns watch order-1042/shipped --since 1h
    zns watch --kind failed --kind dead-letter --since 24h
    zns watch --json | jq -r 'select(.kind == "failed") | .event.reason'`
}

// Run prints events until ctx ends.
func (c *watchCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	follow, err := cl.follow(ctx, event.Topics(c.Topic), c.start())
	if err != nil {
		return err
	}
	defer follow.Close()
	if !a.Globals.JSON && render.IsTerminal(a.Err) {
		fmt.Fprintln(a.Err, render.StyleFor(a.Err, a.getenv).Dim("watching "+strings.Join(event.Topics(c.Topic), ", ")+" · Ctrl-C ends"))
	}
	for {
		events, err := follow.Next(ctx)
		if ctx.Err() != nil {
			return nil // Ctrl-C is how watching ends
		}
		if err != nil {
			return err
		}
		for i := range events {
			if !c.wants(&events[i]) {
				continue
			}
			if err := a.printEvent(&events[i]); err != nil {
				return err
			}
		}
	}
}

func (c *watchCmd) wants(e *event.Event) bool {
	switch {
	case len(c.Kind) > 0 && !slices.Contains(c.Kind, strings.ReplaceAll(string(e.Kind), " ", "-")):
		return false
	case c.Source != "" && e.Source != c.Source:
		return false
	case c.For != "" && c.For != e.ID && c.For != e.Key:
		return false
	case e.Kind == event.Requested && e.MovedFrom() != "":
		return false // the caller's own record was already shown
	}
	return true
}

func (c *watchCmd) start() kafka.Start {
	switch {
	case c.All:
		return kafka.FromStart()
	case c.Since > 0:
		return kafka.FromTime(time.Now().Add(-c.Since))
	default:
		return kafka.FromEnd()
	}
}
