// Package kafkatest gives tests a Kafka broker: a real one wherever that is possible.
//
// Broker returns the one that all tests of a test binary share; it takes the first of
//
//  1. KAFKA_BROKERS: the cluster that it names (deploy/e2e sets it to a broker in Docker, "make test" to a local one
//     that all test binaries share),
//  2. an Apache Kafka that it starts on this machine from Maven Central, when java and mvn are here (package local),
//  3. kfake, a fake in this process: no compaction, takeover or durability can be tested on it.
//
// ZNS_TEST_BROKER=local or =kfake forces the second or third. The choice is printed once, to standard error.
//
// Own starts a broker for one test, which may kill, pause and restart it. Both end with the test binary, however it
// ends. Tests share a cluster with other tests and perhaps with other programs: they use Name and Topic for names of
// their own and assume nothing about the rest.
package kafkatest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
)

// Environment variables that choose the broker. DescribeEnv hands the description of the broker in KAFKA_BROKERS from
// the program that started it to the tests.
const (
	BrokersEnv  = "KAFKA_BROKERS"
	ChoiceEnv   = "ZNS_TEST_BROKER"
	DescribeEnv = "ZNS_TEST_BROKER_DESCRIPTION"
)

// startTimeout bounds fetching and starting a local broker.
const startTimeout = 6 * time.Minute

// Server is a broker for tests.
type Server struct {
	// Addr is host:port, or several with commas, as KAFKA_BROKERS takes it.
	Addr string

	describe string
	real     bool
	local    *local.Broker // nil unless this process started it
}

// Real reports whether this is Apache Kafka and not kfake.
func (s *Server) Real() bool { return s.real }

// Describe names the broker and its version for people: "Apache Kafka 4.3.1 (local, from Maven)".
func (s *Server) Describe() string { return s.describe }

// Brokers is Addr as a list.
func (s *Server) Brokers() []string { return strings.Split(s.Addr, ",") }

var shared struct {
	sync.Once
	server *Server
	err    error
}

// Broker returns the broker that the tests of this binary share, starting it at the first call.
func Broker(tb testing.TB) *Server {
	tb.Helper()
	shared.Do(func() {
		shared.server, shared.err = choose()
		if shared.err == nil {
			fmt.Fprintln(os.Stderr, "kafkatest: broker", shared.server.Describe())
		}
	})
	if shared.err != nil {
		tb.Fatalf("no broker: %v", shared.err)
	}
	return shared.server
}

// Real returns Broker and skips the test, saying why, when that is a fake. what names what a fake cannot do.
func Real(tb testing.TB, what string) *Server {
	tb.Helper()
	s := Broker(tb)
	if !s.real {
		tb.Skipf("%s needs a real Kafka; this is %s", what, s.describe)
	}
	return s
}

func choose() (*Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	switch choice := os.Getenv(ChoiceEnv); choice {
	case "kfake":
		return startFake(ChoiceEnv + "=kfake")
	case "local":
		return startLocal(ctx, local.Options{})
	case "":
	default:
		return nil, fmt.Errorf("%s=%q: want local or kfake", ChoiceEnv, choice)
	}
	if addr := os.Getenv(BrokersEnv); addr != "" {
		return Given(ctx, addr)
	}
	err := local.Available()
	if err == nil {
		var s *Server
		if s, err = startLocal(ctx, local.Options{}); err == nil {
			return s, nil
		}
	}
	return startFake(err.Error())
}

func startLocal(ctx context.Context, opts local.Options) (*Server, error) {
	b, err := local.Start(ctx, opts)
	if err != nil {
		return nil, err
	}
	return &Server{Addr: b.Addr(), describe: LocalDescription(), real: true, local: b}, nil
}

// LocalDescription is what Describe says of a local broker.
func LocalDescription() string { return "Apache Kafka " + local.Version + " (local, from Maven)" }

