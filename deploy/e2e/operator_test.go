package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// zns runs the command zns as an operator would and returns what it printed and its exit code.
func (in *installation) zns(args ...string) (out, errs string, code int) {
	in.t.Helper()
	znsProgram.Do(func() { znsProgram.err = harness.Build(in.within(5*time.Minute), binaries(in.t), "zns") })
	in.must(znsProgram.err)
	cmd := exec.CommandContext(in.within(2*time.Minute), filepath.Join(binaries(in.t), "zns"), args...)
	cmd.Env = append([]string{"KAFKA_BROKERS=" + strings.Join(in.brokers, ","), "ZNS_CLUSTER=" + harness.Cluster, "ZNS_ACTOR=e2e", "HOME=" + os.Getenv("HOME")}, in.login...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		in.t.Fatalf("zns %s: %v", strings.Join(args, " "), err)
	}
	return stdout.String(), stderr.String(), code
}

var znsProgram struct {
	sync.Once
	err error
}

// given is what zns tells with --json of a command.
type given struct {
	Held       int
	Changed    int
	TooLate    int `json:"too_late"`
	Waiting    int
	InFlight   int `json:"in_flight"`
	Unknown    int
	Sent       int
	Failed     int
	Partitions int
	Missing    []int32
	TookMs     int64 `json:"took_ms"`
}

