package ingest

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/pkg/trackingid"
	"github.com/znshub/znshub/pkg/zalo"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/ingest/raw"
)

const (
	testApp     = "2074138120372622546"
	testOA      = "2893352839501541173"
	testSecret  = "oa-secret-key"
	testCluster = "test"
	processEnv  = "INGEST_TEST_PROCESS"
)

// TestMain lets the test binary play the process that is killed.
func TestMain(m *testing.M) {
	if text := os.Getenv(processEnv); text != "" {
		os.Exit(runProcess(text))
	}
	os.Exit(m.Run())
}

// world is one test's topics on a broker.
type world struct {
	tb     testing.TB
	server *kafkatest.Server
	topics Topics
	group  string
	writer *kafka.Writer

	partitions int32
	requests   string // an input topic of requests, for tests that need one
}

func newWorld(tb testing.TB, server *kafkatest.Server, partitions int32) *world {
	tb.Helper()
	id := kafkatest.Name("t")
	w := &world{tb: tb, server: server, partitions: partitions, group: id + "-group", topics: Topics{
		Callback: id + ".callback", Ledger: id + ".callback.ledger", Delivered: id + ".delivered", Overdue: id + ".overdue", Status: id + ".status",
		Sent: id + ".sent", Failed: id + ".failed", Unresolved: id + ".unresolved", Template: id + ".template", Quota: id + ".quota",
	}}
	admin, err := kafka.NewAdmin(w.client()...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(admin.Close)
	specs := (&Ingest{cfg: Config{Topics: w.topics}}).specs()
	if _, err := admin.Ensure(tb.Context(), specs, partitions, 1); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		for _, s := range specs {
			_ = admin.Delete(ctx, s.Name)
		}
	})
	if w.writer, err = kafka.NewWriter(w.client()...); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(w.writer.Close)
	return w
}

func (w *world) client() []kgo.Opt { return []kgo.Opt{kgo.SeedBrokers(w.server.Brokers()...)} }

// config is what one replica gets; every replica has its own directory.
func (w *world) config() Config {
	return Config{
		Kafka:    kafka.Config{Brokers: w.server.Brokers()},
		Addr:     "127.0.0.1:0",
		SpoolDir: filepath.Join(w.tb.TempDir(), "spool"), SpoolSize: 64 << 20, KafkaBudget: 500 * time.Millisecond,
		MaxConcurrent: 256, StopTimeout: 20 * time.Second,
		JoinWait: time.Minute, JoinWindow: 7 * 24 * time.Hour, Foreign: "count", Group: w.group,
		AppID: testApp, OASecret: testSecret, Topics: w.topics,
	}
}

// replica is a running webhook-ingest.
type replica struct {
	tb       testing.TB
	url      string
	ingest   *Ingest
	registry *prometheus.Registry
	stop     func() error // waits for the end of Run
}

// startWith runs a replica with the given extras in this process.
func (w *world) startWith(extras Extras) *replica {
	w.tb.Helper()
	return w.startReplica(w.config(), extras)
}

// start runs a replica in this process.
func (w *world) start(cfg Config, change ...func(*service.Service)) *replica {
	w.tb.Helper()
	return w.startReplica(cfg, Extras{}, change...)
}

