package harness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
)

// What the system under test is configured with.
const (
	Cluster     = "e2e"
	AppID       = "2074138120372622546"
	OAID        = "2893352839501541173"
	OASecret    = "e2e-oa-secret"
	AccessToken = "e2e-access-token"
)

// Config says how a System is made. Env lists are NAME=value and win over the harness's own.
type Config struct {
	Brokers   string // as KAFKA_BROKERS
	Bin       string // folder with the programs, from Build
	Dir       string // for logs and the spool; is created
	SimEnv    []string
	IngestEnv []string
	SenderEnv []string
	// SenderProgram is the file in Bin that senders run; default Sender.
	SenderProgram string
	// KafkaVia and ZaloVia name, by process, the addresses through which it reaches the broker and the simulator, instead
	// of directly; CallbackVia is the address through which callbacks reach webhook-ingest.
	KafkaVia, ZaloVia map[string]string
	CallbackVia       string
}

// System is one installation: the simulator, webhook-ingest and its senders.
type System struct {
	Sim    *Process
	Ingest *Process

	SimURL      string // base URL of the simulator
	WebhookAddr string // where webhook-ingest listens
	WebhookURL  string // where callbacks go
	cfg         Config

	mu      sync.Mutex // guards what follows
	senders []*Process
	kills   []time.Time
}

// NewSystem chooses ports and settings; Start starts the programs.
func NewSystem(cfg Config) (*System, error) {
	if err := os.MkdirAll(filepath.Join(cfg.Dir, "spool"), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of the system: %w", err)
	}
	ports, err := local.FreePorts(4)
	if err != nil {
		return nil, err
	}
	simAddr, simAdmin, webhook, ingestAdmin := ports[0], ports[1], ports[2], ports[3]
	s := &System{
		cfg:         cfg,
		SimURL:      "http://" + simAddr,
		WebhookAddr: webhook,
		WebhookURL:  "http://" + cmp.Or(cfg.CallbackVia, webhook) + "/webhooks/zalo",
	}
	s.Sim = s.process(ZaloSim, ZaloSim, simAdmin, []string{
		"SIM_ADDR=" + simAddr,
		"SIM_CALLBACK_URL=" + s.WebhookURL,
		"ZALO_APP_ID=" + AppID, "ZALO_OA_ID=" + OAID, "ZALO_OA_SECRET=" + OASecret, "ZALO_ACCESS_TOKEN=" + AccessToken,
	}, cfg.SimEnv)
	s.Ingest = s.process(Ingest, Ingest, ingestAdmin, []string{
		"INSTANCE_ID=ingest-0",
		"INGEST_ADDR=" + webhook,
		"INGEST_SPOOL_DIR=" + filepath.Join(cfg.Dir, "spool"),
		"ZALO_APP_ID=" + AppID, "ZALO_OA_ID=" + OAID, "ZALO_OA_SECRET=" + OASecret,
	}, cfg.IngestEnv)
	return s, nil
}

func (s *System) process(program, name, admin string, env, more []string) *Process {
	common := []string{
		"KAFKA_BROKERS=" + cmp.Or(s.cfg.KafkaVia[name], s.cfg.Brokers),
		"ZNS_CLUSTER=" + Cluster,
		"ADMIN_ADDR=" + admin,
		"ADMIN_PPROF=true",
		"LOG_LEVEL=info",
	}
	return &Process{
		Name:     name,
		Path:     filepath.Join(s.cfg.Bin, program),
		Env:      slices.Concat(common, env, more),
		LogFile:  filepath.Join(s.cfg.Dir, name+".log"),
		ReadyURL: "http://" + admin + "/readyz",
	}
}

