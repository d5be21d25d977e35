// Package sender turns requests on notification.requested into messages through Zalo, and publishes what became of
// each on zns.sent, zns.failed and zns.unresolved.
//
// # Promises
//
//   - A request is in the ledger before anything is done about it, and leaves it only through exactly one zns.sent or
//     zns.failed. The one exception is told: FAILED as UNRESOLVED may be followed by one zns.sent with corrects = true.
//   - No call starts before its intent is committed, none after its launch deadline or the request's expiry, and none
//     for a partition that was given up. A second call for one notification happens only when the one before provably
//     sent nothing, or when the policy RESEND says so.
//   - What nobody knows stays UNKNOWN until a signed callback or its policy settles it.
//   - Requests with one ordering_key go one at a time in the order of their arrival.
//   - A clean stop and a clean revoke leave nothing UNKNOWN.
//   - No phone number, template data or token is logged, traced or measured.
//
// # Shape
//
// [Run] wires a handler into the engine of pkg/stream, whose tick lock guards nearly all state. accept.go takes
// requests in, handler.go has the work of a tick, outcome.go and unknown.go the state machine, partition.go the places
// where an entry can wait, dispatch.go and breaker.go the calls, operator.go and rule.go what operators say, reconcile.go the search for callbacks, clock.go the
// guard against a wrong clock, entry.go and restore.go the ledger's format.
package sender

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/config"
	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/pkg/stream"
	"github.com/znshub/znshub/pkg/zalo"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/sender/control"
)

// Extras is what tests and programs that embed a sender may add. The zero value adds nothing.
type Extras struct {
	Client []kgo.Opt // options for the Kafka clients, for example a virtual network
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Step   func(stream.Step) // handed to the engine

	// Reload reads the settings again, for access tokens that are renewed in a file. nil: they stay as they are.
	Reload func() (Config, error)
	// Pulse, for simulations of weeks in virtual time, is how often an idle sender does something; its session in the group
	// is three of them. 0: as suits real time.
	Pulse time.Duration
}

// Sender is a configured sender.
type Sender struct {
	engine    *stream.Engine
	h         *handler
	client    *zalo.Client
	topics    *kafka.Admin
	kafka     []kgo.Opt   // how to reach the brokers
	admin     *kgo.Client // for what topics does not ask
	cfg       Config
	settings  settings
	control   *control.Rules
	tokens    *accessTokens
	tables    *tables
	announcer *announcer
	reload    func() (Config, error)
}

// Run sends until ctx ends; then it waits for the calls under way, commits their outcomes, leaves the group and returns
// nil. Any other return is an error that this process cannot mend by itself.
func Run(ctx context.Context, svc *service.Service, cfg Config) error {
	s, err := New(svc, cfg, Extras{Reload: func() (fresh Config, err error) {
		_, err = config.Load(&fresh)
		return fresh, err
	}})
	if err != nil {
		return err
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(s.settings.memory) // garbage counts too
	}
	return s.Run(ctx)
}

