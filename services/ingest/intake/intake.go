// Package intake makes a callback durable before Zalo is told so: in Kafka when Kafka answers within the budget, else
// in the spool on the local disk, from where it goes to Kafka later.
//
// # Promises
//
// Append returns nil only when every in-sync replica or this machine's disk has the record. While the spool holds
// anything, every record goes through it, so what one replica answered for reaches Kafka in the order of the answers.
// A produce that ran out of its budget may still land: a record may reach Kafka twice, never not at all. A record that
// Kafka refuses for its own sake is kept in the spool's directory "refused" and counted; it holds up nobody.
package intake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/services/ingest/spool"
)

const (
	replayRecords = 500
	replayBytes   = 1 << 20
	replayTimeout = 10 * time.Second
	minBackoff    = 100 * time.Millisecond
	maxBackoff    = 2 * time.Second
)

// Writer appends to Kafka: nil means that all in-sync replicas have every record.
type Writer interface {
	Write(ctx context.Context, records ...kafka.Record) error
}

// Route is the way that a record took.
type Route string

// The routes.
const (
	Direct  Route = "direct"  // straight to Kafka
	Spooled Route = "spooled" // to the disk first
)

// Config says how an Intake works.
type Config struct {
	Writer  Writer
	Spool   *spool.Spool
	Topic   string               // of every record
	Budget  time.Duration        // how long Append waits for Kafka before it turns to the disk
	Refused func(err error) bool // whether Kafka will never take the record for which it gave err
	Log     *slog.Logger

	OnReplay func(records int) // told of what went from the disk to Kafka; may be nil
	OnRefuse func()            // told of a record that was set aside; may be nil
}

// Intake is safe for concurrent use.
type Intake struct{ cfg Config }

// New returns an Intake. Run must run for the spool to be emptied.
func New(cfg Config) *Intake { return &Intake{cfg: cfg} }

// Append makes r durable. The error says that neither Kafka nor the disk took it; the record may then have been stored
// all the same, never the other way round.
func (in *Intake) Append(ctx context.Context, r kafka.Record) (Route, error) {
	if in.cfg.Spool.Empty() && in.direct(ctx, r) == nil {
		return Direct, nil
	}
	payload, err := encode(r)
	if err != nil {
		return "", err
	}
	err = in.cfg.Spool.Append(ctx, payload)
	if err == nil {
		return Spooled, nil
	}
	// No room behind a backlog, or a disk that fails: order gives way, the callback does not. Zalo's resend would come
	// later still.
	if ctx.Err() == nil && in.direct(ctx, r) == nil {
		return Direct, nil
	}
	return "", fmt.Errorf("spool: %w", err)
}

func (in *Intake) direct(ctx context.Context, r kafka.Record) error {
	ctx, cancel := context.WithTimeout(ctx, in.cfg.Budget)
	defer cancel()
	return in.cfg.Writer.Write(ctx, r)
}

// Run hands what the disk holds to Kafka, oldest first, until ctx ends.
func (in *Intake) Run(ctx context.Context) {
	backoff := minBackoff
	for ctx.Err() == nil {
		b, err := in.cfg.Spool.Next(ctx, replayRecords, replayBytes)
		if err == nil {
			err = in.replay(ctx, b)
		}
		if err == nil {
			backoff = minBackoff
			continue
		}
		if ctx.Err() != nil || errors.Is(err, spool.ErrClosed) {
			return
		}
		in.cfg.Log.Warn("callbacks wait on the local disk", "error", err, "records", in.cfg.Spool.Stats().Records, "next_try", backoff)
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// replay writes a batch and moves the spool's position behind it.
func (in *Intake) replay(ctx context.Context, b spool.Batch) error {
	records := make([]kafka.Record, 0, len(b.Records))
	for _, payload := range b.Records {
		r, err := decode(payload)
		if err != nil {
			if err := in.refuse(payload, err); err != nil {
				return err
			}
			continue
		}
		r.Topic = in.cfg.Topic
		records = append(records, r)
	}
	if err := in.write(ctx, records); err != nil {
		return err
	}
	if err := in.cfg.Spool.Done(b); err != nil {
		return err
	}
	if in.cfg.OnReplay != nil && len(b.Records) > 0 {
		in.cfg.OnReplay(len(b.Records))
	}
	return nil
}

// write writes all records in their order; the ones that Kafka refuses for their own sake are set aside.
func (in *Intake) write(ctx context.Context, records []kafka.Record) error {
	if len(records) == 0 {
		return nil
	}
	wctx, cancel := context.WithTimeout(ctx, replayTimeout)
	err := in.cfg.Writer.Write(wctx, records...)
	cancel()
	switch {
	case err == nil:
		return nil
	case !in.cfg.Refused(err):
		return err
	case len(records) > 1:
		// One of them is at fault: halves find it. What was written before comes twice at most.
		half := len(records) / 2
		if err := in.write(ctx, records[:half]); err != nil {
			return err
		}
		return in.write(ctx, records[half:])
	}
	payload, eerr := encode(records[0])
	if eerr != nil {
		return eerr
	}
	return in.refuse(payload, err)
}

func (in *Intake) refuse(payload []byte, why error) error {
	file, err := in.cfg.Spool.Refuse(payload)
	if err != nil {
		return err
	}
	in.cfg.Log.Error("a callback that Kafka will not take was set aside in the spool directory", "file", file, "error", why)
	if in.cfg.OnRefuse != nil {
		in.cfg.OnRefuse()
	}
	return nil
}

// Drain waits until nothing is left on the disk or ctx ends.
func (in *Intake) Drain(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !in.cfg.Spool.Empty() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d callbacks stay on the local disk until the next start: %w", in.cfg.Spool.Stats().Records, context.Cause(ctx))
		}
	}
	return nil
}

func encode(r kafka.Record) ([]byte, error) {
	m := &ledgerv1.SpooledCallback{Key: r.Key, Value: r.Value}
	for _, h := range r.Headers {
		m.Headers = append(m.Headers, &ledgerv1.SpooledHeader{Key: h.Key, Value: h.Value})
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode callback for the spool: %w", err)
	}
	return b, nil
}

func decode(payload []byte) (kafka.Record, error) {
	var m ledgerv1.SpooledCallback
	if err := proto.Unmarshal(payload, &m); err != nil {
		return kafka.Record{}, fmt.Errorf("decode spooled callback: %w", err)
	}
	r := kafka.Record{Partition: -1, Key: m.GetKey(), Value: m.GetValue()} // where its key belongs
	for _, h := range m.GetHeaders() {
		r.Headers = append(r.Headers, kafka.Header{Key: h.GetKey(), Value: h.GetValue()})
	}
	return r, nil
}