func (w *world) startReplica(cfg Config, extras Extras, change ...func(*service.Service)) *replica {
	w.tb.Helper()
	log := slog.New(slog.NewTextHandler(w.tb.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	svc := service.New("webhook-ingest", kafkatest.Name("replica"), testCluster, log, nil)
	for _, f := range change {
		f(svc)
	}
	r := &replica{tb: w.tb, registry: svc.Registry}
	var err error
	if r.ingest, err = New(svc, cfg, extras); err != nil {
		w.tb.Fatal(err)
	}
	r.url = "http://" + r.ingest.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.ingest.Run(ctx) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	w.tb.Cleanup(func() {
		if err := r.stop(); err != nil {
			w.tb.Errorf("run: %v", err)
		}
	})
	return r
}

// count returns the value of a counter or gauge whose labels contain the given values.
func (r *replica) count(name string, labels ...string) float64 {
	families, err := r.registry.Gather()
	if err != nil {
		r.tb.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != "znshub_ingest_"+name {
			continue
		}
	metrics:
		for _, m := range f.GetMetric() {
			for _, want := range labels {
				found := false
				for _, l := range m.GetLabel() {
					found = found || l.GetValue() == want
				}
				if !found {
					continue metrics
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// processConfig is the Config of a replica in a process of its own.
func (w *world) process(cfg Config) *process {
	w.tb.Helper()
	var text bytes.Buffer
	if err := gob.NewEncoder(hex.NewEncoder(&text)).Encode(cfg); err != nil {
		w.tb.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), processEnv+"="+text.String())
	cmd.Stderr = w.tb.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.tb.Fatal(err)
	}
	var addr string
	if _, err := fmt.Fscanln(out, &addr); err != nil {
		w.tb.Fatalf("the process did not listen: %v", err)
	}
	p := &process{cmd: cmd, url: "http://" + addr}
	w.tb.Cleanup(p.kill)
	return p
}

type process struct {
	cmd *exec.Cmd
	url string
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func runProcess(text string) int {
	var cfg Config
	if err := gob.NewDecoder(hex.NewDecoder(strings.NewReader(text))).Decode(&cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	// The same name for every process on one directory, as a pod has it.
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	g, err := New(service.New("webhook-ingest", raw.Hash([]byte(cfg.SpoolDir)), testCluster, log, nil), cfg, Extras{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(g.Addr())
	if err := g.Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// message is one notification and its send.
type message struct {
	id      uuid.UUID
	attempt int32
	msgID   string
}

func newMessage() message {
	id := uuid.New()
	return message{id: id, attempt: 1, msgID: fmt.Sprintf("%x", id[:10])}
}

func (m message) trackingID() string {
	return trackingid.Encode(testCluster, m.id, trace.TraceID(m.id), true, m.attempt)
}

// callback is the body of the delivery callback.
func (m message) callback() []byte {
	return fmt.Appendf(nil, `{"sender":{"id":%q},"recipient":{"id":"84123456789"},"event_name":"user_received_message",`+
		`"message":{"delivery_time":"1787209817000","msg_id":%q,"tracking_id":%q},"app_id":%q,"timestamp":"1787209817225"}`, testOA, m.msgID, m.trackingID(), testApp)
}

// sent publishes zns.sent as sender does.
func (w *world) sent(m message) {
	w.tb.Helper()
	w.publish(w.topics.Sent, m, sentEvent(m))
}

// sentAll does it for many.
func (w *world) sentAll(all map[string]message) {
	w.tb.Helper()
	var records []kafka.Record
	for _, m := range all {
		records = append(records, w.record(w.topics.Sent, m, sentEvent(m)))
	}
	w.write(records...)
}

func sentEvent(m message) *znsv1.Sent {
	return &znsv1.Sent{
		EventId: fmt.Sprintf("%s/sent/%d", m.id, m.attempt), NotificationId: m.id.String(), Source: "order-service", OaId: testOA, TemplateId: "7895417", Category: znsv1.Category_CATEGORY_TRANSACTION,
		Channel: znsv1.Channel_CHANNEL_PHONE, Recipient: &znsv1.Recipient{Phone: "+84123456789"}, Attempt: m.attempt, TrackingId: m.trackingID(), MsgId: m.msgID,
		Reference: "INV-1", CustomerId: "C-9", CampaignId: "tet", Labels: map[string]string{"shop": "hcm"},
		SentTime: timestamppb.New(time.UnixMilli(1787209810000)), DeliverBy: timestamppb.New(time.UnixMilli(1787217010000)),
		TraceId: trace.TraceID(m.id).String(), Mode: znsv1.Mode_MODE_LIVE,
	}
}

func (w *world) publish(topic string, m message, event proto.Message) {
	w.tb.Helper()
	w.write(w.record(topic, m, event))
}

func (w *world) record(topic string, m message, event proto.Message) kafka.Record {
	w.tb.Helper()
	r, err := kafka.NewRecord(topic, []byte(m.id.String()), kafka.Event{ID: uuid.NewString(), Source: "/znshub/test/sender", Subject: m.id.String(), Time: time.Now(), Data: event}, "", "")
	if err != nil {
		w.tb.Fatal(err)
	}
	return r
}

func (w *world) write(records ...kafka.Record) {
	w.tb.Helper()
	ctx, cancel := context.WithTimeout(w.tb.Context(), 30*time.Second)
	defer cancel()
	if err := w.writer.Write(ctx, records...); err != nil {
		w.tb.Fatal(err)
	}
}

// poster is Zalo: it resends nothing and forgives nothing.
var poster = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64, DialContext: (&net.Dialer{}).DialContext}}

// post sends a signed body and returns the status; 0 when there was no answer within 2 s.
func post(url string, body []byte, secret string) int {
	req, err := http.NewRequest(http.MethodPost, url+"/webhooks/zalo", bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-ZEvent-Server", "ZNS")
	req.Header.Set(zalo.HeaderSignature, "mac="+zalo.Sign(testApp, secret, "1787209817225", body))
	resp, err := poster.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

func (w *world) mustPost(url string, body []byte) {
	w.tb.Helper()
	if code := post(url, body, testSecret); code != http.StatusOK {
		w.tb.Fatalf("answered %d", code)
	}
}

// read returns all of a topic, read-committed.
func (w *world) read(topic string) []kafka.Record {
	w.tb.Helper()
	ctx, cancel := context.WithTimeout(w.tb.Context(), 30*time.Second)
	defer cancel()
	var all []kafka.Record
	err := kafka.ReadToEnd(ctx, kafka.ReaderConfig{Client: w.client(), Topic: topic}, func(r kafka.Record) error {
		all = append(all, r)
		return nil
	})
	if err != nil {
		w.tb.Fatalf("read %s: %v", topic, err)
	}
	return all
}

// deliveries waits until n events stand in zns.delivered and returns them by notification; more than one for a
// notification, or more than n in all, fail the test.
func (w *world) deliveries(n int, within time.Duration) map[string]*znsv1.Delivered {
	w.tb.Helper()
	deadline := time.Now().Add(within)
	for {
		records := w.read(w.topics.Delivered)
		if len(records) < n && time.Now().Before(deadline) {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		got := map[string]*znsv1.Delivered{}
		for _, r := range records {
			d := &znsv1.Delivered{}
			if err := kafka.Decode(r, d); err != nil {
				w.tb.Fatal(err)
			}
			key := string(r.Key)
			if got[key] != nil {
				w.tb.Errorf("%s was published twice", key)
			}
			got[key] = d
		}
		if len(records) != n {
			w.tb.Fatalf("%d events in zns.delivered, want %d", len(records), n)
		}
		return got
	}
}

// eventually waits for what happens by itself.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("not within a minute: %s", what)
		}
	}
}
