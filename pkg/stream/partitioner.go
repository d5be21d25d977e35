package stream

import (
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
)

// choose takes the record's own partition, or for -1 the one that the Java client's default partitioner takes.
func choose(string) func(*kgo.Record, int) int {
	return func(r *kgo.Record, n int) int {
		if r.Partition >= 0 {
			return int(r.Partition)
		}
		return int(kafka.Murmur2Partition(r.Key, int32(n)))
	}
}
