// Package e2e holds the acceptance of the whole system: a real Apache Kafka, and sender, webhook-ingest and zalo-sim as
// three processes, looked at from outside through foreign clients and the simulator's audit.
//
// The tests run at a fast size; with ZNS_TEST_LONG=1 they run at the size that the guarantees are stated for. Each
// starts a broker of its own, because the topics' names are fixed and because it kills it, and is skipped with its
// reason where that is impossible.
package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
	"github.com/znshub/znshub/proto/topic"
)

// partitions of every topic: as in production.
const partitions = topic.DefaultPartitions

// long reports whether the tests run at full size.
func long() bool { return os.Getenv("ZNS_TEST_LONG") != "" }

// size is fast by default and full when the tests run long.
func size[T any](fast, full T) T {
	if long() {
		return full
	}
	return fast
}

// serial makes phone numbers that no other request of this test binary has.
var serial atomic.Int64

var programs struct {
	sync.Once
	dir string
	err error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if programs.dir != "" {
		os.RemoveAll(programs.dir)
	}
	os.Exit(code)
}

// binaries is the folder with the programs, built once for all tests.
func binaries(t *testing.T) string {
	t.Helper()
	programs.Do(func() {
		if programs.dir, programs.err = os.MkdirTemp("", "znshub-e2e-"); programs.err == nil {
			programs.err = harness.Build(context.Background(), programs.dir, harness.Sender, harness.Ingest, harness.ZaloSim)
		}
	})
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	return programs.dir
}

// installation is a running system with a broker of its own and a consumer of its results.
type installation struct {
	*harness.System
	t       *testing.T
	server  *kafkatest.Server // nil when the broker is not ours to kill
	brokers []string
	results *harness.Collector
	login   []string         // environment of zns, for those who must say who they are
	faults  []harness.Window // in which the simulator was told to answer badly
}

type options struct {
	senders   int // default 1
	senderEnv []string
	ingestEnv []string
	simEnv    []string
	brokers   string // default: a broker of its own
	// program is a package of the repository, or a file in bin, that senders run instead of the sender; kafkaVia leads
	// some of them to the broker through a proxy.
	program, bin string
	kafkaVia     map[string]string
	// session is how long the broker of its own may miss heartbeats to its controller before it is taken for dead: on a
	// busy machine the default of the local broker, 4 s, does that to a living one, and Kafka then forgets the end of
	// transactions under way. After a kill the broker comes back no earlier. Default one minute.
	session time.Duration
}

// install starts the system. When the test ends every program must stop cleanly, none may have ended by itself, no
// record may break the contract, and no log may hold a phone number or a secret.
func install(t *testing.T, opts options) *installation {
	t.Helper()
	in := &installation{t: t}
	if opts.brokers == "" {
		session := opts.session
		if session == 0 {
			session = time.Minute
		}
		in.server = kafkatest.Own(t, local.Options{Heap: "768m", Controller: true, Properties: map[string]string{
			"broker.session.timeout.ms": strconv.FormatInt(session.Milliseconds(), 10),
		}})
		opts.brokers = in.server.Addr
	}
	in.brokers = strings.Split(opts.brokers, ",")
	if err := harness.CreateTopics(in.within(2*time.Minute), in.brokers, partitions); err != nil {
		t.Fatal(err)
	}
	var err error
	bin, program := binaries(t), ""
	if opts.program != "" {
		program = filepath.Base(opts.program)
	}
	if opts.bin != "" {
		in.must(os.CopyFS(opts.bin, os.DirFS(bin)))
		bin = opts.bin
	} else if opts.program != "" {
		in.must(harness.BuildPackage(in.within(5*time.Minute), bin, opts.program))
	}
	if in.System, err = harness.NewSystem(harness.Config{
		Brokers: opts.brokers, Bin: bin, Dir: filepath.Join(t.ArtifactDir(), "system"),
		SenderProgram: program, KafkaVia: opts.kafkaVia,
		SenderEnv: opts.senderEnv, IngestEnv: opts.ingestEnv, SimEnv: opts.simEnv,
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.end)
	if in.results, err = harness.NewCollector(in.brokers); err != nil {
		t.Fatal(err)
	}
	if err := in.Start(in.within(2*time.Minute), max(opts.senders, 1)); err != nil {
		t.Fatal(err)
	}
	return in
}

func (in *installation) end() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if in.t.Failed() {
		in.Autopsy(ctx)
	}
	if err := in.Stop(ctx); err != nil {
		in.t.Errorf("stop: %v", err)
	}
	if in.results != nil {
		in.results.Close()
		if err := in.results.Err(); err != nil {
			in.t.Error(err)
		}
	}
	if err := in.Crashes(); err != nil {
		in.t.Error(err)
	}
	if err := in.Secrets(); err != nil {
		in.t.Error(err)
	}
	if in.t.Failed() {
		in.t.Log(in.Logs(25))
	}
}

// within is a context of the test with a deadline.
func (in *installation) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(in.t.Context(), d)
	in.t.Cleanup(cancel)
	return ctx
}

// wait fails the test when the results do not come to satisfy done in time.
func (in *installation) wait(d time.Duration, what string, done func(harness.Counts) bool) {
	in.t.Helper()
	if err := in.results.Wait(in.within(d), what, done); err != nil {
		in.t.Fatal(err)
	}
}

// calls is the simulator's audit.
func (in *installation) calls() []harness.Call {
	in.t.Helper()
	calls, err := in.Simulator().Calls(in.within(time.Minute))
	if err != nil {
		in.t.Fatal(err)
	}
	return calls
}

// totals are the simulator's sums.
func (in *installation) totals() zalosim.Totals {
	in.t.Helper()
	totals, err := in.Simulator().Totals(in.within(10 * time.Second))
	in.must(err)
	return totals
}

// observe puts together what was published, what the simulator saw and what the results say.
func (in *installation) observe(requests []harness.Request) *harness.Observation {
	in.t.Helper()
	return &harness.Observation{
		Requests:   requests,
		Calls:      in.calls(),
		Sent:       in.results.Events(topic.Sent),
		Failed:     in.results.Events(topic.Failed),
		Unresolved: in.results.Events(topic.Unresolved),
		Delivered:  in.results.Events(topic.Delivered),
		Posts:      in.totals().Requests,
		Kills:      in.Kills(),
		Faults:     in.faults,
	}
}

// check fails the test when an equation is broken, and logs the sums.
func (in *installation) check(what string, requests []harness.Request, want harness.Expect) *harness.Report {
	in.t.Helper()
	report := in.observe(requests).Check(want)
	in.t.Logf("%s: %s", what, report)
	if err := report.Err(); err != nil {
		in.t.Errorf("%s: %v", what, err)
	}
	return report
}

func (in *installation) must(err error) {
	in.t.Helper()
	if err != nil {
		in.t.Fatal(fmt.Errorf("at %s: %w", time.Now().Format(time.TimeOnly), err))
	}
}
