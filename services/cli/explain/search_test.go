package explain

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/notification"
	"github.com/znshub/znshub/pkg/trackingid"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

const partitions = 6

// memory is a Log in memory that counts what is read.
type memory struct {
	t       *testing.T
	records map[string][]kafka.Record

	mu   sync.Mutex     // a search reads several topics at a time
	read map[string]int // partitions read, by topic
}

func newMemory(t *testing.T) *memory {
	return &memory{t: t, records: map[string][]kafka.Record{}, read: map[string]int{}}
}

// add appends a record where its key belongs, or where place says.
func (m *memory) add(name, key string, value proto.Message, place ...int32) (partition int32, offset int64) {
	m.t.Helper()
	var raw []byte
	if value != nil {
		var err error
		if raw, err = proto.Marshal(value); err != nil {
			m.t.Fatal(err)
		}
	}
	partition = kafka.Murmur2Partition([]byte(key), partitions)
	if len(place) > 0 {
		partition = place[0]
	}
	for _, r := range m.records[name] {
		if r.Partition == partition {
			offset = r.Offset + 1
		}
	}
	at := time.Date(2026, 11, 22, 4, 0, len(m.records[name]), 0, time.UTC)
	m.records[name] = append(m.records[name], kafka.Record{Topic: name, Partition: partition, Offset: offset, Time: at, Key: []byte(key), Value: raw})
	return partition, offset
}

func (m *memory) Partitions(context.Context, string) (int32, error) { return partitions, nil }

// Read ignores start: what it would leave out must not matter.
func (m *memory) Read(_ context.Context, name string, which []int32, _ kafka.Start, f func(kafka.Record)) ([]Range, error) {
	if which == nil {
		for p := range int32(partitions) {
			which = append(which, p)
		}
	}
	m.mu.Lock()
	m.read[name] += len(which)
	m.mu.Unlock()
	var ranges []Range
	for _, p := range which {
		r := Range{Topic: name, Partition: p}
		for _, rec := range m.records[name] {
			if rec.Partition == p {
				r.Records, r.To = r.Records+1, rec.Offset+1
				f(rec)
			}
		}
		ranges = append(ranges, r)
	}
	return ranges, nil
}

// publish puts a whole life of one notification into the topics and returns its id.
func (m *memory) publish(source, key, orderingKey, msgID string) string {
	id := notification.DeriveID(source, key).String()
	at := id
	if orderingKey != "" {
		at = orderingKey
	}
	own := kafka.Murmur2Partition([]byte(at), partitions)
	_, offset := m.add(topic.Requested, at, &notificationv1.NotificationRequested{Source: source, IdempotencyKey: key, OrderingKey: orderingKey})
	for _, s := range []ledgerv1.State{ledgerv1.State_STATE_ACCEPTED, ledgerv1.State_STATE_SENDING, ledgerv1.State_STATE_SENT} {
		m.add(topic.RequestedLedger, id, &ledgerv1.Entry{State: s, InputOffset: offset, MsgId: msgID}, own)
	}
	m.add(topic.Sent, id, &znsv1.Sent{NotificationId: id, IdempotencyKey: key, Source: source, MsgId: msgID})
	m.add(topic.Delivered, id, &znsv1.Delivered{NotificationId: id})
	return id
}

