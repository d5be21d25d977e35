package cli

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/cli/event"
	"github.com/znshub/znshub/services/cli/explain"
)

type explainCmd struct {
	Which    string        `arg:"" help:"notification_id, natural key, source/key, msg_id or tracking_id."`
	Source   string        `help:"The service that asked, when a natural key is given: finds it without a search."`
	Topic    string        `default:"${requested}" help:"Input topic."`
	TraceURL string        `name:"trace-url" env:"ZNS_TRACE_URL" default:"http://localhost:16686/trace/{trace_id}" help:"Where traces are shown."`
	Timeout  time.Duration `default:"60s" help:"How long to search."`
}

// Help implements kong.HelpProvider.
func (explainCmd) Help() string {
	return `Tells what happened to a notification, line by line: requested, accepted, each wait with its reason, each attempt with its result, callbacks, what was published where, and what was searched.

Examples:

    zns explain 93c1a1a0-6f8b-5d3e-8b6e-0c9a2f7d4e11
    zns explain order-1042/shipped --source order-service
    zns explain order-service/order-1042/shipped
    zns explain a4d0243feee163bd3af2          (Zalo's msg_id)
    zns explain order-1042/shipped --json | jq .state`
}

// Run tells the story; exit code 1 when there is none.
func (c *explainCmd) Run(ctx context.Context, a *App) error {
	cl, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.require(ctx, append(event.Topics(c.Topic), topic.LedgerOf(c.Topic), topic.Status, topic.Control)...); err != nil {
		return err
	}
	searchCtx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	log := explain.NewLog(cl.admin, cl.opts)
	facts, err := explain.Search(searchCtx, log, explain.Query{Text: c.Which, Source: c.Source, Input: c.Topic, Cluster: cmp.Or(a.getenv("ZNS_CLUSTER"), "default")})
	if err != nil {
		if searchCtx.Err() != nil && ctx.Err() == nil {
			return failed(fmt.Errorf("not done within %s: %w", c.Timeout, err), "on large topics give the id or --source, or a longer --timeout")
		}
		return failed(err, "zns topics list   shows the hub's topics")
	}
	if !facts.Found() {
		return c.notFound(a, facts)
	}
	story := explain.Tell(facts, time.Now())
	if a.Globals.JSON {
		return a.printJSON(story)
	}
	_, err = fmt.Fprint(a.Out, story.Text(a.Style, time.Now(), c.TraceURL))
	return err
}

func (c *explainCmd) notFound(a *App, facts explain.Facts) error {
	if !a.Globals.JSON {
		fmt.Fprint(a.Err, explain.Searched(facts.Searched))
	}
	next := []string{"zns watch --all --source …   shows every request of a service"}
	if c.Source == "" {
		next = append(next, "a natural key is found for certain with --source")
	}
	return failed(fmt.Errorf("nothing is known of %q", c.Which), next...)
}
