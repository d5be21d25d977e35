package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

const requested = topic.Requested

// perClient is how many requests each foreign client publishes: enough that some of them land on a partition that is
// not theirs, because no foreign default partitioner is murmur2.
const perClient = 8

// Requests from clients that know nothing of the hub but the topic's name reach the phone once each, and every foreign
// client reads the results with the headers that the contract promises.
func TestForeignClients(t *testing.T) {
	in := install(t, options{})
	// The sample publisher's template.
	in.must(in.Simulator().AddTemplate(in.within(10*time.Second), zalosim.Template{ID: "643118", Name: "Trạng thái đơn hàng"}))
	traces := map[string]string{} // notification: trace id
	var requests []harness.Request
	publishAll := func(client foreign, encode func(proto.Message) ([]byte, error)) {
		t.Helper()
		if why := client.missing(t); why != "" {
			t.Logf("SKIPPED: %s does not publish: %s", client.name, why)
			return
		}
		for i := range perClient {
			n := len(requests)
			q := harness.Request{ID: uuid.NewString(), Copies: 1, Key: fmt.Sprintf("%s %d", client.name, i%3), Rank: int64(n)}
			m := (&harness.Load{}).Message(n, q)
			m.OrderingKey = "" // the order over several front doors is that of arrival, which only the hub sees
			q.Key = ""
			value, err := encode(m)
			in.must(err)
			traces[q.ID] = strings.ReplaceAll(uuid.NewString(), "-", "")
			in.must(client.publish(in.within(20*time.Second), in, q.ID, value, map[string]string{
				"traceparent": "00-" + traces[q.ID] + "-b7ad6b7169203331-01",
			}))
			requests = append(requests, q)
		}
		t.Logf("%s published %d requests", client.name, perClient)
	}
	publishAll(foreigners[0], protojson.Marshal)
	publishAll(foreigners[1], proto.Marshal)
	for _, id := range []string{javaSample(t, in), handWritten(t, in)} {
		if id != "" {
			requests = append(requests, harness.Request{ID: id, Copies: 1})
		}
	}

	in.wait(30*time.Second, "every result", func(n harness.Counts) bool {
		return n.Ended == len(requests) && n.Delivered == len(requests)
	})
	in.check("foreign clients", requests, harness.Expect{Delivered: true})

	moved := 0
	for _, client := range foreigners {
		t.Run(client.name+" reads", func(t *testing.T) {
			if why := client.missing(t); why != "" {
				t.Skip(why)
			}
			for _, name := range []string{topic.Sent, topic.Delivered} {
				got, err := client.read(in.within(time.Minute), in, name, len(requests))
				if err != nil {
					t.Fatalf("%s: read %d of %d: %v", name, len(got), len(requests), err)
				}
				checkMessages(t, name, got, requests, traces)
			}
			if client.name == foreigners[0].name {
				all, err := client.read(in.within(time.Minute), in, requested, len(requests))
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range all {
					if m.Headers["zns-moved"] != "" {
						moved++
					}
				}
			}
		})
	}
	t.Logf("%d of %d requests lay on another partition than murmur2's and were moved", moved, len(requests))
}

// javaSample runs the publisher that "zns sample java" prints, as a user would, and returns its notification_id.
func javaSample(t *testing.T, in *installation) string {
	t.Helper()
	if err := local.Available(); err != nil {
		t.Logf("SKIPPED: the Java client does not publish: %v", err)
		return ""
	}
	ctx := in.within(time.Minute)
	jars, err := local.Jars(ctx)
	in.must(err)
	root, err := filepath.Abs("../..")
	in.must(err)
	cmd := exec.CommandContext(ctx, "java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", filepath.Join(jars, "*"),
		filepath.Join(root, "services", "cli", "samples", "java", "Publisher.java"), "0919999999", "order-java")
	cmd.Env = append(cmd.Environ(), "KAFKA_BROKERS="+strings.Join(in.brokers, ","))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("Publisher.java: %v\n%s", err, out)
	}
	id, err := uuid.Parse(strings.TrimSpace(string(out)))
	in.must(err)
	t.Logf("kafka-clients (Java) published 1 request")
	return id.String()
}

