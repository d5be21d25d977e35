package sender

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/notification"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

func TestMoved(t *testing.T) {
	c := newCore(t)
	id, r := c.request()
	right := r.Partition
	r.Partition = 1 - right
	r.Headers = []kafka.Header{{Key: "traceparent", Value: []byte("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")}}
	c.tick(true, r)
	c.want(id, "none")
	if len(c.out) != 1 || c.out[0].Topic != topic.Requested || c.out[0].Partition != right || !c.out[0].Time.Equal(r.Time) {
		t.Fatalf("published: %v", c.out)
	}
	moved := c.out[0]
	moved.Offset = 77
	moved.Time = c.now.Add(time.Hour) // of a topic with LogAppendTime
	c.pass(2 * time.Hour)
	c.tick(true, moved)
	c.want(id, "SENDING(1)")
	le := c.ledgerOf(id)
	if le.MovedFrom != strconv.Itoa(int(1-right))+"@"+strconv.FormatInt(r.Offset, 10) || le.RequestedMs != ms(r.Time) {
		t.Errorf("ledger: %v", le)
	}
	// A copy of the moved record on a wrong partition is not taken: its id is remembered elsewhere.
	moved.Partition, moved.Offset = 1-right, 78
	c.tick(true, moved)
	if d := c.deadLetters(); len(d) != 1 || d[0][headerDLQReason] != dlqMisplaced {
		t.Errorf("dead letters: %v", d)
	}
	if len(c.calls) != 1 {
		t.Errorf("%d calls", len(c.calls))
	}
}

// TestOldRequestIsNotRevivedByMoving: a move does not make a request younger.
func TestOldRequestIsNotRevivedByMoving(t *testing.T) {
	c := newCore(t)
	id, r := c.request()
	right := r.Partition
	r.Partition = 1 - right
	c.pass(48 * time.Hour)
	c.tick(true, r)
	moved := c.out[0]
	moved.Time = c.now
	c.tick(true, moved)
	c.want(id, "done")
	if f := c.failed(id); len(f) != 1 || f[0].Reason != znsv1.FailureReason_FAILURE_REASON_EXPIRED {
		t.Errorf("zns.failed: %v", f)
	}
}

func TestInvalidIsRememberedOnce(t *testing.T) {
	c := newCore(t)
	id, r := c.request(func(r *notificationv1.NotificationRequested) { r.Recipient.Phone = "09x" })
	c.tick(false, r)
	c.tick(true, r)
	again := r
	again.Offset = 90
	c.tick(true, again)
	c.want(id, "done")
	f := c.failed(id)
	if len(f) != 1 || f[0].Reason != znsv1.FailureReason_FAILURE_REASON_INVALID || len(f[0].Violations) == 0 || f[0].Violations[0].Field != "recipient.phone" {
		t.Fatalf("zns.failed: %v", f)
	}
	if d := c.deadLetters(); len(d) != 1 || d[0][headerDLQField] != "recipient.phone" || d[0][headerDLQOffset] != strconv.FormatInt(r.Offset, 10) {
		t.Errorf("dead letters: %v", d)
	}
	if le := c.ledgerOf(id); le.FailureReason != int32(znsv1.FailureReason_FAILURE_REASON_INVALID) || le.Request != nil {
		t.Errorf("ledger: %v", le)
	}
}

func TestPoisonedInput(t *testing.T) {
	c := newCore(t)
	id, r := c.request()
	c.poison["@"+strconv.FormatInt(r.Offset, 10)] = errors.New("too large")
	c.tick(true, r)
	c.want(id, "none")
	if len(c.out) != 1 || c.out[0].Topic != topic.RequestedDLQ || c.out[0].Value != nil {
		t.Fatalf("published: %v", c.out)
	}
}

func TestPoisonedOutcome(t *testing.T) {
	c := newCore(t)
	id, r := c.request(func(r *notificationv1.NotificationRequested) { r.Labels = map[string]string{"a": "b"} })
	c.tick(true, r)
	c.poison[id.String()] = errors.New("too large")
	c.answer(id, accepted("m"))
	c.tick(true)
	if s := c.sent(id); len(s) != 1 || len(s[0].Labels) != 0 {
		t.Fatalf("zns.sent: %v", s)
	}
}

