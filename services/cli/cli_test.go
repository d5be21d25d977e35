package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/notification"
	"github.com/znshub/znshub/proto/topic"
)

// result is what a command line did.
type result struct {
	code     int
	out, err string
}

// run runs a command line as a shell would, without a terminal.
func run(t *testing.T, environ []string, stdin string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	app := &App{In: strings.NewReader(stdin), Out: &out, Err: &errs, Environ: environ}
	code := app.Run(t.Context(), args)
	if strings.Contains(out.String()+errs.String(), "\x1b[") {
		t.Errorf("zns %s: colours where there is no terminal", strings.Join(args, " "))
	}
	return result{code, out.String(), errs.String()}
}

func (r result) want(t *testing.T, code int) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, want %d\nstdout: %s\nstderr: %s", r.code, code, r.out, r.err)
	}
	return r
}

func (r result) contains(t *testing.T, texts ...string) result {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(r.out+r.err, text) {
			t.Errorf("no %q in\nstdout: %s\nstderr: %s", text, r.out, r.err)
		}
	}
	return r
}

// lines decodes standard output as one JSON object a line.
func (r result) lines(t *testing.T) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(r.out) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("not a line of JSON: %q: %v", line, err)
		}
		all = append(all, v)
	}
	return all
}

// hub is the environment of a broker that has the hub's topics.
func hub(t *testing.T) []string {
	t.Helper()
	environ := []string{"KAFKA_BROKERS=" + kafkatest.Broker(t).Addr}
	ensure.Do(func() {
		// Problems of topics that another program made here are not this test's.
		if r := run(t, environ, "", "topics", "ensure"); r.code == exitUsage || strings.Contains(r.err, "zns:") {
			t.Fatalf("topics ensure: exit code %d\n%s%s", r.code, r.out, r.err)
		}
	})
	return environ
}

var ensure sync.Once

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		says []string
	}{
		{nil, 0, []string{"Usage: zns <command>", "zns dev"}},
		{[]string{"--help"}, 0, []string{"Usage: zns <command>"}},
		{[]string{"publish", "--help"}, 0, []string{"Examples:", "zns publish < requests.jsonl"}},
		{[]string{"bogus"}, exitUsage, []string{"unexpected argument bogus", "next: zns --help"}},
		{[]string{"publish", "--bogus"}, exitUsage, []string{"unknown flag --bogus", "next: zns publish --help"}},
		{[]string{"send", "--phone", "0987654321"}, exitUsage, []string{"missing flags: --template", "next: zns send --help"}},
		{[]string{"send", "--phone", "0987", "--template", "1"}, exitUsage, []string{"recipient.phone"}},
		{[]string{"help"}, 0, []string{"Usage: zns <command>"}},
		{[]string{"help", "unknown", "list"}, 0, []string{"Usage: zns unknown list"}},
		{[]string{"--version"}, 0, []string{"zns "}},
		{[]string{"send", "--phone", "0987654321", "--template", "1", "--not-before", "tomorrow"}, exitUsage, []string{`--not-before: "tomorrow" is not a time with its zone such as 2026-12-01T06:00:00+07:00`}},
		{[]string{"send", "--phone", "0987654321", "--template", "1", "--ttl", "5x"}, exitUsage, []string{`--ttl: "5x" is not a duration such as`, "7d"}},
		{[]string{"find", "--phone-sha256", "ab"}, exitUsage, []string{"--phone-sha256", "64 hexadecimal digits"}},
		{[]string{"hold", "--id", "12"}, exitUsage, []string{`--id "12" is no notification_id, a UUID such as`}},
		{[]string{"unknown", "list", "--since", "1d", "--until", "2d"}, exitUsage, []string{"--since must be before --until"}},
		{[]string{"redrive", "--failed", "--reason", "TIRED"}, exitUsage, []string{`--reason "TIRED"`, "REJECTED, ", "EXPIRED"}},
		{[]string{"sample", "cobol"}, exitUsage, []string{"cobol"}},
		{[]string{"topics", "list", "--brokers", "127.0.0.1:1"}, exitFailed, []string{"no broker answers at 127.0.0.1:1", "zns dev"}},
		{[]string{"topics", "ensure", "--topic", "my topic"}, exitUsage, []string{`--topic "my topic"`, "no topic names of Kafka"}},
		{[]string{"watch", "--brokers", "kafka:port"}, exitUsage, []string{`KAFKA_BROKERS: "kafka:port" is not host:port`}},
		{[]string{"watch", "--brokers", "nonsense:port:9"}, exitUsage, []string{"KAFKA_BROKERS", "zns config check"}},
	} {
		t.Run(strings.Join(c.args, "_"), func(t *testing.T) {
			run(t, nil, "", c.args...).want(t, c.code).contains(t, c.says...)
		})
	}
}

