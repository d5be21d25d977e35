package kafkatest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
	"github.com/znshub/znshub/proto/topic"
)

// DroppedMarkers is a cluster of two real brokers in which transactions hang as in Kafka 4.3.1 after a crash: their
// coordinator drops the markers for partitions that have no leader when it decides. The coordinators are on the first
// broker. The input topic, its ledger (one partition each) and the offsets of groups are on the second.
type DroppedMarkers struct {
	Addr  string // of the first broker
	Group string

	first, second *Server
	client        *kgo.Client
	admin         *kadm.Client
	producers     map[string]*kgo.Client
}

// Near is a topic on the first broker, with one partition.
const Near = "near"

// NewDroppedMarkers starts the cluster for this test, or skips it where none can be started.
func NewDroppedMarkers(tb testing.TB) *DroppedMarkers {
	tb.Helper()
	d := &DroppedMarkers{
		Group: "zns-sender", first: Own(tb, local.Options{}), producers: map[string]*kgo.Client{},
	}
	d.Addr = d.first.Addr
	d.client = d.newClient(tb)
	d.admin = kadm.NewClient(d.client)
	ctx := tb.Context()
	for _, s := range append(topic.ForInput(topic.Requested), topic.Spec{Name: Near}) {
		settings := map[string]*string{}
		for _, c := range s.Settings() {
			settings[c.Key] = &c.Value
		}
		if s.Name == Near {
			settings = nil
		}
		if _, err := d.admin.CreateTopic(ctx, 1, 1, settings, s.Name); err != nil {
			tb.Fatalf("create topic %s: %v", s.Name, err)
		}
	}
	// Transactions and groups make Kafka's own topics: before there is a second broker that could get them.
	for _, how := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort} {
		id := d.Begin(tb, "first", Near, "first")
		d.Offset(tb, id, 0)
		d.End(tb, id, how)
	}
	d.second = d.first.Beside(tb)
	var far kadm.AlterPartitionAssignmentsReq
	d.eachFar(tb, func(name string, p kadm.PartitionDetail) bool {
		far.Assign(name, p.Partition, []int32{d.second.Node()})
		return true
	})
	if answers, err := d.admin.AlterPartitionAssignments(ctx, far); err != nil || answers.Error() != nil {
		tb.Fatalf("move partitions: %v", errors.Join(err, answers.Error()))
	}
	d.wait(tb, "the second broker to lead", func(p kadm.PartitionDetail) bool { return p.Leader == d.second.Node() })
	return d
}

// Server is the first broker.
func (d *DroppedMarkers) Server() *Server { return d.first }

func (d *DroppedMarkers) newClient(tb testing.TB, opts ...kgo.Opt) *kgo.Client {
	tb.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(d.Addr), kgo.MetadataMinAge(100 * time.Millisecond)}, opts...)...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(client.Close)
	return client
}

// eachFar reports whether ok holds for every partition that belongs on the second broker.
func (d *DroppedMarkers) eachFar(tb testing.TB, ok func(string, kadm.PartitionDetail) bool) bool {
	tb.Helper()
	names := []string{"__consumer_offsets", topic.Requested, topic.LedgerOf(topic.Requested), topic.DLQOf(topic.Requested)}
	found, err := d.admin.ListTopicsWithInternal(tb.Context(), names...)
	if err != nil {
		return false // a broker that is just being killed
	}
	all := true
	for _, name := range names {
		for _, p := range found[name].Partitions.Sorted() {
			all = ok(name, p) && all
		}
	}
	return all
}

func (d *DroppedMarkers) wait(tb testing.TB, what string, ok func(kadm.PartitionDetail) bool) {
	tb.Helper()
	for deadline := time.Now().Add(time.Minute); !d.eachFar(tb, func(_ string, p kadm.PartitionDetail) bool { return ok(p) }); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("waited in vain for %s", what)
		}
	}
}