// New checks cfg and returns a sender that does nothing yet. It reaches no broker.
func New(svc *service.Service, cfg Config, extras Extras) (*Sender, error) {
	settings, problems := cfg.settings()
	client, err := cfg.Kafka.Options()
	if err := errors.Join(problems, err); err != nil {
		return nil, err
	}
	settings.of(svc)
	client = append(client, extras.Client...)
	s := &Sender{cfg: cfg, settings: settings, kafka: client}
	s.reload, s.tokens = extras.Reload, &accessTokens{log: svc.Log}
	if s.client, err = zaloClient(cfg, s.tokens.get, extras.Dial); err != nil {
		return nil, err
	}
	if s.admin, err = kgo.NewClient(append([]kgo.Opt{kgo.ClientID(cfg.Group + "-" + svc.Instance + "-admin"), kgo.MetadataMinAge(100 * time.Millisecond)}, client...)...); err != nil {
		return nil, fmt.Errorf("open the admin client: %w", err)
	}
	if s.topics, err = kafka.NewAdmin(client...); err != nil {
		s.admin.Close()
		return nil, err
	}
	h := &handler{
		settings: settings, log: svc.Log, metrics: newMetrics(svc.Registry), parts: map[int32]*partition{},
		rules: rules{
			unresolvedAfter: cfg.UnresolvedAfter.Milliseconds(), orderWait: cfg.OrderWait.Milliseconds(), watch: watchFailed.Milliseconds(),
		},
		tracer: tracer{t: svc.Tracer, group: cfg.Group, url: settings.url},
	}
	h.settings.partitions = func() int32 { return s.engine.LedgerPartitions() }
	h.metrics.watch(svc.Registry, h)
	wake := func() { s.engine.Wake() }
	h.limit(settings.limits)
	s.tokens.limits = h.limits
	if settings.mode != modeSimulate {
		s.tokens.set(settings.tokens)
	}
	s.tables = newTables(client, s.topics.Topics, h.limits, settings.ceSource, svc.Log)
	h.templateCategory = s.tables.category
	s.announcer = newAnnouncer(h.limits, s.tables, func(oa string) bool {
		return h.partition(kafka.Murmur2Partition([]byte(oa), s.engine.LedgerPartitions())) != nil
	})
	h.wholeOA = s.announcer.wake
	h.dispatch = newDispatcher(h.limits, s.send, wake)
	h.loader = newLoader(func(ctx context.Context, p int32, offsets []int64) ([]kafka.Record, error) {
		return s.engine.ReadLedger(ctx, p, offsets)
	}, func(r kafka.Record) (*entry, error) { return h.decodeEntry(r.Value) }, wake, svc.Log)
	h.callbacks = newReconciler(s.openCallbacks(client), wake, svc.Log)
	svc.Registry.MustRegister(newUnknownCollector(h.callbacks))
	h.clock = newClock(s.latestAppend, wake, svc.Log)
	s.control = control.New(control.Config{Client: client, Wake: wake, Invalid: func() { h.operators.invalid.Inc() }, Log: svc.Log, Pulse: extras.Pulse})
	h.control, h.operators, h.gates = s.control, newOperatorMetrics(svc.Registry, s.control), append(h.gates, s.control)
	h.releaseFlows = h.limits.Release
	s.h = h
	svc.Ready("sender", s.Ready)
	if s.engine, err = stream.New(stream.Config{
		Client: client, Group: cfg.Group, Input: cfg.Topic, Ledger: settings.ledgerTopic, InstanceID: svc.Instance,
		Handler: h, Log: svc.Log, DrainTimeout: cfg.RequestTimeout + launchWithin, Step: h.metrics.commits(extras.Step),
		GroupProtocol: cfg.GroupProtocol, Now: h.clock.now, Pulse: extras.Pulse, SessionTimeout: 3 * extras.Pulse,
	}); err != nil {
		s.topics.Close()
		s.admin.Close()
		return nil, err
	}
	return s, nil
}

// watchFailed is how long a FAILED(UNRESOLVED) is watched for the callback that would revise it.
const watchFailed = 24 * time.Hour

// Run is [Run] of a sender that New made. It may be called once.
func (s *Sender) Run(ctx context.Context) error {
	defer s.topics.Close()
	defer s.admin.Close()
	defer s.client.Close()
	if err := s.checkTopics(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	// What serves the engine works on until that has stopped.
	live, stop := context.WithCancel(context.WithoutCancel(ctx))
	var serving sync.WaitGroup
	serving.Go(func() { s.h.callbacks.run(live) })
	serving.Go(func() { s.h.clock.run(live) })
	serving.Go(func() { s.control.Run(live) })
	serving.Go(func() { s.h.loader.run(live) })
	serving.Go(func() { s.tables.run(live) })
	serving.Go(func() { s.announcer.run(live) })
	if s.settings.mode != modeSimulate {
		serving.Go(func() { s.tokens.watch(live, s.reload, s.engine.Wake) })
	}
	s.tables.ready(ctx)
	err := s.engine.Run(ctx)
	stop()
	serving.Wait()
	// Calls of partitions that were lost may still run: their results are ignored, their connections are not leaked.
	waitCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.RequestTimeout)
	defer cancel()
	s.h.dispatch.wait(waitCtx)
	return err
}

