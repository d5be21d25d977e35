package cli

import (
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/proto/topic"
)

func TestTransactions(t *testing.T) {
	d := kafkatest.NewDroppedMarkers(t)
	environ := []string{"KAFKA_BROKERS=" + d.Addr, "SENDER_GROUP=" + d.Group}
	run(t, environ, "", "transactions", "list").want(t, 0).contains(t, "no transaction holds readers back")
	run(t, environ, "", "transactions", "end").want(t, 0).contains(t, "no transaction hangs")

	d.Begin(t, "good", topic.LedgerOf(topic.Requested), "good")
	d.Offset(t, "good", 7)
	d.Begin(t, "bad", topic.Requested, "bad")
	d.Drop(t, map[string]kgo.TransactionEndTry{"good": kgo.TryCommit, "bad": kgo.TryAbort})

	run(t, environ, "", "doctor").want(t, exitFailed).contains(t, "notification.requested[0]@0 is open and its coordinator is done with it", "__consumer_offsets[", "zns transactions end")
	d.Begin(t, "under-way", topic.Requested, "new")
	run(t, environ, "", "transactions", "list").want(t, 0).contains(t, "under way", "good", "hangs, decided: commit", "bad", "hangs, decided: abort", "__consumer_offsets[")
	run(t, environ, "", "transactions", "end").want(t, exitUsage).contains(t, "--yes agrees")
	run(t, environ, "", "transactions", "end", "--dry-run").want(t, 0).contains(t, "hangs, decided: commit")
	run(t, environ, "", "transactions", "end", "--yes", "--json").want(t, 0).contains(t, `{"aborted":1,"committed":2,"left":0}`)
	run(t, environ, "", "transactions", "end", "--yes").want(t, 0).contains(t, "no transaction hangs")
	d.End(t, "under-way", kgo.TryCommit)
	if got := d.Read(t, topic.LedgerOf(topic.Requested)); !slices.Equal(got, []string{"good"}) {
		t.Errorf("the ledger holds %q", got)
	}
	if got := d.Read(t, topic.Requested); !slices.Equal(got, []string{"new"}) {
		t.Errorf("of an aborted and a later transaction is read: %q", got)
	}
	if at := d.Committed(t); at != 7 {
		t.Errorf("the group's offset is %d, want 7", at)
	}
}
