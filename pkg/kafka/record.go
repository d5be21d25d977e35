package kafka

import "time"

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
	for i := len(r.Headers) - 1; i >= 0; i-- {
		if r.Headers[i].Key == key {
			return r.Headers[i].Value, true
		}
	}
	return nil, false
}
