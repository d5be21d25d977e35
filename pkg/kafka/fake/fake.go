// Package fake says how kfake, a Kafka in this process, is set up so that it behaves most like one for this project.
package fake

import (
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// never is a hundred years, in milliseconds.
const never = "3155760000000"

// Options are the settings of a fake with the given cluster id. Options behind them add to them.
//
// The fake's cleaner is kept from running: it removes the markers of aborted transactions and goes on naming these
// transactions, so that read-committed readers, the sender's restore among them, drop what their producers have committed
// since. [kfake.Cluster.ApplyRetention] does the rest of its work.
func Options(clusterID string) []kfake.Opt {
	return []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.ClusterID(clusterID),
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
