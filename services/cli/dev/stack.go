// Package dev runs a whole hub in this process: a broker (or somebody's), the Zalo simulator, webhook-ingest and the
// sender, wired to each other. zns dev and zns demo are made of it.
package dev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/pkg/telemetry"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/ingest/webhook"
)

// Config says what a Stack is made of.
type Config struct {
	Kafka   *kafka.Config // somebody's cluster; nil: a fake in this process
	Force   bool          // use that cluster although it holds records that no zns dev or demo made
	Data    string        // folder that keeps the fake's topics and the spool; empty: nothing is kept
	Environ []string      // settings for the programs; those of Zalo and the addresses are the Stack's
	Sim     zalosim.Config
	Sender  bool // run a sender in this process
	// FixedPorts asks for the usual ports (broker 9092, simulator 9090, webhook 8080, admin 8081 and 8082); where one is
	// taken a free one is used. Without it all are free ones.
	FixedPorts bool
	Log        *slog.Logger // nil: discarded
}

// Stack is a running hub. Close it.
type Stack struct {
	Brokers     []string
	Describe    string // what the broker is, for people
	Real        bool   // it is not the fake
	Sim         *zalosim.Sim
	SimURL      string
	WebhookURL  string
	SenderAdmin string // address of /readyz and /metrics; empty without a sender
	IngestAdmin string
	Environ     []string // the settings with which a sender belongs to this Stack
	KafkaConfig kafka.Config

	cfg     Config
	group   *group
	broker  *Broker
	servers []*http.Server
	spool   string // to remove; empty: kept
}

// marker is a topic that says: this cluster is for trying things out. It is created on a cluster that was empty.
const marker = "zns.dev"

