package sideinput

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
)

// jumpInsteadOf is how many records are read and thrown away rather than opening another reader behind them.
const jumpInsteadOf = 50_000

// ReadOffsets calls found for each of the offsets of one partition, which ascend, with the record or, when it is not
// there any more, with nil; those that lie close together are read in one go.
func ReadOffsets(ctx context.Context, client []kgo.Opt, topic string, p int32, want []int64, found func(int64, *kafka.Record)) error {
	for len(want) > 0 {
		r, err := kafka.NewReader(ctx, kafka.ReaderConfig{
			Client: client, Topic: topic, Partitions: []int32{p}, Start: kafka.FromOffsets(map[int32]int64{p: want[0]}),
		})
		if err != nil {
			return err
		}
		if r.Positions()[p] < want[0] { // the log is shorter: it was made anew
			found(want[0], nil)
			want = want[1:]
		} else {
			want, err = readRun(ctx, r, p, want, found)
		}
		r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// readRun reads on with r until the next wanted record is far away. It returns what is still wanted.
func readRun(ctx context.Context, r *kafka.Reader, p int32, want []int64, found func(int64, *kafka.Record)) ([]int64, error) {
	for {
		at := r.Positions()[p]
		for len(want) > 0 && want[0] < at { // read, or retention has deleted it
			found(want[0], nil)
			want = want[1:]
		}
		if len(want) == 0 || want[0] > at+jumpInsteadOf {
			return want, nil
		}
		records, err := r.Poll(ctx)
		if err != nil {
			return want, err
		}
		for i := range records {
			for len(want) > 0 && want[0] < records[i].Offset {
				found(want[0], nil)
				want = want[1:]
			}
			if len(want) > 0 && want[0] == records[i].Offset {
				found(want[0], &records[i])
				want = want[1:]
			}
		}
	}
}
