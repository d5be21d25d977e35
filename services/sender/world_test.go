package sender

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/config"
	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/notification"
	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/pkg/telemetry"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

func TestMain(m *testing.M) {
	if instance := os.Getenv(childEnv); instance != "" {
		os.Exit(runChild(instance))
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "6") // these tests wait more than they compute
	os.Exit(m.Run())
}

const testOA = "2893352839501541173"

// provider is Zalo as one test scripts it.
type provider struct {
	*httptest.Server
	mu     sync.Mutex
	script func(p post) answer
	posts  []post
	seen   map[string]int
}

type post struct {
	Phone        string            `json:"phone"`
	TemplateID   string            `json:"template_id"`
	TemplateData map[string]string `json:"template_data"`
	TrackingID   string            `json:"tracking_id"`
	Mode         string            `json:"mode"`
	Attempt      int               `json:"-"` // how many with the same key came, this one included
	At           time.Time         `json:"-"`
	Token        string            `json:"-"` // the access token
	Key          string            `json:"-"` // the test's name of the notification
	Took         bool              `json:"-"` // Zalo took it
}

// answer is what the provider does with a post: takes it or not, and answers after a while, or never.
type answer struct {
	code   int
	status int
	body   string
	after  time.Duration
	lose   bool // take it, then break the connection
}

func newProvider(t *testing.T) *provider {
	p := &provider{script: func(post) answer { return answer{} }, seen: map[string]int{}}
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(func() {
		p.CloseClientConnections()
		p.Close()
	})
	return p
}

func (p *provider) serve(w http.ResponseWriter, r *http.Request) {
	var in post
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, "bad json", http.StatusBadRequest)
		return
	}
	in.Key, in.At, in.Token = in.TemplateData["key"], time.Now(), r.Header.Get("access_token")
	p.mu.Lock()
	p.seen[in.Key]++
	in.Attempt = p.seen[in.Key]
	a := p.script(in)
	in.Took = a.code == 0 && a.status == 0
	p.posts = append(p.posts, in)
	p.mu.Unlock()
	select {
	case <-time.After(a.after):
	case <-r.Context().Done():
	}
	switch {
	case a.lose:
		panic(http.ErrAbortHandler)
	case a.status != 0:
		w.WriteHeader(a.status)
		fmt.Fprint(w, a.body)
	case a.code != 0:
		fmt.Fprintf(w, `{"error":%d,"message":"refused"}`, a.code)
	default:
		fmt.Fprintf(w, `{"error":0,"message":"Success","data":{"msg_id":"m-%s","sent_time":"%d"}}`, in.TrackingID[:20], time.Now().UnixMilli())
	}
}

func (p *provider) respond(f func(post) answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script = f
}

// got returns the posts of one notification, or of all with key "".
func (p *provider) got(key string) []post {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []post
	for _, o := range p.posts {
		if key == "" || o.Key == key {
			out = append(out, o)
		}
	}
	return out
}

// world is one test's topics, provider and senders. The zns topics are shared with other tests: ids tell them apart.
type world struct {
	t        *testing.T
	server   *kafkatest.Server
	provider *provider
	input    string
	group    string
	extras   Extras // in virtual time: how to reach the brokers and the provider
	writer   *kafka.Writer
	admin    *kafka.Admin
	env      []string
	tracer   *telemetry.Tracer
	logs     *logBuffer

	mu     sync.Mutex
	events map[uuid.UUID][]kafka.Record // of the zns topics
	dlq    []kafka.Record
}

// logBuffer keeps the log for failed tests and for the search for personal data.
type logBuffer struct {
	mu sync.Mutex
	b  []byte
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, b...)
	return len(b), nil
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}

var sharedTopics sync.Mutex

func newWorld(t *testing.T, partitions int32, env ...string) *world {
	t.Helper()
	return newWorldOn(t, kafkatest.Broker(t), partitions, env...)
}

func newWorldOn(t *testing.T, server *kafkatest.Server, partitions int32, env ...string) *world {
	t.Helper()
	w := &world{
		t: t, server: server, provider: newProvider(t), input: kafkatest.Name("requested"), group: kafkatest.Name("sender"),
		events: map[uuid.UUID][]kafka.Record{}, logs: &logBuffer{},
	}
	opts, err := kafka.Config{Brokers: server.Brokers()}.Options()
	if err != nil {
		t.Fatal(err)
	}
	if w.admin, err = kafka.NewAdmin(opts...); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	w.ensure(ctx, topic.ForInput(w.input), partitions)
	sharedTopics.Lock() // who finds them made does not wait until they can be used
	w.ensure(ctx, topic.ForSender(w.input)[3:], 4)
	sharedTopics.Unlock()
	if w.writer, err = kafka.NewWriter(opts...); err != nil {
		t.Fatal(err)
	}
	w.env = append([]string{
		"KAFKA_BROKERS=" + server.Addr, "SENDER_TOPIC=" + w.input, "SENDER_GROUP=" + w.group, "ZALO_API_URL=" + w.provider.URL,
		"ZALO_ACCESS_TOKEN=" + testOA + "=test-token",
	}, env...)
	readCtx, stop := context.WithCancel(context.Background())
	var reading sync.WaitGroup
	for _, name := range []string{topic.Sent, topic.Failed, topic.Unresolved, topic.DLQOf(w.input)} {
		r, err := kafka.NewReader(ctx, kafka.ReaderConfig{Client: opts, Topic: name, Start: kafka.FromEnd()})
		if err != nil {
			t.Fatal(err)
		}
		reading.Go(func() {
			defer r.Close()
			for readCtx.Err() == nil {
				records, _ := r.Poll(readCtx)
				w.take(records)
			}
		})
	}
	t.Cleanup(func() {
		stop()
		reading.Wait()
		w.writer.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = w.admin.Delete(ctx, w.input, topic.LedgerOf(w.input), topic.DLQOf(w.input))
		w.admin.Close()
		if t.Failed() {
			t.Logf("log:\n%s", w.logs)
		}
	})
	return w
}

