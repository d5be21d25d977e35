package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
	"github.com/znshub/znshub/services/cli/dev"
	"github.com/znshub/znshub/services/cli/render"
)

type devCmd struct {
	Data     string        `placeholder:"DIR" help:"Keep topics and spool in this folder; without it all is in memory."`
	Seed     uint64        `default:"1" help:"Seed of the simulator."`
	Latency  string        `default:"40ms..90ms" help:"How long Zalo takes to answer: 50ms, 10ms..80ms, or 50ms~400ms (median and 99th percentile)."`
	Delivery string        `default:"200ms..600ms" help:"How long a phone takes to get a message."`
	Verbose  bool          `short:"v" help:"Print the programs' logs."`
	Force    bool          `help:"Use the cluster in KAFKA_BROKERS although it holds records that no zns dev wrote. What waits there goes to the simulator."`
	For      time.Duration `hidden:"" help:"End after this time."`
}

// Help implements kong.HelpProvider.
func (devCmd) Help() string {
	return `Nothing leaves this machine: Zalo is a simulator. The broker is a fake in this process, reachable by any Kafka client, unless KAFKA_BROKERS or --brokers names a cluster. The fake is for development: it promises nothing about a kill -9.

Examples:

    zns dev
    zns dev --data ./zns-data
    KAFKA_BROKERS=localhost:9092 zns dev --verbose
    SENDER_REQUEST_TIMEOUT=2s zns dev --latency 50ms~3s`
}

// Run runs the hub until ctx ends.
func (c *devCmd) Run(ctx context.Context, a *App) error {
	latency, err := zalosim.ParseRange(c.Latency)
	if err != nil {
		return usage(fmt.Errorf("--latency: %w", err), "zns dev --help")
	}
	delivery, err := zalosim.ParseRange(c.Delivery)
	if err != nil {
		return usage(fmt.Errorf("--delivery: %w", err), "zns dev --help")
	}
	external, err := a.externalKafka()
	if err != nil {
		return err
	}
	stack, err := dev.Start(ctx, dev.Config{
		Kafka: external, Force: c.Force, Data: c.Data, Environ: a.Environ, Sender: true, FixedPorts: true, Log: a.logger(c.Verbose),
		Sim: zalosim.Config{Seed: c.Seed, Latency: latency, Delivery: delivery},
	})
	if err != nil {
		return stackFailed(err)
	}
	if err := c.welcome(a, stack, external); err != nil {
		return err
	}
	if c.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.For)
		defer cancel()
	}
	var broken error
	select {
	case <-ctx.Done():
	case broken = <-stack.Failed():
	}
	closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if !a.Globals.JSON {
		fmt.Fprintln(a.Err, "stopping")
	}
	return errors.Join(broken, stack.Close(closeCtx))
}

// externalKafka is the cluster that --brokers or KAFKA_BROKERS names; nil when neither does.
func (a *App) externalKafka() (*kafka.Config, error) {
	if len(a.Globals.Brokers) == 0 && a.getenv("KAFKA_BROKERS") == "" {
		return nil, nil
	}
	conf, err := a.kafkaConfig()
	if err != nil {
		return nil, err
	}
	return &conf, nil
}

// stackFailed says what helps when a hub could not be started.
func stackFailed(err error) error {
	if errors.Is(err, dev.ErrInUse) {
		return failed(err, "unset KAFKA_BROKERS: zns then brings a broker of its own", "--force uses this cluster all the same")
	}
	return failed(err)
}

// logger is where the programs of a stack log: warnings, or everything.
func (a *App) logger(verbose bool) *slog.Logger {
	level := slog.LevelError
	if verbose {
		level = slog.LevelInfo
	}
	if f, ok := a.Err.(*os.File); ok {
		return service.NewLogger(f, "auto", level)
	}
	return slog.New(slog.NewTextHandler(a.Err, &slog.HandlerOptions{Level: level}))
}

// welcome says where everything is and what to do next.
func (c *devCmd) welcome(a *App, s *dev.Stack, external *kafka.Config) error {
	if a.Globals.JSON {
		return a.printJSON(map[string]any{
			"brokers": s.Brokers, "broker": s.Describe, "simulator": s.SimURL, "webhook": s.WebhookURL,
			"admin": map[string]string{"sender": "http://" + s.SenderAdmin, "webhook-ingest": "http://" + s.IngestAdmin},
		})
	}
	brokers := strings.Join(s.Brokers, ",")
	zns := "zns"
	if external == nil && brokers != "127.0.0.1:9092" {
		zns += " --brokers " + brokers
	}
	table := render.Table{Style: a.Style}
	table.Row("  broker", brokers, s.Describe)
	table.Row("  zalo simulator", s.SimURL, fmt.Sprintf("seed %d · its books: /sim/audit /sim/totals /sim/faults", c.Seed))
	table.Row("  webhook-ingest", s.WebhookURL)
	table.Row("  admin", "http://"+s.SenderAdmin+"/metrics", "sender: /livez /readyz /metrics")
	table.Row("", "http://"+s.IngestAdmin+"/metrics", "webhook-ingest: the same")
	request := `{"source":"shop","idempotency_key":"order-1/shipped","recipient":{"phone":"0987654321"},"template_id":"300200","template_data":{"order_code":"DH-1","customer_name":"An"}}`
	text := a.Style.Bold("The whole hub runs here. Nothing leaves this machine: Zalo is a simulator.") + "\n\n" + table.String() + `
` + a.Style.Bold("publish") + `, in another terminal:
  ` + zns + ` send --phone 0987654321 --template 300200 order_code=DH-1 customer_name=An --wait
  echo '` + request + `' | ` + zns + ` publish
  echo '` + request + `' | kcat -b ` + brokers + ` -P -t notification.requested
  zns sample go            (or python, java: a publisher to start from)
` + a.Style.Bold("look") + `:
  ` + zns + ` watch
  ` + zns + ` explain shop/order-1/shipped
  kcat -b ` + brokers + ` -C -t zns.delivered -X isolation.level=read_committed -f '%T %k %h\n'

templates ` + templates(s.Sim) + `
` + zalosim.Convention + `
Ctrl-C ends.
`
	_, err := io.WriteString(a.Out, text)
	return err
}

// templates names the simulator's templates with their parameters.
func templates(sim *zalosim.Sim) string {
	var parts []string
	for _, t := range sim.Templates() {
		var params []string
		for _, p := range t.Params {
			if p.Required {
				params = append(params, p.Name)
			}
		}
		if len(params) > 0 {
			parts = append(parts, t.ID+" ("+strings.Join(params, ", ")+")")
		}
	}
	return strings.Join(parts, " · ")
}
