package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/proto/topic"
)

// bed is a cluster with an input topic of the test's own.
type bed struct {
	*testing.T
	server *kafkatest.Server
	opts   []kgo.Opt
	admin  *kadm.Client
	client *kgo.Client
	input  string
}

func newBed(t *testing.T, server *kafkatest.Server) *bed {
	t.Helper()
	b := &bed{T: t, server: server, opts: []kgo.Opt{kgo.SeedBrokers(server.Brokers()...)}, input: kafkatest.Name("requested")}
	var err error
	if b.client, err = kgo.NewClient(append(b.opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))...); err != nil {
		t.Fatal(err)
	}
	b.admin = kadm.NewClient(b.client)
	t.Cleanup(b.client.Close)
	if _, err := b.examination().Admin.Ensure(t.Context(), topic.ForInput(b.input), 3, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if _, err := b.admin.DeleteTopics(ctx, b.input, topic.LedgerOf(b.input), topic.DLQOf(b.input)); err != nil {
			t.Errorf("delete the topics: %v", err)
		}
	})
	return b
}

// examination is a new one: it remembers what it was told.
func (b *bed) examination() *examination {
	b.Helper()
	admin, err := kafka.NewAdmin(b.opts...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(admin.Close)
	return &examination{
		Config: Config{
			Admin: admin, Client: b.opts, Specs: topic.ForInput(b.input),
			Topic: b.input, SenderGroup: b.input + "-group", IngestGroup: b.input + "-ingest",
		},
		groups: map[string]kafka.Group{},
	}
}

func (b *bed) produce(records ...*kgo.Record) {
	b.Helper()
	if err := b.client.ProduceSync(b.Context(), records...).FirstErr(); err != nil {
		b.Fatal(err)
	}
}

func (b *bed) alter(name, key, value string) {
	b.Helper()
	answers, err := b.admin.AlterTopicConfigs(b.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: key, Value: &value}}, name)
	if err != nil || answers[0].Err != nil {
		b.Fatalf("set %s of %s: %v, %v", key, name, err, answers)
	}
	// A broker learns of it from the controller after the answer.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		described, err := b.admin.DescribeTopicConfigs(b.Context(), name)
		if err == nil && slices.ContainsFunc(described[0].Configs, func(c kadm.Config) bool { return c.Key == key && c.MaybeValue() == value }) {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("%s of %s is not %s: %v, %v", key, name, value, err, described)
		}
	}
}

// expect looks for one finding of a level that says all of the texts, in what, why or mend.
func expect(t *testing.T, findings []Finding, level Level, says ...string) {
	t.Helper()
	for _, f := range findings {
		text := f.What + "\n" + f.Why + "\n" + f.Mend
		ok := f.Level == level
		for _, s := range says {
			ok = ok && strings.Contains(text, s)
		}
		if ok {
			if level == Warning || level == Problem {
				if f.Why == "" || f.Mend == "" {
					t.Errorf("%q says neither why it matters nor what mends it", f.What)
				}
			}
			return
		}
	}
	t.Errorf("no %s finding with %q in\n%+v", level, says, findings)
}

func TestNothingIsWrongWithAFreshInput(t *testing.T) {
	b := newBed(t, kafkatest.Broker(t))
	var all []Finding
	Examine(t.Context(), b.examination().Config, func(f Finding) { all = append(all, f) })
	for _, f := range all {
		if f.Level == Problem {
			t.Errorf("%s: %s", f.Check, f.What)
		}
		if strings.Contains(f.What, "could not be examined") {
			t.Errorf("%s: %s", f.Check, f.What)
		}
	}
	seen := map[string]bool{}
	for _, f := range all {
		seen[f.Check] = true
	}
	for _, c := range checks {
		if !seen[c.name] {
			t.Errorf("the check %q tells nothing", c.name)
		}
	}
}

