package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/notification"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/cli/demo"
)

// TestMain makes the test binary the sender of zns demo when the demo starts it as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "demo-sender" {
		os.Exit(Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// devHub is a running "zns dev".
type devHub struct {
	environ []string // with its broker
	stop    func() result
}

// startDev runs zns dev --json until stop.
func startDev(t *testing.T, environ []string, args ...string) devHub {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, errs := &firstLine{got: make(chan struct{})}, &syncBuffer{}
	app := &App{In: strings.NewReader(""), Out: out, Err: errs, Environ: environ}
	ended := make(chan int, 1)
	go func() { ended <- app.Run(ctx, append([]string{"dev", "--json"}, args...)) }()
	stop := sync.OnceValue(func() result {
		cancel()
		select {
		case code := <-ended:
			return result{code, out.String(), errs.String()}
		case <-time.After(40 * time.Second):
			t.Error("zns dev does not end")
			return result{}
		}
	})
	t.Cleanup(func() { stop() })
	select {
	case <-out.got:
	case code := <-ended:
		ended <- code
		t.Fatalf("zns dev ended with %d: %s", code, errs)
	case <-time.After(60 * time.Second):
		t.Fatalf("zns dev does not start: %s", errs)
	}
	var where struct{ Brokers []string }
	if err := json.Unmarshal([]byte(out.String()), &where); err != nil || len(where.Brokers) == 0 {
		t.Fatalf("zns dev --json printed %q: %v", out, err)
	}
	return devHub{environ: append(environ, "KAFKA_BROKERS="+strings.Join(where.Brokers, ",")), stop: stop}
}

// syncBuffer is a buffer for a command that still runs.
type syncBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// firstLine closes got when the first line is there.
type firstLine struct {
	syncBuffer
	once sync.Once
	got  chan struct{}
}

func (l *firstLine) Write(p []byte) (int, error) {
	n, err := l.syncBuffer.Write(p)
	if bytes.Contains(p, []byte("\n")) {
		l.once.Do(func() { close(l.got) })
	}
	return n, err
}

func TestDevSendsAndExplains(t *testing.T) {
	hub := startDev(t, nil)
	const trace = "0af7651916cd43dd8448eb211c80319c"
	sent := run(t, append(hub.environ, "TRACEPARENT=00-"+trace+"-b7ad6b7169203331-01"), "", "send", "--phone", "0987654321", "--template", "300200", "order_code=DH-1", "customer_name=An",
		"--source", "shop", "--key", "order-1/shipped", "--ordering-key", "order-1", "--wait", "--timeout", "20s").want(t, 0)
	sent.contains(t, "sent", "delivered", "order-1/shipped", "84*****321", "on the phone")
	id := strings.Fields(sent.out)[0]

	story := run(t, hub.environ, "", "explain", id).want(t, 0)
	story.contains(t, "order-1/shipped of shop", "state            SENT, and on the phone", "requested  notification.requested[", "accepted ",
		"intent 1", "attempt 1", "Zalo accepted", "signature valid", "zns.sent[", "zns.delivered[", "http://localhost:16686/trace/"+trace, "searched")
	var doc struct {
		State     string
		MsgID     string   `json:"msg_id"`
		Tracking  []string `json:"tracking_ids"`
		Recipient string
	}
	if err := json.Unmarshal([]byte(run(t, hub.environ, "", "explain", id, "--json").want(t, 0).out), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Recipient != "84*****321" || doc.MsgID == "" || len(doc.Tracking) != 1 {
		t.Fatalf("explain --json: %+v", doc)
	}
	// Every name of the notification leads to the same story; the ordering_key put it on another partition than its id.
	for _, args := range [][]string{
		{doc.MsgID}, {doc.Tracking[0]}, {"order-1/shipped"}, {"order-1/shipped", "--source", "shop"}, {"shop/order-1/shipped"},
	} {
		run(t, hub.environ, "", append([]string{"explain"}, args...)...).want(t, 0).contains(t, id, "zns.delivered[")
	}

	// A number without Zalo account, by the simulator's convention.
	refused := run(t, hub.environ, "", "send", "--phone", "84900000118", "--template", "300200", "order_code=DH-2", "customer_name=An", "--wait", "--timeout", "20s")
	refused.want(t, exitFailed).contains(t, "REJECTED", "-118", "TRY_OTHER_CHANNEL")

	moved := movedRequest(t, hub.environ)
	found, screen := look(t, hub.environ, id)

	reused, waits := waited(t, hub.environ)

	for _, r := range []result{sent, story, refused, moved, found, screen, reused, waits} {
		for _, secret := range []string{"987654", "900000118", "=An", `"An"`} {
			if strings.Contains(r.out+r.err, secret) {
				t.Errorf("the output tells %q:\n%s%s", secret, r.out, r.err)
			}
		}
	}
	if r := hub.stop(); r.code != 0 {
		t.Errorf("zns dev ended with %d: %s", r.code, r.err)
	}
}

// waited sends with --wait what will not be delivered: a known id with other content ends at once, and what waits for its
// time is said to.
func waited(t *testing.T, environ []string) (reused, waits result) {
	t.Helper()
	send := func(args ...string) result {
		return run(t, environ, "", append([]string{"send", "--phone", "0987654321", "--template", "300200", "--source", "shop", "--wait"}, args...)...)
	}
	began := time.Now()
	reused = send("--key", "order-1/shipped", "--ordering-key", "order-1", "--timeout", "60s", "order_code=other", "customer_name=An").want(t, exitFailed)
	reused.contains(t, "dead letter", "ID_REUSED", "put aside", "zns explain ")
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("a dead letter was noticed after %s", took)
	}
	waits = send("--key", "later", "--not-before", time.Now().Add(time.Hour).Format(time.RFC3339), "--timeout", "5s", "order_code=DH-9", "customer_name=An").want(t, exitFailed)
	waits.contains(t, "waiting, at most 5.0 s in all", "not delivered within 5s")
	return reused, waits
}

// movedRequest publishes a request on a partition that is not its own, and explains it.
func movedRequest(t *testing.T, environ []string) result {
	t.Helper()
	conf, err := (&App{Environ: environ}).kafkaConfig()
	if err != nil {
		t.Fatal(err)
	}
	opts, err := conf.Options()
	if err != nil {
		t.Fatal(err)
	}
	writer, err := kafka.NewWriter(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	id := notification.DeriveID("shop", "order-3/shipped").String()
	wrong := (kafka.Murmur2Partition([]byte(id), topic.DefaultPartitions) + 1) % topic.DefaultPartitions
	record := kafka.Record{Topic: topic.Requested, Partition: wrong, Value: []byte(strings.Replace(request("shop", "order-3/shipped"), "}}", `,"customer_name":"An"}}`, 1))}
	if err := writer.Write(t.Context(), record); err != nil {
		t.Fatal(err)
	}
	var story result
	for range 100 {
		if story = run(t, environ, "", "explain", id); strings.Contains(story.out, "on the phone") {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	story.want(t, 0).contains(t, "moved      to notification.requested[", "its own partition", fmt.Sprintf("requested  notification.requested[%d]@", wrong), "SENT, and on the phone")
	return story
}

// look finds the notification of that id by its phone, and looks at the hub's screen.
func look(t *testing.T, environ []string, id string) (found, screen result) {
	t.Helper()
	for range 100 { // webhook-ingest folds what it has published
		if found = run(t, environ, "", "find", "--phone", "0987654321"); strings.Contains(found.out, id) && strings.Contains(found.out, "DELIVERED") {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	found.want(t, 0).contains(t, "DELIVERED  300200", id, "zns.status", "records read")
	var row struct {
		ID    string `json:"notification_id"`
		State string
		Key   string `json:"idempotency_key"`
	}
	line, _, _ := strings.Cut(run(t, environ, "", "find", "--phone", "+84987654321", "--since", "1h", "--template", "300200", "--json").want(t, 0).out, "\n")
	if err := json.Unmarshal([]byte(line), &row); err != nil || row.State == "" || row.Key == "" {
		t.Errorf("find --json: %s (%v)", line, err)
	}
	run(t, environ, "", "find", "--phone", "84900000118").want(t, 0).contains(t, "FAILED REJECTED -118")
	run(t, environ, "", "find", "--phone", "0912345678").want(t, exitFailed).contains(t, "no notification was found")
	run(t, environ, "", "find", "--phone", "12").want(t, exitUsage).contains(t, "--phone is no")
	sum := sha256.Sum256([]byte("84987654321"))
	run(t, environ, "", "find", "--phone-sha256", fmt.Sprintf("%X", sum), "--since", "7d").want(t, 0).contains(t, "DELIVERED  300200", id)
	run(t, environ, "", "find").want(t, exitUsage).contains(t, "--phone, --phone-sha256, --reference, --customer or --campaign")

	screen = run(t, environ, "", "status").want(t, 0)
	screen.contains(t, "green", "zns-sender", "zns-ingest", "12 of 12 partitions owned", "waiting     0", "unknown     0")
	run(t, environ, "", "status", "--ingest", "127.0.0.1:1").want(t, exitFailed).contains(t, "red", "does not answer")
	run(t, environ, "", "status", "--sender-group", "nobody", "--no-ledger", "--json").want(t, exitFailed).contains(t, `"red":true`, "nobody works in group nobody")
	run(t, environ, "", "unknown", "list").want(t, 0).contains(t, "nothing is unknown\n")
	run(t, environ, "", "unknown", "list", "--since", "7d").want(t, 0).contains(t, "nothing is unknown that fits")
	run(t, environ, "", "status", "--verify").want(t, 0).contains(t, "0 differences")
	return found, screen
}

func TestDevKeepsItsDataOverARestart(t *testing.T) {
	data := t.TempDir()
	first := startDev(t, nil, "--data", data)
	send := func(hub devHub, args ...string) result {
		return run(t, hub.environ, "", append([]string{"send", "--phone", "0987654321", "--template", "300200", "order_code=DH-1",
			"customer_name=An", "--source", "shop", "--wait", "--timeout", "20s"}, args...)...)
	}
	send(first, "--key", "order-1").want(t, 0)
	if r := first.stop(); r.code != 0 {
		t.Fatalf("zns dev ended with %d: %s", r.code, r.err)
	}

	second := startDev(t, nil, "--data", data)
	run(t, second.environ, "", "explain", "shop/order-1").want(t, 0).contains(t, "SENT, and on the phone")
	// The ledger remembers: the same key again does nothing, a new one goes out.
	send(second, "--key", "order-1", "--timeout", "2s").want(t, exitFailed).contains(t, "the last news: none")
	send(second, "--key", "order-2").want(t, 0).contains(t, "on the phone")
	run(t, second.environ, "", "explain", "shop/order-1").want(t, 0).contains(t, "again")
}

func TestDevRefusesAClusterInUse(t *testing.T) {
	first := startDev(t, nil)
	// Its own sender is a member of the group: a second hub would share the requests with another simulator.
	r := run(t, first.environ, "", "dev", "--for", "1ms").want(t, exitFailed)
	r.contains(t, "seems to serve a hub in earnest", "members of group zns-sender: 1", "unset KAFKA_BROKERS")
}

func TestDevNamesWhatIsWrongWithItsFlags(t *testing.T) {
	run(t, nil, "", "dev", "--latency", "slow").want(t, exitUsage).contains(t, "--latency")
	run(t, []string{"KAFKA_BROKERS=127.0.0.1:1"}, "", "dev").want(t, exitFailed).contains(t, "127.0.0.1:1")
}

// TestDemo runs the demo on the tests' broker, a real Kafka where there is one, and on the fake that it brings itself.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 10 to 20 seconds for each broker")
	}
	brokers := map[string][]string{"its own fake": nil}
	if b := kafkatest.Broker(t); b.Real() {
		brokers[b.Describe()] = []string{"KAFKA_BROKERS=" + b.Addr}
	}
	for name, environ := range brokers {
		t.Run(name, func(t *testing.T) {
			r := run(t, append(environ, "PATH="+os.Getenv("PATH")), "", "demo", "--json", "--explain", "--force").want(t, 0)
			var got demo.Result
			if err := json.Unmarshal([]byte(r.out), &got); err != nil {
				t.Fatal(err)
			}
			want := demo.Sums{Records: 8, Duplicates: 1, Sent: 4, Failed: 2, Held: 1, Messages: 4}
			if got.Sums != want || !got.OK {
				t.Errorf("sums %+v, ok %v; want %+v", got.Sums, got.OK, want)
			}
			for _, row := range got.Rows {
				if row.Wrong != "" {
					t.Errorf("%s: %s", row.Case, row.Wrong)
				}
			}
			if len(got.Stories) != 2 {
				t.Fatalf("%d stories", len(got.Stories))
			}
			for i, cause := range []string{"TIMEOUT", "OWNER_DIED"} {
				if text, err := json.Marshal(got.Stories[i]); err != nil || !strings.Contains(string(text), "UNKNOWN: "+cause) {
					t.Errorf("the story does not tell of %s (%v): %s", cause, err, text)
				}
			}
			t.Logf("%s: took %s", got.Broker, got.Took)
		})
	}
}
