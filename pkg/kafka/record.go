package kafka

import (
	"slices"
	"time"
)

// Record is one Kafka record, free of any client's types.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	Time      time.Time // as the broker stored it: LogAppendTime or the producer's CreateTime
	Key       []byte
	Value     []byte // nil: tombstone
	Headers   []Header
}

// Header is one record header. A record may carry the same key several times.
type Header struct {
	Key   string
	Value []byte
}

// Header returns the value of the last header named key and whether there is one.
func (r *Record) Header(key string) ([]byte, bool) {
	for _, h := range slices.Backward(r.Headers) {
		if h.Key == key {
			return h.Value, true
		}
	}
	return nil, false
}
