package kafka

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// patience is how every client of this package waits: short steps, so that a broker that comes back is used within a
// second, and no single request outlives a hung broker for long. A caller's own options come after these and win.
func patience() []kgo.Opt {
	return []kgo.Opt{
		kgo.DialTimeout(3 * time.Second),
		// A topic or leader that changed is looked up again at once, not after the default 5 s.
		kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.RequestTimeoutOverhead(5 * time.Second),
		kgo.RetryBackoffFn(func(attempt int) time.Duration {
			return min(50*time.Millisecond<<min(attempt, 5), time.Second)
		}),
	}
}

// fromClient converts what franz-go read. It shares the bytes.
func fromClient(r *kgo.Record) Record {
	out := Record{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Time: r.Timestamp, Key: r.Key, Value: r.Value,
	}
	if len(r.Headers) > 0 {
		out.Headers = make([]Header, len(r.Headers))
		for i, h := range r.Headers {
			out.Headers[i] = Header(h)
		}
	}
	return out
}

// toClient converts what franz-go is to write. It shares the bytes.
func toClient(r Record) *kgo.Record {
	out := &kgo.Record{
		Topic: r.Topic, Partition: r.Partition, Timestamp: r.Time, Key: r.Key, Value: r.Value,
	}
	if len(r.Headers) > 0 {
		out.Headers = make([]kgo.RecordHeader, len(r.Headers))
		for i, h := range r.Headers {
			out.Headers[i] = kgo.RecordHeader(h)
		}
	}
	return out
}
