package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/lmittmann/tint"
	"go.opentelemetry.io/otel"

	"github.com/znshub/znshub/pkg/config"
	"github.com/znshub/znshub/pkg/telemetry"
)

// Exit codes of Main.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // command line or settings
)

// Config has the settings that every program has.
type Config struct {
	LogLevel        slog.Level    `env:"LOG_LEVEL" envDefault:"INFO" help:"least level that is logged: DEBUG, INFO, WARN, ERROR"`
	LogFormat       LogFormat     `env:"LOG_FORMAT" envDefault:"auto" help:"json, text, or auto: text on a terminal"`
	AdminAddr       string        `env:"ADMIN_ADDR" envDefault:":8081" help:"address of /livez, /readyz and /metrics; off: none"`
	AdminPprof      bool          `env:"ADMIN_PPROF" envDefault:"false" help:"serve Go profiles at /debug/pprof/ of ADMIN_ADDR"`
	InstanceID      string        `env:"INSTANCE_ID" example:"sender-0" help:"name of this process, in no other living one: the pod's name; hostname: that of the machine or container; default: random"`
	Cluster         string        `env:"ZNS_CLUSTER" envDefault:"default" help:"name of this installation, in ce_source and in the key of tracking_id; another one for staging on the same OA"`
	ShutdownTimeout time.Duration `env:"SHUTDOWN_TIMEOUT" envDefault:"10s" help:"for what is cleaned up after the work was drained"`
}

// LogFormat is a value of LOG_FORMAT.
type LogFormat string

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *LogFormat) UnmarshalText(text []byte) error {
	switch v := LogFormat(strings.ToLower(string(text))); v {
	case "auto", "json", "text":
		*f = v
		return nil
	}
	return errors.New("not one of auto, json, text")
}

// Program is what Main runs.
type Program struct {
	Name     string
	Help     string // for --help: what it does, without its settings
	Settings []any  // pointers to config structs, filled before Run
	Run      func(ctx context.Context, s *Service) error
}

// Main runs the program as the package comment says and returns its exit code.
func Main(p Program) int {
	return run(p, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
}

func run(p Program, args, environ []string, stdout io.Writer, stderr *os.File) int {
	var cfg Config
	settings := append([]any{&cfg}, p.Settings...)
	if len(args) > 0 {
		switch args[0] {
		case "-h", "--help", "help":
			usage(stdout, p, settings)
			return exitOK
		case "--version", "version":
			fmt.Fprintf(stdout, "%s %s\n", p.Name, Version())
			return exitOK
		case "--check":
			return checkRunning(strings.Join(args[1:], " "), environ, stdout, stderr)
		}
		fmt.Fprintf(stderr, "%s: unknown argument %q; settings are environment variables, see %s --help\n", p.Name, args[0], p.Name)
		return exitUsage
	}
	loaded, err := config.LoadFrom(environ, settings...)
	if err != nil {
		fmt.Fprintf(stderr, "%s cannot start:\n%v\n", p.Name, err)
		return exitUsage
	}
	s := New(p.Name, cfg.InstanceID, cfg.Cluster, nil, nil)
	s.pprof = cfg.AdminPprof
	s.Log = NewLogger(stderr, cfg.LogFormat, cfg.LogLevel).With("service", p.Name, "instance", s.Instance)
	for _, warning := range loaded.Warnings {
		s.Log.Warn("unknown setting", "problem", warning)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() {
		stop() // from here on a signal has its default effect: it kills
		s.Stopping()
	})
	if err := start(ctx, s, cfg, p); err != nil {
		s.Log.Error("stopped", "error", err)
		return exitFailed
	}
	return exitOK
}

// start runs the program between the signal context and the exit code.
func start(ctx context.Context, s *Service, cfg Config, p Program) (err error) {
	s.collectProcess()
	defer func() {
		cleanupCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.ShutdownTimeout)
		defer cancel()
		if cleanupErr := s.Close(cleanupCtx); cleanupErr != nil {
			err = errors.Join(err, fmt.Errorf("clean up: %w", cleanupErr))
		}
	}()

	if cfg.AdminAddr != "" && cfg.AdminAddr != "off" {
		addr, stopAdmin, err := s.ServeAdmin(ctx, cfg.AdminAddr)
		if err != nil {
			return err
		}
		s.Defer("admin server", stopAdmin)
		s.Log.Info("admin server listens", "addr", addr.String())
	}
	tracer, stopTracer, err := telemetry.Setup(ctx, telemetry.Service{Name: s.Name, Version: Version(), Instance: s.Instance, Cluster: s.Cluster})
	if err != nil {
		return err
	}
	s.Tracer = tracer
	s.Defer("traces", stopTracer)
	otel.SetErrorHandler(onceAMinute(s.Log))

	s.Log.Info("started", "version", Version(), "cluster", s.Cluster, "traces", tracer.Enabled())
	err = p.Run(ctx, s)
	if ctx.Err() != nil && onlyCanceled(err) {
		err = nil // that is how it was asked to stop
	}
	if err == nil {
		s.Log.Info("stopped", "cause", cause(ctx))
	}
	return err
}

// onlyCanceled reports whether err is a cancelled context's, however wrapped, and not joined with another.
func onlyCanceled(err error) bool {
	for err != nil && err != context.Canceled { //nolint:errorlint // errors.Is would look into joined errors
		err = errors.Unwrap(err)
	}
	return err != nil
}

func cause(ctx context.Context) string {
	if ctx.Err() == nil {
		return "done"
	}
	return context.Cause(ctx).Error()
}

// NewLogger returns a logger that writes JSON or text to w; auto is text when w is a terminal.
func NewLogger(w *os.File, format LogFormat, level slog.Level) *slog.Logger {
	info, err := w.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	if format == "text" || format == "auto" && terminal {
		return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: time.TimeOnly + ".000", NoColor: !terminal || os.Getenv("NO_COLOR") != ""}))
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}

// onceAMinute logs the trace exporter's errors: a collector that is away makes one every few seconds.
func onceAMinute(log *slog.Logger) otel.ErrorHandlerFunc {
	var last atomic.Int64
	return func(err error) {
		now, before := time.Now().UnixNano(), last.Load()
		if now-before >= int64(time.Minute) && last.CompareAndSwap(before, now) {
			log.Warn("traces are not exported", "error", err)
		}
	}
}

func usage(w io.Writer, p Program, settings []any) {
	fmt.Fprintf(w, "%s\n\nUsage: %s [--help | --version | --check livez | --check readyz]\n\nSettings, as environment variables (of a secret also NAME_FILE, a file that holds it; ZNS_CONFIG names a YAML file):\n\n", strings.TrimSpace(p.Help), p.Name)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range config.Describe(settings...) {
		def := s.Default
		if s.Secret {
			def = "(secret)"
		}
		fmt.Fprintf(tw, "  %s\t%s\t%s\n", s.Name, def, s.Help)
	}
	_ = tw.Flush()
	fmt.Fprint(w, "\nTraces follow the standard OTEL_ variables, for example OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318.\n")
}
