package sender

import (
	"context"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

const (
	// announceEvery is how often it is looked whether there is news for oa.quota.
	announceEvery = time.Minute
	// standIn is how long a refusal is left to the sender that speaks for the OA: it may not have learnt it.
	standIn = 5 * time.Second
)

// announcer publishes on oa.quota what others want to know of the limits: when a quota will be used up, and that Zalo
// refuses everything of an OA.
type announcer struct {
	limits *limit.Limits
	tables *tables
	mine   func(oa string) bool // this sender speaks for the OA: of several who foresee the same, one
	news   chan struct{}        // holds at most one token

	writer *kafka.Writer        // nil before the first record
	told   map[string]time.Time // by OA: the latest refusal that was told, by whomever
}

func newAnnouncer(limits *limit.Limits, t *tables, mine func(oa string) bool) *announcer {
	return &announcer{limits: limits, tables: t, mine: mine, news: make(chan struct{}, 1), told: map[string]time.Time{}}
}

// wake has it looked at once. It may be called from any goroutine.
func (a *announcer) wake() {
	select {
	case a.news <- struct{}{}:
	default:
	}
}

func (a *announcer) run(ctx context.Context) {
	timer := time.NewTimer(announceEvery)
	defer timer.Stop()
	defer func() {
		if a.writer != nil {
			a.writer.Close()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			timer.Reset(announceEvery)
			a.forecasts(ctx)
		case <-a.news:
		}
		a.refusals(ctx)
	}
}

func (a *announcer) forecasts(ctx context.Context) {
	now := time.Now()
	for _, f := range a.limits.Forecasts(now) {
		if !a.mine(f.OA) {
			continue
		}
		if !f.Exhausted.IsZero() {
			a.tables.log.Warn("the quota will be used up", "oa_id", f.OA, "template_id", f.Template, "exhausted_time", f.Exhausted)
		}
		a.publish(ctx, f.OA, func() (kafka.Record, error) { return a.tables.forecast(f, now) })
	}
}

// refusals tells which OAs Zalo has begun to refuse as a whole, and of which it has taken a message since. Whichever sender
// has learnt it speaks, unless another has; when two do at the same time the same is told twice.
func (a *announcer) refusals(ctx context.Context) {
	now := time.Now()
	for _, o := range a.limits.State(now, 0).OAs {
		since, code := refusal(o)
		stands := a.tables.refused(o.OA)
		tell := func() bool {
			return a.publish(ctx, o.OA, func() (kafka.Record, error) { return a.tables.refusal(o.OA, since, code, now) })
		}
		switch {
		case since.IsZero():
			if !stands.IsZero() && o.Accepted.After(stands) {
				tell() // it is over
			}
		case a.told[o.OA].Equal(since):
		case !stands.IsZero(): // by another
			a.told[o.OA] = since
		case !a.mine(o.OA) && now.Sub(since) < standIn:
			time.AfterFunc(standIn, a.wake)
		case tell():
			a.told[o.OA] = since
		}
	}
}

// refusal is since when, and with which code, Zalo refuses everything of an OA for its account; zero: it does not.
func refusal(o limit.OAState) (since time.Time, code int) {
	for _, c := range o.Closed {
		if c.Template == "" && c.Category == 0 && c.Reason == ledgerv1.HoldReason_HOLD_REASON_ACCOUNT {
			return c.Since, c.Code
		}
	}
	return time.Time{}, 0
}

// publish reports whether the record stands in Kafka.
func (a *announcer) publish(ctx context.Context, oa string, record func() (kafka.Record, error)) bool {
	r, err := record()
	if err == nil && a.writer == nil {
		a.writer, err = kafka.NewWriter(a.tables.client...)
	}
	if err == nil {
		within, cancel := context.WithTimeout(ctx, 10*time.Second)
		err = a.writer.Write(within, r)
		cancel()
	}
	switch {
	case err == nil:
		a.tables.takeQuota(r) // before it comes back from Kafka
	case ctx.Err() == nil:
		a.tables.log.Warn("what others should know of the limits cannot be published", "topic", r.Topic, "oa_id", oa, "err", err)
	}
	return err == nil
}
