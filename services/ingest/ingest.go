// Package ingest is webhook-ingest: it takes Zalo's signed callbacks, keeps them raw in zalo.callback, and publishes
// what they mean, joined with what the send knew.
//
//	Zalo ──POST──► webhook ──► intake ──► zalo.callback ──► translate ──► zns.delivered, zns.status, oa.template, oa.quota
//	              (verify)     │    ▲                          ▲
//	                           ▼    │ replay                   │ outcomes of sends
//	                          spool on disk,                 sends ◄── zns.sent, zns.failed, zns.unresolved
//	                       while Kafka is away
//
// # Promises
//
// What Zalo was answered 200 for is in Kafka, or on this machine's disk and in Kafka later; never lost by a kill -9 of
// this process, a broker that dies or hangs, or a restart. Receiving does not depend on Kafka, nor on the translation:
// when that stops, for whatever reason, callbacks are still taken, and the reason is logged and told by the metric
// translator_up until it goes away. Only topics that are not as they must be end the process, and only when they are
// found so at its start. See the packages for the rest.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/services/ingest/intake"
	"github.com/znshub/znshub/services/ingest/spool"
	"github.com/znshub/znshub/services/ingest/webhook"
)

// Extras is what tests and programs that embed webhook-ingest may add. The zero value adds nothing.
type Extras struct {
	Client   []kgo.Opt    // options for the Kafka clients, for example a virtual network
	Listener net.Listener // instead of one on INGEST_ADDR
	// ControllerTime tells what the brokers' clock shows, instead of asking them.
	ControllerTime func(ctx context.Context) (time.Time, error)
}

// Ingest is a configured webhook-ingest.
type Ingest struct {
	cfg      Config
	svc      *service.Service
	client   []kgo.Opt
	source   string // ce_source
	spool    *spool.Spool
	writer   *kafka.Writer
	intake   *intake.Intake
	metrics  *metrics
	handler  http.Handler
	listener net.Listener
	brokers  func(ctx context.Context) (time.Time, error) // tells what their clock shows; nil: they are asked

	serving atomic.Bool
	joined  atomic.Bool
}

// shutdownTimeout bounds the requests that are under way when the process stops.
const shutdownTimeout = 3 * time.Second

// startTimeout bounds the check of the topics at the start. A cluster that does not answer is no reason to end.
const startTimeout = 5 * time.Second

// Run works until ctx ends; then it finishes the requests under way, empties the spool as far as it can, and returns
// nil. Any other return is an error that this process cannot mend by itself.
func Run(ctx context.Context, svc *service.Service, cfg Config) error {
	//nolint:contextcheck // it listens until Run ends, not until this call is over
	g, err := New(svc, cfg, Extras{})
	if err != nil {
		return err
	}
	return g.Run(ctx)
}

// New checks cfg, takes the spool directory and listens, but answers nobody yet. It reaches no broker.
func New(svc *service.Service, cfg Config, extras Extras) (*Ingest, error) {
	if cfg.Topics == (Topics{}) {
		cfg.Topics = DefaultTopics()
	}
	client, err := cfg.Kafka.Options()
	if err := errors.Join(cfg.Validate(), err); err != nil {
		return nil, err
	}
	if cfg.sameSecrets() {
		svc.Log.Warn("ZALO_OA_SECRET equals ZALO_APP_SECRET: Zalo signs with the OA secret key of the webhook page, which is another value")
	}
	g := &Ingest{
		cfg: cfg, svc: svc, client: append(client, extras.Client...), listener: extras.Listener, brokers: extras.ControllerTime,
		source: "/znshub/" + svc.Cluster + "/ingest",
	}
	if err := g.open(); err != nil {
		return nil, errors.Join(err, g.close())
	}
	svc.Ready("webhook", g.Ready)
	return g, nil
}