// command runs zns with --json and fails the test unless all partitions obeyed.
func (in *installation) command(args ...string) (g given) {
	in.t.Helper()
	out, errs, code := in.zns(append(args, "--json", "--timeout", "60s")...)
	if code != 0 {
		in.t.Fatalf("zns %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	in.must(json.Unmarshal([]byte(out), &g))
	in.t.Logf("zns %s: %s", strings.Join(args, " "), strings.TrimSpace(out))
	if g.Partitions != partitions || len(g.Missing) != 0 {
		in.t.Errorf("zns %s: of %d partitions %v did not answer", strings.Join(args, " "), g.Partitions, g.Missing)
	}
	return g
}

func campaign(id string) func(int, *notificationv1.NotificationRequested) {
	return func(_ int, r *notificationv1.NotificationRequested) { r.CampaignId = id }
}

// A campaign is held while it is under way: what waits and what is still to come stays, through a kill and a restart,
// what is held can be cancelled, and after the release all the rest is sent.
func TestOperatorHoldsACampaign(t *testing.T) {
	in := install(t, options{brokers: operatorBroker(t), senders: 2, simEnv: simLatency("100ms", "200ms"), senderEnv: []string{"SENDER_MAX_IN_FLIGHT=3"}})
	if g := in.command("retry", "--all"); g.Changed != 0 { // senders that have nothing to do yet answer too
		t.Errorf("of nothing: %+v", g)
	}
	first := &harness.Load{Seed: 21, Total: size(300, 5000), Change: campaign("tet")}
	requests, err := first.Publish(in.within(time.Minute), in.brokers)
	in.must(err)
	in.wait(time.Minute, "the campaign to be under way", func(n harness.Counts) bool { return n.Sent > 20 })

	g := in.command("hold", "--campaign", "tet", "--reason", "wrong price")
	if g.Held == 0 || g.Sent == 0 || g.Held+g.InFlight+g.Sent+g.Unknown+g.Failed != first.Total {
		t.Errorf("of %d: %+v", first.Total, g)
	}
	t.Logf("obeyed within %d ms", g.TookMs)
	in.wait(time.Minute, "the calls under way to end", func(n harness.Counts) bool { return n.Ended == g.Sent+g.InFlight })
	before := in.totals().Requests

	// Also what is still to come, and also after a sender died and came again.
	second := &harness.Load{Seed: 22, Total: 40, Change: campaign("tet")}
	more, err := second.Publish(in.within(time.Minute), in.brokers)
	in.must(err)
	in.must(in.KillSender(in.Senders()[0]))
	in.must(in.Senders()[0].Start())
	other := &harness.Load{Seed: 23, Total: 30, Change: campaign("other")}
	others, err := other.Publish(in.within(time.Minute), in.brokers)
	in.must(err)
	in.wait(2*time.Minute, "another campaign to be sent", func(n harness.Counts) bool { return n.Ended == g.Sent+g.InFlight+other.Total })
	if after := in.totals().Requests; after != before+other.Total {
		t.Errorf("Zalo was asked %d times while the campaign was held, %d of them for another campaign", after-before, other.Total)
	}
	out, _, _ := in.zns("hold", "--list", "--json")
	if !strings.Contains(out, `"campaign/tet"`) || !strings.Contains(out, "wrong price") {
		t.Errorf("zns hold --list: %s", out)
	}

	// One that was sent cannot be called back; one that is held can.
	sent := in.results.Events(topic.Sent)[0].ID
	if out, errs, code := in.zns("cancel", "--id", sent, "--yes"); code != 1 || !strings.Contains(errs, "too late") {
		t.Errorf("zns cancel of one that was sent: exit code %d\n%s%s", code, out, errs)
	}
	sentIDs := map[string]bool{}
	for _, e := range in.results.Events(topic.Sent) {
		sentIDs[e.ID] = true
	}
	held := slices.IndexFunc(more, func(r harness.Request) bool { return !sentIDs[r.ID] })
	if c := in.command("cancel", "--id", more[held].ID, "--yes"); c.Changed != 1 {
		t.Errorf("cancelled: %+v", c)
	}

	in.command("release", "--campaign", "tet")
	all := slices.Concat(requests, more, others)
	in.wait(3*time.Minute, "everything else to be sent", func(n harness.Counts) bool {
		return n.Ended == len(all) && n.Delivered == len(all)-1
	})
	report := in.check("hold and release", all, harness.Expect{Delivered: true})
	if report.Failed != 1 || report.Sent != len(all)-1 {
		t.Errorf("%d sent, %d failed of %d, one was cancelled", report.Sent, report.Failed, len(all))
	}
	if f := in.results.Events(topic.Failed); f[0].Reason != znsv1.FailureReason_FAILURE_REASON_CANCELLED || f[0].ID != more[held].ID {
		t.Errorf("zns.failed: %+v", f)
	}
}

// Zalo hangs for a while: what was under way is unknown and waits for a person, who sends it again by cause and time,
// and ends the rest.
func TestOperatorDecidesAboutABlip(t *testing.T) {
	in := install(t, options{brokers: operatorBroker(t), senders: 2, simEnv: simLatency("5ms", "20ms"), senderEnv: []string{"SENDER_REQUEST_TIMEOUT=1s", "SENDER_UNRESOLVED_AFTER=1s"}})
	load := &harness.Load{Seed: 31, Total: 120}
	begin := time.Now()
	in.must(in.Simulator().Fault(in.within(10*time.Second), zalosim.Fault{Kind: zalosim.FaultHang, Count: 12}))
	requests, err := load.Publish(in.within(time.Minute), in.brokers)
	in.must(err)
	in.wait(2*time.Minute, "everything to be sent or unresolved", func(n harness.Counts) bool { return n.Ended+n.Open == load.Total })
	in.must(in.Simulator().Heal(in.within(10 * time.Second)))
	in.faults = append(in.faults, harness.Window{From: begin, To: time.Now()})
	unknown := load.Total - in.results.Counts().Sent
	if unknown == 0 {
		t.Fatal("nothing is unknown: the blip was not felt")
	}

	out, _, code := in.zns("unknown", "list", "--cause", "timeout", "--since", "10m", "--json")
	if n := strings.Count(out, "\n"); code != 0 || n != unknown {
		t.Fatalf("zns unknown list: %d lines, want %d, exit code %d\n%s", n, unknown, code, out)
	}
	if out, _, _ := in.zns("unknown", "list", "--cause", "owner_died", "--json"); out != "" {
		t.Errorf("of another cause: %s", out)
	}
	if out, _, code := in.zns("unknown", "resend", "--cause", "timeout", "--dry-run", "--json"); code != 0 || strings.Count(out, "\n") != unknown {
		t.Errorf("zns unknown resend --dry-run: exit code %d\n%s", code, out)
	}
	if _, errs, code := in.zns("unknown", "resend", "--cause", "timeout"); code != 2 || !strings.Contains(errs, "--yes") {
		t.Errorf("without a person who agrees: exit code %d, %s", code, errs)
	}
	if n := in.results.Counts().Ended; n != load.Total-unknown {
		t.Fatalf("%d ended before anybody decided", n)
	}
	if g := in.command("unknown", "resend", "--cause", "timeout", "--since", "10m", "--yes"); g.Changed != unknown {
		t.Errorf("sent again: %+v, want %d", g, unknown)
	}
	in.wait(time.Minute, "all to be sent", func(n harness.Counts) bool { return n.Sent == load.Total && n.Delivered == load.Total })
	if out, _, _ := in.zns("unknown", "list", "--json"); out != "" {
		t.Errorf("still unknown: %s", out)
	}
	in.check("resend of a blip", requests, harness.Expect{Resend: true, Delivered: true})

	// And one more that nobody wants any longer.
	in.must(in.Simulator().Fault(in.within(10*time.Second), zalosim.Fault{Kind: zalosim.FaultHang, Count: 1}))
	last := &harness.Load{Seed: 32, Total: 1}
	_, err = last.Publish(in.within(time.Minute), in.brokers)
	in.must(err)
	in.wait(time.Minute, "it to be unresolved", func(n harness.Counts) bool { return n.Open == 1 })
	in.faults = append(in.faults, harness.Window{From: begin, To: time.Now()})
	if g := in.command("unknown", "fail", "--all", "--yes"); g.Changed != 1 {
		t.Errorf("failed: %+v", g)
	}
	in.wait(time.Minute, "its zns.failed", func(n harness.Counts) bool { return n.Failed == 1 })
	if f := in.results.Events(topic.Failed)[0]; f.Reason != znsv1.FailureReason_FAILURE_REASON_UNRESOLVED || !f.PossiblySent {
		t.Errorf("zns.failed: %+v", f)
	}
	// It was perhaps sent: a redrive refuses it.
	if out, _, code := in.zns("redrive", "--failed", "--all", "--yes"); code != 1 || !strings.Contains(out, "perhaps sent") {
		t.Errorf("zns redrive of one that was perhaps sent: exit code %d\n%s", code, out)
	}
}

// A template is wrong, Zalo refuses everything, the template is mended: what failed is redriven, each once, also when two
// operators do it at the same time, and again.
func TestOperatorRedrivesFailures(t *testing.T) {
	in := install(t, options{brokers: operatorBroker(t), senders: 2, simEnv: simLatency("5ms", "20ms")})
	in.must(in.Simulator().Fault(in.within(10*time.Second), zalosim.Fault{Kind: zalosim.FaultCode, Code: -1122}))
	load := &harness.Load{Seed: 41, Total: 200, Keys: 20, Change: campaign("tet")}
	requests, err := load.Publish(in.within(time.Minute), in.brokers)
	in.must(err)
	in.wait(time.Minute, "all to be refused", func(n harness.Counts) bool { return n.Failed == load.Total })
	in.must(in.Simulator().Heal(in.within(10 * time.Second)))
	good := &harness.Load{Seed: 42, Total: 50, Change: campaign("tet")}
	goods, err := good.Publish(in.within(time.Minute), in.brokers)
	in.must(err)
	in.wait(time.Minute, "good ones to be sent", func(n harness.Counts) bool { return n.Sent == good.Total })

	args := []string{"redrive", "--failed", "--campaign", "tet", "--class", "TEMPLATE", "--since", "1h"}
	out, _, code := in.zns(append(args, "--dry-run", "--json")...)
	if n := strings.Count(out, `"refused":""`); code != 0 || n != load.Total {
		t.Fatalf("zns redrive --dry-run: %d candidates, want %d, exit code %d", n, load.Total, code)
	}
	if out, _, _ := in.zns("redrive", "--failed", "--code=-118", "--dry-run", "--json"); out != "" {
		t.Errorf("of another code: %s", out)
	}
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			if out, errs, code := in.zns(append(args, "--yes")...); code != 0 && !strings.Contains(errs, "0 failed") {
				t.Errorf("zns redrive: exit code %d\n%s%s", code, out, errs)
			}
		})
	}
	both.Wait()
	in.wait(time.Minute, "all to be sent", func(n harness.Counts) bool { return n.Sent == load.Total+good.Total && n.Delivered == n.Sent })
	if out, _, _ := in.zns(append(args, "--dry-run", "--json")...); out != "" {
		t.Errorf("after all is sent: %s", out)
	}
	copies := map[string]int{}
	for _, c := range in.calls() {
		copies[c.ID]++
	}
	for _, r := range slices.Concat(requests, goods) {
		if copies[r.ID] != 1 {
			t.Errorf("%s was sent %d times", r.ID, copies[r.ID])
		}
	}
	if n := len(in.results.Events(topic.Sent)); n != load.Total+good.Total {
		t.Errorf("%d zns.sent for %d notifications", n, load.Total+good.Total)
	}
}

