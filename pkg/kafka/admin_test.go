package kafka_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/znshub/znshub/proto/topic"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
)

func newAdmin(t *testing.T, addrs ...string) *kafka.Admin {
	t.Helper()
	a, err := kafka.NewAdmin(kgo.SeedBrokers(addrs...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// ensured creates the three topics of a new input and deletes them with the test.
func ensured(t *testing.T, b *kafkatest.Server, a *kafka.Admin, partitions int32) []topic.Spec {
	t.Helper()
	specs := topic.ForInput(kafkatest.Name("requested"))
	created, err := a.Ensure(t.Context(), specs, partitions, 0)
	if err != nil {
		t.Fatal(err)
	}
	if want := names(specs); !slices.Equal(created, want) {
		t.Fatalf("created %q, want %q", created, want)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := newAdmin(t, b.Brokers()...).Delete(ctx, names(specs)...); err != nil {
			t.Error(err)
		}
	})
	return specs
}

func names(specs []topic.Spec) (out []string) {
	for _, s := range specs {
		out = append(out, s.Name)
	}
	return out
}

// refusals returns the problems that are no warnings, as text.
func refusals(t *testing.T, a *kafka.Admin, specs []topic.Spec) (out []string) {
	t.Helper()
	problems, err := a.Check(t.Context(), specs)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if p.Command == "" {
			t.Errorf("%s: %s, and no command mends it", p.Topic, p.What)
		}
		if !p.Warning {
			out = append(out, p.String())
		}
	}
	return out
}

func TestEnsuredTopicsAreRight(t *testing.T) {
	b := kafkatest.Broker(t)
	a := newAdmin(t, b.Brokers()...)
	specs := ensured(t, b, a, 3)
	if got := refusals(t, a, specs); len(got) != 0 {
		t.Errorf("fresh topics have problems: %q", got)
	}
	again, err := a.Ensure(t.Context(), specs, 5, 0)
	if err != nil || len(again) != 0 {
		t.Errorf("a second Ensure created %q, %v", again, err)
	}
	infos, err := a.Topics(t.Context(), append(names(specs), kafkatest.Name("missing"))...)
	if err != nil || len(infos) != 3 {
		t.Fatalf("topics %v, %v", infos, err)
	}
	for name, info := range infos {
		if info.Partitions != 3 || info.Replication < 1 || info.ID == [16]byte{} {
			t.Errorf("%s: %+v", name, info)
		}
	}
}

// TestWholeTableCanBeCreated finds settings that a real broker refuses.
func TestWholeTableCanBeCreated(t *testing.T) {
	b := kafkatest.Broker(t)
	admin := kadm.NewClient(b.Client(t))
	for _, s := range topic.Table() {
		settings := make(map[string]*string)
		for _, c := range s.Settings() {
			settings[c.Key] = &c.Value
		}
		answers, err := admin.ValidateCreateTopics(t.Context(), 12, 1, settings, s.Name+kafkatest.Name(""))
		if err == nil {
			err = answers.Error()
		}
		if err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
	}
}

func TestCheckNamesWhatIsWrongAndTheCommand(t *testing.T) {
	b := kafkatest.Broker(t)
	a := newAdmin(t, b.Brokers()...)
	at := "--bootstrap-server " + b.Addr + " "

	t.Run("missing", func(t *testing.T) {
		specs := topic.ForInput(kafkatest.Name("missing"))
		got := refusals(t, a, specs)
		if len(got) != 3 || got[0] != "topic "+specs[0].Name+": it does not exist; run: zns topics ensure" {
			t.Errorf("problems %q", got)
		}
	})
	t.Run("settings", func(t *testing.T) {
		specs := ensured(t, b, a, 1)
		ledger := specs[1].Name
		set(t, b, ledger, "cleanup.policy", "compact,delete")
		set(t, b, ledger, "retention.ms", "1000")
		set(t, b, ledger, "min.cleanable.dirty.ratio", "0.5")
		set(t, b, ledger, "message.timestamp.type", "CreateTime")
		set(t, b, specs[0].Name, "retention.ms", "1000") // an operator's choice
		alter := "; run: kafka-configs.sh " + at + "--alter --entity-type topics --entity-name " + ledger + " --add-config "
		want := []string{
			"topic " + ledger + ": cleanup.policy is compact,delete, want compact" + alter + "cleanup.policy=compact",
			"topic " + ledger + ": retention.ms is 1000, want -1" + alter + "retention.ms=-1",
			"topic " + ledger + ": message.timestamp.type is CreateTime, want LogAppendTime" + alter + "message.timestamp.type=LogAppendTime",
			"topic " + ledger + ": min.cleanable.dirty.ratio is 0.5, want 0.1" + alter + "min.cleanable.dirty.ratio=0.1",
		}
		if diff := cmp.Diff(want, refusals(t, a, specs)); diff != "" {
			t.Errorf("problems (-want +got):\n%s", diff)
		}
	})
	t.Run("at least", func(t *testing.T) {
		spec := topic.Spec{Name: b.Topic(t, "large", 1, "max.message.bytes=1000"), Policy: topic.Delete, MaxMessageBytes: 2000}
		want := []string{"topic " + spec.Name + ": max.message.bytes is 1000, want at least 2000; run: kafka-configs.sh " + at +
			"--alter --entity-type topics --entity-name " + spec.Name + " --add-config max.message.bytes=2000"}
		if diff := cmp.Diff(want, refusals(t, a, []topic.Spec{spec})); diff != "" {
			t.Errorf("problems (-want +got):\n%s", diff)
		}
		set(t, b, spec.Name, "max.message.bytes", "3000")
		if got := refusals(t, a, []topic.Spec{spec}); len(got) != 0 {
			t.Errorf("problems %q with more than needed", got)
		}
	})
	t.Run("partitions", func(t *testing.T) {
		input, ledger := b.Topic(t, "few", 2), b.Topic(t, "many", 3, "cleanup.policy=compact")
		specs := []topic.Spec{{Name: ledger, Policy: topic.Compact, Follows: input}}
		want := []string{"topic " + input + ": it has 2 partitions and " + ledger + " has 3; state belongs to partitions of the ledger, " +
			"want at least as many; run: kafka-topics.sh " + at + "--alter --topic " + input + " --partitions 3"}
		if diff := cmp.Diff(want, refusals(t, a, specs)); diff != "" {
			t.Errorf("fewer input partitions (-want +got):\n%s", diff)
		}
		specs = []topic.Spec{{Name: input, Policy: topic.Delete, Follows: ledger}}
		if got := refusals(t, a, specs); len(got) != 0 {
			t.Errorf("more input partitions are front doors, not %q", got)
		}
		specs = []topic.Spec{{Name: ledger, Policy: topic.Compact, Beside: input}}
		if got := refusals(t, a, specs); len(got) != 1 || !strings.HasSuffix(got[0], "--alter --topic "+input+" --partitions 3") {
			t.Errorf("unequal partitions: %q", got)
		}
	})
}

// set alters a setting of a topic, and waits until the broker tells the new one: the controller answers before.
func set(t *testing.T, b *kafkatest.Server, name, key, value string) {
	t.Helper()
	admin := kadm.NewClient(b.Client(t))
	answers, err := admin.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: key, Value: &value}}, name)
	if err == nil {
		_, err = answers.On(name, func(r *kadm.AlterConfigsResponse) error { return r.Err })
	}
	if err != nil {
		t.Fatalf("set %s of %s: %v", key, name, err)
	}
	for ctx := t.Context(); ; time.Sleep(10 * time.Millisecond) {
		configs, err := admin.DescribeTopicConfigs(ctx, name)
		if err != nil {
			t.Fatalf("settings of %s: %v", name, err)
		}
		config, err := configs.On(name, nil)
		if err != nil {
			t.Fatalf("settings of %s: %v", name, err)
		}
		for _, c := range config.Configs {
			if c.Key == key && c.MaybeValue() == value {
				return
			}
		}
	}
}

