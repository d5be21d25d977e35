package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/kafka"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// bad is a record that is no good request, and how it must be told.
type bad struct {
	name    string
	value   []byte // nil: tombstone
	key     []byte
	headers map[string]string
	id      string // the notification_id that can be read in it; empty: none

	letter string // zns-dlq-reason of its dead letter; empty: there must be none
	field  string // zns-dlq-field
	says   string // part of zns-dlq-message
	failed znsv1.FailureReason
	// violation is the field path in zns.failed INVALID.
	violation string
	sent      bool // Zalo takes a request of this id all the same
}

// request is a good one, changed.
func request(change func(m *notificationv1.NotificationRequested)) *notificationv1.NotificationRequested {
	m := (&harness.Load{}).Message(int(serial.Add(1)), harness.Request{ID: uuid.NewString()})
	if change != nil {
		change(m)
	}
	return m
}

func encode(m *notificationv1.NotificationRequested) []byte {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err)
	}
	return value
}

// invalid is a request that breaks a rule in one field.
func invalid(name, field string, change func(m *notificationv1.NotificationRequested)) bad {
	m := request(change)
	return bad{
		name: name, value: encode(m), id: m.GetNotificationId(), letter: "INVALID", field: field,
		failed: znsv1.FailureReason_FAILURE_REASON_INVALID, violation: field,
	}
}

// text is JSON with a readable id in place of ID and a good phone in place of PHONE.
func text(name, value string, b bad) bad {
	b.name, b.id = name, uuid.NewString()
	if !strings.Contains(value, "ID") {
		b.id = ""
	}
	phone := fmt.Sprintf("091%07d", serial.Add(1))
	b.value = []byte(strings.NewReplacer("ID", b.id, "PHONE", phone, "TEMPLATE", harness.TemplateID).Replace(value))
	return b
}