func TestErrorsAreJSONWhenAsked(t *testing.T) {
	r := run(t, nil, "", "topics", "list", "--json", "--brokers", "127.0.0.1:1").want(t, exitFailed)
	var v struct {
		Error string
		Next  []string
		Exit  int
	}
	if err := json.Unmarshal([]byte(r.err), &v); err != nil || v.Exit != exitFailed || len(v.Next) == 0 || !strings.Contains(v.Error, "127.0.0.1:1") {
		t.Errorf("error %q (%v)", r.err, err)
	}
}

func TestTopics(t *testing.T) {
	environ := hub(t)
	again := run(t, environ, "", "topics", "ensure")
	if again.contains(t, "every topic is there"); strings.Contains(again.out, "created") {
		t.Errorf("the second ensure created something: %s", again.out)
	}
	rows := run(t, environ, "", "topics", "list", "--json").lines(t)
	byName := map[any]map[string]any{}
	for _, row := range rows {
		byName[row["topic"]] = row
	}
	for name, policy := range map[string]string{"notification.requested": "delete", "notification.requested.ledger": "compact", "zns.status": "compact,delete"} {
		if row := byName[name]; row["exists"] != true || row["policy"] != policy || row["partitions"].(float64) < 1 {
			t.Errorf("%s: %v", name, row)
		}
	}
	run(t, environ, "", "topics", "list").contains(t, "topic", "partitions", "notification.requested.ledger")
}

func TestTopicsEnsureWithTooManyReplicas(t *testing.T) {
	run(t, hub(t), "", "topics", "ensure", "--topic", kafkatest.Name("replicas"), "--replication-factor", "99").want(t, exitFailed).
		contains(t, "INVALID_REPLICATION_FACTOR", "next: --replication-factor: no more than there are brokers")
}

func TestTopicsTellsWhatIsMissing(t *testing.T) {
	environ := hub(t)
	input := kafkatest.Name("absent")
	r := run(t, environ, "", "topics", "list", "--topic", input).want(t, exitFailed)
	r.contains(t, input, "missing", "it does not exist", "mend: zns topics ensure")
	run(t, environ, request("x", "1"), "publish", "--topic", input).want(t, exitFailed).contains(t, "no topic "+input, "zns topics ensure")
}

func TestTopicsEnsureWaitsForABroker(t *testing.T) {
	began := time.Now()
	run(t, nil, "", "topics", "ensure", "--brokers", "127.0.0.1:1", "--wait", "1s").want(t, exitFailed).contains(t, "no broker answers")
	if took := time.Since(began); took < time.Second || took > 30*time.Second {
		t.Errorf("gave up after %s, want at least --wait", took)
	}
	// A broker whose address opens late.
	broker := kafkatest.Broker(t).Brokers()[0]
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	listener.Close()
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		time.Sleep(700 * time.Millisecond)
		if listener, err = net.Listen("tcp", addr); err == nil {
			go forward(listener, broker)
		}
	}()
	r := run(t, nil, "", "topics", "ensure", "--brokers", addr, "--wait", "30s")
	if strings.Contains(r.err, "zns:") || r.out == "" {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
	if <-opened; err != nil {
		t.Fatal(err)
	}
	listener.Close()
}

// forward hands every connection on, until the listener is closed.
func forward(from net.Listener, to string) {
	for {
		in, err := from.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", to)
		if err != nil {
			in.Close()
			return
		}
		for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
			go func() { defer pair[1].Close(); _, _ = io.Copy(pair[1], pair[0]) }()
		}
	}
}

// request is one request as JSON.
func request(source, key string) string {
	return `{"source":"` + source + `","idempotency_key":"` + key + `","recipient":{"phone":"0987654321"},"template_id":"300200","template_data":{"order_code":"DH-1"}}`
}

func TestPublishAndWatch(t *testing.T) {
	environ := hub(t)
	source := kafkatest.Name("shop")
	input := strings.Join([]string{
		request(source, "order-1/shipped"),
		`{"source":"` + source + `","idempotency_key":"order-2/shipped","recipient":{"phone":"09x"},"template_id":"300200"}`,
		request(source, "order-3/shipped"),
	}, "\n")
	published := run(t, environ, input, "publish").want(t, exitFailed) // one of three is refused
	published.contains(t, "refused record 2: recipient.phone: not a phone number", "2 requests published to notification.requested, 1 refused")
	if n := strings.Count(published.out, "\n"); n != 2 {
		t.Fatalf("%d ids for 2 requests: %q", n, published.out)
	}
	first := strings.Fields(published.out)[0]

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out := &stopper{want: 2, stop: cancel}
	app := &App{In: strings.NewReader(""), Out: out, Err: &bytes.Buffer{}, Environ: environ}
	if code := app.Run(ctx, []string{"watch", "--all", "--source", source}); code != 0 {
		t.Fatalf("watch: exit code %d", code)
	}
	for _, text := range []string{"requested", "order-1/shipped", "order-3/shipped", "84*****321", "template 300200"} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("watch does not show %q:\n%s", text, out)
		}
	}
	if strings.Contains(out.String(), "987654") {
		t.Errorf("watch shows a phone number:\n%s", out)
	}

	story := run(t, environ, "", "explain", first).want(t, 0)
	story.contains(t, "order-1/shipped of "+source, "requested  notification.requested[", "not moved", "searched", "84*****321")
	run(t, environ, "", "explain", "order-3/shipped", "--source", source).want(t, 0).contains(t, "order-3/shipped of "+source)
	run(t, environ, "", "explain", source+"/order-3/shipped").want(t, 0).contains(t, "order-3/shipped of "+source)
	run(t, environ, "", "explain", source+"/order-9").want(t, exitFailed).contains(t, "nothing is known", "searched")
}