func TestCopiesOfALedger(t *testing.T) {
	three, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	defer three.Close()
	a := newAdmin(t, three.ListenAddrs()...)
	good, poor := topic.ForInput("good"), topic.ForInput("poor")
	if _, err := a.Ensure(t.Context(), good, 1, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Ensure(t.Context(), poor, 1, 1); err != nil {
		t.Fatal(err)
	}
	problems, err := a.Check(t.Context(), good)
	if err != nil || len(problems) != 0 {
		t.Errorf("three replicas: %v, %v", problems, err)
	}
	problems, err = a.Check(t.Context(), poor)
	if err != nil || len(problems) == 0 || problems[0].Topic != "poor.ledger" || problems[0].Warning || !strings.Contains(problems[0].What, "1 replicas") {
		t.Errorf("one replica of three possible: %v, %v", problems, err)
	}
	b := kafkatest.Broker(t)
	one := newAdmin(t, b.Brokers()...)
	info, err := one.Broker(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.Brokers >= 3 {
		t.Skipf("the shared cluster has %d brokers", info.Brokers)
	}
	problems, err = one.Check(t.Context(), ensured(t, b, one, 1))
	if err != nil || len(problems) != 1 || !problems[0].Warning {
		t.Errorf("a small cluster: %v, %v; want one warning", problems, err)
	}
}

func TestBrokersMustKnowTransactionsOfKIP890(t *testing.T) {
	b := kafkatest.Broker(t)
	if err := newAdmin(t, b.Brokers()...).RequireTransactions(t.Context()); err != nil {
		t.Errorf("%s: %v", b.Describe(), err)
	}
	old, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.MaxVersions(kversion.V3_8_0()))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	err = newAdmin(t, old.ListenAddrs()...).RequireTransactions(t.Context())
	if !errors.Is(err, kafka.ErrBrokerTooOld) || !strings.Contains(err.Error(), "Apache Kafka 4.0 or newer") {
		t.Errorf("Kafka 3.8: %v", err)
	}
	lowered, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer lowered.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(lowered.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).UpdateFeatures(t.Context(), false, kadm.FeatureUpdate{
		Feature: "transaction.version", MaxVersionLevel: 1, UpgradeType: 2,
	}); err != nil {
		t.Fatal(err)
	}
	err = newAdmin(t, lowered.ListenAddrs()...).RequireTransactions(t.Context())
	if !errors.Is(err, kafka.ErrBrokerTooOld) || !strings.Contains(err.Error(), "kafka-features.sh --bootstrap-server "+lowered.ListenAddrs()[0]+" upgrade --feature transaction.version=2") {
		t.Errorf("feature not raised: %v", err)
	}
}

func TestOffsets(t *testing.T) {
	b := kafkatest.Broker(t)
	a := newAdmin(t, b.Brokers()...)
	name := b.Topic(t, "offsets", 2, "message.timestamp.type=LogAppendTime")
	l := newLog(t, b, name)
	l.plain("0", "1")
	time.Sleep(20 * time.Millisecond)
	between := time.Now()
	time.Sleep(20 * time.Millisecond)
	l.plain("2", "3")
	l.deleteBefore(1)
	for what, c := range map[string]struct {
		ask  func() (map[int32]int64, error)
		want map[int32]int64
	}{
		"start":   {func() (map[int32]int64, error) { return a.StartOffsets(t.Context(), name) }, map[int32]int64{0: 1, 1: 0}},
		"end":     {func() (map[int32]int64, error) { return a.EndOffsets(t.Context(), name) }, map[int32]int64{0: 4, 1: 0}},
		"between": {func() (map[int32]int64, error) { return a.OffsetsAt(t.Context(), name, between) }, map[int32]int64{0: 2, 1: 0}},
	} {
		got, err := c.ask()
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", what, err, diff)
		}
	}
}