// Given describes a cluster that somebody else runs, at addr as KAFKA_BROKERS takes it. It fails when none answers.
func Given(ctx context.Context, addr string) (*Server, error) {
	s := &Server{Addr: addr, real: true}
	client, err := kgo.NewClient(kgo.SeedBrokers(s.Brokers()...))
	if err != nil {
		return nil, fmt.Errorf("%s=%s: %w", BrokersEnv, addr, err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	admin := kadm.NewClient(client)
	meta, err := admin.BrokerMetadata(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s=%s does not answer: %w", BrokersEnv, addr, err)
	}
	// kfake answers like a Kafka; its cluster id tells it.
	s.real = meta.Cluster != fakeClusterID && meta.Cluster != "kfake"
	if s.describe = os.Getenv(DescribeEnv); s.describe != "" {
		return s, nil
	}
	version := "unknown version"
	if versions, err := admin.ApiVersions(ctx); err == nil {
		for _, v := range versions.Sorted() {
			version = v.VersionGuess()
		}
	}
	s.describe = fmt.Sprintf("Kafka %s (%s=%s)", version, BrokersEnv, addr)
	return s, nil
}

// Own starts a local Apache Kafka for this test alone and ends it with the test. It skips the test, saying why, where
// that is impossible: also when KAFKA_BROKERS names a cluster, because that one is not to be killed.
func Own(tb testing.TB, opts local.Options) *Server {
	tb.Helper()
	if os.Getenv(ChoiceEnv) == "kfake" {
		tb.Skipf("needs a broker of its own to kill; %s=kfake forbids it", ChoiceEnv)
	}
	if err := local.Available(); err != nil {
		tb.Skipf("needs a broker of its own to kill: %v", err)
	}
	// A test that loads its broker gives it a heap of its own; the others wait for starts more than for anything else.
	if opts.Heap == "" {
		opts.QuickStart = true
	}
	return startOwn(tb, opts)
}

// Beside starts a further broker in the cluster of Own for the same test, which may kill it.
func (s *Server) Beside(tb testing.TB) *Server {
	tb.Helper()
	return startOwn(tb, local.Options{QuickStart: true, Beside: s.local})
}

func startOwn(tb testing.TB, opts local.Options) *Server {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	s, err := startLocal(ctx, opts)
	if err != nil {
		tb.Fatalf("start a broker: %v", err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			text, _ := os.ReadFile(s.local.LogFile())
			lines := strings.Split(string(text), "\n")
			tb.Logf("end of the broker's log:\n%s", strings.Join(lines[max(0, len(lines)-30):], "\n"))
		}
		if err := s.local.Stop(); err != nil {
			tb.Errorf("stop the broker: %v", err)
		}
	})
	return s
}

// Node is the id of the broker of Own or Beside in its cluster.
func (s *Server) Node() int32 { return s.local.Node() }

// Log is what the broker of Own has logged so far, over all its lives; empty for any other.
func (s *Server) Log() string {
	if s.local == nil {
		return ""
	}
	text, _ := os.ReadFile(s.local.LogFile())
	return string(text)
}

// ListensFor is where the broker of Own listens for those who come through one of local.Options.Advertise.
func (s *Server) ListensFor(advertised string) string { return s.local.ListensFor(advertised) }

// Kill ends the broker of Own with SIGKILL.
func (s *Server) Kill(tb testing.TB) { s.do(tb, "kill", (*local.Broker).Kill) }

// Terminate shuts the broker of Own down cleanly.
func (s *Server) Terminate(tb testing.TB) { s.do(tb, "terminate", (*local.Broker).Terminate) }

// Restart starts the broker of Own again on the same ports and data and waits until it answers.
func (s *Server) Restart(tb testing.TB) {
	s.do(tb, "restart", func(b *local.Broker) error {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		return b.Restart(ctx)
	})
}

// Pause stops the broker of Own with SIGSTOP: it keeps its connections and answers nothing until Resume.
func (s *Server) Pause(tb testing.TB) { s.do(tb, "pause", (*local.Broker).Pause) }

// Resume continues a paused broker.
func (s *Server) Resume(tb testing.TB) { s.do(tb, "resume", (*local.Broker).Resume) }

func (s *Server) do(tb testing.TB, what string, f func(*local.Broker) error) {
	tb.Helper()
	if s.local == nil || s == shared.server {
		tb.Fatalf("%s: this broker is shared; use kafkatest.Own", what)
	}
	if err := f(s.local); err != nil {
		tb.Fatalf("%s the broker: %v", what, err)
	}
}
