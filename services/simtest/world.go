package simtest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/config"
	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/pkg/zalo"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/ingest/raw"
	"github.com/znshub/znshub/services/sender"
)

// Addresses of the virtual network. Brokers and Zalo are told apart by them.
const (
	kafkaAddr   = "localhost:19092"
	zaloAddr    = "localhost:80"
	webhookAddr = "localhost:8080"
)

const (
	cluster    = "simtest"
	partitions = 4
	senders    = 3
)

// pulse is how often an idle member of the group speaks: weeks of heartbeats each second would take minutes.
const pulse = time.Minute

// oas are the Official Accounts: a large one, one with a small quota, and one whose token is refused now and then.
var oas = []zalosim.OA{
	{ID: "1000000000000000001", Secret: "secret-1", AccessToken: "token-1"},
	{ID: "1000000000000000002", Secret: "secret-2", AccessToken: "token-2", DailyQuota: 60},
	{ID: "1000000000000000003", Secret: "secret-3", AccessToken: "token-3"},
}

// world is one simulation.
type world struct {
	t       *testing.T
	network kfake.VirtualNetwork
	broker  *kfake.Cluster
	zalo    *zalosim.Sim
	writer  *kafka.Writer
	env     []string
	log     *journal

	serving sync.WaitGroup
	servers []*http.Server
	crew    [senders]*member
	dead    sync.WaitGroup // senders that were killed, and do not know it yet
}

// member is a sender's place: at most one process at a time.
type member struct {
	name  string
	wire  *wire // nil: nobody is there
	stop  context.CancelFunc
	ended chan struct{}
}

func newWorld(t *testing.T, seed uint64, env ...string) *world {
	w := &world{t: t, log: &journal{begin: time.Now()}}
	var err error
	if w.broker, err = kfake.NewCluster(append(kafkatest.FakeOptions(), kfake.Ports(19092), kfake.ListenFn(w.network.Listen))...); err != nil {
		t.Fatal(err)
	}
	if w.zalo, err = zalosim.New(zalosim.Config{
		Seed: seed, OAID: oas[0].ID, OASecret: oas[0].Secret, AccessToken: oas[0].AccessToken, OtherOAs: oas[1:],
		CallbackURL: "http://" + webhookAddr + "/webhooks/zalo", KeepWebhook: true, PromotionHours: true, Dial: w.network.DialContext,
		Latency: zalosim.Range{Low: 20 * time.Millisecond, High: time.Second}, Delivery: zalosim.Range{Low: 300 * time.Millisecond, High: 5 * time.Second},
	}); err != nil {
		t.Fatal(err)
	}
	admin, err := kafka.NewAdmin(w.client()...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Ensure(t.Context(), topic.Table(), partitions, 1); err != nil {
		t.Fatal(err)
	}
	admin.Close()
	if w.writer, err = kafka.NewWriter(w.client()...); err != nil {
		t.Fatal(err)
	}
	w.serve(zaloAddr, w.zalo)
	w.serve(webhookAddr, http.HandlerFunc(w.webhook))
	tokens := make([]string, 0, len(oas))
	for _, oa := range oas {
		tokens = append(tokens, oa.ID+"="+oa.AccessToken)
	}
	w.env = append([]string{
		"KAFKA_BROKERS=" + kafkaAddr, "ZALO_API_URL=http://" + zaloAddr, "ZALO_ACCESS_TOKEN=" + strings.Join(tokens, ","), "ZALO_OA_ID=" + oas[0].ID,
		"SENDER_TTL=otp=5m,transaction=12h,customer_care=24h,promotion=36h", "SENDER_MAX_IN_FLIGHT=32",
	}, env...)
	for i := range w.crew {
		w.crew[i] = &member{name: fmt.Sprintf("sender-%d", i)}
	}
	return w
}

// client is for those who watch: nothing cuts them off.
func (w *world) client() []kgo.Opt {
	return []kgo.Opt{kgo.SeedBrokers(kafkaAddr), kgo.Dialer(w.network.DialContext), kgo.DisableClientMetrics(), kgo.MetadataMaxAge(time.Hour), kgo.ConnIdleTimeout(15 * time.Minute)}
}

func (w *world) serve(address string, h http.Handler) {
	l, err := w.network.Listen("tcp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	w.servers = append(w.servers, s)
	w.serving.Go(func() { _ = s.Serve(l) })
}

// webhook stores a callback as webhook-ingest does: verified and raw.
func (w *world) webhook(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var secrets []string
	for _, oa := range oas {
		secrets = append(secrets, oa.Secret)
	}
	if zalo.VerifySignature(zalosim.DefaultAppID, secrets, body, r.Header) != nil {
		rw.WriteHeader(http.StatusUnauthorized)
		return
	}
	event, err := zalo.ParseCallback(body)
	if err != nil {
		w.t.Errorf("callback: %v", err)
		return
	}
	record, err := raw.Callback{
		Topic: topic.Callback, Source: "/znshub/" + cluster + "/ingest", Body: body, Header: r.Header, Event: event,
		Key: raw.Key(cluster, event, body), Received: time.Now(),
	}.Record()
	if err == nil {
		err = w.writer.Write(r.Context(), record)
	}
	if err != nil {
		rw.WriteHeader(http.StatusServiceUnavailable)
	}
}

// start lets a sender come up in a place that is empty.
func (w *world) start(i int) {
	m := w.crew[i]
	if m.wire != nil {
		return
	}
	var cfg sender.Config
	if _, err := config.LoadFrom(w.env, &cfg); err != nil {
		w.t.Fatal(err)
	}
	wire := newWire(&w.network)
	ctx, stop := context.WithCancel(context.Background())
	s, err := sender.New(service.New("sender", m.name, cluster, w.log.logger(m.name), nil), cfg, sender.Extras{
		Client: []kgo.Opt{kgo.Dialer(wire.dial), kgo.DisableClientMetrics(), kgo.MetadataMaxAge(time.Hour), kgo.ConnIdleTimeout(15 * time.Minute), kgo.FetchMaxWait(pulse / 2)}, Dial: wire.dial,
		Pulse: pulse,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ended := make(chan struct{})
	m.wire, m.stop, m.ended = wire, stop, ended
	go func() {
		defer close(ended)
		if err := s.Run(ctx); err != nil {
			w.log.write("%s ended: %v", m.name, err)
			w.t.Errorf("%s ended by itself: %v", m.name, err)
		}
	}()
}

// terminate stops a sender cleanly and waits for it.
func (w *world) terminate(i int) {
	m := w.crew[i]
	if m.wire == nil {
		return
	}
	m.stop()
	<-m.ended
	m.wire = nil
}

// kill ends a sender's connections for good. What it does and learns from then on reaches nobody.
func (w *world) kill(i int) {
	m := w.crew[i]
	if m.wire == nil {
		return
	}
	m.wire.cut(kafkaAddr, zaloAddr)
	m.stop()
	ended := m.ended
	w.dead.Go(func() { <-ended })
	m.wire = nil
}

// close ends everything; the bubble wants no goroutine left.
func (w *world) close() {
	for i := range w.crew {
		w.terminate(i)
	}
	w.dead.Wait()
	w.zalo.Close()
	w.writer.Close()
	for _, s := range w.servers {
		_ = s.Close()
	}
	w.broker.Close()
	w.serving.Wait()
}
