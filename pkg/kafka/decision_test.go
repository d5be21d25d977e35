package kafka

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// line is a record of the coordinators' log.
type line struct {
	id       string
	producer int64
	epoch    int16
	state    kmsg.TransactionState
	on       int32 // partition of topic t
	version  int16 // of transactions
}

// What the log does not surely tell is not told.
func TestDecisions(t *testing.T) {
	const (
		ongoing = kmsg.TransactionStateOngoing
		commit  = kmsg.TransactionStatePrepareCommit
		abort   = kmsg.TransactionStatePrepareAbort
	)
	hangs := OpenTransaction{Topic: "t", Partition: 3, ProducerID: 7, ProducerEpoch: 20}
	for name, c := range map[string]struct {
		log  []line
		want string
	}{
		"committed":                             {[]line{{"a", 7, 20, ongoing, 3, 2}, {"a", 7, 21, commit, 3, 2}}, "commit"},
		"aborted, and the next one committed":   {[]line{{"a", 7, 20, ongoing, 3, 2}, {"a", 7, 21, abort, 3, 2}, {"a", 7, 21, ongoing, 3, 2}, {"a", 7, 22, commit, 3, 2}}, "abort"},
		"another's decision between":            {[]line{{"a", 7, 20, ongoing, 3, 2}, {"b", 8, 21, abort, 3, 2}, {"a", 7, 21, commit, 3, 2}}, "commit"},
		"fenced by its successor":               {[]line{{"a", 7, 20, ongoing, 3, 2}, {"a", 7, 22, abort, 3, 2}}, "abort"},
		"its beginning is compacted away":       {[]line{{"a", 7, 21, commit, 3, 2}}, ""},
		"not decided":                           {[]line{{"a", 7, 20, ongoing, 3, 2}}, ""},
		"another partition":                     {[]line{{"a", 7, 20, ongoing, 4, 2}, {"a", 7, 21, commit, 4, 2}}, ""},
		"another epoch":                         {[]line{{"a", 7, 19, ongoing, 3, 2}, {"a", 7, 20, commit, 3, 2}}, ""},
		"old transactions that agree":           {[]line{{"a", 7, 20, ongoing, 3, 0}, {"a", 7, 20, abort, 3, 0}, {"a", 7, 20, ongoing, 3, 0}, {"a", 7, 20, abort, 3, 0}}, "abort"},
		"old transactions that do not":          {[]line{{"a", 7, 20, ongoing, 3, 0}, {"a", 7, 20, abort, 3, 0}, {"a", 7, 20, ongoing, 3, 0}, {"a", 7, 20, commit, 3, 0}}, ""},
		"old transactions, one under way":       {[]line{{"a", 7, 20, ongoing, 3, 0}, {"a", 7, 20, commit, 3, 0}, {"a", 7, 20, ongoing, 3, 0}}, ""},
		"its decision is compacted away":        {[]line{{"a", 7, 20, ongoing, 3, 2}, {"a", 7, 21, ongoing, 4, 2}, {"a", 7, 22, commit, 4, 2}}, ""},
		"the partition was added in the middle": {[]line{{"a", 7, 20, ongoing, 1, 2}, {"a", 7, 20, ongoing, 3, 2}, {"a", 7, 21, commit, 3, 2}}, "commit"},
	} {
		s := newDecisionSearch([]OpenTransaction{hangs})
		s.take([]byte("no key"), []byte("no value"))
		for _, l := range c.log {
			key := kmsg.TxnMetadataKey{TransactionalID: l.id}
			value := kmsg.NewTxnMetadataValue()
			value.Version = 1
			value.ProducerID, value.ProducerEpoch, value.State, value.ClientTransactionVersion = l.producer, l.epoch, l.state, l.version
			on := kmsg.NewTxnMetadataValueTopic()
			on.Topic, on.Partitions = "t", []int32{l.on}
			value.Topics = append(value.Topics, on)
			s.take(key.AppendTo(nil), value.AppendTo(nil))
			s.take(key.AppendTo(nil), nil)
		}
		got := ""
		if d := s.found()[0]; d != nil {
			got = d.String()
			if d.ID != "a" {
				t.Errorf("%s: transaction %q", name, d.ID)
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// With 5 partitions as an Apache Kafka 4.3.1 says in its log. Both hashes are negative.
func TestGroupPartition(t *testing.T) {
	for _, c := range []struct {
		group string
		n     int32
		want  int32
	}{{"zns-ingest", 5, 0}, {"zns-sender", 5, 4}, {"zns-sender", 50, 9}} {
		if got := GroupPartition(c.group, c.n); got != c.want {
			t.Errorf("group %s of %d partitions: %d, want %d", c.group, c.n, got, c.want)
		}
	}
}
