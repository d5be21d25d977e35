package stream_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/stream"
)

// writer writes the same number of ledger records in every tick, for ever.
type writer struct {
	*app
	records int
	left    int
	done    chan struct{}
}

func (w *writer) Work(tx *stream.Tx) time.Time {
	if w.left == 0 || len(tx.Partitions()) == 0 {
		return time.Time{}
	}
	for i := range w.records {
		u := tx.Unit(tx.Partitions()[i%len(tx.Partitions())], fmt.Sprint(i))
		u.Ledger(fmt.Sprint("key-", i), make([]byte, 200))
		if i == 0 {
			u.OnCommit(func() {
				if w.left--; w.left == 0 {
					close(w.done)
				}
			})
		}
	}
	return tx.Now()
}

// BenchmarkTick measures transactions of 1, 100 and 2,000 ledger records over four partitions.
func BenchmarkTick(b *testing.B) {
	server := kafkatest.Broker(b)
	for _, records := range []int{1, 100, 2000} {
		b.Run(fmt.Sprint(records), func(b *testing.B) {
			input := server.Topic(b, "in", 4)
			ledger := server.Topic(b, "ledger", 4, ledgerSettings...)
			a := newApp(appConfig{Brokers: server.Addr, Group: kafkatest.Name("bench"), Input: input, Ledger: ledger, Name: "one"}, io.Discard)
			w := &writer{app: a, records: records, left: b.N, done: make(chan struct{})}
			sc := a.streamConfig(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
			sc.Handler = w
			e, err := stream.New(sc)
			if err != nil {
				b.Fatal(err)
			}
			a.engine = e
			ended := make(chan error, 1)
			ctx, cancel := context.WithCancel(b.Context())
			go func() { ended <- e.Run(ctx) }()
			for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
				s := e.Status().Partitions
				if len(s) == 4 && s[0].Ready && s[1].Ready && s[2].Ready && s[3].Ready {
					break
				}
				if time.Now().After(deadline) {
					b.Fatalf("not ready: %+v", s)
				}
			}
			b.ResetTimer()
			e.Wake()
			<-w.done
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "txn/s")
			b.ReportMetric(float64(b.N*records)/b.Elapsed().Seconds(), "records/s")
			cancel()
			if err := <-ended; err != nil {
				b.Error(err)
			}
		})
	}
}
