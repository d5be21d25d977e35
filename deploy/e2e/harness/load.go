package harness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
)

// Load is a stream of requests as the services of a company would publish it: protobuf values, ordering keys, and some
// records twice because a publisher was not sure. The same Load makes the same requests.
type Load struct {
	Seed       uint64
	Total      int     // different notifications
	Keys       int     // ordering keys; 0: without order
	Duplicates float64 // share of the notifications that are published a second time, somewhat later
	PerSecond  int     // 0: as fast as the broker takes them
	Change     func(i int, r *notificationv1.NotificationRequested)

	published atomic.Int64
}

// Published is how many notifications are on the broker so far.
func (l *Load) Published() int { return int(l.published.Load()) }

// Requests lists what Publish publishes, without the copies.
func (l *Load) Requests() []Request {
	random := l.random()
	list := make([]Request, l.Total)
	for i := range list {
		id, _ := uuid.NewRandomFromReader(reader{random})
		list[i] = Request{ID: id.String(), Copies: 1, Rank: int64(i)}
		if l.Keys > 0 {
			// Ranks count within one Load: two of them never share a key.
			list[i].Key = fmt.Sprintf("order-%d-%d", l.Seed, i%l.Keys)
		}
		if random.Float64() < l.Duplicates {
			list[i].Copies = 2
		}
	}
	return list
}

func (l *Load) random() *rand.Rand { return rand.New(rand.NewPCG(l.Seed, 1)) }

// reader makes a random source an io.Reader: rand.Rand has no Read.
type reader struct{ r *rand.Rand }

func (r reader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.r.Uint32())
	}
	return len(p), nil
}

// Message is the request of index i.
func (l *Load) Message(i int, q Request) *notificationv1.NotificationRequested {
	m := &notificationv1.NotificationRequested{
		NotificationId: q.ID,
		Source:         "e2e",
		OaId:           OAID,
		Recipient:      &notificationv1.Recipient{Phone: Phone(i)},
		TemplateId:     TemplateID,
		TemplateData:   TemplateData(fmt.Sprintf("DH-%d", i)),
		OrderingKey:    q.Key,
		Reference:      fmt.Sprintf("DH-%d", i),
	}
	if l.Change != nil {
		l.Change(i, m)
	}
	return m
}

// Phone is a phone number of its own for each index below ten million.
func Phone(i int) string { return fmt.Sprintf("+8491%07d", i%10_000_000) }

// TemplateID is a template that the simulator knows, with the parameters that TemplateData fills.
const TemplateID = "300200"

// TemplateData is a request's template_data for one order.
func TemplateData(order string) map[string]string {
	return map[string]string{"order_code": order, "customer_name": "Nguyễn Văn An"}
}

// copyLag bounds how many notifications later the second copy of one comes.
const copyLag = 500

// Publish publishes all requests and returns them once the broker has confirmed the last one. Copies of a request are
// the same bytes with the same key.
func (l *Load) Publish(ctx context.Context, brokers []string) ([]Request, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RecordRetries(1<<30), kgo.ProducerLinger(5*time.Millisecond),
		kgo.MaxBufferedRecords(20_000), kgo.RecordDeliveryTimeout(10*time.Minute))
	if err != nil {
		return nil, fmt.Errorf("open the publisher: %w", err)
	}
	defer client.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	requests := l.Requests()
	random := rand.New(rand.NewPCG(l.Seed, 2))
	later := map[int][]*kgo.Record{}
	var confirmed sync.WaitGroup
	produce := func(r *kgo.Record, first bool) {
		confirmed.Add(1)
		client.Produce(ctx, r, func(_ *kgo.Record, err error) {
			defer confirmed.Done()
			if err != nil {
				cancel(fmt.Errorf("publish: %w", err))
				return
			}
			if first {
				l.published.Add(1)
			}
		})
	}
	begin := time.Now()
	for i, q := range requests {
		if l.PerSecond > 0 {
			due := begin.Add(time.Duration(i) * time.Second / time.Duration(l.PerSecond))
			if wait := time.Until(due); wait > 5*time.Millisecond {
				select {
				case <-ctx.Done():
				case <-time.After(wait):
				}
			}
		}
		if ctx.Err() != nil {
			break
		}
		value, err := proto.Marshal(l.Message(i, q))
		if err != nil {
			return nil, fmt.Errorf("marshal request %d: %w", i, err)
		}
		key := q.Key
		if key == "" {
			key = q.ID
		}
		produce(&kgo.Record{Topic: topic.Requested, Key: []byte(key), Value: value}, true)
		if q.Copies > 1 {
			at := min(i+1+random.IntN(copyLag), len(requests)-1)
			later[at] = append(later[at], &kgo.Record{Topic: topic.Requested, Key: []byte(key), Value: value})
		}
		for _, r := range later[i] {
			produce(r, false)
		}
		delete(later, i)
	}
	confirmed.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if l.Published() != len(requests) {
		return nil, errors.New("publish: the broker did not confirm every request")
	}
	return requests, nil
}
