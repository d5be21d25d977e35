package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/kafka"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
)

// The simulator's templates, one for each category.
const (
	templateOTP       = "300100"
	templateOrder     = "300200"
	templateCare      = "300250"
	templatePromotion = "300300"
)

// OAs of the system under test; the tokens begin like the harness's own, so that they are found in a log.
var OAs = []string{harness.OAID, "1111111111111111111", "2222222222222222222"}

// Wish is one notification as it was asked for.
type Wish struct {
	harness.Request
	Message *notificationv1.NotificationRequested
	Bad     bool // no good request: it must end as FAILED INVALID
	// Published is when the broker confirmed the first copy.
	Published time.Time
}

// Traffic publishes. The same seed makes the same requests.
type Traffic struct {
	Seed      uint64
	PerSecond int
	Keys      int

	mu      sync.Mutex // guards what follows
	wishes  map[string]*Wish
	letters map[string]string // partition@offset of each bad record: what is bad
	records int
	written int // confirmed
}

// Progress is how many records were made and confirmed.
func (t *Traffic) Progress() (made, confirmed int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.records, t.written
}

// record is something to publish.
type record struct {
	*kgo.Record
	bad  string        // why it must become a dead letter
	lag  time.Duration // published so much later
	wish *Wish
}

// Publish publishes until ctx ends, and returns when everything is confirmed; the broker may be away meanwhile.
func (t *Traffic) Publish(ctx context.Context, brokers []string) error {
	t.wishes, t.letters = map[string]*Wish{}, map[string]string{}
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RecordRetries(1<<30), kgo.ProducerLinger(5*time.Millisecond),
		kgo.MaxBufferedRecords(200_000), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RecordDeliveryTimeout(10*time.Minute), kgo.AlwaysRetryEOF(),
		kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		return fmt.Errorf("open the publisher: %w", err)
	}
	defer client.Close()
	var problem error
	var confirmed, late sync.WaitGroup
	produce := func(rec record) {
		t.mu.Lock()
		t.records++
		t.mu.Unlock()
		client.Produce(context.WithoutCancel(ctx), rec.Record, func(r *kgo.Record, err error) {
			defer confirmed.Done()
			t.mu.Lock()
			defer t.mu.Unlock()
			if err != nil {
				problem = fmt.Errorf("publish: %w", err)
				return
			}
			t.written++
			if rec.wish != nil && rec.wish.Published.IsZero() {
				rec.wish.Published = time.Now()
			}
			if rec.bad != "" {
				t.letters[fmt.Sprintf("%d@%d", r.Partition, r.Offset)] = rec.bad
			}
		})
	}
	begin := time.Now()
	ranks := map[string]int64{}
	for i := 0; ctx.Err() == nil; i++ {
		if wait := time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(t.PerSecond))); wait > 0 {
			select {
			case <-ctx.Done():
				continue
			case <-time.After(wait):
			}
		}
		for _, rec := range t.make(i, time.Now(), ranks) {
			confirmed.Add(1)
			if rec.lag == 0 {
				produce(rec)
				continue
			}
			late.Go(func() {
				select {
				case <-ctx.Done():
				case <-time.After(rec.lag):
				}
				produce(rec)
			})
		}
	}
	late.Wait()
	confirmed.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	return problem
}

// make returns the records of the ith request, and remembers what was asked for.
func (t *Traffic) make(i int, now time.Time, ranks map[string]int64) []record {
	r := rand.New(rand.NewPCG(t.Seed, uint64(i)))
	id, _ := uuid.NewRandomFromReader(source{r})
	if r.IntN(100) == 0 {
		return t.bad(r, i, id.String(), now)
	}
	w := &Wish{Request: harness.Request{ID: id.String(), Copies: 1}, Message: t.message(r, i, id.String(), now)}
	m := w.Message
	w.Resend = m.GetOnUnknown() == notificationv1.OnUnknown_ON_UNKNOWN_RESEND
	key := m.GetOrderingKey()
	if key != "" {
		w.Key = m.GetOaId() + "/" + key
		w.Rank = ranks[w.Key]
		ranks[w.Key]++
	} else {
		key = w.ID
	}
	value := encode(m)
	home := kafka.Murmur2Partition([]byte(key), topic.DefaultPartitions)
	put := func(partition int32, value []byte) *kgo.Record {
		return &kgo.Record{Topic: topic.Requested, Partition: partition, Key: []byte(key), Value: value}
	}
	list := []record{{Record: put(home, value), wish: w}}
	switch n := r.IntN(200); {
	case n < 10: // a publisher that was not sure
		w.Copies++
		list = append(list, record{Record: put(home, value), lag: time.Duration(r.IntN(8000)) * time.Millisecond})
	case n < 12 && w.Key == "": // by another partitioner: it is moved
		list[0].Partition = (home + 1 + int32(r.IntN(topic.DefaultPartitions-1))) % topic.DefaultPartitions
	case n == 12: // the same id with something else in it
		other := proto.CloneOf(m)
		other.Reference = "another content"
		list = append(list, record{Record: put(home, encode(other)), bad: "ID_REUSED", lag: time.Duration(500+r.IntN(8000)) * time.Millisecond})
	}
	t.mu.Lock()
	t.wishes[w.ID] = w
	t.mu.Unlock()
	return list
}