func TestSearchFindsByEveryName(t *testing.T) {
	fill := func() (*memory, string, string) {
		m := newMemory(t)
		for i := range 50 {
			m.publish("shop", fmt.Sprintf("order-%d/shipped", i), "", fmt.Sprintf("m%d", i))
		}
		plain := m.publish("shop", "order-50/shipped", "", "m50")
		ordered := m.publish("shop", "order-51/shipped", "customer-7", "m51")
		return m, plain, ordered
	}
	_, plain, ordered := fill()
	traced := trackingid.Encode("default", uuid.MustParse(plain), trace.TraceID{1}, true, 1)
	for _, c := range []struct {
		query  Query
		want   string
		ledger int // partitions of the ledger that may be read
	}{
		{Query{Text: plain}, plain, 1},
		{Query{Text: traced, Cluster: "default"}, plain, 1},
		{Query{Text: "order-50/shipped", Source: "shop"}, plain, 1},
		{Query{Text: "shop/order-50/shipped"}, plain, 2},
		{Query{Text: "order-50/shipped"}, plain, 2},
		{Query{Text: "m50"}, plain, 1},
		{Query{Text: ordered}, ordered, 1 + partitions},
		{Query{Text: "shop/order-51/shipped"}, ordered, 2 + partitions},
		{Query{Text: "order-51/shipped"}, ordered, 2 + partitions},
		{Query{Text: "m51"}, ordered, 1 + partitions},
	} {
		t.Run(c.query.Text, func(t *testing.T) {
			m, _, _ := fill()
			c.query.Input = topic.Requested
			facts, err := Search(t.Context(), m, c.query)
			if err != nil {
				t.Fatal(err)
			}
			if facts.ID != c.want || len(facts.Ledger) != 3 || len(facts.Events) != 2 || len(facts.Requests) != 1 {
				t.Errorf("found %s with %d ledger versions, %d events and %d requests; want %s with 3, 2 and 1",
					facts.ID, len(facts.Ledger), len(facts.Events), len(facts.Requests), c.want)
			}
			if m.read[topic.RequestedLedger] > c.ledger {
				t.Errorf("%d partitions of the ledger were read, %d should do", m.read[topic.RequestedLedger], c.ledger)
			}
			if n := m.read[topic.Delivered]; n != 1 {
				t.Errorf("%d partitions of %s were read, 1 should do", n, topic.Delivered)
			}
		})
	}
}

func TestSearchFindsNothing(t *testing.T) {
	m := newMemory(t)
	m.publish("shop", "order-1/shipped", "", "m1")
	for _, q := range []Query{
		{Text: "order-2/shipped"}, {Text: "shop/order-2/shipped"}, {Text: "order-1/shipped", Source: "other"}, {Text: "m2"},
		{Text: "018f3c5e-7b1a-7c3e-9c39-5c1f1b9f2a10"},
	} {
		q.Input = topic.Requested
		facts, err := Search(t.Context(), m, q)
		if err != nil || facts.Found() {
			t.Errorf("%+v: found %+v, error %v", q, facts, err)
		}
		if len(facts.Searched) == 0 {
			t.Errorf("%+v: does not tell where it looked", q)
		}
	}
}

// A request that was moved is shown where its caller wrote it, too; one of a deleted ledger entry still has its events.
func TestSearchFollowsAMove(t *testing.T) {
	m := newMemory(t)
	id := notification.DeriveID("shop", "order-1").String()
	own := kafka.Murmur2Partition([]byte(id), partitions)
	req := &notificationv1.NotificationRequested{Source: "shop", IdempotencyKey: "order-1"}
	from, fromOffset := m.add(topic.Requested, id, req, (own+1)%partitions)
	_, offset := m.add(topic.Requested, id, req)
	moved := m.records[topic.Requested]
	moved[1].Headers = []kafka.Header{{Key: "zns-moved", Value: fmt.Appendf(nil, "%d@%d", from, fromOffset)}}
	m.add(topic.RequestedLedger, id, &ledgerv1.Entry{InputOffset: offset, MovedFrom: fmt.Sprintf("%d@%d", from, fromOffset)})
	facts, err := Search(t.Context(), m, Query{Text: id, Input: topic.Requested})
	if err != nil {
		t.Fatal(err)
	}
	if len(facts.Requests) != 2 || facts.Requests[0].Record.Partition != from || facts.Requests[1].MovedFrom() == "" {
		t.Errorf("requests: %+v", facts.Requests)
	}
}

func TestSearchRefusesABrokenLedger(t *testing.T) {
	m := newMemory(t)
	id := m.publish("shop", "order-1", "", "m1")
	m.records[topic.RequestedLedger][0].Value = []byte{0xff}
	if _, err := Search(t.Context(), m, Query{Text: id, Input: topic.Requested}); err == nil {
		t.Error("a ledger entry that cannot be read is passed over in silence")
	}
}