func TestTopics(t *testing.T) {
	b := newBed(t, kafkatest.Broker(t))
	ledger := topic.LedgerOf(b.input)
	x := b.examination()
	expect(t, x.topics(t.Context()), Good, "3 topics")

	b.alter(ledger, "cleanup.policy", "delete")
	b.alter(ledger, "retention.ms", "3600000")
	expect(t, b.examination().topics(t.Context()), Problem, ledger+": cleanup.policy is delete, want compact", "only copy", "kafka-configs.sh", "--add-config cleanup.policy=compact")
	expect(t, b.examination().topics(t.Context()), Problem, ledger+": retention.ms is 3600000, want -1")
	b.alter(ledger, "cleanup.policy", "compact")
	b.alter(ledger, "retention.ms", "-1")
	expect(t, b.examination().topics(t.Context()), Good, "3 topics")

	if _, err := b.admin.DeleteTopics(t.Context(), topic.DLQOf(b.input)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		f := b.examination().topics(t.Context())
		if len(f) == 1 && f[0].Level == Problem {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a deleted topic is not missed: %+v", f)
		}
	}
	expect(t, b.examination().topics(t.Context()), Problem, topic.DLQOf(b.input)+": it does not exist", "refuses to start", "zns topics ensure")
}

// request is one that was written by source; moved: the hub's copy of one.
func request(input, source string, partition int32, moved bool) *kgo.Record {
	r := &kgo.Record{
		Topic: input, Partition: partition,
		Value: []byte(`{"source":"` + source + `","idempotency_key":"k","recipient":{"phone":"0987654321"},"template_id":"1"}`),
	}
	if moved {
		r.Headers = []kgo.RecordHeader{{Key: "zns-moved", Value: []byte("0@1")}}
	}
	return r
}

func TestPartitioner(t *testing.T) {
	b := newBed(t, kafkatest.Broker(t))
	expect(t, b.examination().partitioner(t.Context()), Unknown, "no request")
	for range 30 {
		b.produce(request(b.input, "shop", 0, false))
	}
	b.produce(request(b.input, "shop", 1, true))
	expect(t, b.examination().partitioner(t.Context()), Good, "1 of the last 30 requests were moved")
	for range 10 {
		b.produce(request(b.input, "crm", 2, true))
	}
	findings := b.examination().partitioner(t.Context())
	expect(t, findings, Warning, "11 of the last 30 requests were moved", "most of source crm, shop", "murmur2_random", "ordering_key")
	if text := fmt.Sprint(findings); strings.Contains(text, "987654") {
		t.Errorf("a phone number is told: %s", text)
	}
}