// stopper cancels once it holds the wanted number of lines.
type stopper struct {
	mu sync.Mutex
	bytes.Buffer
	want int
	stop func()
}

func (s *stopper) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.Buffer.Write(b)
	if bytes.Count(s.Bytes(), []byte("\n")) >= s.want {
		s.stop()
	}
	return n, err
}

func TestPublishDryRunNeedsNoBroker(t *testing.T) {
	environ := []string{"KAFKA_BROKERS=127.0.0.1:1"}
	run(t, environ, request("shop", "1"), "publish", "--dry-run").want(t, 0).contains(t, "1 request would be published")
	run(t, environ, "", "publish", "--dry-run").want(t, exitUsage).contains(t, "holds no request")
	run(t, environ, `{"source":`, "publish", "--dry-run").want(t, exitFailed).contains(t, "the input ends inside it")
	noID := `{"recipient":{"phone":"0987654321"},"template_id":"1"}`
	run(t, environ, noID, "publish", "--dry-run").want(t, exitFailed).contains(t, "notification_id")
	run(t, environ, noID, "publish", "--dry-run", "--new-ids").want(t, 0)
}

func TestSendKeepsTemplateDataAsGiven(t *testing.T) {
	environ := hub(t)
	source := kafkatest.Name("shop")
	run(t, environ, "", "send", "--phone", "0987654321", "--template", "300200", "--source", source, "--key", "order-1",
		"a=x;y,z", "b=k=v", `c=back\slash`, "d=Nguyễn Văn A").want(t, 0)
	conf, err := (&App{Environ: environ}).kafkaConfig()
	if err != nil {
		t.Fatal(err)
	}
	opts, err := conf.Options()
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	err = kafka.ReadToEnd(t.Context(), kafka.ReaderConfig{Client: opts, Topic: topic.Requested}, func(r kafka.Record) error {
		if req, _ := notification.Decode(r); req.GetSource() == source {
			got = req.GetTemplateData()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"a": "x;y,z", "b": "k=v", "c": `back\slash`, "d": "Nguyễn Văn A"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("template data (-want +got):\n%s", diff)
	}
}

func TestSendTellsTheIDAndTimesOut(t *testing.T) {
	environ := hub(t)
	r := run(t, environ, "", "send", "--phone", "0987654321", "--template", "300200", "order_code=1", "--source", kafkatest.Name("shop")).want(t, 0)
	if id := strings.TrimSpace(r.out); len(id) != 36 {
		t.Errorf("standard output is not an id: %q", r.out)
	}
	// No sender runs for this input topic: waiting ends with the time.
	input := kafkatest.Name("lonely")
	run(t, environ, "", "topics", "ensure", "--topic", input, "--partitions", "1")
	r = run(t, environ, "", "send", "--phone", "0987654321", "--template", "300200", "--topic", input, "--wait", "--timeout", "1s").want(t, exitFailed)
	r.contains(t, "not delivered within 1s", "zns explain")
}

func TestConfig(t *testing.T) {
	environ := []string{"SENDER_REQUEST_TIMEOUT=soon", "ZALO_ACCESS_TOKEN=very-secret-token", "ZALO_OA_ID=2893352839501541173", "SENDER_MAX_INFLIGHT=3", "SENDER_ALLOW_PHONES=0987654321"}
	r := run(t, environ, "", "config", "check", "--program", "sender").want(t, exitFailed)
	r.contains(t, "SENDER_REQUEST_TIMEOUT", "for example", "SENDER_MAX_INFLIGHT", "did you mean SENDER_MAX_IN_FLIGHT")
	run(t, []string{"KAFKA_SASL_USERNAME=me"}, "", "config", "check", "--program", "sender").want(t, exitFailed).contains(t, "KAFKA_SASL_PASSWORD")
	run(t, []string{"KAFKA_BROKERS=a:9092"}, "", "config", "check", "--program", "sender").want(t, 0).contains(t, "sender: ok")
	show := run(t, environ, "", "config", "show", "--program", "sender", "--set").want(t, 0)
	show.contains(t, "ZALO_ACCESS_TOKEN", "********", "env", "84*****321")
	for _, secret := range []string{"very-secret-token", "0987654321"} {
		if strings.Contains(show.out+r.out+r.err, secret) {
			t.Errorf("config shows %s", secret)
		}
	}
	found := false
	for _, line := range run(t, environ, "", "config", "show", "--json").want(t, 0).lines(t) {
		found = found || line["name"] == "KAFKA_BROKERS" && line["origin"] == "default"
	}
	if !found {
		t.Error("config show --json has no KAFKA_BROKERS")
	}
}
