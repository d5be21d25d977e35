package status

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/proto/topic"
)

// TestLoadGivenUp: a partition whose snapshots an open transaction holds back does not keep others from being loaded once
// it was given up.
func TestLoadGivenUp(t *testing.T) {
	c := newCluster(t)
	tx, err := kgo.NewClient(append(c.client, kgo.TransactionalID("open"), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	if err := tx.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := tx.ProduceSync(t.Context(), &kgo.Record{Topic: topic.Status, Partition: 0, Key: []byte(idIn(0).String())}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	f := New(Config{
		Client: c.client, Topics: testTopics, Source: "/s", Partitions: func() int32 { return 2 }, Wake: func() {}, Log: slog.New(slog.DiscardHandler),
	})
	f.patience = 500 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	defer running.Wait()
	defer cancel()

	f.Assigned(0)
	f.Restored(0)
	time.Sleep(300 * time.Millisecond) // it is being loaded
	if f.isLoaded(f.part(0)) {
		t.Fatal("loaded although a transaction is open")
	}
	f.Dropped(0)
	f.Assigned(1)
	f.Restored(1)
	for deadline := time.Now().Add(20 * time.Second); !f.isLoaded(f.part(1)); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the partition that came is not loaded")
		}
	}
}