// open makes the parts.
func (g *Ingest) open() (err error) {
	damaged := func(d spool.Damage) { g.metrics.damaged.Add(float64(d.Bytes)) }
	g.metrics = newMetrics(func() spool.Stats { return g.spool.Stats() })
	if g.spool, err = spool.Open(spool.Config{Dir: g.cfg.SpoolDir, MaxBytes: int64(g.cfg.SpoolSize), OnDamage: damaged, Log: g.svc.Log}); err != nil {
		if errors.Is(err, spool.ErrLocked) {
			return fmt.Errorf("INGEST_SPOOL_DIR: %w; every process needs a directory of its own", err)
		}
		return fmt.Errorf("INGEST_SPOOL_DIR: %w; give a directory that this user may write to, for example /var/lib/zns", err)
	}
	if st := g.spool.Stats(); st.Records > 0 {
		g.svc.Log.Info("callbacks of an earlier run wait on the local disk", "records", st.Records)
	}
	if g.writer, err = kafka.NewWriter(append([]kgo.Opt{kgo.ClientID("webhook-ingest-" + g.svc.Instance)}, g.client...)...); err != nil {
		return err
	}
	g.intake = intake.New(intake.Config{
		Writer: g.writer, Spool: g.spool, Topic: g.cfg.Topics.Callback, Budget: g.cfg.KafkaBudget, Refused: refused, Log: g.svc.Log,
		OnReplay: func(n int) { g.metrics.replayed.Add(float64(n)) },
		OnRefuse: g.metrics.refused.Inc,
	})
	if g.handler, err = g.routes(); err != nil {
		return err
	}
	if g.listener == nil {
		if g.listener, err = new(net.ListenConfig).Listen(context.Background(), "tcp", g.cfg.Addr); err != nil {
			return fmt.Errorf("INGEST_ADDR: %w; give another address, for example INGEST_ADDR=:8080", err)
		}
	}
	for _, c := range g.metrics.collected {
		if err := g.svc.Registry.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

// refused reports whether Kafka will never take the record for which it gave err.
func refused(err error) bool {
	e, ok := errors.AsType[*kafka.WriteError](err)
	return ok && e.Reason == kafka.ReasonTooLarge
}

// routes are what the listener serves.
func (g *Ingest) routes() (http.Handler, error) {
	secrets, err := webhook.ParseSecrets(g.cfg.OASecret)
	if err != nil {
		return nil, fmt.Errorf("ZALO_OA_SECRET: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle(webhook.Path, webhook.New(webhook.Config{
		AppID: g.cfg.AppID, Secrets: secrets, Cluster: g.svc.Cluster, Source: g.source, Topic: g.cfg.Topics.Callback,
		Tracer: g.svc.Tracer, MaxConcurrent: g.cfg.MaxConcurrent, Log: g.svc.Log,
		Answered: g.metrics.answered,
		Received: func(event string) { g.metrics.events.WithLabelValues(webhook.KnownEvent(event)).Inc() },
		Append: func(ctx context.Context, r kafka.Record) error {
			route, err := g.intake.Append(ctx, r)
			if err == nil {
				g.metrics.appends.WithLabelValues(string(route)).Inc()
			}
			return err
		},
	}))
	if g.cfg.Verifier != "" {
		page, err := os.ReadFile(g.cfg.Verifier)
		if err != nil {
			return nil, fmt.Errorf("INGEST_ZALO_VERIFIER: %w", err)
		}
		mux.HandleFunc("GET /"+filepath.Base(g.cfg.Verifier), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write(page)
		})
	}
	return mux, nil
}

// Addr is where the webhook listens.
func (g *Ingest) Addr() net.Addr { return g.listener.Addr() }

// Run is [Run] of an Ingest that New made. It may be called once.
func (g *Ingest) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, g.close()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// What serves the requests works on until the last one is answered and the spool is empty.
	live, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var working sync.WaitGroup
	defer working.Wait()
	defer stop()
	working.Go(func() { g.intake.Run(live) })
	working.Go(func() { g.translation(ctx) })
	wrong := make(chan error, 1)
	working.Go(func() { wrong <- g.checkAtStart(ctx) })

	server := &http.Server{
		Handler:           g.handler,
		ReadHeaderTimeout: 2 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      5 * time.Second,
		IdleTimeout:       75 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(g.svc.Log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(g.listener) }()
	g.serving.Store(true)
	g.svc.Log.Info("webhook listens", "addr", g.listener.Addr().String(), "path", webhook.Path)
	for {
		select {
		case err := <-served:
			cancel()
			return fmt.Errorf("serve the webhook: %w", err)
		case err := <-wrong:
			if err == nil {
				wrong = nil // it is not asked again
				continue
			}
			cancel()
			return errors.Join(err, server.Close())
		case <-ctx.Done():
			g.serving.Store(false)
			return g.stop(context.WithoutCancel(ctx), server)
		}
	}
}

// stop takes no further requests and hands what is on the disk to Kafka.
func (g *Ingest) stop(ctx context.Context, server *http.Server) error {
	time.Sleep(g.cfg.StopDelay)
	requests, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(requests); err != nil {
		server.Close()
		g.svc.Log.Warn("requests were cut off: Zalo sends them again", "error", err)
	}
	drain, cancel := context.WithTimeout(ctx, g.cfg.StopTimeout)
	defer cancel()
	if err := g.intake.Drain(drain); err != nil {
		// Nothing is lost: the directory outlives the process.
		g.svc.Log.Warn("the spool is not empty", "error", err)
	}
	return nil
}

// close gives everything back; parts that were not made are nil.
func (g *Ingest) close() error {
	var errs []error
	if g.listener != nil {
		if err := g.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if g.writer != nil {
		g.writer.Close()
	}
	if g.spool != nil {
		errs = append(errs, g.spool.Close())
	}
	for _, c := range g.metrics.collected {
		g.svc.Registry.Unregister(c)
	}
	return errors.Join(errs...)
}

// Ready reports whether callbacks are taken; the error says why not. It does not depend on Kafka: a webhook that Zalo
// cannot reach is worse than one that writes to its disk.
func (g *Ingest) Ready() error {
	switch st := g.spool.Stats(); {
	case !g.serving.Load():
		return errors.New("the webhook does not listen")
	case st.Bytes >= int64(g.cfg.SpoolSize):
		return errors.New("the spool is full")
	}
	return nil
}

// Translating reports whether this process is a member of the group that translates callbacks.
func (g *Ingest) Translating() bool { return g.joined.Load() }

// problems joins what is wrong with topics to one error that says what to run.
func problems(all []kafka.Problem) error {
	var lines []string
	for _, p := range all {
		if !p.Warning {
			lines = append(lines, p.String())
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return errors.New(strings.Join(lines, "\n"))
}