// Dead letters tell where they came from, and go back there.
func TestOperatorRedrivesDeadLetters(t *testing.T) {
	in := install(t, options{brokers: operatorBroker(t)})
	client, err := kgo.NewClient(kgo.SeedBrokers(in.brokers...))
	in.must(err)
	defer client.Close()
	in.must(client.ProduceSync(in.within(time.Minute), &kgo.Record{
		Topic: topic.Requested, Key: []byte("k"), Value: []byte(`{"source":"shop","idempotency_key":`), Headers: []kgo.RecordHeader{{Key: "traceparent", Value: []byte("tp")}},
	}).FirstErr())
	in.wait(time.Minute, "a dead letter", func(n harness.Counts) bool { return n.Letters == 1 })
	if out, errs, code := in.zns("redrive"); code != 2 {
		t.Errorf("without a word which: exit code %d\n%s%s", code, out, errs)
	}
	if out, _, _ := in.zns("redrive", "--reason", "ID_REUSED", "--json"); out != "" {
		t.Errorf("of another reason: %s", out)
	}
	out, errs, code := in.zns("redrive", "--reason", "MALFORMED", "--since", "1h", "--yes")
	if code != 0 || !strings.Contains(out, "published 1 dead letter") {
		t.Fatalf("exit code %d\n%s%s", code, out, errs)
	}
	in.wait(time.Minute, "it to be a dead letter again", func(n harness.Counts) bool { return n.Letters == 2 })
	header := func(r *kgo.Record, key string) (values []string) {
		for _, h := range r.Headers {
			if h.Key == key {
				values = append(values, string(h.Value))
			}
		}
		return values
	}
	letters := in.results.Letters()
	first, second := letters[0], letters[1]
	for _, key := range []string{"zns-dlq-topic", "zns-dlq-reason", "zns-dlq-partition", "zns-dlq-offset", "zns-dlq-timestamp", "traceparent"} {
		if len(header(first, key)) != 1 || len(header(second, key)) != 1 {
			t.Errorf("%s: %q, then %q", key, header(first, key), header(second, key))
		}
	}
	if !bytes.Equal(first.Value, second.Value) || header(first, "zns-dlq-offset")[0] == header(second, "zns-dlq-offset")[0] || header(second, "zns-dlq-topic")[0] != topic.Requested {
		t.Errorf("the second letter is not of the redriven record: %v", second.Headers)
	}
}

// operatorBroker is a broker of the test's own that nobody kills: it needs no controller beside it.
func operatorBroker(t *testing.T) string {
	t.Helper()
	return kafkatest.Own(t, local.Options{Heap: "512m"}).Addr
}