// message is a good request.
func (t *Traffic) message(r *rand.Rand, i int, id string, now time.Time) *notificationv1.NotificationRequested {
	m := &notificationv1.NotificationRequested{
		NotificationId: id, Source: "chaos", Recipient: &notificationv1.Recipient{Phone: harness.Phone(i)},
		OaId: OAs[[]int{0, 0, 0, 0, 0, 0, 1, 1, 1, 2}[r.IntN(10)]], Reference: fmt.Sprintf("DH-%d", i),
		TemplateData: map[string]string{"customer_name": "Nguyễn Văn An"},
	}
	switch n := r.IntN(20); {
	case n < 3:
		m.Category, m.TemplateId = notificationv1.Category_CATEGORY_OTP, templateOTP
		m.TemplateData = map[string]string{"otp": "123456"}
	case n < 12:
		m.Category, m.TemplateId = notificationv1.Category_CATEGORY_TRANSACTION, templateOrder
		m.TemplateData["order_code"] = fmt.Sprintf("DH-%d", i)
		if r.IntN(2) == 0 {
			m.OrderingKey = fmt.Sprintf("order-%d-%d", t.Seed, r.IntN(t.Keys))
			m.OaId = OAs[len(m.OrderingKey)%2]
		}
	case n < 16:
		m.Category, m.TemplateId = notificationv1.Category_CATEGORY_CUSTOMER_CARE, templateCare
	default:
		m.Category, m.TemplateId = notificationv1.Category_CATEGORY_PROMOTION, templatePromotion
		m.CampaignId = campaign(r)
	}
	if m.OrderingKey != "" {
		return m // what follows would give the order exceptions
	}
	switch r.IntN(16) {
	case 0:
		m.NotBefore = timestamppb.New(now.Add(time.Duration(1+r.IntN(20)) * time.Second))
	case 1:
		m.Ttl = durationpb.New(time.Duration(1+r.IntN(9)) * time.Second)
	case 2:
		m.ExpireTime = timestamppb.New(now.Add(time.Duration(2+r.IntN(30)) * time.Second))
	}
	switch r.IntN(10) {
	case 0:
		m.OnUnknown = notificationv1.OnUnknown_ON_UNKNOWN_RESEND
	case 1:
		m.OnUnknown = notificationv1.OnUnknown_ON_UNKNOWN_HOLD
	case 2, 3:
		m.OnUnknown = notificationv1.OnUnknown_ON_UNKNOWN_FAIL
	}
	return m
}

// campaign is one of those that promotions belong to.
func campaign(r *rand.Rand) string { return fmt.Sprintf("campaign-%d", r.IntN(4)) }

// bad is a record that is no good request. One with an id must also end as FAILED.
func (t *Traffic) bad(r *rand.Rand, i int, id string, now time.Time) []record {
	m := t.message(r, i, id, now)
	m.OrderingKey = ""
	rec := &kgo.Record{Topic: topic.Requested, Partition: kafka.Murmur2Partition([]byte(id), topic.DefaultPartitions), Key: []byte(id)}
	out := record{Record: rec}
	failed := false
	switch r.IntN(6) {
	case 0:
		out.bad = "EMPTY"
	case 1:
		rec.Value, out.bad = []byte{0xde, 0xad, 0xbe, 0xef, 1, 2}, "MALFORMED"
	case 2:
		rec.Value, out.bad = []byte("please send something"), "MALFORMED"
	case 3:
		m.NotificationId = ""
		rec.Value, out.bad = encode(m), "INVALID"
	case 4:
		m.Recipient.Phone = "09x"
		rec.Value, out.bad, failed = encode(m), "INVALID", true
	case 5:
		rec.Value = encode(m)
		rec.Headers = []kgo.RecordHeader{{Key: "ce_type", Value: []byte("order.v1.OrderCreated")}}
		out.bad = "UNKNOWN_TYPE"
	}
	if failed {
		t.mu.Lock()
		t.wishes[id] = &Wish{Request: harness.Request{ID: id, Copies: 1}, Message: m, Bad: true}
		t.mu.Unlock()
	}
	return []record{out}
}

func encode(m *notificationv1.NotificationRequested) []byte {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err) // it is made here
	}
	return value
}

// source makes a random source an io.Reader.
type source struct{ r *rand.Rand }

func (s source) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(s.r.Uint32())
	}
	return len(p), nil
}
