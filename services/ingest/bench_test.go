package ingest

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
)

// BenchmarkWebhook measures the answer to a signed callback that goes straight to Kafka and is translated meanwhile:
// as many as 32 connections can bring, and 200 a second.
func BenchmarkWebhook(b *testing.B) {
	for _, rate := range []int{0, 200} {
		b.Run(fmt.Sprintf("rate=%d", rate), func(b *testing.B) {
			w := newWorld(b, kafkatest.Broker(b), 4)
			r := w.start(w.config())
			w.mustPost(r.url, newMessage().callback())
			var mu sync.Mutex
			var all []time.Duration
			todo := make(chan struct{})
			var wg sync.WaitGroup
			for range 32 {
				wg.Go(func() {
					for range todo {
						body := newMessage().callback()
						start := time.Now()
						code := post(r.url, body, testSecret)
						took := time.Since(start)
						mu.Lock()
						all = append(all, took)
						mu.Unlock()
						if code != http.StatusOK {
							b.Errorf("answered %d", code)
						}
					}
				})
			}
			for b.Loop() {
				todo <- struct{}{}
				if rate > 0 {
					time.Sleep(time.Second / time.Duration(rate))
				}
			}
			close(todo)
			wg.Wait()
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
			b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "callbacks/s")
		})
	}
}
