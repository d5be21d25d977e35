package service

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/znshub/znshub/pkg/telemetry"
)

// Service is what a program's parts share. Its methods are safe for concurrent use.
type Service struct {
	Name     string
	Instance string               // INSTANCE_ID, else random; fit for client and transactional ids
	Cluster  string               // ZNS_CLUSTER
	Log      *slog.Logger         // never nil
	Tracer   *telemetry.Tracer    // nil: off
	Registry *prometheus.Registry // never nil

	pprof bool // ADMIN_PPROF

	mu       sync.Mutex // guards what follows
	live     []check
	ready    []check
	stopping bool
	cleanups []cleanup
}

type check struct {
	name string
	ask  func() error
}

type cleanup struct {
	name string
	run  func(context.Context) error
}

// byHostname is the INSTANCE_ID that stands for the name of the machine or container.
const byHostname = "hostname"

// New returns a service with a fresh registry. An empty instance becomes a random one, "hostname" the machine's or
// container's name; a nil log discards.
func New(name, instance, cluster string, log *slog.Logger, tracer *telemetry.Tracer) *Service {
	if instance == byHostname {
		instance, _ = os.Hostname() // without a name a random one serves
	}
	if instance == "" {
		instance = strings.ToLower(rand.Text()[:10])
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Service{Name: name, Instance: instance, Cluster: cluster, Log: log, Tracer: tracer, Registry: prometheus.NewRegistry()}
}

// Ready adds a check to /readyz. The check returns nil or the reason why the service is not ready, without personal data;
// it is called for every request to /readyz, so it answers at once from what is known already.
func (s *Service) Ready(name string, ask func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = append(s.ready, check{name, ask})
}

// Live adds a check to /livez: one that fails only when nothing but a restart helps.
func (s *Service) Live(name string, ask func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = append(s.live, check{name, ask})
}

// Defer registers a cleanup, to run after the program's Run returned. The last one runs first.
func (s *Service) Defer(name string, run func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, cleanup{name, run})
}

// Stopping makes the service not ready, for good.
func (s *Service) Stopping() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
}

// Close runs the cleanups, last one first, all of them under ctx, and joins their errors.
func (s *Service) Close(ctx context.Context) error {
	s.Stopping()
	s.mu.Lock()
	cleanups := s.cleanups
	s.cleanups = nil
	s.mu.Unlock()

	var errs []error
	for _, c := range slices.Backward(cleanups) {
		if err := c.run(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.name, err))
		}
	}
	return errors.Join(errs...)
}

// notReady returns the reasons, one for each failing check.
func (s *Service) notReady() []string {
	s.mu.Lock()
	checks, stopping := slices.Clone(s.ready), s.stopping
	s.mu.Unlock()
	reasons := failing(checks)
	if stopping {
		reasons = append([]string{"service: stopping"}, reasons...)
	}
	return reasons
}

func (s *Service) notLive() []string {
	s.mu.Lock()
	checks := slices.Clone(s.live)
	s.mu.Unlock()
	return failing(checks)
}

// failing asks without holding the lock: a check may take a lock under which Ready is called.
func failing(checks []check) (reasons []string) {
	for _, c := range checks {
		if err := c.ask(); err != nil {
			reasons = append(reasons, c.name+": "+strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
	return reasons
}

// collectProcess adds the metrics of the process: once in a process, not in every service of it.
func (s *Service) collectProcess() {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "znshub_build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"service": s.Name, "version": Version()},
	})
	info.Set(1)
	s.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), info)
}

// version is set by the linker where images are built: there is no repository to read it from.
var version string

// Version returns the version of the program: that given to the linker, else the module's, else the commit, else
// "devel".
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	var commit, dirty string
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			commit = setting.Value[:min(12, len(setting.Value))]
		case "vcs.modified":
			if setting.Value == "true" {
				dirty = "+changes"
			}
		}
	}
	if commit == "" {
		return "devel"
	}
	return commit + dirty
}
