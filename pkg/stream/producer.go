package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// producer is the transactional client. Everything in it is guarded by the tick lock.
type producer struct {
	client *kgo.Client
	broken bool      // the client was discarded
	opened time.Time // when client was made
	fences int       // in a row
	fenced time.Time // the latest
	limit  int       // fences in a row that mean a second process
}

// Two living processes with one InstanceID fence each other at each transaction. Other reasons to be fenced (a
// transaction that timed out, a successor that ended one) do not come again within fenceGap. The limit is random so
// that one of the two gives up first and the other goes on.
const (
	fenceGap    = 5 * time.Second
	fencesLeast = 5
	fencesMore  = 5
	reopenGap   = time.Second
)

// errReopening says that a new client must wait: fencing must not become a storm.
var errReopening = errors.New("waiting before the producer is opened anew")

func (e *Engine) newProducer() (*kgo.Client, error) {
	return kgo.NewClient(e.options(
		kgo.TransactionalID(e.txnID),
		kgo.TransactionTimeout(e.cfg.TransactionTimeout),
		kgo.RecordPartitioner(kgo.BasicConsistentPartitioner(choose)),
		kgo.ProducerLinger(0),
		kgo.MaxBufferedRecords(1<<20), // Produce must never block: the transaction's own bounds hold
		// The first produce after EndTxn is answered CONCURRENT_TRANSACTIONS while the markers are being written;
		// the client then waits for its metadata.
		kgo.MetadataMinAge(10*time.Millisecond), // the least that the client takes
		kgo.RetryBackoffFn(func(tries int) time.Duration {
			if tries < 20 {
				return 5 * time.Millisecond
			}
			return 100 * time.Millisecond
		}),
	)...)
}

// openProducer makes the client and has it fence whatever an earlier process with this id left open. It goes on
// trying until ctx ends: the broker may be away.
func (e *Engine) openProducer(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.producer.limit = fencesLeast + rand.IntN(fencesMore)
	for tries := 0; ; tries++ {
		err := e.readyProducer(ctx)
		stop, refused := errors.AsType[*stopError](err)
		switch {
		case err == nil:
			return nil
		case refused:
			return stop.err
		case ctx.Err() != nil:
			return ctx.Err()
		case isRefusal(err):
			return fmt.Errorf("open a producer with transactional id %q: %w", e.txnID, err)
		}
		sleep(ctx, min(100*time.Millisecond<<min(tries, 5), time.Second))
	}
}

// readyProducer makes sure that the client exists and holds a producer id. mu is held.
func (e *Engine) readyProducer(ctx context.Context) error {
	p := &e.producer
	if p.broken && time.Since(p.opened) < reopenGap {
		return errReopening
	}
	if p.client == nil {
		client, err := e.newProducer()
		if err != nil {
			return stopf("open a producer: %w", err) // the options are refused; no broker was asked
		}
		p.client, p.broken, p.opened = client, false, time.Now()
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, _, err := p.client.ProducerID(ctx); err != nil {
		// The client keeps an answer that ends this id for good, and tries anew after anything else.
		if ke, ok := errors.AsType[*kerr.Error](err); ok && !ke.Retriable || errors.Is(err, kgo.ErrClientClosed) {
			e.discardProducer()
		}
		return e.failed("get a producer id", err)
	}
	return nil
}

// discardProducer closes the client, to be replaced before the next transaction. At once: what it still holds of a
// transaction that was given up would else be sent when the broker is back, and nobody would end that. mu is held.
func (e *Engine) discardProducer() {
	p := &e.producer
	p.broken = true
	if p.client != nil {
		e.background.Go(p.client.Close)
		p.client = nil
	}
}

func (p *producer) close() {
	if p.client != nil {
		p.client.Close()
	}
}

// failed notes a failed act and returns err with it. mu is held.
func (e *Engine) failed(act string, err error) error {
	e.note(act, err)
	return fmt.Errorf("%s: %w", act, err)
}

// note logs a failed act and looks for a second process with this id in it. mu is held.
func (e *Engine) note(act string, err error) {
	if e.quiet.pass(act + err.Error()) {
		e.log.Warn("a transaction did not go through, trying again", "act", act, "err", err)
	}
	p := &e.producer
	if errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch) {
		e.discardProducer()
		now := time.Now()
		if now.Sub(p.fenced) > fenceGap {
			p.fences = 0
		}
		// One tick may tell of one fence several times.
		if now.Sub(p.fenced) > reopenGap/2 {
			p.fences++
			p.fenced = now
		}
		if p.fences >= p.limit {
			e.fail(fmt.Errorf("another living process uses INSTANCE_ID %q in group %q: transactional id %q was fenced %d times in a row; give each process its own",
				e.cfg.InstanceID, e.cfg.Group, e.txnID, p.fences))
		}
	}
}

// isRefusal reports whether err says that this client may not do what it asks, now and later.
func isRefusal(err error) bool {
	for _, no := range []error{
		kerr.TransactionalIDAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.InvalidTransactionTimeout,
		kerr.UnsupportedVersion, kerr.SaslAuthenticationFailed,
	} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
