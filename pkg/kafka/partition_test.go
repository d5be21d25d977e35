package kafka

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The vectors are those of Kafka's own UtilsTest.testMurmur2.
func TestMurmur2IsKafkas(t *testing.T) {
	for in, want := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got := int32(murmur2([]byte(in))); got != want {
			t.Errorf("murmur2(%q) = %d, want %d", in, got, want)
		}
	}
}

func TestPartitionIsFranzGos(t *testing.T) {
	const partitions = 12
	partitioner := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	for i := range 1000 {
		key := fmt.Appendf(nil, "%.*s", i%40, fmt.Sprintf("khách-%d-%032d", i, i*7919))
		if i%40 == 0 {
			key = []byte{byte(i), 0xff}
		}
		want := partitioner.Partition(&kgo.Record{Key: key}, partitions)
		if got := Murmur2Partition(key, partitions); int(got) != want {
			t.Fatalf("partition of %x = %d, want %d", key, got, want)
		}
	}
	if got := Murmur2Partition([]byte{}, partitions); int(got) != partitioner.Partition(&kgo.Record{Key: []byte{}}, partitions) {
		t.Errorf("partition of the empty key = %d", got)
	}
}
