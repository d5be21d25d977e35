package kafka

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Kafka's own topics.
const (
	ConsumerOffsets  = "__consumer_offsets"
	TransactionState = "__transaction_state"
)

// OpenTransaction is one that has written to a partition and has not ended there.
type OpenTransaction struct {
	Topic         string
	Partition     int32
	Start         int64 // its first offset in the partition
	LastWrite     time.Time
	ProducerID    int64
	ProducerEpoch int16
	// ID is its transactional id. Empty: the transaction hangs. Its coordinator has ended it, or knows it no more, and
	// nobody will write its marker to this partition.
	ID      string
	Decided bool  // its coordinator is writing the markers
	Behind  int64 // records of the partition from Start on; only [Admin.HeldBack] tells it, where it reads the ends

	coordinatorEpoch int32
}

// Hangs reports whether nobody will end it.
func (t OpenTransaction) Hangs() bool { return t.ID == "" }

// String names the place: topic[partition]@start.
func (t OpenTransaction) String() string {
	return fmt.Sprintf("%s[%d]@%d", t.Topic, t.Partition, t.Start)
}

// OpenTransactions lists the transactions that are open on the partitions, by partition and start.
func (a *Admin) OpenTransactions(ctx context.Context, name string, partitions ...int32) ([]OpenTransaction, error) {
	var where kadm.TopicsSet
	where.Add(name, partitions...)
	return a.open(ctx, where, func(OpenTransaction) bool { return true })
}

// OpenBy lists the transactions of one producer that are open on a topic: on these partitions, or on all.
func (a *Admin) OpenBy(ctx context.Context, producer int64, name string, partitions ...int32) ([]OpenTransaction, error) {
	var where kadm.TopicsSet
	if len(partitions) > 0 {
		where.Add(name, partitions...)
	} else {
		details, err := a.admin.ListTopicsWithInternal(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("look up topic %s: %w", name, err)
		}
		switch err := details[name].Err; {
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			return nil, nil // there is nothing in it
		case err != nil:
			return nil, fmt.Errorf("look up topic %s: %w", name, err)
		}
		where = details.TopicsSet()
	}
	return a.open(ctx, where, func(t OpenTransaction) bool { return t.ProducerID == producer })
}

// open lists those transactions that are meant, with what their coordinators say of them.
func (a *Admin) open(ctx context.Context, where kadm.TopicsSet, meant func(OpenTransaction) bool) ([]OpenTransaction, error) {
	open, err := a.openOn(ctx, where)
	open = slices.DeleteFunc(open, func(t OpenTransaction) bool { return !meant(t) })
	if len(open) == 0 || err != nil {
		return nil, err
	}
	if err := a.askCoordinators(ctx, open); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(open, OpenTransaction.Hangs) {
		return open, nil
	}
	// One that ended between the two questions looks as if it hung. Its coordinator had it ended only after the partition
	// had its marker, so that it is not open any more.
	still, err := a.openOn(ctx, where)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(open, func(t OpenTransaction) bool {
		return t.Hangs() && !slices.ContainsFunc(still, t.same)
	}), nil
}

func (t OpenTransaction) same(o OpenTransaction) bool {
	return t.Topic == o.Topic && t.Partition == o.Partition && t.Start == o.Start && t.ProducerID == o.ProducerID && t.ProducerEpoch == o.ProducerEpoch
}

// openOn asks the leaders of the partitions. It does not tell the transactional ids.
func (a *Admin) openOn(ctx context.Context, where kadm.TopicsSet) ([]OpenTransaction, error) {
	if !slices.ContainsFunc(where.Sorted(), func(t kadm.TopicPartitions) bool { return len(t.Partitions) > 0 }) {
		return nil, nil // kadm would ask for all topics
	}
	described, err := a.admin.DescribeProducers(ctx, where)
	if err != nil {
		return nil, fmt.Errorf("ask for the producers of %s: %w", strings.Join(where.Topics(), ", "), err)
	}
	var open []OpenTransaction
	for _, t := range described.Sorted() {
		for _, p := range t.Partitions.Sorted() {
			if p.Err != nil {
				return nil, fmt.Errorf("ask for the producers of %s/%d: %w", t.Topic, p.Partition, p.Err)
			}
			for _, producer := range p.ActiveProducers.Sorted() {
				if producer.CurrentTxnStartOffset >= 0 {
					open = append(open, OpenTransaction{
						Topic: t.Topic, Partition: p.Partition, Start: producer.CurrentTxnStartOffset, LastWrite: time.UnixMilli(producer.LastTimestamp),
						ProducerID: producer.ProducerID, ProducerEpoch: producer.ProducerEpoch, coordinatorEpoch: producer.CoordinatorEpoch,
					})
				}
			}
		}
	}
	return open, nil
}

