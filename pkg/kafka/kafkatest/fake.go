package kafkatest

import (
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

const fakeClusterID = "znshub-kfake"

const never = "3155760000000" // a hundred years, in milliseconds

// FakeOptions are kfake's settings under which it behaves most like a Kafka for this project. kfake's cleaner applies
// its default retention of 7 days to compacted topics too, so that state topics must set retention.ms=-1, which the
// table in proto/topic does. It is kept from compacting: it removes the markers of aborted transactions and goes on naming
// these transactions, so that read-committed readers drop what their producers have committed since.
func FakeOptions() []kfake.Opt {
	return []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.ClusterID(fakeClusterID),
		kfake.DefaultNumPartitions(1),
		kfake.GroupMinSessionTimeout(500 * time.Millisecond),
		kfake.BrokerConfigs(map[string]string{
			"group.initial.rebalance.delay.ms":     "0",
			"group.consumer.session.timeout.ms":    "6000",
			"group.consumer.heartbeat.interval.ms": "1000",
			"transaction.max.timeout.ms":           "900000",
			"log.cleaner.backoff.ms":               never,
		}),
	}
}

// startFake starts a fake that ends with the process. why says what keeps the real one away; the program that chose the
// fake for us knows better.
func startFake(why string) (*Server, error) {
	c, err := kfake.NewCluster(FakeOptions()...)
	if err != nil {
		return nil, fmt.Errorf("start kfake: %w", err)
	}
	s := &Server{Addr: c.ListenAddrs()[0], describe: "kfake (a fake: " + why + ")"}
	if given := os.Getenv(DescribeEnv); given != "" {
		s.describe = given
	}
	return s, nil
}
