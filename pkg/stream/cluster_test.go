package stream_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
)

const appEnv = "ZNS_STREAM_TEST_APP"

func TestMain(m *testing.M) {
	if config := os.Getenv(appEnv); config != "" {
		os.Exit(runApp(config))
	}
	flag.Parse()
	flag.Set("test.parallel", "6") // these tests wait more than they compute
	os.Exit(m.Run())
}

// ledgerSettings are those that the guard wants.
var ledgerSettings = []string{
	"cleanup.policy=compact", "retention.ms=-1", "segment.ms=3600000", "segment.bytes=67108864",
	"min.cleanable.dirty.ratio=0.1", "max.compaction.lag.ms=86400000", "message.timestamp.type=LogAppendTime",
	"unclean.leader.election.enable=false",
}

// world is one test's topics, provider and processes.
type world struct {
	t        *testing.T
	server   *kafkatest.Server
	cfg      appConfig
	client   *kgo.Client
	adm      *kadm.Client
	provider *provider
	members  []*member
}

// newWorld makes topics of n partitions with their ledger.
func newWorld(t *testing.T, server *kafkatest.Server, n int32) *world {
	t.Helper()
	w := &world{t: t, server: server, client: server.Client(t, kgo.MetadataMinAge(50*time.Millisecond),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))}
	w.adm = kadm.NewClient(w.client)
	w.provider = newProvider(t)
	w.cfg = appConfig{
		Brokers: server.Addr, Group: kafkatest.Name("outbox"), Input: server.Topic(t, "in", n),
		Ledger: server.Topic(t, "ledger", n, ledgerSettings...), Sent: server.Topic(t, "sent", n),
		DLQ: server.Topic(t, "dlq", 1), Provider: w.provider.URL, MaxInFlight: 16, LaunchWithin: 4 * time.Second,
		Protocol: os.Getenv("ZNS_TEST_GROUP_PROTOCOL"),
	}
	return w
}

// member is one process of the app.
type member struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	dir  string
	done chan struct{}
	err  error
}

// start runs a process; change may alter its configuration.
func (w *world) start(name string, change ...func(*appConfig)) *member {
	w.t.Helper()
	cfg := w.cfg
	cfg.Name = name
	for _, f := range change {
		f(&cfg)
	}
	b, err := json.Marshal(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	m := &member{t: w.t, name: name, dir: w.t.TempDir(), done: make(chan struct{})}
	stdout, err := os.Create(filepath.Join(m.dir, "out"))
	if err != nil {
		w.t.Fatal(err)
	}
	stderr, err := os.Create(filepath.Join(m.dir, "err"))
	if err != nil {
		w.t.Fatal(err)
	}
	m.cmd = exec.Command(os.Args[0])
	m.cmd.Env = append(os.Environ(), appEnv+"="+string(b))
	m.cmd.Stdout, m.cmd.Stderr = stdout, stderr
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		m.err = m.cmd.Wait()
		stdout.Close()
		stderr.Close()
		close(m.done)
	}()
	w.members = append(w.members, m)
	w.t.Cleanup(func() {
		m.signal(syscall.SIGKILL)
		m.signal(syscall.SIGCONT)
		<-m.done
		if w.t.Failed() {
			b, _ := os.ReadFile(filepath.Join(m.dir, "err"))
			lines := strings.Split(string(b), "\n")
			w.t.Logf("end of the log of %s:\n%s", m.name, strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
	})
	return m
}

func (m *member) signal(s syscall.Signal) {
	select {
	case <-m.done:
	default:
		_ = m.cmd.Process.Signal(s)
	}
}

// stop is SIGTERM, and waits for a clean end.
func (m *member) stop() {
	m.t.Helper()
	m.signal(syscall.SIGTERM)
	select {
	case <-m.done:
		if m.err != nil {
			m.t.Errorf("%s did not end cleanly: %v", m.name, m.err)
		}
	case <-time.After(patience * 40 * time.Second):
		m.t.Fatalf("%s did not end", m.name)
	}
}

// errors is what the process has logged so far.
func (m *member) errors() string {
	m.t.Helper()
	b, err := os.ReadFile(filepath.Join(m.dir, "err"))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

// groupSetting sets what the brokers hold about the group.
func (w *world) groupSetting(name, value string) {
	w.t.Helper()
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeGroupConfig, w.cfg.Group
	resource.Configs = []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: name, Value: &value}}
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Resources = append(req.Resources, resource)
	resp, err := req.RequestWith(w.t.Context(), w.client)
	if err == nil {
		err = kerr.ErrorForCode(resp.Resources[0].ErrorCode)
	}
	if err != nil {
		w.t.Fatalf("set %s=%s: %v", name, value, err)
	}
	// The controller has it; the broker learns it a moment later.
	ask := kmsg.NewPtrDescribeConfigsRequest()
	ask.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: resource.ResourceType, ResourceName: w.cfg.Group, ConfigNames: []string{name}}}
	eventually(w.t, 30*time.Second, "the broker knows the setting", func() bool {
		resp, err := ask.RequestWith(w.t.Context(), w.client)
		if err != nil || len(resp.Resources) != 1 || len(resp.Resources[0].Configs) != 1 {
			return false
		}
		known := resp.Resources[0].Configs[0].Value
		return known != nil && *known == value
	})
}

