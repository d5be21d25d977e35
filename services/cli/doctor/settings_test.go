package doctor

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
)

func TestSessions(t *testing.T) {
	b := newBed(t, kafkatest.Real(t, "settings of groups"))
	x := b.examination()
	before := x.sessions(t.Context())
	if strings.HasPrefix(b.server.Describe(), "Apache Kafka") { // one that this project starts, with the settings that it wants
		expect(t, before, Good, x.SenderGroup, "after 6s")
	}
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeGroupConfig, x.SenderGroup
	setting := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	setting.Name, setting.Value = "consumer.session.timeout.ms", new("45000")
	resource.Configs = append(resource.Configs, setting)
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Resources = append(req.Resources, resource)
	resp, err := req.RequestWith(t.Context(), b.client)
	if err != nil || resp.Resources[0].ErrorCode != 0 {
		t.Fatalf("set the group's session timeout: %v, %+v", err, resp)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) { // brokers learn it a moment later
		told, err := b.examination().Admin.GroupSettings(t.Context(), x.SenderGroup)
		if err != nil {
			t.Fatal(err)
		}
		if told["consumer.session.timeout.ms"] == "45000" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the brokers tell %v", told)
		}
	}
	expect(t, b.examination().sessions(t.Context()), Warning, "a session lasts 45s", "classic protocol",
		"--entity-type groups --entity-name "+x.SenderGroup+" --add-config consumer.session.timeout.ms=6000,consumer.heartbeat.interval.ms=1000")
}

func TestBoundsThatForbidQuickTakeover(t *testing.T) {
	fit := map[string]string{"group.consumer.min.session.timeout.ms": "6000", "group.consumer.min.heartbeat.interval.ms": "1000"}
	stock := map[string]string{"group.consumer.min.session.timeout.ms": "45000", "group.consumer.min.heartbeat.interval.ms": "5000"}
	if got := bounds(map[int32]map[string]string{1: fit, 2: fit}); got != "" {
		t.Errorf("nothing forbids it, yet %q", got)
	}
	want := "group.consumer.min.session.timeout.ms=6000 and group.consumer.min.heartbeat.interval.ms=1000"
	if got := bounds(map[int32]map[string]string{1: fit, 2: stock, 3: stock}); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestBrokersAndFeatures(t *testing.T) {
	admin, err := kafka.NewAdmin(kgo.SeedBrokers("kafka-1:9092"))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	broker := func(txn, group kafka.Feature) kafka.BrokerState {
		return kafka.BrokerState{Version: "v4.1", Features: map[string]kafka.Feature{"transaction.version": txn, "group.version": group}}
	}
	new2, old, off := kafka.Feature{Finalized: 2, Supported: 2}, kafka.Feature{}, kafka.Feature{Finalized: 1, Supported: 2}
	g1 := kafka.Feature{Finalized: 1, Supported: 1}
	features := func(states ...kafka.BrokerState) []Finding {
		return (&examination{Config: Config{Admin: admin}, brokerStates: states}).features(t.Context())
	}
	expect(t, features(broker(new2, g1), broker(new2, g1)), Good, "transaction.version 2")
	expect(t, features(broker(new2, g1), broker(old, g1)), Problem, "does not know transaction.version 2", "4.0 or newer")
	expect(t, features(broker(off, g1)), Problem, "transaction.version is 1, want 2", "kafka-features.sh --bootstrap-server kafka-1:9092 upgrade --feature transaction.version=2")
	expect(t, features(broker(new2, old)), Warning, "KIP-848 is off", "classic protocol serves")
}

func TestSkew(t *testing.T) {
	for by, want := range map[time.Duration]Level{
		0: Good, 4 * time.Second: Good, -6 * time.Second: Warning, 29 * time.Second: Warning, 31 * time.Second: Problem, -time.Hour: Problem,
	} {
		expect(t, []Finding{skew("the clocks", by, "why")}, want, "the clocks")
	}
}

func TestZalo(t *testing.T) {
	sim, err := zalosim.New(zalosim.Config{AccessToken: "valid-token", DailyQuota: 500})
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	server := httptest.NewServer(sim)
	defer server.Close()
	ask := func(url string, tokens map[string]string) []Finding {
		findings := (&examination{Config: Config{Zalo: Zalo{URL: url, Tokens: tokens}}}).zalo(t.Context())
		for _, f := range findings {
			if text := f.What + f.Why + f.Mend; strings.Contains(text, "-token") {
				t.Errorf("a token is told: %s", text)
			}
		}
		return findings
	}
	expect(t, ask(server.URL, nil), Unknown, "no access token here", "ZALO_ACCESS_TOKEN")
	both := ask(server.URL, map[string]string{"111": "valid-token", "222": "stale-token"})
	expect(t, both, Good, "OA 111: the access token is valid, 500 of 500 messages are left today")
	expect(t, both, Problem, "OA 222: the access token is refused", "-124", "ZALO_ACCESS_TOKEN")
	if totals := sim.Totals(); totals.Accepted != 0 {
		t.Errorf("something was sent: %+v", totals)
	}
	server.Close()
	expect(t, ask(server.URL, map[string]string{"111": "valid-token"}), Problem, "OA 111: Zalo cannot be asked from here", "ZALO_API_URL")
}

func TestWebhook(t *testing.T) {
	status := 200
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			t.Errorf("called with %s", r.Method)
		}
		if status == 302 {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(status)
	}))
	defer server.Close()
	ask := func(address string) []Finding {
		return (&examination{Config: Config{Webhook: address}}).webhook(t.Context())
	}
	expect(t, ask(""), Unknown, "not called", "--webhook")
	expect(t, ask("nonsense"), Problem, "no URL")
	expect(t, ask(server.URL+"/webhooks/zalo"), Warning, "answers in", "without TLS")
	for _, status = range []int{404, 302, 502} {
		expect(t, ask(server.URL), Problem, "answers HTTP", "/webhooks/zalo")
	}
	server.Close()
	expect(t, ask(server.URL), Problem, "does not answer", "is webhook-ingest running")
}

func TestListIsShort(t *testing.T) {
	if got := list([]int32{3, 4}); got != "3, 4" {
		t.Errorf("got %q", got)
	}
	if got := list(make([]int32, 200)); !strings.HasSuffix(got, "0, and 188 more") {
		t.Errorf("got %q", got)
	}
}