// Begin leaves a transaction open in which value was written to a topic, and returns its transactional id. With the id
// of a transaction that has ended it is the same producer's next.
func (d *DroppedMarkers) Begin(tb testing.TB, id, to, value string) string {
	tb.Helper()
	producer := d.producers[id]
	if producer == nil {
		producer = d.newClient(tb, kgo.TransactionalID(id), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		d.producers[id] = producer
	}
	if err := producer.BeginTransaction(); err != nil {
		tb.Fatal(err)
	}
	if err := producer.ProduceSync(tb.Context(), &kgo.Record{Topic: to, Key: []byte(id), Value: []byte(value)}).FirstErr(); err != nil {
		tb.Fatal(err)
	}
	return id
}

// Offset puts an offset of the group for the input into the open transaction.
func (d *DroppedMarkers) Offset(tb testing.TB, id string, offset int64) {
	tb.Helper()
	producer, epoch, err := d.producers[id].ProducerID(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch = id, d.Group, producer, epoch
	t := kmsg.NewTxnOffsetCommitRequestTopic()
	t.Topic = topic.Requested
	p := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	p.Offset = offset
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(tb.Context(), d.producers[id])
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
	}
	if err != nil {
		tb.Fatalf("put an offset into transaction %s: %v", id, err)
	}
}

// End ends an open transaction.
func (d *DroppedMarkers) End(tb testing.TB, id string, how kgo.TransactionEndTry) {
	tb.Helper()
	if err := d.producers[id].EndTransaction(tb.Context(), how); err != nil {
		tb.Fatalf("end transaction %s: %v", id, err)
	}
}

// Drop ends open transactions while the second broker is away, and brings that back when their coordinator is done with
// them.
func (d *DroppedMarkers) Drop(tb testing.TB, how map[string]kgo.TransactionEndTry) {
	tb.Helper()
	d.second.Kill(tb)
	d.wait(tb, "the partitions to lose their leader", func(p kadm.PartitionDetail) bool { return p.Leader < 0 })
	for id, how := range how {
		d.End(tb, id, how)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		found, err := d.admin.DescribeTransactions(tb.Context(), slices.Collect(maps.Keys(how))...)
		if err != nil {
			tb.Fatal(err)
		}
		if !slices.ContainsFunc(found.Sorted(), func(t kadm.DescribedTransaction) bool { return !strings.HasPrefix(t.State, "Complete") }) {
			break
		}
		if time.Now().After(deadline) {
			tb.Fatalf("the coordinator is not done: %+v", found)
		}
	}
	d.second.Restart(tb)
	d.wait(tb, "the second broker to lead again", func(p kadm.PartitionDetail) bool { return p.Leader == d.second.Node() })
}

// Read returns the values of a topic that read-committed readers see, and fails when an open transaction keeps them from
// the end.
func (d *DroppedMarkers) Read(tb testing.TB, name string) []string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	var end int64
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) { // markers are on their way
		stable, err := d.admin.ListCommittedOffsets(ctx, name)
		if err == nil {
			err = stable.Error()
		}
		ends, endErr := d.admin.ListEndOffsets(ctx, name)
		if err := errors.Join(err, endErr); err != nil {
			tb.Fatal(err)
		}
		at, _ := stable.Lookup(name, 0)
		last, _ := ends.Lookup(name, 0)
		if end = last.Offset; at.Offset == end {
			break
		}
		if time.Now().After(deadline) {
			tb.Fatalf("readers of %s get to offset %d of %d", name, at.Offset, end)
		}
	}
	reader := d.newClient(tb, kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{name: {0: kgo.NewOffset().AtStart()}}))
	var values []string
	for next := int64(0); next < end; {
		fetches := reader.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			tb.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if next = r.Offset + 1; !r.Attrs.IsControl() {
				values = append(values, string(r.Value))
			}
		})
	}
	return values
}

// Committed is the group's offset of the input.
func (d *DroppedMarkers) Committed(tb testing.TB) int64 {
	tb.Helper()
	offsets, err := d.admin.FetchOffsets(tb.Context(), d.Group)
	if err == nil {
		err = offsets.Error()
	}
	if err != nil {
		tb.Fatal(err)
	}
	o, _ := offsets.Lookup(topic.Requested, 0)
	return o.At
}
