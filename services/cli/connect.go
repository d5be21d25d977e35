package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/config"
	"github.com/znshub/znshub/pkg/kafka"
)

// patience is how long a command looks for a broker before it says that there is none.
const patience = 5 * time.Second

// cluster is a Kafka of which a broker has answered.
type cluster struct {
	config kafka.Config
	opts   []kgo.Opt
	admin  *kafka.Admin
}

// kafkaConfig is how to reach the brokers: the KAFKA_* variables, with --brokers winning.
func (a *App) kafkaConfig() (kafka.Config, error) {
	var c kafka.Config
	environ := slices.Clone(a.Environ)
	if len(a.Globals.Brokers) > 0 {
		environ = append(environ, "KAFKA_BROKERS="+strings.Join(a.Globals.Brokers, ","))
	}
	if _, err := config.LoadFrom(environ, &c); err != nil {
		return c, usage(err, "zns config check")
	}
	if c.ClientID == "" {
		c.ClientID = "zns"
	}
	return c, nil
}

// connect finds the cluster.
func (a *App) connect(ctx context.Context) (*cluster, error) {
	c, err := a.kafkaConfig()
	if err != nil {
		return nil, err
	}
	return connectTo(ctx, c)
}

// connectWithin finds the cluster, and tries again until that succeeds or wait has passed.
func (a *App) connectWithin(ctx context.Context, wait time.Duration) (*cluster, error) {
	for deadline := time.Now().Add(wait); ; {
		cl, err := a.connect(ctx)
		p, ok := errors.AsType[*problem](err)
		if err == nil || ok && p.code == exitUsage || time.Now().After(deadline) {
			return cl, err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func connectTo(ctx context.Context, c kafka.Config) (*cluster, error) {
	opts, err := c.Options()
	if err != nil {
		return nil, usage(err, "zns config check")
	}
	admin, err := kafka.NewAdmin(opts...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := admin.Broker(ctx); err != nil {
		admin.Close()
		return nil, failed(fmt.Errorf("no broker answers at %s: %w", strings.Join(c.Brokers, ","), err),
			"--brokers or KAFKA_BROKERS say where Kafka is; zns dev runs one to try")
	}
	return &cluster{config: c, opts: opts, admin: admin}, nil
}

// Close ends the connections.
func (c *cluster) Close() { c.admin.Close() }

// require reports which of the topics do not exist, and what to do.
func (c *cluster) require(ctx context.Context, topics ...string) error {
	found, err := c.admin.Topics(ctx, topics...)
	if err != nil {
		return err
	}
	var missing []string
	for _, name := range topics {
		if _, ok := found[name]; !ok {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return failed(fmt.Errorf("no topic %s in the Kafka at %s", strings.Join(missing, ", "), strings.Join(c.config.Brokers, ",")),
			"zns topics ensure   creates the hub's topics")
	}
	return nil
}

// write publishes the records within half a minute and says what helps when that fails.
func write(ctx context.Context, w *kafka.Writer, topicName string, records ...kafka.Record) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err := w.Write(ctx, records...)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("publish to %s: %w", topicName, err)
	if e, ok := errors.AsType[*kafka.WriteError](err); ok {
		switch e.Reason {
		case kafka.ReasonDeadline:
			return failed(err, "publishing the same again is safe: a known id does nothing twice")
		case kafka.ReasonTooLarge:
			return failed(err, "a request may have 256 KiB")
		}
	}
	return failed(err)
}

// traceHeaders carry on the trace that the environment names, as tools that start commands do (TRACEPARENT).
func (a *App) traceHeaders() []kafka.Header {
	var headers []kafka.Header
	for _, name := range []string{kafka.HeaderTraceparent, kafka.HeaderTracestate} {
		if value := a.getenv(strings.ToUpper(name)); value != "" {
			headers = append(headers, kafka.Header{Key: name, Value: []byte(value)})
		}
	}
	return headers
}
