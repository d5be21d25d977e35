package dev

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// Broker is a fake Kafka in this process. It listens on TCP, so that other programs on this machine can use it.
type Broker struct {
	cluster *kfake.Cluster
	Addr    string
	closing chan struct{}
	expired sync.WaitGroup
}

// StartBroker starts the fake on 127.0.0.1. port 0 takes any free one; a port that is taken is replaced by a free one.
// data is a folder that keeps topics and offsets over restarts; empty: all is in memory.
//
// What the fake cannot do: it loses what a kill -9 interrupts, and it does not compact (see never).
func StartBroker(port int, data string) (*Broker, error) {
	cluster, err := newCluster(port, data)
	if port != 0 && errors.Is(err, syscall.EADDRINUSE) {
		cluster, err = newCluster(0, data)
	}
	if err != nil {
		return nil, fmt.Errorf("start the fake broker: %w", err)
	}
	b := &Broker{cluster: cluster, Addr: cluster.ListenAddrs()[0], closing: make(chan struct{})}
	b.expired.Go(b.expire)
	return b, nil
}

// never is a hundred years in milliseconds: kfake's cleaner is kept from running. It removes the markers of aborted
// transactions and goes on naming these transactions, so that read-committed readers, the sender's restore among them, drop
// what their producers have committed since.
const never = "3155760000000"

// expire removes what is older than its topic's retention, which the cleaner would do too.
func (b *Broker) expire() {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			b.cluster.ApplyRetention()
		case <-b.closing:
			return
		}
	}
}

func newCluster(port int, data string) (*kfake.Cluster, error) {
	opts := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.Ports(port),
		kfake.ClusterID("znshub-dev"),
		kfake.GroupMinSessionTimeout(500 * time.Millisecond),
		kfake.BrokerConfigs(map[string]string{
			"group.initial.rebalance.delay.ms":     "0",
			"group.consumer.session.timeout.ms":    "6000",
			"group.consumer.heartbeat.interval.ms": "1000",
			"transaction.max.timeout.ms":           "900000",
			"log.cleaner.backoff.ms":               never,
			// Topics that only compact say retention.ms=-1 themselves; this is for those that tools create.
			"log.retention.ms": strconv.FormatInt((7 * 24 * time.Hour).Milliseconds(), 10),
		}),
	}
	if data != "" {
		opts = append(opts, kfake.DataDir(data), kfake.SyncWrites())
	}
	return kfake.NewCluster(opts...)
}

// Close stops the broker; with a data folder it first writes what is not on disk yet.
func (b *Broker) Close() {
	close(b.closing)
	b.expired.Wait()
	b.cluster.Close()
}
