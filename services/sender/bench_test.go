package sender

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// BenchmarkCore is the sender's own work for one notification, from the record to zns.sent, without Kafka and HTTP;
// also with 200,000 others waiting, which must not matter.
func BenchmarkCore(b *testing.B) {
	for _, waiting := range []int{0, 200_000} {
		b.Run(fmt.Sprintf("waiting=%d", waiting), func(b *testing.B) {
			c := newCore(b, func(cfg *Config) { cfg.MaxInFlight = 1000; cfg.Memory = 1 << 40 })
			for n := 0; n < waiting; n += 1000 {
				records := make([]kafka.Record, 1000)
				for i := range records {
					_, records[i] = c.request(notBefore(c.now.Add(20 * 3600e9)))
				}
				c.tick(true, records...)
				c.ledger, c.out = map[int32][]kafka.Record{}, nil
			}
			const batch = 500
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; done += batch {
				b.StopTimer()
				records, ids := make([]kafka.Record, batch), make([]uuid.UUID, batch)
				for i := range records {
					ids[i], records[i] = c.request(func(r *notificationv1.NotificationRequested) { r.OrderingKey = fmt.Sprint(done, "/", i) })
				}
				b.StartTimer()
				c.tick(true, records...)
				b.StopTimer()
				calls := c.calls
				c.calls = nil
				for _, x := range calls {
					d := c.h.dispatch
					d.active--
					x.result = accepted("m")
					x.permit.Answered(c.now, &x.result)
					d.finish(x)
				}
				b.StartTimer()
				c.tick(true)
				b.StopTimer()
				c.ledger, c.out = map[int32][]kafka.Record{}, nil
				b.StartTimer()
			}
		})
	}
}