func badInput() []bad {
	const failedInvalid = znsv1.FailureReason_FAILURE_REASON_INVALID
	whole := encode(request(nil))
	cutID := request(nil)
	cut := encode(cutID)
	reused := request(nil)
	otherContent := proto.CloneOf(reused)
	otherContent.TemplateData["order_code"] = "another"
	otherContent.Recipient.Phone = harness.Phone(int(serial.Add(1)))
	badTextID := request(nil)
	badText := bytes.Replace(encode(badTextID), []byte("Nguy"), []byte{0xff, 0xfe, 'u', 'y'}, 1)
	rejected := request(func(m *notificationv1.NotificationRequested) { m.TemplateId = "999999999" })
	expired := request(func(m *notificationv1.NotificationRequested) {
		m.ExpireTime = timestamppb.New(time.Now().Add(-time.Hour))
	})

	return []bad{
		{name: "tombstone", value: nil, letter: "EMPTY"},
		{name: "empty value", value: []byte{}, letter: "EMPTY"},
		{name: "protobuf cut in the middle", value: cut[:len(cut)-3], id: cutID.GetNotificationId(), letter: "MALFORMED", failed: failedInvalid},
		{name: "protobuf cut in the id", value: whole[:20], letter: "MALFORMED"},
		{name: "random bytes", value: []byte{0xde, 0xad, 0xbe, 0xef, 0x01, 0x02}, letter: "MALFORMED"},
		{name: "plain words", value: []byte("please send something"), letter: "MALFORMED"},
		{name: "protobuf with bad UTF-8", value: badText, id: badTextID.GetNotificationId(), letter: "MALFORMED", failed: failedInvalid},
		{name: "frame of a schema registry, cut", value: []byte{0, 0, 0, 0, 1}, letter: "MALFORMED"},
		{
			name: "another ce_type", value: encode(request(nil)), headers: map[string]string{"ce_type": "order.v1.OrderCreated"},
			letter: "UNKNOWN_TYPE", says: "order.v1.OrderCreated",
		},

		text("recipient is text", `{"notification_id":"ID","recipient":"PHONE","template_id":"TEMPLATE"}`, bad{letter: "INVALID", failed: failedInvalid, field: "recipient", violation: "recipient"}),
		text("template_data is a list", `{"notification_id":"ID","recipient":{"phone":"PHONE"},"template_id":"TEMPLATE","template_data":[1,2]}`, bad{letter: "INVALID", failed: failedInvalid, field: "template_data", violation: "template_data"}),
		text("notification_id is a number", `{"notification_id":17,"recipient":{"phone":"PHONE"},"template_id":"TEMPLATE"}`, bad{letter: "INVALID", field: "notification_id"}),
		text("a misspelt field", `{"notification_id":"ID","recipient":{"phone":"PHONE"},"template_id":"TEMPLATE","expiresAt":"2030-01-01T00:00:00Z"}`, bad{letter: "INVALID", failed: failedInvalid, says: "expire_time"}),
		text("JSON cut", `{"notification_id":"ID","recipient":{"phone":"PHO`, bad{letter: "MALFORMED", failed: failedInvalid}),
		text("JSON with bad UTF-8", "{\"notification_id\":\"ID\",\"recipient\":{\"phone\":\"PHONE\"},\"template_id\":\"TEMPLATE\",\"reference\":\"\xff\xfe\"}", bad{letter: "MALFORMED", failed: failedInvalid}),
		text("JSON with half a surrogate", `{"notification_id":"ID","recipient":{"phone":"PHONE"},"template_id":"TEMPLATE","reference":"\ud800"}`, bad{letter: "MALFORMED", failed: failedInvalid}),
		text("JSON a hundred thousand deep", `{"notification_id":"ID","template_data":`+strings.Repeat("[", 100_000)+strings.Repeat("]", 100_000)+`}`, bad{letter: "MALFORMED", failed: failedInvalid}),
		text("JSON with an id given twice", `{"notification_id":"ID","notification_id":"00000000-0000-4000-8000-000000000001","recipient":{"phone":"PHONE"},"template_id":"TEMPLATE"}`, bad{letter: "INVALID", failed: failedInvalid, field: "notification_id"}),
		text("JSON with a number beyond all", `{"notification_id":"ID","recipient":{"phone":"PHONE"},"template_id":"TEMPLATE","on_unknown":1e400}`, bad{letter: "INVALID", failed: failedInvalid, field: "on_unknown", violation: "on_unknown"}),
		text("JSON with more behind it", `{"notification_id":"ID","recipient":{"phone":"PHONE"},"template_id":"TEMPLATE"} DROP TABLE`, bad{letter: "MALFORMED", failed: failedInvalid}),
		text("a JSON list", `[{"notification_id":"ID"}]`, bad{letter: "MALFORMED"}),

		invalid("bad phone", "recipient.phone", func(m *notificationv1.NotificationRequested) { m.Recipient.Phone = "09x" }),
		invalid("no recipient", "recipient", func(m *notificationv1.NotificationRequested) { m.Recipient = nil }),
		invalid("no template", "template_id", func(m *notificationv1.NotificationRequested) { m.TemplateId = "" }),
		invalid("a key of 300 bytes", "ordering_key", func(m *notificationv1.NotificationRequested) { m.OrderingKey = strings.Repeat("k", 300) }),
		{
			name: "no id", letter: "INVALID", field: "notification_id",
			value: encode(request(func(m *notificationv1.NotificationRequested) { m.NotificationId = "" })),
		},
		{
			name: "an id that is no UUID", letter: "INVALID", field: "notification_id",
			value: encode(request(func(m *notificationv1.NotificationRequested) { m.NotificationId = "order-1042" })),
		},
		{
			name: "the id of another request", value: encode(otherContent), id: reused.GetNotificationId(), letter: "ID_REUSED",
			sent: true, key: []byte(reused.GetNotificationId()),
		},
		{
			name: "unknown template", value: encode(rejected), id: rejected.GetNotificationId(),
			failed: znsv1.FailureReason_FAILURE_REASON_REJECTED,
		},
		{
			name: "expired an hour ago", value: encode(expired), id: expired.GetNotificationId(),
			failed: znsv1.FailureReason_FAILURE_REASON_EXPIRED,
		},
		text("a value of 1 MiB", `{"notification_id":"ID","recipient":{"phone":"PHONE"},"template_id":"TEMPLATE","reference":"`+strings.Repeat("x", 1<<20)+`"}`, bad{letter: "INVALID", failed: failedInvalid, says: "256 KiB"}),
		{name: "1 MiB of nothing", value: make([]byte, 1<<20), letter: "INVALID", says: "256 KiB"},
		{
			name: "a key of half a megabyte and 2,000 headers", key: bytes.Repeat([]byte("k"), 500_000), value: []byte("?"),
			headers: manyHeaders(2000), letter: "MALFORMED",
		},
		{
			name: "headers of garbage", value: []byte("{"), letter: "MALFORMED",
			headers: map[string]string{"traceparent": "00-zz", "zns-moved": "\xff", "ce_time": "yesterday", "ce_id": strings.Repeat("\x00", 100), "": "no name"},
		},
	}
}