// askCoordinators notes which of the transactions their coordinators are going to end.
func (a *Admin) askCoordinators(ctx context.Context, open []OpenTransaction) error {
	producers := make([]int64, len(open))
	for i, t := range open {
		producers[i] = t.ProducerID
	}
	slices.Sort(producers)
	listed, err := a.admin.ListTransactions(ctx, slices.Compact(producers), nil)
	if err != nil {
		return fmt.Errorf("ask the coordinators for open transactions: %w", err)
	}
	names := listed.TransactionalIDs()
	if len(names) == 0 {
		return nil // kadm would ask for all
	}
	described, err := a.admin.DescribeTransactions(ctx, names...)
	if err != nil {
		return fmt.Errorf("ask the coordinators for open transactions: %w", err)
	}
	for _, d := range described.Sorted() {
		if d.Err != nil {
			return fmt.Errorf("ask the coordinator of transaction %s: %w", d.TxnID, d.Err)
		}
		for i, t := range open {
			if t.endedBy(d) {
				open[i].ID, open[i].Decided = d.TxnID, decided(d)
			}
		}
	}
	return nil
}

// endedBy reports whether the coordinator that says d is going to end t. A producer whose transaction hangs may have begun
// the next: it has another epoch.
func (t OpenTransaction) endedBy(d kadm.DescribedTransaction) bool {
	going := d.State == kmsg.TransactionStateOngoing.String() && d.ProducerEpoch == t.ProducerEpoch
	return d.ProducerID == t.ProducerID && (going || decided(d))
}

// decided reports whether the coordinator is writing markers.
func decided(d kadm.DescribedTransaction) bool { return strings.HasPrefix(d.State, "Prepare") }

// GroupPartition is the partition of [ConsumerOffsets], which has n, that holds a group.
func GroupPartition(group string, n int32) int32 {
	var h int32 // String.hashCode of the JVM; group names are ASCII in practice
	for _, c := range group {
		h = 31*h + c
	}
	if h == math.MinInt32 {
		return 0
	}
	return max(h, -h) % n
}

// HeldBack lists the transactions that keep read-committed readers of a topic from its end. Of [ConsumerOffsets] it looks
// where the offsets of the groups are.
func (a *Admin) HeldBack(ctx context.Context, name string, groups ...string) ([]OpenTransaction, error) {
	details, err := a.admin.ListTopicsWithInternal(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("look up topic %s: %w", name, err)
	}
	n := int32(len(details[name].Partitions))
	if n == 0 {
		return nil, nil
	}
	if name == ConsumerOffsets {
		var partitions []int32
		for _, g := range groups {
			partitions = append(partitions, GroupPartition(g, n))
		}
		slices.Sort(partitions)
		return a.OpenTransactions(ctx, name, slices.Compact(partitions)...)
	}
	stable, err := a.StableOffsets(ctx, name)
	if err != nil {
		return nil, err
	}
	ends, err := a.EndOffsets(ctx, name)
	if err != nil {
		return nil, err
	}
	var held []int32
	for p, end := range ends {
		if stable[p] < end {
			held = append(held, p)
		}
	}
	slices.Sort(held)
	open, err := a.OpenTransactions(ctx, name, held...)
	for i := range open {
		open[i].Behind = ends[open[i].Partition] - open[i].Start
	}
	return open, err
}

// Decision is how the coordinator of a transaction decided to end it.
type Decision struct {
	ID     string // transactional id
	Commit bool   // false: abort

	epoch   int16 // that its markers carry
	version int8  // of transactions, as its producer used them
}

// String is "commit" or "abort".
func (d Decision) String() string {
	if d.Commit {
		return "commit"
	}
	return "abort"
}

// decisionSlack is how long before its last write a transaction began, at most 15 minutes with Kafka's default
// (transaction.max.timeout.ms), and how far the clocks of brokers and producers may be apart beside that.
const decisionSlack = 20 * time.Minute

// errEnough ends a reading early.
var errEnough = errors.New("enough")