func TestDeadLetters(t *testing.T) {
	b := newBed(t, kafkatest.Broker(t))
	dlq := topic.DLQOf(b.input)
	expect(t, b.examination().deadLetters(t.Context()), Good, "none in the last 24 hours")
	letter := func(reason string, age time.Duration) *kgo.Record {
		return &kgo.Record{Topic: dlq, Value: []byte("x"), Timestamp: time.Now().Add(-age), Headers: []kgo.RecordHeader{{Key: "zns-dlq-reason", Value: []byte(reason)}}}
	}
	b.produce(letter("OLD", 48*time.Hour))
	expect(t, b.examination().deadLetters(t.Context()), Good, "none in the last 24 hours")
	// As the sender writes them: each transaction leaves a marker, which is no dead letter.
	sender, err := kgo.NewClient(append(b.opts, kgo.TransactionalID(kafkatest.Name("sender")), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	for _, l := range []*kgo.Record{letter("INVALID", 0), letter("ID_REUSED", 0), letter("INVALID", time.Hour)} {
		if err := sender.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := sender.ProduceSync(t.Context(), l).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := sender.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
	}
	findings := b.examination().deadLetters(t.Context())
	expect(t, findings, Warning, "3 in the last 24 hours (INVALID 2, ID_REUSED 1)", "zns watch")
}

func TestOpenTransactionOnTheInput(t *testing.T) {
	b := newBed(t, kafkatest.Real(t, "the time of a transaction's last write"))
	id := kafkatest.Name("shop")
	producer, err := kgo.NewClient(append(b.opts, kgo.TransactionalID(id), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	if err := producer.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	write := func(age time.Duration, partition int32) {
		r := request(b.input, "shop", partition, false)
		r.Timestamp = time.Now().Add(-age)
		if err := producer.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	write(0, 0)
	expect(t, b.examination().transactions(t.Context()), Good, "no transaction holds readers up")
	write(10*time.Minute, 1)
	expect(t, b.examination().transactions(t.Context()), Warning, id, b.input+"[1]@0", "10m0s", "do not see the 1 records")
	if err := producer.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
}

func TestJudgeTransaction(t *testing.T) {
	x := &examination{Config: Config{SenderGroup: "zns-sender", IngestGroup: "zns-ingest"}}
	var err error
	if x.Admin, err = kafka.NewAdmin(kgo.SeedBrokers("kafka-1:9092")); err != nil {
		t.Fatal(err)
	}
	defer x.Admin.Close()
	open := kafka.OpenTransaction{Topic: "zns.sent", Partition: 3, Start: 17, Behind: 9, LastWrite: time.Now()}
	f, _ := x.judge(open)
	expect(t, []Finding{f}, Problem, "nobody will end it", "zns.sent[3]@17", "9 records", "zns transactions end")
	open.LastWrite = time.Now().Add(-time.Hour)
	open.ID = "zns-sender-a"
	f, _ = x.judge(open)
	expect(t, []Finding{f}, Warning, "zns-sender-a", "9 records", "a successor ends it")
	open.ID = "shop-1"
	f, _ = x.judge(open)
	expect(t, []Finding{f}, Warning, "shop-1", "transaction.timeout.ms")
	open.LastWrite = time.Now()
	if f, told := x.judge(open); told {
		t.Errorf("a transaction under way is told: %+v", f)
	}
}

func TestMembers(t *testing.T) {
	b := newBed(t, kafkatest.Broker(t))
	x := b.examination()
	expect(t, x.senderGroup(t.Context()), Warning, "no sender runs", "/readyz")

	join := func(client, reads string) {
		member, err := kgo.NewClient(append(b.opts, kgo.ClientID(client), kgo.ConsumerGroup(x.SenderGroup), kgo.ConsumeTopics(reads),
			kgo.Balancers(kgo.CooperativeStickyBalancer()))...)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for ctx.Err() == nil {
				member.PollFetches(ctx)
			}
		}()
		t.Cleanup(func() { cancel(); <-done; member.Close() })
	}
	// settle waits until the group is stable with its members, and every partition that can have one an owner.
	settle := func(members int, what func([]Finding) bool) (findings []Finding) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
			y := b.examination()
			findings = y.senderGroup(t.Context())
			if g := y.groups[y.SenderGroup]; g.State == "Stable" && len(g.Members) == members && what(findings) {
				return findings
			}
			if time.Now().After(deadline) {
				t.Fatalf("the group does not come to rest: %+v", findings)
			}
		}
	}
	level := func(l Level) func([]Finding) bool {
		return func(f []Finding) bool { return len(f) == 1 && f[0].Level == l }
	}
	join(x.SenderGroup+"-a", topic.DLQOf(b.input)) // reads something else
	expect(t, settle(1, level(Problem)), Problem, "partitions 0, 1, 2 of "+b.input, "SENDER_TOPIC")
	join(x.SenderGroup+"-b", b.input)
	expect(t, settle(2, level(Good)), Good, "2 members share 3 partitions", "classic protocol")
	join(x.SenderGroup+"-b", b.input)
	expect(t, settle(3, level(Problem)), Problem, "2 members of the group call themselves b", "fence each other", "INSTANCE_ID")
}

func TestLagOfAGroup(t *testing.T) {
	b := newBed(t, kafkatest.Broker(t))
	b.produce(request(b.input, "shop", 0, false), request(b.input, "shop", 0, false), request(b.input, "shop", 1, false))
	g := kafka.Group{Committed: map[string]map[int32]int64{b.input: {0: 1, 1: 1}}}
	if lag, err := b.examination().lag(t.Context(), g, b.input); err != nil || lag != 1 {
		t.Errorf("lag %d, %v; want 1", lag, err)
	}
}
