package stream_test

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/stream"
)

// A transactional id gets a new epoch with every transaction, and a new producer id when the epochs, 16 bits, are used
// up. The member is killed again and again around that boundary. The normal lane takes the id close to it by asking
// the coordinator for more than 32,740 epochs; with ZNS_TEST_LONG=1 real transactions, 140,000 of them, pass it twice
// (it takes some twenty minutes: -timeout 60m).
func TestEpochRollOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "epochs"), 1)
	w.cfg.MaxInFlight = 1                                            // every request takes a transaction of its own
	txnIDs := []string{w.cfg.Group + "-one", w.cfg.Group + "-one#2"} // they take turns
	first := map[string]int64{}
	for _, id := range txnIDs {
		first[id] = w.producerID(id)
	}
	requests, kills := 150, []int{12, 10, 8}
	if long() {
		requests, kills = 141_000, []int{65_480, 12, 10, 8, 14, 12, 65_200, 40, 18, 16, 24}
	} else {
		// Several at a time: the broker takes the requests of one connection one after the other.
		var asking sync.WaitGroup
		for i := range 8 {
			asking.Go(func() {
				for epoch := int16(0); epoch < 32_740; {
					_, epoch = w.nextEpoch(txnIDs[i%2])
				}
			})
		}
		asking.Wait()
	}
	want := ids("a", requests)
	for batch := range slices.Chunk(want, 5000) {
		w.publish(batch...)
	}
	for _, nth := range kills {
		m := w.start("one", func(a *appConfig) { a.At, a.Nth, a.Act = string(stream.StepOffsets), nth, "kill" })
		select {
		case <-m.done:
		case <-time.After(20 * time.Minute):
			t.Fatal("it was not killed")
		}
	}
	m := w.start("one")
	w.finished(want, 20*time.Minute)
	m.stop()
	w.check(want, len(kills))
	for _, id := range txnIDs {
		if last := w.producerID(id); last == first[id] {
			t.Errorf("the producer id of %s is still %d: the boundary was not passed", id, last)
		}
	}
}

func (w *world) producerID(txnID string) int64 {
	id, _ := w.nextEpoch(txnID)
	return id
}

// nextEpoch asks the coordinator for the next epoch of a transactional id.
func (w *world) nextEpoch(txnID string) (id int64, epoch int16) {
	w.t.Helper()
	for {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionalID, req.TransactionTimeoutMillis = &txnID, 10_000
		req.ProducerID, req.ProducerEpoch = -1, -1
		resp, err := req.RequestWith(w.t.Context(), w.client)
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		if err == nil {
			return resp.ProducerID, resp.ProducerEpoch
		}
		if ke, ok := errors.AsType[*kerr.Error](err); !ok || !ke.Retriable && !errors.Is(err, kerr.ConcurrentTransactions) {
			w.t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}