// Start starts the simulator, webhook-ingest and so many senders, and waits until all of them are ready.
func (s *System) Start(ctx context.Context, senders int) error {
	for _, p := range []*Process{s.Sim, s.Ingest} {
		if err := p.Start(); err != nil {
			return err
		}
	}
	for range senders {
		if _, err := s.AddSender(); err != nil {
			return err
		}
	}
	for _, p := range s.Processes() {
		if err := p.Ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// AddSender starts one more sender and does not wait for it.
func (s *System) AddSender() (*Process, error) {
	p, err := s.NewSender()
	if err != nil {
		return nil, err
	}
	return p, p.Start()
}

// NewSender adds a sender that is yet to be started.
func (s *System) NewSender() (*Process, error) {
	ports, err := local.FreePorts(1)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name := fmt.Sprintf("sender-%d", len(s.senders))
	sim := s.SimURL
	if via := s.cfg.ZaloVia[name]; via != "" {
		sim = "http://" + via
	}
	p := s.process(cmp.Or(s.cfg.SenderProgram, Sender), name, ports[0], []string{
		"INSTANCE_ID=" + name,
		"ZALO_API_URL=" + sim,
		"ZALO_APP_ID=" + AppID, "ZALO_OA_ID=" + OAID, "ZALO_ACCESS_TOKEN=" + AccessToken,
	}, s.cfg.SenderEnv)
	s.senders = append(s.senders, p)
	return p, nil
}

// Senders lists every sender that was ever added, also those that do not run.
func (s *System) Senders() []*Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.senders)
}

// KillSender kills a sender and notes the moment: what is unresolved afterwards may be explained by it.
func (s *System) KillSender(p *Process) error {
	s.Killed()
	return p.Kill()
}

// Killed notes that something was stopped without being asked: a sender, or the broker under it.
func (s *System) Killed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kills = append(s.kills, time.Now())
}

// Kills are the moments that Killed and KillSender noted.
func (s *System) Kills() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.kills)
}

// Processes lists all programs of the system.
func (s *System) Processes() []*Process { return append([]*Process{s.Sim, s.Ingest}, s.Senders()...) }

// Crashes is an error that names every program that ended though nobody asked it to.
func (s *System) Crashes() error {
	var all []string
	for _, p := range s.Processes() {
		all = append(all, p.Crashes()...)
	}
	if len(all) == 0 {
		return nil
	}
	return errors.New(strings.Join(all, "; "))
}

// Stop terminates the senders, then webhook-ingest, then the simulator. What does not end in time is killed.
func (s *System) Stop(ctx context.Context) error {
	var stopping sync.WaitGroup
	senders := s.Senders()
	problems := make([]error, len(senders), len(senders)+2)
	for i, p := range senders {
		stopping.Go(func() { problems[i] = p.Terminate(ctx) })
	}
	stopping.Wait()
	problems = append(problems, s.Ingest.Terminate(ctx), s.Sim.Terminate(ctx))
	return errors.Join(problems...)
}

// secret matches what no log may hold: the phone numbers of Load in any form, and the system's tokens.
var secret = regexp.MustCompile(`(?:\b(?:\+?84|0)91\d{7}\b)|` + regexp.QuoteMeta(AccessToken) + `|` + regexp.QuoteMeta(OASecret) + `|Nguyễn`)

// Secrets is an error when a program wrote personal data or a token into its log. It does not repeat what it found.
func (s *System) Secrets() error {
	var problems []error
	for _, p := range s.Processes() {
		for line := range strings.SplitSeq(p.Log(), "\n") {
			if secret.MatchString(line) {
				problems = append(problems, fmt.Errorf("the log of %s holds a phone number, a name or a token: %s", p.Name, secret.ReplaceAllString(line, "█")))
				break
			}
		}
	}
	return errors.Join(problems...)
}

// Autopsy writes the metrics and the goroutines of every living program beside its log: what a failed test needs.
func (s *System) Autopsy(ctx context.Context) {
	for _, p := range s.Processes() {
		for name, path := range map[string]string{".metrics": "/metrics", ".goroutines": "/debug/pprof/goroutine?debug=2"} {
			if text, err := fetch(ctx, strings.TrimSuffix(p.ReadyURL, "/readyz")+path); err == nil {
				_ = os.WriteFile(strings.TrimSuffix(p.LogFile, ".log")+name, text, 0o600)
			}
		}
	}
}

// Logs is the end of every program's log, for a failed test.
func (s *System) Logs(lines int) string {
	var b strings.Builder
	for _, p := range s.Processes() {
		fmt.Fprintf(&b, "=== %s (%s)\n%s\n", p.Name, p.LogFile, p.LogTail(lines))
	}
	return b.String()
}
