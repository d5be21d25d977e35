package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/kafka"
)

// The steady load under which senders come and go: without order, so that every partition has work all the time.
const (
	steadyRate    = 400 // a second
	steadyLatency = 50 * time.Millisecond
)

// steady publishes requests at steadyRate until stop is called, which returns them.
func (d *bed) steady(ctx context.Context) (w *watch, stop func() error, err error) {
	load := &harness.Load{Seed: uint64(d.count)*100 + 98, Total: 60_000} //nolint:gosec // G115: small
	requests := load.Requests()
	client, err := kgo.NewClient(kgo.SeedBrokers(d.addrs()...), kgo.DefaultProduceTopic(d.input), kgo.ProducerLinger(0))
	if err != nil {
		return nil, nil, fmt.Errorf("open the publisher: %w", err)
	}
	if w, err = newWatch(ctx, d.addrs(), requests); err != nil {
		client.Close()
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	published := make(chan int, 1)
	failed := make(chan error, len(requests))
	go func() {
		n, begin := 0, time.Now()
		for ; n < len(requests) && ctx.Err() == nil; n++ {
			if pause(ctx, time.Until(begin.Add(time.Duration(n)*time.Second/steadyRate))) != nil {
				break
			}
			value, err := proto.Marshal(load.Message(n, requests[n]))
			if err != nil {
				failed <- err
				break
			}
			client.Produce(context.WithoutCancel(ctx), &kgo.Record{Key: []byte(requests[n].ID), Value: value}, func(_ *kgo.Record, err error) {
				if err != nil {
					failed <- err
				}
			})
		}
		published <- n
	}()
	return w, func() error {
		cancel()
		n := <-published
		err := client.Flush(context.WithoutCancel(ctx))
		client.Close()
		w.only(n)
		select {
		case e := <-failed:
			err = errors.Join(err, fmt.Errorf("publish the steady load: %w", e))
		default:
		}
		return err
	}, nil
}

// fleet starts the simulator, webhook-ingest, so many senders and the steady load, and returns when all of them have
// worked for a while.
func (b *runner) fleet(ctx context.Context, senders int) (context.Context, *bed, []*harness.Process, *watch, func() error, error) {
	ctx, d, err := b.bed(ctx, true, []string{"SIM_LATENCY=" + steadyLatency.String()}, nil)
	if err != nil {
		return ctx, nil, nil, nil, nil, err
	}
	start := func() ([]*harness.Process, *watch, func() error, error) {
		for _, p := range []*harness.Process{d.system.Sim, d.system.Ingest} {
			if err := p.Restart(ctx); err != nil {
				return nil, nil, nil, err
			}
		}
		var fleet []*harness.Process
		for range senders {
			p, err := d.sender(ctx)
			if err != nil {
				return nil, nil, nil, err
			}
			fleet = append(fleet, p)
		}
		w, stop, err := d.steady(ctx)
		if err != nil {
			return nil, nil, nil, err
		}
		return fleet, w, stop, pause(ctx, 6*time.Second)
	}
	fleet, w, stop, err := start()
	if err != nil {
		d.close(ctx, &err)
	}
	return ctx, d, fleet, w, stop, err
}

// settle ends the load, waits for the last event and returns the calls of each partition by time.
func (d *bed) settle(ctx context.Context, w *watch, stop func() error, r readings) (map[int32][]time.Time, error) {
	if err := stop(); err != nil {
		return nil, err
	}
	if _, err := w.wait(ctx); err != nil {
		return nil, err
	}
	calls, err := d.system.Simulator().Calls(ctx)
	if err != nil {
		return nil, err
	}
	duplicates, lost := copies(calls, w.requests, w.told())
	r["duplicates"], r["lost"], r["unresolved"] = float64(duplicates), float64(lost), float64(w.unresolved())
	r["unknown"] = float64(w.doubted())
	times := map[int32][]time.Time{}
	for _, c := range calls {
		p := kafka.Murmur2Partition([]byte(c.ID), int32(d.partitions)) //nolint:gosec // G115: a handful
		times[p] = append(times[p], c.Time)
	}
	if len(times) != d.partitions {
		return nil, fmt.Errorf("%d of %d partitions had work", len(times), d.partitions)
	}
	for _, t := range times {
		slices.SortFunc(t, time.Time.Compare)
	}
	return times, nil
}

// under calls act while so many senders work on the steady load, and returns what became of the load, and the calls of
// each partition by time.
func (b *runner) under(ctx context.Context, senders int, act func(ctx context.Context, fleet []*harness.Process) error) (r readings, times map[int32][]time.Time, err error) {
	ctx, d, fleet, w, stop, err := b.fleet(ctx, senders)
	if err != nil {
		return nil, nil, err
	}
	defer d.close(ctx, &err)
	defer w.close()
	if err := act(ctx, fleet); err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	r = readings{}
	times, err = d.settle(ctx, w, stop, r)
	return r, times, err
}

// takeover kills one of several senders. Alone it is started again at once, otherwise the others take its work. The pause
// is the longest of a partition, from the kill to its next call.
func (b *runner) takeover(ctx context.Context, senders int) (readings, error) {
	var killed time.Time
	r, times, err := b.under(ctx, senders, func(ctx context.Context, fleet []*harness.Process) error {
		killed = time.Now()
		err := fleet[0].Kill()
		if senders == 1 {
			err = errors.Join(err, fleet[0].Start())
		}
		return errors.Join(err, pause(ctx, 12*time.Second))
	})
	if err != nil {
		return nil, err
	}
	for _, calls := range times {
		for _, at := range calls {
			if since := at.Sub(killed); since > inTheSocket {
				r["pause"] = max(r["pause"], since.Seconds())
				break
			}
		}
	}
	return r, nil
}

// rolling terminates each of three senders and starts it again when it has ended. The idle time is the longest between
// two calls of one partition.
func (b *runner) rolling(ctx context.Context) (readings, error) {
	r, times, err := b.under(ctx, 3, func(ctx context.Context, fleet []*harness.Process) error {
		for _, p := range fleet {
			if err := errors.Join(p.Terminate(ctx), p.Restart(ctx), pause(ctx, 4*time.Second)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, calls := range times {
		for i := 1; i < len(calls); i++ {
			r["idle"] = max(r["idle"], calls[i].Sub(calls[i-1]).Seconds())
		}
	}
	return r, nil
}
