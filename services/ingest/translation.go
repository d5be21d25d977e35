package ingest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/pause"
	"github.com/znshub/znshub/pkg/stream"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/ingest/oa"
	"github.com/znshub/znshub/services/ingest/sends"
	"github.com/znshub/znshub/services/ingest/status"
	"github.com/znshub/znshub/services/ingest/translate"
	"github.com/znshub/znshub/services/ingest/webhook"
)

const (
	minRetry = time.Second
	maxRetry = 5 * time.Second
	// steady is how long the translation must have run for its next failure to count as a new one.
	steady = time.Minute
)

// checkAtStart refuses topics that are not as they must be. When nobody answers, the check is the translation's.
func (g *Ingest) checkAtStart(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	wrong, err := g.checkTopics(call)
	if err != nil {
		if ctx.Err() == nil {
			g.svc.Log.Warn("Kafka does not answer; callbacks go to the local disk until it does", "error", err)
		}
		return nil
	}
	return wrong
}

// checkTopics returns what is wrong with the topics, and an error when the cluster could not be asked.
func (g *Ingest) checkTopics(ctx context.Context) (wrong, err error) {
	admin, err := kafka.NewAdmin(g.client...)
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	found, err := admin.Check(ctx, g.specs())
	if err != nil {
		return nil, err
	}
	if wrong := problems(found); wrong != nil {
		return wrong, nil
	}
	return g.checkCounts(ctx, admin)
}

// checkCounts demands what the join and zns.status rest on: a notification has the same partition number in all of
// these topics.
func (g *Ingest) checkCounts(ctx context.Context, admin *kafka.Admin) (wrong, err error) {
	t := g.cfg.Topics
	beside := []string{t.Callback, t.Sent, t.Failed, t.Unresolved, t.Delivered, t.Overdue, t.Status}
	topics, err := admin.Topics(ctx, append(beside, t.Ledger)...)
	if err != nil {
		return nil, err
	}
	want := topics[t.Ledger].Partitions
	for _, name := range beside {
		if got := topics[name].Partitions; got != want {
			return fmt.Errorf("topic %s has %d partitions and %s has %d: receipts could not find their sends; make the topics anew with equal counts (zns topics ensure)",
				name, got, t.Ledger, want), nil
		}
	}
	return nil, nil
}

// specs are the contract's, under the names in use.
func (g *Ingest) specs() []topic.Spec {
	t := g.cfg.Topics
	names := map[string]string{
		topic.Callback: t.Callback, topic.CallbackLedger: t.Ledger, topic.Delivered: t.Delivered, topic.Overdue: t.Overdue, topic.Status: t.Status,
		topic.Sent: t.Sent, topic.Failed: t.Failed, topic.Unresolved: t.Unresolved, topic.OATemplate: t.Template, topic.OAQuota: t.Quota,
	}
	specs := topic.ForIngest()
	for i := range specs {
		s := &specs[i]
		s.Name, s.Follows, s.Beside = names[s.Name], names[s.Follows], names[s.Beside]
	}
	return specs
}

// translation translates until ctx ends. Its failure never ends the receiving of callbacks.
func (g *Ingest) translation(ctx context.Context) {
	retry := minRetry
	for {
		began := time.Now()
		err := g.translate(ctx)
		if ctx.Err() != nil {
			if err != nil {
				g.svc.Log.Error("the translation of callbacks did not end cleanly", "error", err)
			}
			return
		}
		if time.Since(began) > steady {
			retry = minRetry
		}
		g.svc.Log.Error("callbacks are received but not translated", "error", err, "next_try", retry)
		select {
		case <-time.After(retry):
		case <-ctx.Done():
			return
		}
		retry = min(2*retry, maxRetry)
	}
}