var movedPattern = regexp.MustCompile(`^\d+@\d+$`)

func manyHeaders(n int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprintf("header-%d", i)] = "v"
	}
	return m
}

// Every kind of bad input is told in the dead letters or in zns.failed, whole and with where it came from, stops no
// program, and the good request behind it goes through.
func TestBadInput(t *testing.T) {
	in := install(t, options{})
	client, err := kgo.NewClient(kgo.SeedBrokers(in.brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(4<<20), kgo.ProducerBatchCompression(kgo.GzipCompression()))
	in.must(err)
	defer client.Close()
	publish := func(r *kgo.Record) *kgo.Record {
		t.Helper()
		r.Topic = requested
		out, err := client.ProduceSync(in.within(20*time.Second), r).First()
		in.must(err)
		return out
	}
	place := func(id string) int32 { return kafka.Murmur2Partition([]byte(id), partitions) }

	type published struct {
		bad
		record *kgo.Record
		behind string // id of the good request behind it
	}
	var all []published
	var good []harness.Request
	for _, b := range badInput() {
		// The place of the bad record is that of its id, so that no move hides it; the good one follows there.
		partition := place(b.id)
		if b.letter == "ID_REUSED" {
			first := request(func(m *notificationv1.NotificationRequested) { m.NotificationId = b.id })
			publish(&kgo.Record{Partition: partition, Key: b.key, Value: encode(first)})
			good = append(good, harness.Request{ID: b.id, Copies: 1})
		}
		r := &kgo.Record{Partition: partition, Key: b.key, Value: b.value}
		for k, v := range b.headers {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: k, Value: []byte(v)})
		}
		behind := request(nil)
		for place(behind.GetNotificationId()) != partition {
			behind.NotificationId = uuid.NewString()
		}
		all = append(all, published{bad: b, record: publish(r), behind: behind.GetNotificationId()})
		publish(&kgo.Record{Partition: partition, Key: []byte(behind.GetNotificationId()), Value: encode(behind)})
		good = append(good, harness.Request{ID: behind.GetNotificationId(), Copies: 1})
	}

	in.wait(time.Minute, "the good requests behind", func(n harness.Counts) bool { return n.Delivered >= len(good) })
	failures := map[string]*znsv1.Failed{}
	letters := map[string]*kgo.Record{}
	deadline := time.Now().Add(15 * time.Second)
	for missing := 1; missing > 0 && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		for _, r := range in.results.Letters() {
			place := header(r, "zns-dlq-partition") + "@" + header(r, "zns-dlq-offset")
			if moved := header(r, "zns-moved"); movedPattern.MatchString(moved) {
				place = moved // where the caller wrote it
			}
			letters[place] = r
		}
		missing = 0
		for _, p := range all {
			if p.letter != "" && letters[at(p.record)] == nil || p.failed != 0 && !in.results.Has(topic.Failed, p.id) {
				missing++
			}
		}
	}
	for _, r := range in.results.Failed() {
		var m znsv1.Failed
		in.must(proto.Unmarshal(r.Value, &m))
		failures[m.GetNotificationId()] = &m
	}

	known := good
	for _, p := range all {
		if p.id != "" && !p.sent {
			known = append(known, harness.Request{ID: p.id, Copies: 1})
		}
		t.Run(p.name, func(t *testing.T) {
			if p.letter == "" && p.failed == 0 {
				t.Fatal("this case expects nothing")
			}
			checkLetter(t, p.bad, p.record, letters[at(p.record)])
			f := failures[p.id]
			if p.failed == 0 {
				if f != nil {
					t.Errorf("zns.failed %s, want none", f.GetReason())
				}
			} else {
				checkFailed(t, p.bad, f)
			}
			if !in.results.Has(topic.Delivered, p.behind) {
				t.Error("the good request behind it was not delivered")
			}
		})
	}
	if n := len(letters); n != len(in.results.Letters()) {
		t.Errorf("%d dead letters for %d places", len(in.results.Letters()), n)
	}
	report := in.observe(known).Check(harness.Expect{Waiting: -1})
	t.Logf("%d bad records: %d dead letters, %d zns.failed; %d good ones behind them: %d sent", len(all), len(letters), report.Failed, len(good), report.Sent)
	if err := report.Err(); err != nil {
		t.Error(err)
	}
	if report.Sent != len(good) {
		t.Errorf("%d sent, want the %d good ones alone", report.Sent, len(good))
	}
}

