package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/deploy/e2e/harness"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// The OTPs of which the latency is measured: one at a time, some 40 a second, the first ones not counted.
const (
	otps    = 400
	warmUps = 40
)

// idle measures what an idle hub adds to one OTP: from the time of its record to its first byte at the simulator.
func (b *runner) idle(ctx context.Context) (r readings, err error) {
	ctx, d, err := b.simulated(ctx, nil, nil)
	if err != nil {
		return nil, err
	}
	defer d.close(ctx, &err)
	if _, err := d.sender(ctx); err != nil {
		return nil, err
	}
	r = readings{}
	return r, d.otps(ctx, r)
}

// otps publishes OTPs and reads how long each took. The simulator notes a message as accepted before it waits out its
// latency, which is none here.
func (d *bed) otps(ctx context.Context, r readings) error {
	before, err := d.system.Simulator().Totals(ctx)
	if err != nil {
		return err
	}
	load := &harness.Load{Seed: uint64(d.count)*100 + 99, Total: warmUps + otps, Change: func(_ int, m *notificationv1.NotificationRequested) { //nolint:gosec // G115: small
		m.Category = notificationv1.Category_CATEGORY_OTP
	}}
	client, err := kgo.NewClient(kgo.SeedBrokers(d.addrs()...), kgo.DefaultProduceTopic(d.input), kgo.ProducerLinger(0))
	if err != nil {
		return fmt.Errorf("open the publisher: %w", err)
	}
	defer client.Close()
	at := map[string]time.Time{}
	requests := load.Requests()
	for i, q := range requests {
		value, err := proto.Marshal(load.Message(i, q))
		if err != nil {
			return fmt.Errorf("encode an OTP: %w", err)
		}
		record := &kgo.Record{Key: []byte(q.ID), Value: value}
		if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
			return fmt.Errorf("publish an OTP: %w", err)
		}
		at[q.ID] = record.Timestamp
		if err := pause(ctx, 15*time.Millisecond+rand.N(20*time.Millisecond)); err != nil { //nolint:gosec // G404: it only spreads
			return err
		}
	}
	if err := d.accepted(ctx, before.Accepted+len(requests)); err != nil {
		return err
	}
	calls, err := d.system.Simulator().Calls(ctx)
	if err != nil {
		return err
	}
	var took []time.Duration
	for _, c := range calls {
		begin, ok := at[c.ID]
		delete(at, c.ID)
		if ok && slices.IndexFunc(requests[:warmUps], func(q harness.Request) bool { return q.ID == c.ID }) < 0 {
			took = append(took, c.Time.Sub(begin))
		}
	}
	if len(took) != otps {
		return fmt.Errorf("%d of %d OTPs were sent", len(took), otps)
	}
	slices.Sort(took)
	r["otp_p50"], r["otp_p99"] = milliseconds(took[len(took)/2]), milliseconds(took[len(took)*99/100])
	return nil
}

// backlogMemory is SENDER_MEMORY in the case backlog: a million requests whole do not fit into it.
const backlogMemory = 256 << 20

// backlog lets promotions wait that are not due before tomorrow, then sends OTPs through the same partitions.
func (b *runner) backlog(ctx context.Context) (r readings, err error) {
	ctx, d, err := b.bed(ctx, false, nil, []string{fmt.Sprintf("SENDER_MEMORY=%d", backlogMemory)})
	if err != nil {
		return nil, err
	}
	defer d.close(ctx, &err)
	tomorrow := timestamppb.New(time.Now().Add(20 * time.Hour))
	const batch = 100_000
	for left, seed := b.waiting, uint64(0); left > 0; left, seed = left-batch, seed+1 {
		_, err := d.send(ctx, &harness.Load{Seed: seed, Total: min(left, batch), Change: func(_ int, m *notificationv1.NotificationRequested) {
			m.Category, m.NotBefore, m.CampaignId = notificationv1.Category_CATEGORY_PROMOTION, tomorrow, "spring"
		}})
		if err != nil {
			return nil, err
		}
	}
	if err := d.system.Sim.Restart(ctx); err != nil {
		return nil, err
	}
	begin := time.Now()
	p, err := d.sender(ctx)
	if err != nil {
		return nil, err
	}
	if err := d.drained(ctx); err != nil {
		return nil, err
	}
	r = readings{"accepted_per_second": float64(b.waiting) / time.Since(begin).Seconds()}
	if err := d.otps(ctx, r); err != nil {
		return nil, err
	}
	metrics, err := scrape(ctx, admin(p)+"/metrics")
	if err != nil {
		return nil, err
	}
	waiting := sum(metrics, "znshub_sender_waiting")
	if int(waiting) != b.waiting {
		return nil, fmt.Errorf("%.0f notifications wait, not %d", waiting, b.waiting)
	}
	if index, ok := metrics[`znshub_sender_memory_bytes{use="index"}`]; ok {
		r["index_bytes"] = index / waiting
	}
	r["counted"] = sum(metrics, "znshub_sender_memory_bytes") / (1 << 20)
	now, peak := resident(p)
	r["rss"], r["rss_peak"] = now/(1<<20), peak/(1<<20)

	// A new owner begins with the same backlog.
	if err := p.Terminate(ctx); err != nil {
		return nil, err
	}
	begin = time.Now()
	if err := p.Start(); err != nil {
		return nil, err
	}
	if err := d.restored(ctx, p); err != nil {
		return nil, err
	}
	r["restore"] = time.Since(begin).Seconds()
	return r, nil
}

// restored waits until a sender that was just started works: until it has sent one OTP of each partition.
func (d *bed) restored(ctx context.Context, p *harness.Process) error {
	before, err := d.system.Simulator().Totals(ctx)
	if err != nil {
		return err
	}
	if err := p.Ready(ctx); err != nil {
		return err
	}
	probes := 8 * d.partitions // by chance every partition has some
	d.probed++                 // others each time: the same would be known
	if _, err := d.send(ctx, &harness.Load{Seed: 90 + d.probed, Total: probes, Change: func(_ int, m *notificationv1.NotificationRequested) {
		m.Category = notificationv1.Category_CATEGORY_OTP
	}}); err != nil {
		return err
	}
	if err := d.accepted(ctx, before.Accepted+probes); err != nil {
		return errors.Join(err, fmt.Errorf("end of the log of %s:\n%s", p.Name, p.LogTail(5)))
	}
	return nil
}