// translate runs the engine once.
func (g *Ingest) translate(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, startTimeout)
	wrong, err := g.checkTopics(call)
	cancel()
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("check the topics: %w", err)
	}
	if wrong != nil {
		return wrong
	}
	var engine *stream.Engine
	outcomes := sends.New(sends.Config{
		Client: g.client, Sent: g.cfg.Topics.Sent, Failed: g.cfg.Topics.Failed, Unresolved: g.cfg.Topics.Unresolved,
		Window: g.cfg.JoinWindow, Found: func() { engine.Wake() }, Log: g.svc.Log,
	})
	folder := status.New(status.Config{
		Client: g.client, Source: g.source, Topics: status.Topics{
			Unresolved: g.cfg.Topics.Unresolved, Failed: g.cfg.Topics.Failed, Sent: g.cfg.Topics.Sent,
			Delivered: g.cfg.Topics.Delivered, Overdue: g.cfg.Topics.Overdue, Status: g.cfg.Topics.Status,
		},
		Partitions: func() int32 { return engine.LedgerPartitions() }, Wake: func() { engine.Wake() }, Log: g.svc.Log,
		Counted: func(r status.Result, n int) { g.metrics.folded.WithLabelValues(string(r)).Add(float64(n)) },
	})
	tables := oa.New(oa.Config{
		Client: g.client, Template: g.cfg.Topics.Template, Quota: g.cfg.Topics.Quota, Loaded: func() { engine.Wake() }, Log: g.svc.Log,
	})
	translator := translate.New(translate.Config{
		Cluster: g.svc.Cluster, Source: g.source, Topic: g.cfg.Topics.Delivered,
		JoinWait: g.cfg.JoinWait, DedupeWindow: g.cfg.JoinWindow, Foreign: g.cfg.Foreign == "publish",
		Sends: outcomes, Status: folder, OA: tables, Tracer: g.svc.Tracer, Log: g.svc.Log,
		Counted: func(event string, r translate.Result) {
			g.metrics.results.WithLabelValues(webhook.KnownEvent(event), string(r)).Inc()
		},
	})
	engine, err = stream.New(stream.Config{
		Client: g.client, Group: g.cfg.Group, Input: g.cfg.Topics.Callback, Ledger: g.cfg.Topics.Ledger,
		InstanceID: g.svc.Instance, Handler: translator, Log: g.svc.Log,
	})
	if err != nil {
		return err
	}
	for _, c := range g.metrics.translator(translator, outcomes, folder) {
		if err := g.svc.Registry.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
		defer g.svc.Registry.Unregister(c)
	}
	// The side inputs are read until the engine has given its partitions up.
	live, stop := context.WithCancel(context.WithoutCancel(ctx))
	var beside sync.WaitGroup
	beside.Go(func() { outcomes.Run(live) })
	beside.Go(func() { folder.Run(live) })
	beside.Go(func() { tables.Run(live) })
	beside.Go(func() { g.watch(live, engine) })
	beside.Go(func() { g.seeInput(live, engine, folder) })
	err = engine.Run(ctx)
	stop()
	beside.Wait()
	return err
}

// watch keeps the metric of the translation, and its partitions' errors in the log.
func (g *Ingest) watch(ctx context.Context, engine *stream.Engine) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	defer func() {
		g.joined.Store(false)
		g.metrics.up.Set(0)
	}()
	told := map[int32]string{}
	for {
		now := engine.Status()
		up := now.Joined
		for _, p := range now.Partitions {
			if p.Err == nil {
				delete(told, p.Partition)
				continue
			}
			up = false
			if told[p.Partition] != p.Err.Error() {
				told[p.Partition] = p.Err.Error()
				g.svc.Log.Error("a partition of callbacks is not translated", "partition", p.Partition, "error", p.Err)
			}
		}
		g.joined.Store(now.Joined)
		if up {
			g.metrics.up.Set(1)
		} else {
			g.metrics.up.Set(0)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// inputEvery is how often it is looked whether all callbacks were translated, while a notification is overdue.
const inputEvery = 500 * time.Millisecond

// seeInput tells the folder up to which moment all callbacks were translated: a receipt that stands in zalo.callback is
// not overdue.
func (g *Ingest) seeInput(ctx context.Context, engine *stream.Engine, folder *status.Folder) {
	admin, err := kafka.NewAdmin(g.client...)
	if err != nil {
		g.svc.Log.Error("zns.overdue is not published", "error", err)
		return
	}
	defer admin.Close()
	for ; ctx.Err() == nil; pause.For(ctx, inputEvery) {
		asked := folder.Overdue()
		if len(asked) == 0 {
			continue
		}
		call, cancel := context.WithTimeout(ctx, startTimeout)
		at := g.atLeast(call, admin)
		ends, err := admin.EndOffsets(call, g.cfg.Topics.Callback)
		cancel()
		if err != nil {
			continue // the engine says what is wrong
		}
		for deadline := time.Now().Add(startTimeout); len(asked) > 0 && ctx.Err() == nil; pause.For(ctx, 20*time.Millisecond) {
			late := time.Now().After(deadline)
			next := map[int32]int64{}
			for _, p := range engine.Status().Partitions {
				next[p.Partition] = p.Next
			}
			asked = slices.DeleteFunc(asked, func(p int32) bool {
				from, owned := next[p]
				seen := owned && (from >= ends[p] || late && g.noCallbacks(ctx, p, from))
				if seen {
					folder.InputSeen(p, at)
				}
				return seen || !owned || late
			})
		}
		engine.Wake()
	}
}

// atLeast is a moment that has come, by this machine's clock and by the brokers': nothing is overdue because one of them
// is ahead. Brokers that do not tell are taken to agree.
func (g *Ingest) atLeast(ctx context.Context, admin *kafka.Admin) time.Time {
	ask := g.brokers
	if ask == nil {
		ask = func(ctx context.Context) (time.Time, error) {
			at, _, err := admin.ControllerTime(ctx)
			return at, err
		}
	}
	told, err := ask(ctx)
	if now := time.Now(); err != nil || now.Before(told) {
		return now
	}
	return told
}

// noCallbacks reports whether nothing but markers of transactions stands in a partition of zalo.callback from an offset
// on: the engine's position never passes those at the end of the log.
func (g *Ingest) noCallbacks(ctx context.Context, p int32, from int64) bool {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	n := 0
	err := kafka.ReadToEnd(ctx, kafka.ReaderConfig{
		Client: g.client, Topic: g.cfg.Topics.Callback, Partitions: []int32{p}, Start: kafka.FromOffsets(map[int32]int64{p: from}),
	}, func(kafka.Record) error {
		n++
		return nil
	})
	return err == nil && n == 0
}
