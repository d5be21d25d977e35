package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/proto/topic"
)

// restore measures a start over a ledger of finished notifications: what a sender has after days of work.
func (b *runner) restore(ctx context.Context) (r readings, err error) {
	ctx, d, err := b.simulated(ctx, nil, nil)
	if err != nil {
		return nil, err
	}
	defer d.close(ctx, &err)
	// The ledger gets its form, and the first start its cost, from a sender that does a little work.
	p, err := d.sender(ctx)
	if err != nil {
		return nil, err
	}
	if err := d.restored(ctx, p); err != nil {
		return nil, err
	}
	empty, _ := resident(p)
	before, err := scrape(ctx, admin(p)+"/metrics")
	if err != nil {
		return nil, err
	}
	if err := p.Terminate(ctx); err != nil {
		return nil, err
	}
	bytes, err := d.finish(ctx, b.finished)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := p.Start(); err != nil {
		return nil, err
	}
	if err := d.restored(ctx, p); err != nil {
		return nil, err
	}
	r = readings{"restore": time.Since(begin).Seconds(), "ledger_bytes": float64(bytes) / float64(b.finished)}
	metrics, err := scrape(ctx, admin(p)+"/metrics")
	if err != nil {
		return nil, err
	}
	const index = `znshub_sender_memory_bytes{use="index"}`
	if after, ok := metrics[index]; ok {
		r["finished_bytes"] = (after - before[index]) / float64(b.finished)
	}
	now, peak := resident(p)
	r["rss"], r["rss_peak"] = now/(1<<20), peak/(1<<20)
	r["rss_bytes"] = (now - empty) / float64(b.finished)
	if err := p.Terminate(ctx); err != nil {
		return nil, err
	}
	cpu, _ := p.Usage()
	r["restore_cpu"] = cpu.Seconds()
	return r, nil
}

// finish writes ledger entries of notifications that were sent within the last two days, each at its place, and returns
// how many bytes they have.
func (d *bed) finish(ctx context.Context, n int) (bytes int64, err error) {
	ledger := topic.LedgerOf(d.input)
	client, err := kgo.NewClient(kgo.SeedBrokers(d.addrs()...), kgo.DefaultProduceTopic(ledger), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(20*time.Millisecond), kgo.MaxBufferedRecords(50_000), kgo.ProducerBatchCompression(kgo.Lz4Compression()))
	if err != nil {
		return 0, fmt.Errorf("open the ledger's writer: %w", err)
	}
	defer client.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	now := time.Now().UnixMilli()
	begin := now - (48 * time.Hour).Milliseconds()
	for i := range n {
		id := uuid.New()
		at := begin + int64(float64(now-begin)*float64(i)/float64(n))
		e := &ledgerv1.Entry{
			MinReader: 1, NotificationId: id[:], State: ledgerv1.State_STATE_SENT, InputOffset: int64(i), PayloadHash: make([]byte, 16),
			RequestedMs: at - 400, AcceptedMs: at - 300, Category: 2, Attempt: 1, MsgId: fmt.Sprintf("%020x", i), SentMs: at - 50, FinishedMs: at,
			Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
			History: []*ledgerv1.Step{
				{TimeMs: at - 300, Kind: ledgerv1.StepKind_STEP_KIND_ACCEPTED, Owner: "sender-0"},
				{TimeMs: at - 200, Kind: ledgerv1.StepKind_STEP_KIND_INTENT, Attempt: 1},
				{TimeMs: at, Kind: ledgerv1.StepKind_STEP_KIND_SENT, Attempt: 1, DurationMs: 120},
			},
		}
		_, _ = rand.Read(e.PayloadHash) // never fails
		value, err := proto.Marshal(e)
		if err != nil {
			return 0, fmt.Errorf("encode a ledger entry: %w", err)
		}
		key := id.String()
		bytes += int64(len(key) + len(value))
		client.Produce(ctx, &kgo.Record{
			Partition: kafka.Murmur2Partition([]byte(key), int32(d.partitions)), Key: []byte(key), Value: value, //nolint:gosec // G115: a handful
		}, func(_ *kgo.Record, err error) {
			if err != nil {
				cancel(fmt.Errorf("write the ledger: %w", err))
			}
		})
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
	}
	if err := client.Flush(ctx); err != nil {
		return 0, fmt.Errorf("write the ledger: %w", err)
	}
	return bytes, context.Cause(ctx)
}
