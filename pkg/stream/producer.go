package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/pause"
)

// producer is a transactional client. Everything in it is guarded by the tick lock.
type producer struct {
	txnID  string
	client *kgo.Client
	broken bool      // the client was discarded
	opened time.Time // when client was made

	began  time.Time      // its latest transaction
	ended  time.Time      // that one
	losses uint64         // of connections, when open transactions were looked for
	sure   map[place]bool // where no transaction of it is open between two of its own
	wrote  map[place]bool // ever
}

// producers take turns: while the brokers write the markers of one producer's transaction, its next one would have to
// wait, and the next producer's does not. At no time is more than one transaction open.
type producers []*producer

// producersInTurn is their number.
const producersInTurn = 2

// next is the producer of the transaction after that of p.
func (ps producers) next(p *producer) *producer { return ps[(slices.Index(ps, p)+1)%len(ps)] }

// find returns the producer with this transactional id, nil when there is none.
func (ps producers) find(txnID string) *producer {
	if i := slices.IndexFunc(ps, func(p *producer) bool { return p.txnID == txnID }); i >= 0 {
		return ps[i]
	}
	return nil
}

// fencing counts how often in a row this process was fenced. Guarded by the tick lock.
type fencing struct {
	times  int
	latest time.Time
	limit  int // so many mean a second process
}

// Two living processes with one InstanceID fence each other at each transaction. Other reasons to be fenced (a
// transaction that timed out, a successor that ended one) do not come again within fenceGap. The limits differ so that
// one of the two gives up first and the other goes on: of two on one machine the one that came later, else by chance.
const (
	fenceGap  = 5 * time.Second
	reopenGap = time.Second
)

// fencesAllowed is how many fences in a row this process bears. holds: nobody else on this machine has its name.
func fencesAllowed(holds bool) int {
	if holds {
		return 10 + rand.IntN(12)
	}
	return 5 + rand.IntN(3)
}

// errReopening says that a new client must wait: fencing must not become a storm.
var errReopening = errors.New("waiting before the producer is opened anew")

func (e *Engine) newProducer(txnID string) (*kgo.Client, error) {
	return kgo.NewClient(e.options(
		kgo.TransactionalID(txnID),
		kgo.TransactionTimeout(e.cfg.TransactionTimeout),
		kgo.WithHooks(lossCounter{e}),
		kgo.RecordPartitioner(kgo.BasicConsistentPartitioner(choose)),
		kgo.ProducerLinger(0),
		kgo.MaxBufferedRecords(1<<20), // Produce must never block: the transaction's own bounds hold
		// A produce soon after EndTxn with the same id is answered CONCURRENT_TRANSACTIONS while the markers are being
		// written; the client then waits for its metadata.
		kgo.MetadataMinAge(10*time.Millisecond), // the least that the client takes
		kgo.RetryBackoffFn(func(tries int) time.Duration {
			if tries < 20 {
				return 5 * time.Millisecond
			}
			return 100 * time.Millisecond
		}),
	)...)
}

// openProducers makes the clients and has them fence whatever an earlier process with this id left open. It goes on
// trying until ctx ends: the broker may be away.
func (e *Engine) openProducers(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fencing.limit = fencesAllowed(e.instance != nil)
	for _, p := range e.producers {
		if err := e.openProducer(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) openProducer(ctx context.Context, p *producer) error {
	for tries := 0; ; tries++ {
		err := e.readyProducer(ctx, p)
		stop, refused := errors.AsType[*stopError](err)
		switch {
		case err == nil:
			return nil
		case refused:
			return stop.err
		case ctx.Err() != nil:
			return ctx.Err()
		case isRefusal(err):
			return fmt.Errorf("open a producer with transactional id %q: %w", p.txnID, err)
		}
		pause.For(ctx, min(100*time.Millisecond<<min(tries, 5), time.Second))
	}
}

// readyProducer makes sure that the client of p exists and holds a producer id. mu is held.
func (e *Engine) readyProducer(ctx context.Context, p *producer) error {
	if p.broken && time.Since(p.opened) < reopenGap {
		return errReopening
	}
	if p.client == nil {
		client, err := e.newProducer(p.txnID)
		if err != nil {
			return stopf("open a producer: %w", err) // the options are refused; no broker was asked
		}
		p.client, p.broken, p.opened = client, false, time.Now()
		clear(p.sure)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, _, err := p.client.ProducerID(ctx); err != nil {
		// The client keeps an answer that ends this id for good, and tries anew after anything else.
		if ke, ok := errors.AsType[*kerr.Error](err); ok && !ke.Retriable || errors.Is(err, kgo.ErrClientClosed) {
			e.discard(p)
		}
		return e.failed(p, "get a producer id", err)
	}
	return nil
}

// discard closes the client of p, to be replaced before its next transaction. At once: what it still holds of a
// transaction that was given up would else be sent when the broker is back, and nobody would end that. mu is held.
func (e *Engine) discard(p *producer) {
	p.broken = true
	if p.client != nil {
		e.background.Go(p.client.Close)
		p.client = nil
	}
}

func (ps producers) close() {
	for _, p := range ps {
		if p.client != nil {
			p.client.Close()
		}
	}
}

// failed notes a failed act of p and returns err with it. mu is held.
func (e *Engine) failed(p *producer, act string, err error) error {
	e.note(p, act, err)
	return fmt.Errorf("%s: %w", act, err)
}

// note logs a failed act of p and looks for a second process with this id in it. mu is held.
func (e *Engine) note(p *producer, act string, err error) {
	if e.quiet.pass(act + err.Error()) {
		e.log.Warn("a transaction did not go through, trying again", "act", act, "err", err)
	}
	if !errors.Is(err, kerr.ProducerFenced) && !errors.Is(err, kerr.InvalidProducerEpoch) {
		return
	}
	e.discard(p)
	f, now := &e.fencing, time.Now()
	if now.Sub(f.latest) > fenceGap {
		f.times = 0
	}
	// One tick may tell of one fence several times, and another process fences all producers together.
	if now.Sub(f.latest) > reopenGap/2 {
		f.times++
		f.latest = now
	}
	if f.times >= f.limit {
		e.fail(fmt.Errorf("another living process uses INSTANCE_ID %q in group %q: transactional id %q was fenced %d times in a row; give each process its own",
			e.cfg.InstanceID, e.cfg.Group, p.txnID, f.times))
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
