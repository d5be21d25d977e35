package e2e

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
)

// right is a line of the table of rights in docs/operations.md, for one resource.
type right struct {
	user, kind, name string
	operations       []kadm.ACLOperation
}

// documentedRights reads that table.
func documentedRights(t *testing.T) []right {
	t.Helper()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "| User | On | Rights |\n|---|---|---|\n")
	if !found {
		t.Fatal("docs/operations.md has no table of rights")
	}
	quoted := regexp.MustCompile("`([^`]+)`")
	var rights []right
	for line := range strings.SplitSeq(table, "\n") {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if len(cells) != 3 {
			break
		}
		var operations []kadm.ACLOperation
		for name := range strings.SplitSeq(cells[2], ",") {
			op, err := kmsg.ParseACLOperation(strings.TrimSpace(name))
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			operations = append(operations, op)
		}
		user := quoted.FindStringSubmatch(cells[0])
		kind := strings.TrimSpace(strings.Split(cells[1], "`")[0])
		names := quoted.FindAllStringSubmatch(cells[1], -1)
		if kind == "cluster" {
			names = [][]string{{"", "kafka-cluster"}}
		}
		if user == nil || len(names) == 0 {
			t.Fatalf("a line of the table of rights names no user or nothing: %q", line)
		}
		for _, name := range names {
			rights = append(rights, right{user[1], strings.TrimSuffix(kind, "s"), name[1], operations})
		}
	}
	return rights
}

// grant gives a user the right.
func (r right) grant(ctx context.Context, admin *kadm.Client) error {
	b := kadm.NewACLs().Allow("User:" + r.user).AllowHosts().Operations(r.operations...)
	name, pattern := r.name, kadm.ACLPatternLiteral
	if name != "*" && strings.HasSuffix(name, "*") {
		name, pattern = strings.TrimSuffix(name, "*"), kadm.ACLPatternPrefixed
	}
	b = b.ResourcePatternType(pattern)
	switch r.kind {
	case "topic":
		b = b.Topics(name)
	case "group":
		b = b.Groups(name)
	case "transactional id":
		b = b.TransactionalIDs(name)
	case "cluster":
		b = b.Clusters()
	default:
		return fmt.Errorf("rights on %q are not known", r.kind)
	}
	results, err := admin.CreateACLs(ctx, b)
	if err != nil {
		return err
	}
	for _, result := range results {
		if result.Err != nil {
			return fmt.Errorf("%s on %s %s: %w", r.user, r.kind, r.name, result.Err)
		}
	}
	return nil
}

// With the rights that docs/operations.md lists, and no others, the whole path works, also when a sender is killed, and
// an operator's commands do. The brokers refuse nothing on the way.
func TestRights(t *testing.T) {
	users := []string{"sender", "webhook-ingest", "operator"}
	proxy, err := harness.NewProxy()
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	login := "org.apache.kafka.common.security.plain.PlainLoginModule required"
	for _, u := range users {
		login += fmt.Sprintf(" user_%s=%q", u, u+"-secret")
	}
	server := kafkatest.Own(t, local.Options{
		Heap: "768m", Controller: true, Advertise: []string{proxy.Addr()},
		Properties: map[string]string{
			"listener.security.protocol.map":                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,CLIENT0:SASL_PLAINTEXT",
			"listener.name.client0.sasl.enabled.mechanisms": "PLAIN",
			"listener.name.client0.plain.sasl.jaas.config":  login + ";",
			"authorizer.class.name":                         "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
			"super.users":                                   "User:ANONYMOUS",
		},
	})
	proxy.Target(server.ListensFor(proxy.Addr()))
	client, err := kgo.NewClient(kgo.SeedBrokers(server.Addr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, r := range documentedRights(t) {
		if !slices.Contains(users, r.user) {
			t.Errorf("the table gives rights to %q, which this test does not try", r.user)
		}
		if err := r.grant(t.Context(), kadm.NewClient(client)); err != nil {
			t.Fatal(err)
		}
	}
	as := func(user string) []string {
		return []string{"KAFKA_SASL_USERNAME=" + user, "KAFKA_SASL_PASSWORD=" + user + "-secret"}
	}
	via := map[string]string{harness.Ingest: proxy.Addr(), "sender-0": proxy.Addr(), "sender-1": proxy.Addr()}
	in := install(t, options{
		brokers: server.Addr, kafkaVia: via, senders: 2, senderEnv: append(as("sender"), orderWait()...), ingestEnv: as("webhook-ingest"),
		simEnv: append(simLatency("5ms", "60ms"), simDelivery("50ms", "500ms")...),
	})
	load := &harness.Load{Seed: 9, Total: 1500, Keys: 200, PerSecond: 150}
	published := publishInBackground(in, load)
	in.must(waitUntil(in.within(time.Minute), func() bool { return load.Published() >= load.Total/2 }))
	in.Killed()
	in.must(in.Senders()[0].Kill())
	in.must(in.Senders()[0].Start())
	in.must(<-published)
	in.wait(time.Minute, "a delivery of every request", func(n harness.Counts) bool {
		return n.Ended+n.Open >= load.Total && n.Delivered >= n.Sent
	})
	in.login = append(as("operator"), "KAFKA_BROKERS="+proxy.Addr())
	for _, args := range [][]string{
		{"hold", "--campaign", "tet-2027", "--reason", "test"}, {"release", "--campaign", "tet-2027"}, {"status"}, {"topics", "list"},
		{"unknown", "list"}, {"explain", load.Requests()[0].ID}, {"doctor"}, {"transactions", "list"},
	} {
		if out, errs, code := in.zns(args...); code != 0 {
			t.Errorf("zns %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
		}
	}
	for line := range strings.SplitSeq(server.Log(), "\n") {
		if strings.Contains(line, "is Denied operation") {
			t.Errorf("%.300s", line)
		}
	}
}