func at(r *kgo.Record) string { return fmt.Sprintf("%d@%d", r.Partition, r.Offset) }

func header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

func checkLetter(t *testing.T, b bad, original, letter *kgo.Record) {
	t.Helper()
	if b.letter == "" {
		if letter != nil {
			t.Errorf("a dead letter %s, want none", header(letter, "zns-dlq-reason"))
		}
		return
	}
	if letter == nil {
		t.Error("it vanished: no dead letter")
		return
	}
	reason, field, says := header(letter, "zns-dlq-reason"), header(letter, "zns-dlq-field"), header(letter, "zns-dlq-message")
	t.Logf("told as %s %s %q", reason, field, says)
	if reason != b.letter {
		t.Errorf("reason %s, want %s", reason, b.letter)
	}
	if field != b.field && b.field != "" {
		t.Errorf("field %q, want %q", field, b.field)
	}
	if len(says) < 10 || !strings.Contains(says, b.says) {
		t.Errorf("message %q, want one with %q", says, b.says)
	}
	if header(letter, "zns-dlq-topic") != requested || header(letter, "zns-dlq-timestamp") == "" {
		t.Errorf("it does not say where it came from: %v", letter.Headers)
	}
	for k, v := range b.headers {
		if header(letter, k) != v {
			t.Errorf("its header %q became %q", k, header(letter, k))
		}
	}
	if bytes.Equal(letter.Value, original.Value) && (letter.Value == nil) == (original.Value == nil) {
		return
	}
	sum := sha256.Sum256(original.Value)
	if header(letter, "zns-dlq-value-size") != strconv.Itoa(len(original.Value)) || header(letter, "zns-dlq-value-sha256") != hex.EncodeToString(sum[:]) {
		t.Errorf("neither the value nor its size and hash: %d bytes for %d", len(letter.Value), len(original.Value))
	}
}

func checkFailed(t *testing.T, b bad, f *znsv1.Failed) {
	t.Helper()
	if f == nil {
		t.Errorf("no zns.failed for its id")
		return
	}
	if f.GetReason() != b.failed || f.GetPossiblySent() {
		t.Errorf("zns.failed %s (possibly sent: %t), want %s", f.GetReason(), f.GetPossiblySent(), b.failed)
	}
	if f.GetReason() != znsv1.FailureReason_FAILURE_REASON_INVALID {
		return
	}
	if f.GetAdvice() != znsv1.Advice_ADVICE_FIX_REQUEST || len(f.GetViolations()) == 0 {
		t.Errorf("zns.failed INVALID with advice %s and violations %v", f.GetAdvice(), f.GetViolations())
		return
	}
	if v := f.GetViolations()[0]; v.GetMessage() == "" || b.violation != "" && v.GetField() != b.violation {
		t.Errorf("violation %v, want field %q with a message", v, b.violation)
	}
}