// Start starts everything and returns once it works. When it fails nothing is left running.
func Start(ctx context.Context, cfg Config) (_ *Stack, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Stack{cfg: cfg, group: newGroup()}
	defer func() {
		if err != nil {
			closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
			defer cancel()
			err = errors.Join(err, s.Close(closeCtx))
		}
	}()
	steps := []struct {
		name string
		run  func(context.Context) error
	}{
		{"broker", s.startBroker}, {"topics", s.ensureTopics}, {"simulator and webhook-ingest", s.startEdge},
	}
	if cfg.Sender {
		steps = append(steps, struct {
			name string
			run  func(context.Context) error
		}{"sender", s.startSender})
	}
	for _, step := range steps {
		if err := step.run(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return s, nil
}

// stopTimeout bounds an orderly end: calls under way, and what they brought.
const stopTimeout = 30 * time.Second

func (s *Stack) startBroker(context.Context) error {
	if s.cfg.Kafka != nil {
		s.Brokers, s.Real, s.KafkaConfig = s.cfg.Kafka.Brokers, true, *s.cfg.Kafka
		return nil
	}
	port := 0
	if s.cfg.FixedPorts {
		port = 9092
	}
	broker, err := StartBroker(port, s.cfg.Data)
	if err != nil {
		return err
	}
	s.broker, s.Brokers = broker, []string{broker.Addr}
	s.KafkaConfig = kafka.Config{Brokers: s.Brokers, ClientID: "zns-dev"}
	return nil
}

// ensureTopics creates the topics, unless the cluster is somebody's in earnest: the sender of a Stack would hand its
// waiting requests to the simulator.
func (s *Stack) ensureTopics(ctx context.Context) error {
	opts, err := s.KafkaConfig.Options()
	if err != nil {
		return err
	}
	admin, err := kafka.NewAdmin(opts...)
	if err != nil {
		return err
	}
	defer admin.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s.Describe = "kfake in this process (a fake; KAFKA_BROKERS=host:9092 uses yours)"
	if s.cfg.Data != "" {
		s.Describe = "kfake in this process, kept in " + s.cfg.Data + " (a fake; KAFKA_BROKERS=host:9092 uses yours)"
	}
	if s.Real {
		info, err := admin.Broker(ctx)
		if err != nil {
			return err
		}
		s.Describe = fmt.Sprintf("Kafka %s at %s", strings.TrimPrefix(info.Version, "v"), strings.Join(s.Brokers, ","))
		if err := admin.RequireTransactions(ctx); err != nil {
			return err
		}
		if err := s.mayUse(ctx, admin); err != nil {
			return err
		}
	}
	specs := append(topic.Table(), topic.Spec{Name: marker, Policy: topic.Delete, Retention: time.Hour})
	partitions := int32(0)
	if found, err := admin.Topics(ctx, topic.Sent); err != nil {
		return err
	} else if info, ok := found[topic.Sent]; ok {
		partitions = info.Partitions
	}
	if _, err := admin.Ensure(ctx, specs, partitions, 0); err != nil {
		return err
	}
	problems, err := admin.Check(ctx, topic.Table())
	if err != nil {
		return err
	}
	var refused []error
	for _, p := range problems {
		if !p.Warning {
			refused = append(refused, errors.New(p.String()))
		}
	}
	return errors.Join(refused...)
}

// ErrInUse is wrapped by Start's error for a cluster that seems to serve in earnest.
var ErrInUse = errors.New("this Kafka seems to serve a hub in earnest")

// mayUse refuses a cluster on which a hub works, or that holds records that are not a Stack's.
func (s *Stack) mayUse(ctx context.Context, admin *kafka.Admin) error {
	for _, name := range []string{"zns-sender", "zns-ingest"} {
		g, err := admin.Group(ctx, name)
		if err != nil {
			return err
		}
		if len(g.Members) > 0 {
			return fmt.Errorf("%w: members of group %s: %d; they and the simulator's sender would share the requests", ErrInUse, name, len(g.Members))
		}
	}
	found, err := admin.Topics(ctx, topic.Requested, topic.RequestedLedger, marker)
	if err != nil {
		return err
	}
	if _, marked := found[marker]; marked || s.cfg.Force {
		return nil
	}
	for _, name := range []string{topic.Requested, topic.RequestedLedger} {
		if _, ok := found[name]; !ok {
			continue
		}
		ends, err := admin.EndOffsets(ctx, name)
		if err != nil {
			return err
		}
		for _, end := range ends {
			if end > 0 {
				return fmt.Errorf("%w: %s holds records that neither zns dev nor zns demo wrote; what waits there would go to the simulator", ErrInUse, name)
			}
		}
	}
	return nil
}

// service is one program's surroundings: its name in logs, metrics and, where OTEL_ variables ask for them, traces.
func (s *Stack) service(ctx context.Context, name string, common service.Config) (*service.Service, error) {
	svc := service.New(name, common.InstanceID, common.Cluster, s.cfg.Log.With("service", name), nil)
	tracer, flush, err := telemetry.Setup(ctx, telemetry.Service{Name: name, Version: service.Version(), Instance: svc.Instance, Cluster: common.Cluster})
	if err != nil {
		return nil, err
	}
	svc.Tracer = tracer
	svc.Defer("traces", flush)
	return svc, nil
}

// startEdge starts the simulator and webhook-ingest, which must know each other's addresses.
func (s *Stack) startEdge(ctx context.Context) error {
	webhookListener, err := s.listen(ctx, 8080)
	if err != nil {
		return err
	}
	s.WebhookURL = "http://" + webhookListener.Addr().String() + webhook.Path
	if err := s.startSim(ctx); err != nil {
		return errors.Join(err, webhookListener.Close())
	}
	spool, err := s.spoolDir()
	if err != nil {
		return errors.Join(err, webhookListener.Close())
	}
	s.Environ = append(Without(s.cfg.Environ, "ZALO_", "KAFKA_", "INSTANCE_ID=", "ZNS_CONFIG=", "ADMIN_ADDR="), kafkaVariables(s.KafkaConfig)...)
	s.Environ = append(s.Environ,
		"ZALO_API_URL="+s.SimURL, "ZALO_APP_ID="+zalosim.DefaultAppID, "ZALO_OA_ID="+zalosim.DefaultOAID,
		"ZALO_OA_SECRET="+zalosim.DefaultOASecret, "ZALO_ACCESS_TOKEN="+zalosim.DefaultAccessToken, "INGEST_SPOOL_DIR="+spool)
	return s.startIngest(ctx, webhookListener)
}

func (s *Stack) startSim(ctx context.Context) (err error) {
	cfg := s.cfg.Sim
	cfg.CallbackURL, cfg.Logger = s.WebhookURL, s.cfg.Log.With("service", "zalo-sim")
	if s.Sim, err = zalosim.New(cfg); err != nil {
		return err
	}
	ln, err := s.listen(ctx, 9090)
	if err != nil {
		return err
	}
	s.SimURL = "http://" + ln.Addr().String()
	server := &http.Server{Handler: s.Sim, ReadHeaderTimeout: 10 * time.Second}
	s.servers = append(s.servers, server)
	go func() { _ = server.Serve(ln) }() // ends with Close
	return nil
}

func (s *Stack) spoolDir() (string, error) {
	if s.cfg.Data != "" {
		return filepath.Join(s.cfg.Data, "spool"), nil
	}
	dir, err := os.MkdirTemp("", "zns-spool-")
	s.spool = dir
	return dir, err
}

// listen listens on 127.0.0.1, on the usual port when that is asked for and free.
func (s *Stack) listen(ctx context.Context, usual int) (net.Listener, error) {
	var lc net.ListenConfig
	if s.cfg.FixedPorts {
		if ln, err := lc.Listen(ctx, "tcp", "127.0.0.1:"+strconv.Itoa(usual)); err == nil {
			return ln, nil
		}
	}
	return lc.Listen(ctx, "tcp", "127.0.0.1:0")
}

// address is where an admin server listens.
func (c *Config) address(usual int) string {
	if c.FixedPorts {
		if ln, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(usual)); err == nil { //nolint:noctx // closed at once
			ln.Close()
			return "127.0.0.1:" + strconv.Itoa(usual)
		}
	}
	return "127.0.0.1:0"
}

// kafkaVariables writes c as the variables that it is read from.
func kafkaVariables(c kafka.Config) []string {
	vars := []string{"KAFKA_BROKERS=" + strings.Join(c.Brokers, ",")}
	for name, value := range map[string]string{
		"KAFKA_TLS_CA": c.TLSCA, "KAFKA_TLS_CERT": c.TLSCert, "KAFKA_TLS_KEY": c.TLSKey, "KAFKA_TLS_SERVER_NAME": c.TLSServerName,
		"KAFKA_SASL_MECHANISM": c.SASLMechanism, "KAFKA_SASL_USERNAME": c.SASLUsername, "KAFKA_SASL_PASSWORD": c.SASLPassword,
	} {
		if value != "" {
			vars = append(vars, name+"="+value)
		}
	}
	if c.TLS {
		vars = append(vars, "KAFKA_TLS=true")
	}
	if c.TLSInsecure {
		vars = append(vars, "KAFKA_TLS_INSECURE=true")
	}
	return vars
}

// Failed receives the error of a program that ended by itself.
func (s *Stack) Failed() <-chan error { return s.group.failed }

// Close stops everything in an orderly way: the sender finishes the calls under way, webhook-ingest empties its spool.
func (s *Stack) Close(ctx context.Context) error {
	errs := []error{s.group.close(ctx)}
	if s.Sim != nil {
		s.Sim.Close()
	}
	for _, server := range s.servers {
		errs = append(errs, server.Close())
	}
	if s.broker != nil {
		s.broker.Close()
	}
	if s.spool != "" {
		errs = append(errs, os.RemoveAll(s.spool))
	}
	return errors.Join(errs...)
}
