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
// the coordinator for more than 32,740 epochs; with ZNS_TEST_LONG=1 real transactions, 70,000 of them, pass it twice (it takes some ten minutes: -timeout 60m).
func TestEpochRollOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "epochs"), 1)
	w.cfg.MaxInFlight = 1 // every request takes a transaction of its own
	txnID := w.cfg.Group + "-one"
	first := w.producerID(txnID)
	requests, kills := 150, []int{6, 5, 4}
	if long() {
		requests, kills = 70_500, []int{32_740, 6, 5, 4, 7, 6, 32_600, 20, 9, 8, 12}
	} else {
		// Several at a time: the broker takes the requests of one connection one after the other.
		var asking sync.WaitGroup
		for range 8 {
			asking.Go(func() {
				for epoch := int16(0); epoch < 32_740; {
					_, epoch = w.nextEpoch(txnID)
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
	if last := w.producerID(txnID); last == first {
		t.Errorf("the producer id is still %d: the boundary was not passed", last)
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