func TestNotAllowed(t *testing.T) {
	c := newCore(t, func(cfg *Config) { cfg.AllowPhones = []string{"0912345678"} })
	id, r := c.request()
	ok, r2 := c.request(func(r *notificationv1.NotificationRequested) { r.Recipient.Phone = "+84912345678" })
	c.tick(true, r, r2)
	c.want(id, "done")
	c.want(ok, "SENDING(1)")
	if f := c.failed(id); len(f) != 1 || f[0].Reason != znsv1.FailureReason_FAILURE_REASON_NOT_ALLOWED {
		t.Errorf("zns.failed: %v", f)
	}
}

func TestOA(t *testing.T) {
	c := newCore(t)
	without := func(r *notificationv1.NotificationRequested) { r.OaId = "" }
	id, r := c.request(without)
	c.tick(true, r)
	c.want(id, "SENDING(1)")
	if got := c.calls[0].req.GetOaId(); got != testOA {
		t.Errorf("sends with OA %q", got)
	}
	c = newCore(t, func(cfg *Config) { cfg.AccessToken = "1=a,2=b" })
	id, r = c.request(without)
	c.tick(true, r)
	c.want(id, "done")
	if f := c.failed(id); len(f) != 1 || f[0].Violations[0].Field != "oa_id" {
		t.Errorf("zns.failed: %v", f)
	}
}

// TestNaturalKey: the id of a natural key is the published one, and the second request with it is the same one.
func TestNaturalKey(t *testing.T) {
	c := newCore(t)
	req := &notificationv1.NotificationRequested{
		IdempotencyKey: "order-1042/shipped", Source: "order-service", OaId: testOA, TemplateId: "643118", Recipient: &notificationv1.Recipient{Phone: "0987654321"},
	}
	value, _ := proto.Marshal(req)
	id := notification.DeriveID("order-service", "order-1042/shipped")
	r := kafka.Record{Topic: topic.Requested, Partition: kafka.Murmur2Partition([]byte(id.String()), 2), Offset: 5, Time: c.now, Value: value}
	c.tick(true, r)
	c.want(id, "SENDING(1)")
	r.Offset = 6
	c.tick(true, r)
	if len(c.calls) != 1 {
		t.Errorf("%d calls", len(c.calls))
	}
}

// TestForgetting: after the dedupe window a terminal entry is tombstoned, one that is reborn is not.
func TestForgetting(t *testing.T) {
	c := newCore(t)
	id, r := c.request()
	c.tick(true, r)
	c.answer(id, accepted("m"))
	c.tick(true)
	c = c.successor()
	c.pass(71 * time.Hour)
	c.tick(true)
	c.want(id, "done")
	c.pass(2 * time.Hour)
	c.tick(false)
	c.want(id, "done")
	c.tick(true)
	c.want(id, "none")
	if c.ledgerOf(id) != nil {
		t.Error("no tombstone")
	}
	_, again := c.request(func(r *notificationv1.NotificationRequested) { r.NotificationId = id.String() })
	c.tick(true, again)
	c.answer(id, accepted("m2"))
	c.tick(true)
	c = c.successor() // its ledger holds both lives and the tombstone between them
	c.pass(time.Hour)
	c.tick(true)
	c.want(id, "done")
}

// TestStandstillCostsNoMemory: what expires while nothing can start does not stay in the queue.
func TestStandstillCostsNoMemory(t *testing.T) {
	c := newCore(t)
	gated(c).close(flowFor("643118", plain), ledgerv1.HoldReason_HOLD_REASON_CIRCUIT)
	for range 40 {
		var in []kafka.Record
		for range 500 {
			_, r := c.request(ttl(time.Second))
			in = append(in, r)
		}
		c.tick(true, in...)
		c.pass(2 * time.Second)
		c.tick(true)
	}
	if n := c.h.partition(0).places() + c.h.partition(1).places(); n > 0 {
		t.Errorf("%d of 20000 expired entries are still queued", n)
	}
}

// TestFrontDoor: an input partition beyond the ledger's remembers nothing; what arrives there is moved or told.
func TestFrontDoor(t *testing.T) {
	c := newCore(t)
	id, r := c.request()
	right := r.Partition
	r.Partition = 5
	c.tick(true, r, kafka.Record{Topic: topic.Requested, Partition: 5, Offset: 9, Time: c.now, Value: []byte("\x01garbage")})
	if len(c.ledger[5]) != 0 {
		t.Error("wrote into a ledger partition that does not exist")
	}
	if len(c.out) != 2 || c.out[0].Partition != right || c.out[1].Topic != topic.RequestedDLQ {
		t.Fatalf("published: %v", c.out)
	}
	moved := c.out[0]
	moved.Offset = 10
	c.tick(true, moved)
	c.want(id, "SENDING(1)")
}
