package stream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Config says what an Engine works on.
type Config struct {
	Client     []kgo.Opt // how to reach the brokers: seeds, TLS, SASL
	Group      string    // consumer group
	Input      string    // input topic
	Ledger     string    // ledger topic: compacted; its partition count decides the canonical partitions
	InstanceID string    // names the transactional ids; stable over restarts of one instance, random when empty
	Handler    Handler
	Log        *slog.Logger

	// GroupProtocol is ProtocolAuto (the default), ProtocolClassic or ProtocolConsumer.
	GroupProtocol string

	SessionTimeout     time.Duration // default 6 s; of the classic protocol, with the other one it is the brokers'
	TransactionTimeout time.Duration // default 10 s
	DrainTimeout       time.Duration // bound on waiting for calls at a revoke or stop; default 15 s
	MaxRecords         int           // per transaction; default 2000
	MaxBytes           int           // per transaction; default 4 MiB

	// Step, for tests and measurements, is called at every step of a tick, a revoke and a restore, on the goroutine
	// that does it and under its locks: it must not block, and not call the Engine but for Wake and Status.
	Step func(Step)

	// Now is the time of day of ticks; default [time.Now], whose monotonic reading it must keep.
	Now func() time.Time

	// Pulse, for simulations of weeks in virtual time, is how often an idle member does something: the most between two
	// heartbeats and between two ticks, and half of it between two looks for what holds a partition up and for a fetch to
	// wait. Default 1 s; with a longer one SessionTimeout must be at least three times as long.
	Pulse time.Duration

	// How often the end of the input is looked at, and for how long a transaction may hold it back before that is
	// told: 5 s and 30 s; and for how long a partition may be kept from being restored: 15 s. Only the package's tests
	// set them.
	inputEvery, inputHeldFor, heldUpFor time.Duration
}

// callTimeout bounds every single call to a broker under the tick lock. A coordinator that loads can hold an offset
// commit for 16 s, and a hung broker for ever.
const callTimeout = 5 * time.Second

// Engine runs a Handler on the partitions that the group gives to this member.
type Engine struct {
	cfg         Config
	log         *slog.Logger
	quiet       quiet
	incarnation string // random: tells this run's transactions from those of any other
	clientID    string
	named       bool         // by InstanceID, not at random
	instance    net.Listener // holds the name on this machine; nil: not held

	client *kgo.Client // consumer of the group
	admin  *kgo.Client // requests that belong to no member and no transaction
	adm    *kadm.Client
	reader *kgo.Client // of ReadLedger: its requests do not queue behind those of restores
	guard  guarded     // what the guard found at the start

	consumer bool // joined by the protocol of KIP-848

	ledgerParts  atomic.Int32
	offsetsParts atomic.Int32                    // of the brokers' topic of offsets; 0: not seen yet
	leaders      atomic.Pointer[map[int32]int32] // of the ledger's partitions, as seen last
	losses       atomic.Uint64                   // of the producers' connections
	reads        chan struct{}                   // bounds the requests of ReadLedger
	wake         chan struct{}                   // holds at most one token
	slots        chan struct{}                   // bounds concurrent restores
	stop         context.CancelCauseFunc
	background   sync.WaitGroup // what else Run waits for at its end: clients that are being closed
	started      atomic.Bool

	// mu is the tick lock. It spans a whole tick, and whoever gives a partition up takes it.
	mu        tickLock
	producers producers
	turn      *producer // whose transaction is next
	fencing   fencing
	ticks     uint64
	retries   int // failed ticks in a row: the backoff
	unsettled *Tx // the transaction whose end is not known; nothing is built before it is settled
	search    search
	poison    map[poisonKey]error
	first     int // which partition's input comes first
	draining  bool
	abandon   bool // do not wait for calls under way: after a fatal error, or a drain that took too long

	// qmu guards parts (written under mu too), the queues and pause states in them. It is taken after mu and never
	// held over a call to a broker.
	qmu   sync.Mutex
	parts map[int32]*part

	status atomic.Pointer[Status]
	joined atomic.Bool
	tally  struct{ commits, aborts uint64 } // under mu
}

