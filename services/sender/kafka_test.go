package sender

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// TestKafkaOneByOne takes single notifications through a real broker and a real HTTP server.
func TestKafkaOneByOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4, "ZALO_ACCESS_TOKEN="+testOA+"=test-token,1111111111111111111=test-token") // the second has no money
	w.provider.respond(func(p post) answer {
		switch {
		case p.Key == "no account":
			return answer{code: -118}
		case p.Key == "no money":
			return answer{code: -115}
		case p.Key == "busy" && p.Attempt == 1:
			return answer{code: -32}
		}
		return answer{}
	})
	s := w.run("a")

	t.Run("event", func(t *testing.T) {
		id := w.publish(request("plain"))[0]
		sent := w.wantSent(id, 40*time.Second)
		if sent.MsgId == "" || sent.TrackingId != w.provider.got("plain")[0].TrackingID {
			t.Errorf("zns.sent: %v", sent)
		}
		w.mu.Lock()
		r := w.events[id][0]
		w.mu.Unlock()
		for key, want := range map[string]string{
			kafka.HeaderID: id.String() + "/sent/1", kafka.HeaderSource: "/znshub/test/sender", kafka.HeaderType: "zns.v1.Sent", kafka.HeaderSubject: id.String(),
		} {
			if got, _ := r.Header(key); string(got) != want {
				t.Errorf("header %s is %q, want %q", key, got, want)
			}
		}
	})
	t.Run("forms", func(t *testing.T) {
		asProto, asJSON, framed := request("proto"), request("json"), request("framed")
		ids := []uuid.UUID{uuid.MustParse(asProto.NotificationId), uuid.MustParse(asJSON.NotificationId), uuid.MustParse(framed.NotificationId)}
		p, _ := proto.Marshal(asProto)
		j, _ := protojson.Marshal(asJSON)
		f, _ := proto.Marshal(framed)
		frame := append(binary.BigEndian.AppendUint32([]byte{0}, 42), 0)
		for i, value := range [][]byte{p, j, append(frame, f...)} {
			w.write(kafka.Record{Topic: w.input, Partition: -1, Key: []byte(ids[i].String()), Value: value})
		}
		for _, id := range ids {
			w.wantSent(id, 40*time.Second)
		}
	})
	t.Run("duplicates", func(t *testing.T) {
		req := request("twice")
		id := w.publish(req, req, req)[0]
		w.wantSent(id, 40*time.Second)
		w.publish(req)
		other := proto.CloneOf(req)
		other.TemplateData["order_code"] = "another"
		w.publish(other)
		w.eventually("a dead letter", 40*time.Second, func() bool { return w.deadLetter(dlqIDReused) != nil })
		if n := len(w.provider.got("twice")); n != 1 || len(w.sent(id)) != 1 || len(w.failed(id)) != 0 {
			t.Errorf("%d posts, %d zns.sent, %d zns.failed", n, len(w.sent(id)), len(w.failed(id)))
		}
	})
	t.Run("moved", func(t *testing.T) {
		req := request("moved", func(r *notificationv1.NotificationRequested) { r.OrderingKey = "order-7" })
		id := uuid.MustParse(req.NotificationId)
		right := kafka.Murmur2Partition([]byte("order-7"), 4)
		value, _ := proto.Marshal(req)
		w.write(kafka.Record{Topic: w.input, Partition: (right + 1) % 4, Key: []byte("any"), Value: value, Headers: []kafka.Header{{Key: "app", Value: []byte("x")}}})
		w.wantSent(id, 40*time.Second)
		moved := w.inputRecords(func(r kafka.Record) bool { _, ok := r.Header(headerMoved); return ok })
		if len(moved) != 1 || moved[0].Partition != right || !bytes.Equal(moved[0].Value, value) {
			t.Fatalf("moved: %v", moved)
		}
		from, _ := moved[0].Header(headerMoved)
		app, _ := moved[0].Header("app")
		if !strings.HasPrefix(string(from), fmt.Sprintf("%d@", (right+1)%4)) || string(app) != "x" {
			t.Errorf("headers: zns-moved %q, app %q", from, app)
		}
		if n := len(w.provider.got("moved")); n != 1 {
			t.Errorf("%d posts", n)
		}
	})
	t.Run("no account", func(t *testing.T) {
		id := w.publish(request("no account"))[0]
		f := w.wantFailed(id, znsv1.FailureReason_FAILURE_REASON_REJECTED, 40*time.Second)
		if f.ProviderCode != -118 || f.Advice != znsv1.Advice_ADVICE_TRY_OTHER_CHANNEL || f.Fallback["sms_text"] == "" || f.PossiblySent {
			t.Errorf("zns.failed: %v", f)
		}
	})
	t.Run("retried", func(t *testing.T) {
		id := w.publish(request("busy"))[0]
		if sent := w.wantSent(id, 40*time.Second); sent.Attempt != 2 {
			t.Errorf("zns.sent of attempt %d, want 2", sent.Attempt)
		}
		posts := w.provider.got("busy")
		if len(posts) != 2 || posts[0].TrackingID == posts[1].TrackingID || posts[1].At.Sub(posts[0].At) < 700*time.Millisecond {
			t.Errorf("posts: %v", posts)
		}
	})
	t.Run("not before", func(t *testing.T) {
		at := time.Now().Add(1500 * time.Millisecond)
		id := w.publish(request("later", notBefore(at)))[0]
		w.wantSent(id, 40*time.Second)
		if got := w.provider.got("later")[0].At; got.Before(at) {
			t.Errorf("posted %s too early", at.Sub(got))
		}
	})
	t.Run("expired while held", func(t *testing.T) {
		id := w.publish(request("no money", ttl(2*time.Second), ofOA("1111111111111111111")))[0]
		f := w.wantFailed(id, znsv1.FailureReason_FAILURE_REASON_EXPIRED, 40*time.Second)
		if n := len(w.provider.got("no money")); n != 1 || f.ProviderCode != -115 || len(f.Attempts) != 1 {
			t.Errorf("%d posts, zns.failed %v", n, f)
		}
	})
	t.Run("bad input", func(t *testing.T) { w.badInput(t) })
	s.stop()
	if s.err != nil {
		t.Error(s.err)
	}
	for _, secret := range []string{"987654321", "test-token", "text of"} {
		if strings.Contains(w.logs.String(), secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
}

// badInput: nothing stops the program, nothing vanishes, everything is told.
func (w *world) badInput(t *testing.T) {
	good, _ := proto.Marshal(request("cut"))
	invalid := request("bad phone", func(r *notificationv1.NotificationRequested) { r.Recipient.Phone = "09x" })
	noID := request("no id", func(r *notificationv1.NotificationRequested) { r.NotificationId = "" })
	noIDValue, _ := proto.Marshal(noID)
	hostile, _ := json.Marshal(map[string]any{"notification_id": uuid.NewString(), "expiresAt": strings.Repeat("[", 1000)})
	before := len(w.deadLetters())
	w.write(
		kafka.Record{Topic: w.input, Partition: 0, Value: good[:len(good)-3]},
		kafka.Record{Topic: w.input, Partition: 1, Value: []byte("\x01\x02garbage")},
		kafka.Record{Topic: w.input, Partition: 2, Value: hostile},
		kafka.Record{Topic: w.input, Partition: 3, Value: noIDValue},
		kafka.Record{Topic: w.input, Partition: 0, Value: nil, Key: []byte("tombstone")},
		kafka.Record{Topic: w.input, Partition: 1, Value: good, Headers: []kafka.Header{{Key: kafka.HeaderType, Value: []byte("other.v1.Thing")}}},
		kafka.Record{Topic: w.input, Partition: 2, Value: bytes.Repeat([]byte("x"), 960_000)},
		kafka.Record{Topic: w.input, Partition: 3, Value: []byte(`{"notification_id":"` + "\xff\xfe" + `"}`)},
	)
	id := w.publish(invalid, invalid)[0]
	f := w.wantFailed(id, znsv1.FailureReason_FAILURE_REASON_INVALID, 40*time.Second)
	if len(f.Violations) != 1 || f.Violations[0].Field != "recipient.phone" || f.Advice != znsv1.Advice_ADVICE_FIX_REQUEST {
		t.Errorf("zns.failed: %v", f)
	}
	w.eventually("dead letters", 40*time.Second, func() bool { return len(w.deadLetters()) >= before+9 })
	ok := w.publish(request("after bad input"))[0]
	w.wantSent(ok, 40*time.Second)
	if n := len(w.failed(id)); n != 1 {
		t.Errorf("%d zns.failed for one invalid id", n)
	}
	for _, r := range w.deadLetters()[before:] {
		for _, name := range []string{headerDLQReason, headerDLQMessage, headerDLQTopic, headerDLQPartition, headerDLQOffset, headerDLQTimestamp} {
			if v, _ := r.Header(name); len(v) == 0 {
				t.Errorf("a dead letter lacks %s", name)
			}
		}
	}
	big := w.deadLetterWhere(func(r kafka.Record) bool { _, ok := r.Header(headerDLQHash); return ok })
	if big == nil || len(big.Value) != 0 {
		t.Error("a value near 1 MiB should be a hash in its dead letter")
	}
}

func (w *world) deadLetter(reason string) *kafka.Record {
	return w.deadLetterWhere(func(r kafka.Record) bool { v, _ := r.Header(headerDLQReason); return string(v) == reason })
}

func (w *world) deadLetterWhere(f func(kafka.Record) bool) *kafka.Record {
	for _, r := range w.deadLetters() {
		if f(r) {
			return &r
		}
	}
	return nil
}

// inputRecords reads the input topic to its end.
func (w *world) inputRecords(f func(kafka.Record) bool) []kafka.Record {
	w.t.Helper()
	var out []kafka.Record
	w.readAll(w.input, func(r kafka.Record) {
		if f(r) {
			out = append(out, r)
		}
	})
	return out
}

// callback stores a callback as webhook-ingest would.
func (w *world) callback(id uuid.UUID, trackingID string) {
	w.t.Helper()
	body := fmt.Sprintf(`{"sender":{"id":%q},"recipient":{"id":"84987654321"},"event_name":"user_received_message",`+
		`"message":{"delivery_time":"%d","msg_id":"15a0cc0bbb13bd4ce403","tracking_id":%q},"app_id":"2074138120372622546","timestamp":"%d"}`,
		testOA, time.Now().UnixMilli(), trackingID, time.Now().UnixMilli())
	w.write(kafka.Record{Topic: topic.Callback, Partition: -1, Key: []byte(id.String()), Value: []byte(body)})
}

func TestKafkaUnknown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4, "SENDER_UNRESOLVED_AFTER=1s", "SENDER_RESOLVE_WINDOW=15s")
	w.provider.respond(func(p post) answer {
		if strings.HasPrefix(p.Key, "lost") && p.Attempt == 1 {
			return answer{lose: true}
		}
		return answer{}
	})
	w.run("a")
	ids := w.publish(
		request("lost, then told"),
		request("lost otp", ofCategory(otp)),
		request("lost, held"),
		request("lost, sent again", ofCategory(otp), onUnknown(resend)),
	)
	told, failed, held, again := ids[0], ids[1], ids[2], ids[3]
	for i, id := range ids {
		w.eventually(fmt.Sprintf("zns.unresolved %d", i), 40*time.Second, func() bool { return len(w.unresolved(id)) == 1 })
	}
	if u := w.unresolved(told)[0]; u.Cause != znsv1.UnknownCause_UNKNOWN_CAUSE_RESET {
		t.Errorf("cause %s", u.Cause)
	}
	w.callback(told, w.provider.got("lost, then told")[0].TrackingID)
	sent := w.wantSent(told, 40*time.Second)
	if sent.OutcomeSource != znsv1.OutcomeSource_OUTCOME_SOURCE_CALLBACK || sent.MsgId != "15a0cc0bbb13bd4ce403" || sent.Corrects {
		t.Errorf("zns.sent: %v", sent)
	}
	f := w.wantFailed(failed, unsolved, 40*time.Second)
	if !f.PossiblySent || f.Fallback["sms_text"] == "" {
		t.Errorf("zns.failed: %v", f)
	}
	if s := w.wantSent(again, 40*time.Second); s.Attempt != 2 || len(w.provider.got("lost, sent again")) != 2 {
		t.Errorf("zns.sent: %v", s)
	}
	w.callback(failed, w.provider.got("lost otp")[0].TrackingID)
	if s := w.wantSent(failed, 40*time.Second); !s.Corrects {
		t.Errorf("zns.sent: %v", s)
	}
	if len(w.sent(held))+len(w.failed(held)) != 0 {
		t.Error("TRANSACTION was decided before it expired")
	}
	for _, key := range []string{"lost, then told", "lost otp", "lost, held"} {
		if n := len(w.provider.got(key)); n != 1 {
			t.Errorf("%s: %d posts", key, n)
		}
	}
}