var traceparentPattern = regexp.MustCompile(`^00-([0-9a-f]{32})-[0-9a-f]{16}-0[01]$`)

// checkMessages holds records of a result topic against the contract: one for each request, with every header.
func checkMessages(t *testing.T, name string, got []message, requests []harness.Request, traces map[string]string) {
	t.Helper()
	source, kind, id := "/znshub/"+harness.Cluster+"/sender", "/sent/1", func(v []byte) (string, string, error) {
		var m znsv1.Sent
		err := proto.Unmarshal(v, &m)
		return m.GetNotificationId(), m.GetNotificationId(), err
	}
	wantType := "zns.v1.Sent"
	if name == topic.Delivered {
		source, kind, wantType = "/znshub/"+harness.Cluster+"/ingest", "/delivered/", "zns.v1.Delivered"
		id = func(v []byte) (string, string, error) {
			var m znsv1.Delivered
			err := proto.Unmarshal(v, &m)
			return m.GetNotificationId(), m.GetMsgId(), err
		}
	}
	seen := map[string]int{}
	for _, m := range got {
		notification, subject, err := id(m.Value)
		if err != nil {
			t.Fatalf("%s: the value is not a %s: %v", name, wantType, err)
		}
		seen[notification]++
		for header, want := range map[string]string{
			"ce_specversion": "1.0", "ce_source": source, "ce_type": wantType, "ce_subject": notification,
			"content-type": "application/protobuf",
		} {
			if m.Headers[header] != want {
				t.Errorf("%s %s: header %s is %q, want %q", name, notification, header, m.Headers[header], want)
			}
		}
		if m.Key != notification {
			t.Errorf("%s: key %q, want %q", name, m.Key, notification)
		}
		if !strings.HasPrefix(m.Headers["ce_id"], subject+kind) {
			t.Errorf("%s: ce_id %q, want %s%s…", name, m.Headers["ce_id"], subject, kind)
		}
		if at, err := time.Parse(time.RFC3339Nano, m.Headers["ce_time"]); err != nil || time.Since(at).Abs() > time.Hour {
			t.Errorf("%s: ce_time %q: %v", name, m.Headers["ce_time"], err)
		}
		parts := traceparentPattern.FindStringSubmatch(m.Headers["traceparent"])
		switch want := traces[notification]; {
		case parts == nil:
			t.Errorf("%s: traceparent %q", name, m.Headers["traceparent"])
		case want != "" && parts[1] != want:
			t.Errorf("%s: trace %s, want the caller's %s", name, parts[1], want)
		}
	}
	for _, q := range requests {
		if seen[q.ID] != 1 {
			t.Errorf("%s: %s is there %d times, want once", name, q.ID, seen[q.ID])
		}
	}
	if len(got) != len(requests) {
		t.Errorf("%s: %d records for %d requests", name, len(got), len(requests))
	}
}

// handWritten publishes with kcat what a person would type: snake_case, numbers as numbers, a national phone number, no
// headers and no key. It returns the notification_id.
func handWritten(t *testing.T, in *installation) string {
	t.Helper()
	if why := foreigners[0].missing(t); why != "" {
		t.Logf("SKIPPED: nothing is typed into kcat: %s", why)
		return ""
	}
	id := uuid.NewString()
	cmd := exec.CommandContext(in.within(20*time.Second), "kcat", "-b", strings.Join(in.brokers, ","), "-P", "-t", requested)
	cmd.Stdin = strings.NewReader(`{"notification_id": "` + id + `", "recipient": {"phone": "0911 234 567"}, "template_id": "` + harness.TemplateID +
		`", "template_data": {"order_code": 1042, "customer_name": "An"}, "category": "otp", "ttl": "60s"}` + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("kcat: %v\n%s", err, out)
	}
	return id
}