// New checks cfg. It reaches no broker.
func New(cfg Config) (*Engine, error) {
	var missing []string
	for name, empty := range map[string]bool{"Group": cfg.Group == "", "Input": cfg.Input == "", "Ledger": cfg.Ledger == "", "Handler": cfg.Handler == nil} {
		if empty {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("stream: Config lacks %s", strings.Join(missing, ", "))
	}
	cfg.GroupProtocol = or(cfg.GroupProtocol, ProtocolAuto)
	if !slices.Contains([]string{ProtocolAuto, ProtocolClassic, ProtocolConsumer}, cfg.GroupProtocol) {
		return nil, fmt.Errorf("stream: group protocol %q is none of auto, classic, consumer", cfg.GroupProtocol)
	}
	cfg.SessionTimeout = or(cfg.SessionTimeout, 6*time.Second)
	cfg.TransactionTimeout = or(cfg.TransactionTimeout, 10*time.Second)
	cfg.DrainTimeout = or(cfg.DrainTimeout, 15*time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Pulse = or(cfg.Pulse, time.Second)
	cfg.inputEvery = or(cfg.inputEvery, max(5*time.Second, cfg.Pulse))
	cfg.inputHeldFor = or(cfg.inputHeldFor, 30*time.Second)
	cfg.heldUpFor = or(cfg.heldUpFor, 15*time.Second)
	cfg.MaxRecords = or(cfg.MaxRecords, 2000)
	cfg.MaxBytes = or(cfg.MaxBytes, 4<<20)
	named := cfg.InstanceID != ""
	cfg.InstanceID = or(cfg.InstanceID, rand.Text()[:12])
	cfg.Log = or(cfg.Log, slog.New(slog.DiscardHandler))
	e := &Engine{
		cfg:         cfg,
		log:         cfg.Log.With("group", cfg.Group),
		incarnation: rand.Text()[:16],
		clientID:    cfg.Group + "-" + cfg.InstanceID,
		named:       named,
		wake:        make(chan struct{}, 1),
		mu:          make(tickLock, 1),
		slots:       make(chan struct{}, restoresAtOnce),
		reads:       make(chan struct{}, readsAtOnce),
		poison:      map[poisonKey]error{},
		parts:       map[int32]*part{},
	}
	for n := range producersInTurn {
		id := e.clientID
		if n > 0 {
			id += "#" + strconv.Itoa(n+1)
		}
		e.producers = append(e.producers, &producer{txnID: id, sure: map[place]bool{}, wrote: map[place]bool{}})
	}
	e.turn = e.producers[0]
	e.status.Store(new(Status))
	return e, nil
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Run joins the group and works until ctx ends; then it drains, commits, leaves the group and returns nil.
// Any other return is an error that this process cannot mend by itself: a topic with the wrong policy, a broker that
// is too old, another living process with the same InstanceID. A broker that is away is waited for. Run may be
// called once.
func (e *Engine) Run(ctx context.Context) (err error) {
	if e.started.Swap(true) {
		return errors.New("stream: Run was called twice")
	}
	ctx, e.stop = context.WithCancelCause(ctx)
	defer e.stop(nil)
	// What works on until the group is left: ctx ends before that.
	live, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()

	if e.admin, err = kgo.NewClient(e.options(kgo.MetadataMinAge(50 * time.Millisecond))...); err != nil {
		return fmt.Errorf("open the admin client: %w", err)
	}
	defer e.admin.Close()
	e.adm = kadm.NewClient(e.admin)
	e.adm.SetTimeoutMillis(int32(callTimeout.Milliseconds()))
	if e.reader, err = kgo.NewClient(e.options(kgo.MetadataMinAge(50 * time.Millisecond))...); err != nil {
		return fmt.Errorf("open the client for reading: %w", err)
	}
	defer e.reader.Close()

	if err := e.checkAtStart(ctx); err != nil {
		return stopped(ctx, err)
	}
	if e.instance = e.holdInstance(ctx); e.instance != nil {
		defer e.instance.Close()
	}
	defer e.background.Wait()
	defer func() { e.producers.close() }()
	if err := e.openProducers(ctx); err != nil {
		return stopped(ctx, err)
	}
	e.evictPredecessor(ctx)
	if err := e.chooseProtocol(ctx); err != nil {
		return stopped(ctx, err)
	}
	e.mu.Lock() // the callbacks wait here until the client is known
	e.client, err = kgo.NewClient(e.groupOptions()...)
	e.mu.Unlock()
	if err != nil {
		return fmt.Errorf("open the group client: %w", err)
	}

	pollCtx, stopPolling := context.WithCancel(live)
	defer stopPolling()
	var polling, working sync.WaitGroup
	polling.Go(func() { e.poll(pollCtx) })
	working.Go(func() { e.loop(live) })
	working.Go(func() { e.watch(live) })

	<-ctx.Done()
	e.drain()
	stopPolling()
	polling.Wait()
	e.leave(live) // runs the revoke callback: the loop must still be there
	end()
	working.Wait()
	return stopped(ctx, nil)
}

// stopped is what Run returns: nil when its context ended, else why the engine gave up.
func stopped(ctx context.Context, err error) error {
	if fatal, ok := errors.AsType[*fatalError](context.Cause(ctx)); ok {
		return fatal.err
	}
	if ctx.Err() == nil {
		return err
	}
	return nil // err says no more than that a stop was asked for
}

// fatalError ends Run.
type fatalError struct{ err error }

func (f *fatalError) Error() string { return f.err.Error() }

// fail makes Run end with err. mu is held.
func (e *Engine) fail(err error) {
	e.abandon = true
	e.stop(&fatalError{err})
}

// drain stops starting calls, and waits until those under way have ended and their outcomes are committed, while the
// member keeps heartbeating: once LeaveGroup has begun no heartbeat succeeds.
func (e *Engine) drain() {
	e.mu.Lock()
	e.draining = true
	all := make([]*part, 0, len(e.parts))
	for _, p := range e.parts {
		p.closing = true
		all = append(all, p)
	}
	e.mu.Unlock()
	e.step(StepDraining)
	if !e.awaitIdle(all) {
		e.Do(func() { e.abandon = true }) // the revoke callback is not to wait as long again
	}
}

// leave ends the membership, which runs the revoke callback, and closes the client.
func (e *Engine) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := e.client.LeaveGroupContext(ctx); err != nil {
		e.log.Warn("leaving the group failed: the others take over when the session times out", "err", err)
	}
	e.client.CloseAllowingRebalance()
}

// options are those of every client of the engine.
func (e *Engine) options(more ...kgo.Opt) []kgo.Opt {
	opts := append([]kgo.Opt{kgo.ClientID(e.clientID)}, e.cfg.Client...)
	return append(opts, more...)
}

// Wake asks for a tick soon: a call has ended. It never blocks and may be called from any goroutine.
func (e *Engine) Wake() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Do runs f under the tick lock, between ticks. For questions about the Handler's state from other goroutines.
// It may wait for a tick under way: milliseconds, or some seconds while the broker does not answer.
func (e *Engine) Do(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

// LedgerPartitions is the number of partitions of the ledger topic; 0 until Run has seen it.
func (e *Engine) LedgerPartitions() int32 { return e.ledgerParts.Load() }

// tickLock is a mutex that serves in order of arrival, so that a busy loop starves nobody. It is a channel because it
// is held while brokers are waited for: under testing/synctest virtual time does not pass while a goroutine waits for
// a sync.Mutex.
type tickLock chan struct{}

func (l tickLock) Lock()   { l <- struct{}{} }
func (l tickLock) Unlock() { <-l }

func (e *Engine) step(s Step) {
	if e.cfg.Step != nil {
		e.cfg.Step(s)
	}
}
