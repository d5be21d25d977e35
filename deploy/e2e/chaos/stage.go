package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
	"github.com/znshub/znshub/proto/topic"
)

// Program is the sender that a Stage runs: it can crash at a step, and its clock can be set.
const Program = "hooked-sender"

// Build compiles what a Stage runs into dir.
func Build(ctx context.Context, dir string) error {
	if err := harness.Build(ctx, dir, harness.Ingest, harness.ZaloSim, harness.ZNS); err != nil {
		return err
	}
	return harness.BuildWithClock(ctx, dir, "./deploy/e2e/"+Program)
}

// Settings of the senders: short windows, so that what is unknown ends within the run. A call and its launch take no
// longer than the window of the policy, as in production.
var senderEnv = []string{
	"SENDER_ORDER_WAIT=5s", "SENDER_RESOLVE_WINDOW=20s", "SENDER_UNRESOLVED_AFTER=2s", "SENDER_REQUEST_TIMEOUT=5s", "SENDER_MAX_IN_FLIGHT=64",
}

// Times of the hub that the sums need to know.
const (
	orderWait      = 5 * time.Second
	requestTimeout = 5 * time.Second
)

// Stage is the system under test with everything that can go wrong around it.
type Stage struct {
	*harness.System
	Results *harness.Collector
	Brokers []string
	Remark  string // what cannot be done here

	broker  *local.Broker
	disk    *disk // nil: a small file system cannot be made here
	toKafka map[string]*harness.Proxy
	toZalo  map[string]*harness.Proxy
	webhook *harness.Proxy
	dir     string
	bin     string

	groups []*group

	mu     sync.Mutex // guards what follows
	turns  map[string]*sync.Mutex
	done   []Happened
	orders []*order
	wrong  []string // what went wrong by itself
}

// Happened is an event with the times at which it really was.
type Happened struct {
	Event
	From, To time.Time // To includes the time until what was stopped was started again
	Note     string
}

// Open starts everything in dir, which it makes, with the programs of Build.
func Open(ctx context.Context, bin, dir string, senders int) (s *Stage, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	s = &Stage{dir: dir, bin: bin, toKafka: map[string]*harness.Proxy{}, toZalo: map[string]*harness.Proxy{}, turns: map[string]*sync.Mutex{}, groups: hubGroups()}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close(context.WithoutCancel(ctx)))
		}
	}()
	cfg := harness.Config{
		Bin: bin, Dir: dir, SenderProgram: Program, KafkaVia: map[string]string{}, ZaloVia: map[string]string{}, SenderEnv: senderEnv,
		SimEnv: []string{"SIM_LATENCY=5ms..80ms", "SIM_DELIVERY=100ms..900ms", "SIM_TIME_SCALE=20", "SIM_KEEP_WEBHOOK=true"},
	}
	var secrets, tokens []string
	for i, oa := range OAs {
		secrets = append(secrets, oa+"="+harness.OASecret+"-"+strconv.Itoa(i))
		tokens = append(tokens, oa+"="+harness.AccessToken+"-"+strconv.Itoa(i))
	}
	accounts := []string{"ZALO_OA_SECRET=" + strings.Join(secrets, ","), "ZALO_ACCESS_TOKEN=" + strings.Join(tokens, ",")}
	cfg.SenderEnv = append(append([]string{}, senderEnv...), accounts[1])
	cfg.SimEnv = append(cfg.SimEnv, accounts...)
	cfg.IngestEnv = accounts[:1]
	opts := local.Options{Heap: "768m", Controller: true, Properties: map[string]string{"broker.session.timeout.ms": "9000"}}
	for _, name := range append([]string{Ingest}, Senders...) {
		p, err := harness.NewProxy()
		if err != nil {
			return s, err
		}
		s.toKafka[name], cfg.KafkaVia[name] = p, p.Addr()
		opts.Advertise = append(opts.Advertise, p.Addr())
		if name == Ingest {
			continue
		}
		if p, err = harness.NewProxy(); err != nil {
			return s, err
		}
		s.toZalo[name], cfg.ZaloVia[name] = p, p.Addr()
	}
	if s.webhook, err = harness.NewProxy(); err != nil {
		return s, err
	}
	cfg.CallbackVia = s.webhook.Addr()
	if s.disk, err = newDisk(filepath.Join(dir, "disk")); err != nil {
		s.Remark = fmt.Sprintf("the broker's disk is never full: %v", err)
	} else {
		opts.Data = s.disk.dir
	}
	if s.broker, err = local.Start(ctx, opts); err != nil {
		return s, err
	}
	for _, p := range s.toKafka {
		p.Target(s.broker.ListensFor(p.Addr()))
	}
	cfg.Brokers, s.Brokers = s.broker.Addr(), []string{s.broker.Addr()}
	if err := harness.CreateTopics(ctx, s.Brokers, topic.DefaultPartitions); err != nil {
		return s, err
	}
	if s.System, err = harness.NewSystem(cfg); err != nil {
		return s, err
	}
	for _, p := range s.toZalo {
		p.Target(strings.TrimPrefix(s.SimURL, "http://"))
	}
	s.webhook.Target(s.WebhookAddr)
	if s.Results, err = harness.NewCollector(s.Brokers); err != nil {
		return s, err
	}
	for range Senders {
		if _, err := s.NewSender(); err != nil {
			return s, err
		}
	}
	started := append([]*harness.Process{s.Sim, s.Ingest}, s.Senders()[:senders]...)
	for _, p := range started {
		if err := p.Start(); err != nil {
			return s, err
		}
	}
	for _, p := range started {
		if err := p.Ready(ctx); err != nil {
			return s, err
		}
	}
	return s, nil
}

// Close stops everything and frees what the stage took. Logs stay.
func (s *Stage) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var problems []error
	if s.System != nil {
		problems = append(problems, s.Stop(ctx))
	}
	if s.Results != nil {
		s.Results.Close()
	}
	if s.broker != nil {
		if log, err := os.ReadFile(s.broker.LogFile()); err == nil {
			_ = os.WriteFile(filepath.Join(s.dir, "broker.log"), log, 0o600)
		}
		problems = append(problems, s.broker.Stop())
	}
	for _, p := range s.toKafka {
		problems = append(problems, p.Close())
	}
	for _, p := range s.toZalo {
		problems = append(problems, p.Close())
	}
	if s.webhook != nil {
		problems = append(problems, s.webhook.Close())
	}
	if s.disk != nil {
		problems = append(problems, s.disk.close())
	}
	return errors.Join(problems...)
}

// note remembers something that nobody did and that should not be.
func (s *Stage) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
}

// Happened lists what was done so far.
func (s *Stage) Happened() []Happened {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Happened(nil), s.done...)
}

// process finds a program by its name.
func (s *Stage) process(name string) *harness.Process {
	for _, p := range s.Processes() {
		if p.Name == name {
			return p
		}
	}
	panic("no process " + name)
}

// turn is held by whoever does something to one process, or to the broker.
func (s *Stage) turn(of string) *sync.Mutex {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.turns[of] == nil {
		s.turns[of] = &sync.Mutex{}
	}
	return s.turns[of]
}

// takeTurns waits for the turns of several processes, always in one order, and returns what gives them back. Nobody
// waits for one while holding another but here.
func (s *Stage) takeTurns(of []*harness.Process) (giveBack func()) {
	names := make([]string, 0, len(of))
	for _, p := range of {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	for _, name := range names {
		s.turn(name).Lock()
	}
	return func() {
		for _, name := range names {
			s.turn(name).Unlock()
		}
	}
}