// events are what the process has printed so far.
func (m *member) events() []event {
	f, err := os.Open(filepath.Join(m.dir, "out"))
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	var all []event
	for s := bufio.NewScanner(f); s.Scan(); {
		var e event
		if json.Unmarshal(s.Bytes(), &e) == nil {
			all = append(all, e)
		}
	}
	return all
}

func (m *member) count(name string) (n int) {
	for _, e := range m.events() {
		if e.Event == name {
			n++
		}
	}
	return n
}

// patience is how many times longer than on an idle machine a test may wait: brokers and members share few processors
// with other tests. Promised times are measured and compared by themselves.
const patience = 4

// eventually waits until f is true.
func eventually(t *testing.T, within time.Duration, what string, f func() bool) {
	t.Helper()
	within *= patience
	for deadline := time.Now().Add(within); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// publish writes requests id0…, each to the partition that i modulo their number names.
func (w *world) publish(ids ...string) {
	w.t.Helper()
	var rs []*kgo.Record
	for _, id := range ids {
		rs = append(rs, &kgo.Record{Topic: w.cfg.Input, Partition: partitionOf(id, w.partitions(w.cfg.Ledger)), Key: []byte(id), Value: []byte("body of " + id)})
	}
	w.write(rs...)
}

func (w *world) write(rs ...*kgo.Record) {
	w.t.Helper()
	if err := w.client.ProduceSync(w.t.Context(), rs...).FirstErr(); err != nil {
		w.t.Fatalf("publish: %v", err)
	}
}

func (w *world) partitions(topic string) int32 {
	w.t.Helper()
	d, err := w.adm.ListTopics(w.t.Context(), topic)
	if err != nil || d[topic].Err != nil {
		w.t.Fatalf("partitions of %s: %v %v", topic, err, d[topic].Err)
	}
	return int32(len(d[topic].Partitions))
}

// partitionOf spreads ids by a number at their end, evenly.
func partitionOf(id string, n int32) int32 {
	var i int32
	fmt.Sscanf(id[strings.LastIndexByte(id, '-')+1:], "%d", &i)
	return i % n
}

// ids makes n names that begin with prefix.
func ids(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return out
}

// read returns what a read-committed consumer sees in a topic now.
func (w *world) read(topic string) []*kgo.Record {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	ends, err := w.adm.ListCommittedOffsets(ctx, topic)
	if err != nil {
		w.t.Fatal(err)
	}
	starts, err := w.adm.ListStartOffsets(ctx, topic)
	if err != nil {
		w.t.Fatal(err)
	}
	left := map[int32]int64{}
	from := map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		if s, _ := starts.Lookup(topic, o.Partition); o.Offset > s.Offset {
			left[o.Partition] = o.Offset
			from[o.Partition] = kgo.NewOffset().At(s.Offset)
		}
	})
	if len(left) == 0 {
		return nil
	}
	cl := w.server.Client(w.t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	defer cl.Close()
	var all []*kgo.Record
	for len(left) > 0 {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			w.t.Fatalf("read %s: %v", topic, err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
			if !r.Attrs.IsControl() {
				all = append(all, r)
			}
		})
	}
	return all
}

// provider stands for the outside world: it takes what it is given and remembers it.
type provider struct {
	*httptest.Server
	mu    sync.Mutex
	taken map[string]int
	times []callTime
	late  []string // calls that came after their launch deadline
	delay time.Duration
}

// callTime is when the provider was asked for id.
type callTime struct {
	id string
	at time.Time
}

func newProvider(t *testing.T) *provider {
	p := &provider{taken: map[string]int{}}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Id")
		deadline, err := time.Parse(time.RFC3339Nano, r.Header.Get("X-Deadline"))
		p.mu.Lock()
		p.taken[id]++
		p.times = append(p.times, callTime{id, time.Now()})
		// A pause between the check and the write itself remains; the tests stop processes at known steps only.
		if err != nil || time.Now().After(deadline.Add(time.Second)) {
			p.late = append(p.late, id)
		}
		delay := p.delay
		p.mu.Unlock()
		time.Sleep(delay)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.taken)
}

// calls is how often the provider was asked for id.
func (p *provider) calls(id string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken[id]
}

func (p *provider) slow(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}