func TestGroups(t *testing.T) {
	b := kafkatest.Broker(t)
	a := newAdmin(t, b.Brokers()...)
	none, err := a.Group(t.Context(), kafkatest.Name("none"))
	if err != nil || none.State != "Dead" || len(none.Members) != 0 {
		t.Errorf("a group that does not exist: %+v, %v", none, err)
	}
	for protocol, opts := range map[string][]kgo.Opt{
		"classic":  nil,
		"consumer": {kgo.ServerSideBalancer()},
	} {
		t.Run(protocol, func(t *testing.T) {
			name, group := b.Topic(t, "group", 2), kafkatest.Name("group")
			newLog(t, b, name).plain("a", "b")
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			c := b.Client(t, append(opts, kgo.ConsumerGroup(group), kgo.ConsumeTopics(name), kgo.ClientID("member-of-"+protocol), kgo.DisableAutoCommit())...)
			for read := 0; read < 2; {
				f := c.PollFetches(ctx)
				if ctx.Err() != nil {
					t.Fatal("nothing was read")
				}
				read += f.NumRecords()
			}
			if err := c.CommitUncommittedOffsets(ctx); err != nil {
				t.Fatal(err)
			}
			g, err := a.Group(ctx, group)
			if err != nil || g.State != "Stable" || len(g.Members) != 1 {
				t.Fatalf("group %+v, %v", g, err)
			}
			m := g.Members[0]
			// kfake leaves the names out of what it says of a group of the consumer protocol.
			named := b.Real() || protocol == "classic"
			if m.ClientID != "member-of-"+protocol || named && !slices.Equal(m.Partitions[name], []int32{0, 1}) {
				t.Errorf("member %+v", m)
			}
			if g.Committed[name][0] != 2 {
				t.Errorf("committed %v, want 2", g.Committed)
			}
		})
	}
}