// ensure makes topics. A broker on a machine that is busy may be out of its controller's sight for some seconds.
func (w *world) ensure(ctx context.Context, specs []topic.Spec, partitions int32) {
	w.t.Helper()
	for {
		_, err := w.admin.Ensure(ctx, specs, partitions, 1)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			w.t.Error(err)
			return
		case <-time.After(time.Second):
		}
	}
}

func (w *world) take(records []kafka.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range records {
		if r.Topic == topic.DLQOf(w.input) {
			w.dlq = append(w.dlq, r)
		} else if id, err := uuid.ParseBytes(r.Key); err == nil {
			w.events[id] = append(w.events[id], r)
		}
	}
}

// running is a sender that runs in this process.
type running struct {
	*Sender
	stop func()
	done chan struct{}
	err  error
}

// run starts a sender; it is stopped with the test at the latest.
func (w *world) run(instance string, env ...string) *running {
	w.t.Helper()
	var cfg Config
	if _, err := config.LoadFrom(append(append([]string{}, w.env...), env...), &cfg); err != nil {
		w.t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelInfo}))
	svc := service.New("sender", instance, "test", log, w.tracer)
	s, err := New(svc, cfg, Extras{})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Sender: s, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = s.Run(ctx)
	}()
	r.stop = func() {
		cancel()
		<-r.done
	}
	w.t.Cleanup(r.stop)
	return r
}

// request makes a valid request whose key at the provider is name.
func request(name string, change ...func(*notificationv1.NotificationRequested)) *notificationv1.NotificationRequested {
	r := &notificationv1.NotificationRequested{
		NotificationId: uuid.NewString(), OaId: testOA, TemplateId: "643118", Source: "order-service",
		Recipient:    &notificationv1.Recipient{Phone: "0987654321"},
		TemplateData: map[string]string{"key": name}, Fallback: map[string]string{"sms_text": "text of " + name},
	}
	for _, f := range change {
		f(r)
	}
	return r
}

// publish writes requests as a producer with Java's partitioner would, and returns their ids.
func (w *world) publish(reqs ...*notificationv1.NotificationRequested) []uuid.UUID {
	w.t.Helper()
	var records []kafka.Record
	var ids []uuid.UUID
	for _, req := range reqs {
		value, err := proto.Marshal(req)
		if err != nil {
			w.t.Fatal(err)
		}
		id, _ := notification.ID(req)
		ids = append(ids, id)
		records = append(records, kafka.Record{Topic: w.input, Partition: -1, Key: []byte(notification.PartitionKey(req)), Value: value})
	}
	w.write(records...)
	return ids
}

func (w *world) write(records ...kafka.Record) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := w.writer.Write(ctx, records...); err != nil {
		w.t.Fatal(err)
	}
}

// published returns the events about id on a topic, decoded.
func published[M proto.Message](w *world, to string, id uuid.UUID, m M) []M {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []M
	for _, r := range w.events[id] {
		if r.Topic != to {
			continue
		}
		x := m.ProtoReflect().New().Interface().(M)
		if err := kafka.Decode(r, x); err != nil {
			w.t.Error(err)
		}
		out = append(out, x)
	}
	return out
}

func (w *world) sent(id uuid.UUID) []*znsv1.Sent { return published(w, topic.Sent, id, &znsv1.Sent{}) }
func (w *world) failed(id uuid.UUID) []*znsv1.Failed {
	return published(w, topic.Failed, id, &znsv1.Failed{})
}
func (w *world) unresolved(id uuid.UUID) []*znsv1.Unresolved {
	return published(w, topic.Unresolved, id, &znsv1.Unresolved{})
}

func (w *world) deadLetters() []kafka.Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]kafka.Record(nil), w.dlq...)
}

// readAll reads a topic to its end.
func (w *world) readAll(name string, f func(kafka.Record)) {
	w.t.Helper()
	opts, err := kafka.Config{Brokers: w.server.Brokers()}.Options()
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err = kafka.ReadToEnd(ctx, kafka.ReaderConfig{Client: opts, Topic: name}, func(r kafka.Record) error {
		f(r)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// eventually waits until ok is true.
func (w *world) eventually(what string, within time.Duration, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("not within %s: %s", within, what)
		}
	}
}

// wantSent waits for exactly one zns.sent.
func (w *world) wantSent(id uuid.UUID, within time.Duration) *znsv1.Sent {
	w.t.Helper()
	w.eventually("zns.sent", within, func() bool { return len(w.sent(id)) > 0 })
	return w.sent(id)[0]
}

func (w *world) wantFailed(id uuid.UUID, reason znsv1.FailureReason, within time.Duration) *znsv1.Failed {
	w.t.Helper()
	w.eventually("zns.failed", within, func() bool { return len(w.failed(id)) > 0 })
	f := w.failed(id)[0]
	if f.Reason != reason {
		w.t.Fatalf("reason %s, want %s", f.Reason, reason)
	}
	return f
}

func mustMarshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