// Decisions reads from the coordinators' own log, [TransactionState], how they decided to end transactions that hang.
// The i-th result is nil when the log does not tell: it is compacted, so that the next transaction of the same id
// takes the place of a decision some time after its log segment is full. It needs the right to read that topic.
func (a *Admin) Decisions(ctx context.Context, hanging []OpenTransaction) ([]*Decision, error) {
	if len(hanging) == 0 {
		return nil, nil
	}
	since := hanging[0].LastWrite
	for _, t := range hanging {
		if t.LastWrite.Before(since) {
			since = t.LastWrite
		}
	}
	search := newDecisionSearch(hanging)
	err := ReadToEnd(ctx, ReaderConfig{Client: a.client.Opts(), Topic: TransactionState, Start: FromTime(since.Add(-decisionSlack))}, func(r Record) error {
		if search.take(r.Key, r.Value); search.done() {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, fmt.Errorf("read how transactions were decided from %s: %w", TransactionState, err)
	}
	return search.found(), nil
}

// decisionSearch goes through the log of a coordinator in its order.
type decisionSearch struct {
	hanging []OpenTransaction
	under   []string // the transactional id of the one that is under way at this point of the log
	decided []*Decision
	unsure  []bool // several transactions fit and ended in different ways
}

func newDecisionSearch(hanging []OpenTransaction) *decisionSearch {
	n := len(hanging)
	return &decisionSearch{hanging: hanging, under: make([]string, n), decided: make([]*Decision, n), unsure: make([]bool, n)}
}

// take reads one record. What it cannot read, such as a format of later brokers, tells nothing.
func (s *decisionSearch) take(key, value []byte) {
	var k kmsg.TxnMetadataKey
	var v kmsg.TxnMetadataValue
	if k.ReadFrom(key) != nil || value == nil || v.ReadFrom(value) != nil {
		return
	}
	for i, t := range s.hanging {
		if v.State == kmsg.TransactionStateOngoing && v.ProducerID == t.ProducerID && v.ProducerEpoch == t.ProducerEpoch &&
			slices.ContainsFunc(v.Topics, func(of kmsg.TxnMetadataValueTopic) bool {
				return of.Topic == t.Topic && slices.Contains(of.Partitions, t.Partition)
			}) {
			s.under[i] = k.TransactionalID
			continue
		}
		if s.under[i] == "" || s.under[i] != k.TransactionalID {
			continue
		}
		s.under[i] = "" // whatever comes next of this id: its own decision may have been compacted away
		if v.State == kmsg.TransactionStatePrepareCommit || v.State == kmsg.TransactionStatePrepareAbort {
			d := &Decision{ID: k.TransactionalID, Commit: v.State == kmsg.TransactionStatePrepareCommit, epoch: v.ProducerEpoch, version: int8(v.ClientTransactionVersion)}
			s.unsure[i] = s.unsure[i] || s.decided[i] != nil && s.decided[i].Commit != d.Commit
			s.decided[i] = d
		}
	}
}

// done reports whether the rest of the log cannot change anything: every producer has an epoch of its own for each
// transaction from the second version of transactions on.
func (s *decisionSearch) done() bool {
	return !slices.ContainsFunc(s.decided, func(d *Decision) bool { return d == nil || d.version < 2 })
}

func (s *decisionSearch) found() []*Decision {
	for i, unsure := range s.unsure {
		if unsure || s.under[i] != "" { // one that fits is under way: it may be the one that is meant
			s.decided[i] = nil
		}
	}
	return s.decided
}

// ErrMayNotEnd is wrapped by the error of [Admin.EndTransaction] when this user may not write markers: the brokers allow
// that to who has CLUSTER_ACTION.
var ErrMayNotEnd error = kerr.ClusterAuthorizationFailed

// EndTransaction writes the marker that a hanging transaction lacks on its partition, as its coordinator decided. It
// returns when the transaction is not open there any more.
func (a *Admin) EndTransaction(ctx context.Context, t OpenTransaction, d Decision) error {
	fail := func(err error) error { return fmt.Errorf("end the transaction at %s: %w", t, err) }
	// Two markers for one transaction would stop the coordinator for good. One that does not answer may be about to
	// write.
	described, err := a.admin.DescribeTransactions(ctx, d.ID)
	if err == nil {
		err = described[d.ID].Err
	}
	switch {
	case errors.Is(err, kerr.TransactionalIDNotFound): // it was forgotten long after its end
	case err != nil:
		return fail(err)
	case t.endedBy(described[d.ID]):
		return fail(fmt.Errorf("it does not hang: its coordinator says %s", described[d.ID].State))
	}
	var where kadm.TopicsSet
	where.Add(t.Topic, t.Partition)
	open, err := a.openOn(ctx, where)
	if err != nil {
		return fail(err)
	}
	if !slices.ContainsFunc(open, t.same) {
		return nil // somebody else was faster
	}
	marker := kmsg.NewWriteTxnMarkersRequestMarker()
	marker.ProducerID, marker.ProducerEpoch, marker.Committed = t.ProducerID, d.epoch, d.Commit
	marker.TransactionVersion = d.version
	// As kafka-transactions.sh does: the partition refuses what is below the latest that it has seen.
	marker.CoordinatorEpoch = max(t.coordinatorEpoch, 0)
	topic := kmsg.NewWriteTxnMarkersRequestMarkerTopic()
	topic.Topic, topic.Partitions = t.Topic, []int32{t.Partition}
	marker.Topics = append(marker.Topics, topic)
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	req.Markers = append(req.Markers, marker)
	resp, err := req.RequestWith(ctx, a.client)
	if err != nil {
		return fail(err)
	}
	for _, m := range resp.Markers {
		for _, answer := range m.Topics {
			for _, p := range answer.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return fail(err)
				}
			}
		}
	}
	if open, err = a.openOn(ctx, where); err != nil {
		return fail(err)
	}
	if slices.ContainsFunc(open, t.same) {
		return fail(errors.New("the broker took it, and the transaction is still open"))
	}
	return nil
}