// checkTopics refuses to start on topics that are missing or not as they must be, and says what mends them. It waits
// for brokers that are away.
func (s *Sender) checkTopics(ctx context.Context) error {
	for wait := time.Second; ; wait = min(2*wait, 10*time.Second) {
		problems, err := s.topics.Check(ctx, topic.ForSender(s.cfg.Topic))
		if err == nil {
			var fatal []error
			for _, p := range problems {
				if p.Warning {
					s.h.log.Warn("topic is not as it should be", "problem", p.String())
				} else {
					fatal = append(fatal, errors.New(p.String()))
				}
			}
			return errors.Join(fatal...)
		}
		if ctx.Err() == nil {
			s.h.log.Warn("cannot look at the topics, trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// Ready reports whether the sender works; the error says why not.
func (s *Sender) Ready() error { return s.ready(s.engine.Status()) }

func (s *Sender) ready(status stream.Status) error {
	if !status.Joined {
		return errors.New("not yet a member of the consumer group")
	}
	writes := false // what shows the broker's time
	for _, p := range status.Partitions {
		if p.Err != nil {
			return fmt.Errorf("partition %d is stopped: %w", p.Partition, p.Err)
		}
		writes = writes || !p.FrontDoor
	}
	if why := s.h.clock.wrong(); why != "" && writes {
		return errors.New(why)
	}
	return s.control.Ready(time.Now())
}

// Status is what the engine owns and how it fares.
func (s *Sender) Status() stream.Status { return s.engine.Status() }

// send makes one call.
func (s *Sender) send(c *call) zalo.Result {
	ctx, span := s.h.tracer.call(c)
	var r zalo.Result
	if s.settings.mode == modeSimulate {
		r = zalo.Result{Outcome: zalo.Accepted, MsgID: "simulated", SentTime: time.Now()}
	} else {
		r = s.client.Send(ctx, c.sendRequest(s.settings.mode == modeDevelopment))
	}
	endCall(span, &r)
	return r
}

func zaloClient(cfg Config, token func(ctx context.Context, oaID string) (string, error), dial func(context.Context, string, string) (net.Conn, error)) (*zalo.Client, error) {
	zc := zalo.Config{URL: cfg.APIURL, MaxInFlight: cfg.MaxInFlight, RequestTimeout: cfg.RequestTimeout, Dial: dial, AccessToken: token}
	if cfg.AppSecretProof {
		zc.AppSecret = cfg.AppSecret
	}
	return zalo.NewClient(zc)
}

// callbacks is a [callbackReader] on Kafka.
type callbacks struct {
	*kafka.Reader
	mark kafka.Watermark
}

func (c *callbacks) Mark(ctx context.Context) (err error) {
	c.mark, err = c.Watermark(ctx)
	return err
}

func (c *callbacks) CaughtUp() bool { return c.Reached(c.mark) }

func (s *Sender) openCallbacks(client []kgo.Opt) func(context.Context, time.Time) (callbackReader, error) {
	return func(ctx context.Context, from time.Time) (callbackReader, error) {
		r, err := kafka.NewReader(ctx, kafka.ReaderConfig{Client: client, Topic: topic.Callback, Start: kafka.FromTime(from)})
		if err != nil {
			return nil, err
		}
		return &callbacks{Reader: r}, nil
	}
}

// latestAppend returns when the broker appended the latest record to a ledger partition.
func (s *Sender) latestAppend(ctx context.Context, partition int32) (time.Time, error) {
	admin := kadm.NewClient(s.admin)
	listed, err := admin.ListMaxTimestampOffsets(ctx, s.settings.ledgerTopic)
	if err != nil {
		return time.Time{}, err
	}
	o, ok := listed.Lookup(s.settings.ledgerTopic, partition)
	if !ok || o.Err != nil {
		return time.Time{}, fmt.Errorf("latest record of the ledger: %w", o.Err)
	}
	if o.Timestamp <= 0 {
		return time.Time{}, nil
	}
	if at := time.UnixMilli(o.Timestamp); time.Until(at) <= maxSkew {
		return at, nil
	}
	// A broker whose clock was once ahead leaves such times behind: only the last record tells the present one.
	ends, err := admin.ListEndOffsets(ctx, s.settings.ledgerTopic)
	if err != nil {
		return time.Time{}, err
	}
	end, ok := ends.Lookup(s.settings.ledgerTopic, partition)
	if !ok || end.Err != nil {
		return time.Time{}, fmt.Errorf("end of the ledger: %w", end.Err)
	}
	var last time.Time
	err = kafka.ReadToEnd(ctx, kafka.ReaderConfig{
		Client: s.kafka, Topic: s.settings.ledgerTopic, Partitions: []int32{partition},
		Start: kafka.FromOffsets(map[int32]int64{partition: max(end.Offset-lastRecords, 0)}),
	}, func(r kafka.Record) error {
		last = r.Time
		return nil
	})
	return last, err
}

// lastRecords is how many offsets before a ledger partition's end are read to see its last record: markers stand behind it.
const lastRecords = 64
