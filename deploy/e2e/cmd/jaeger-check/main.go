// Command jaeger-check asserts in a real Jaeger that one notification is one trace, from the caller's span to the event
// of its delivery, over three processes: sender, webhook-ingest and zalo-sim. It runs one notification with a
// traceparent and one without, prints both trees as Jaeger's query API tells them, and exits 0 only if they are right.
//
// It needs KAFKA_BROKERS, a cluster that no other installation uses: make jaeger-check starts one. Jaeger is built from
// the Go module proxy at the first run, which takes some minutes, and is kept in the user's cache.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/telemetry"
	"github.com/znshub/znshub/proto/topic"
)

// caller is the service that publishes the request with a traceparent.
const caller = "order-service"

// within bounds each wait: start of the programs, way of a notification, arrival of its spans.
const within = time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "jaeger-check:", err)
		os.Exit(1)
	}
	fmt.Println("OK: each notification is one trace")
}

func run(ctx context.Context) (err error) {
	brokers := os.Getenv("KAFKA_BROKERS")
	if brokers == "" {
		return errors.New("no Kafka: set KAFKA_BROKERS, or use make jaeger-check where java and mvn are")
	}
	jaegerBinary, err := buildJaeger(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "jaeger-check-")
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			err = os.RemoveAll(dir)
		} else {
			err = fmt.Errorf("%w\nlogs: %s", err, dir)
		}
	}()
	fmt.Println("building sender, webhook-ingest and zalo-sim")
	bin := filepath.Join(dir, "bin")
	if err := harness.Build(ctx, bin, harness.Sender, harness.Ingest, harness.ZaloSim); err != nil {
		return err
	}
	j, err := newJaeger(jaegerBinary, dir)
	if err != nil {
		return err
	}
	startCtx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := j.process.Restart(startCtx); err != nil {
		return err
	}
	defer func() { _ = j.process.Kill() }() // it may have ended by itself
	fmt.Printf("Jaeger %s: OTLP %s, query API %s\n", jaegerVersion, j.otlp, j.query)

	addrs := strings.Split(brokers, ",")
	if err := empty(startCtx, addrs); err != nil {
		return err
	}
	if err := harness.CreateTopics(startCtx, addrs, 4); err != nil {
		return err
	}
	traces := []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + j.otlp, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_BSP_SCHEDULE_DELAY=200"}
	system, err := harness.NewSystem(harness.Config{
		Brokers: brokers, Bin: bin, Dir: dir, SenderEnv: traces, IngestEnv: traces,
		SimEnv: append(traces, "SIM_LATENCY=20ms", "SIM_DELIVERY=100ms"),
	})
	if err != nil {
		return err
	}
	defer func() {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		err = errors.Join(err, system.Stop(stopCtx))
	}()
	if err := system.Start(startCtx, 1); err != nil {
		return err
	}
	// Both are tried, so that one run tells all.
	return errors.Join(
		check(ctx, "with traceparent", addrs, j, true),
		check(ctx, "without traceparent", addrs, j, false),
		system.Secrets(),
	)
}

// empty refuses a cluster with requests of somebody else: the sender would deliver them to the simulator.
func empty(ctx context.Context, brokers []string) error {
	admin, err := kafka.NewAdmin(kgo.SeedBrokers(brokers...))
	if err != nil {
		return err
	}
	defer admin.Close()
	found, err := admin.Topics(ctx, topic.Requested)
	if err != nil || len(found) == 0 {
		return err
	}
	ends, err := admin.EndOffsets(ctx, topic.Requested)
	for _, end := range ends {
		if end > 0 {
			return fmt.Errorf("%s holds records already: use a cluster of its own for this check", topic.Requested)
		}
	}
	return err
}

// check runs one notification and compares its trace in Jaeger with what it must be.
func check(ctx context.Context, name string, brokers []string, j *jaeger, traced bool) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	begin := time.Now()
	id := uuid.NewString()
	sent, delivered, traceID, err := notify(ctx, brokers, j, id, traced)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	want := path(traced)
	var last error
	for {
		spans, err := j.spansOf(ctx, id)
		if err == nil {
			err = errors.Join(compare(spans, want), headers(spans, sent, delivered), sameTrace(spans, traceID))
		}
		if err == nil {
			fmt.Printf("\n%s: %d spans, %s\n%s", name, len(spans), time.Since(begin).Round(time.Millisecond), tree(spans))
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = fmt.Errorf("%w\n%s", err, tree(spans))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", name, last)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// notify publishes one request and waits for its zns.sent and zns.delivered. With traced the request carries the
// context of a span of the caller, whose trace id is returned.
func notify(ctx context.Context, brokers []string, j *jaeger, id string, traced bool) (sent, delivered kafka.Record, traceID string, err error) {
	client := []kgo.Opt{kgo.SeedBrokers(brokers...)}
	var load harness.Load
	m := load.Message(len(id), harness.Request{ID: id})
	traceparent, tracestate, finish := "", "", func() error { return nil }
	if traced {
		traceparent, tracestate, finish, err = callerSpan(ctx, j.otlp, id)
		if err != nil {
			return sent, delivered, "", err
		}
		traceID = traceOf(traceparent)
	}
	record, err := kafka.NewRecord(topic.Requested, []byte(id), kafka.Event{
		ID: id, Source: "/" + caller, Subject: id, Time: time.Now(), Data: m,
	}, traceparent, tracestate)
	if err != nil {
		return sent, delivered, "", err
	}
	writer, err := kafka.NewWriter(client...)
	if err != nil {
		return sent, delivered, "", err
	}
	defer writer.Close()
	if err := errors.Join(writer.Write(ctx, record), finish()); err != nil {
		return sent, delivered, "", err
	}
	if sent, err = await(ctx, client, topic.Sent, id); err == nil {
		delivered, err = await(ctx, client, topic.Delivered, id)
	}
	return sent, delivered, traceID, err
}

// callerSpan starts the span of a service that publishes a request; finish ends and exports it.
func callerSpan(ctx context.Context, otlp, id string) (traceparent, tracestate string, finish func() error, err error) {
	if err := errors.Join(os.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp), os.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")); err != nil {
		return "", "", nil, err
	}
	tracer, shutdown, err := telemetry.Setup(ctx, telemetry.Service{Name: caller})
	if err != nil {
		return "", "", nil, err
	}
	ctx, span := tracer.StartSend(ctx, topic.Requested, id)
	traceparent, tracestate = telemetry.TraceParent(ctx)
	return traceparent, tracestate, func() error {
		span.End()
		return shutdown(context.WithoutCancel(ctx))
	}, nil
}

// await reads a result topic until it shows the notification's event.
func await(ctx context.Context, client []kgo.Opt, name, id string) (kafka.Record, error) {
	reader, err := kafka.NewReader(ctx, kafka.ReaderConfig{Client: client, Topic: name, Start: kafka.FromStart()})
	if err != nil {
		return kafka.Record{}, err
	}
	defer reader.Close()
	for {
		records, err := reader.Poll(ctx)
		if err != nil {
			return kafka.Record{}, fmt.Errorf("waiting for %s of %s: %w", name, id, err)
		}
		for _, r := range records {
			if string(r.Key) == id {
				return r, nil
			}
		}
	}
}
