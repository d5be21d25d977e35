package dev

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/znshub/znshub/pkg/kafka/fake"
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
// What the fake cannot do: it loses what a kill -9 interrupts, and it does not compact (see [fake.Options]).
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

// expire removes what is older than its topic's retention, which the cleaner would do.
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
	opts := append(fake.Options("znshub-dev"),
		kfake.Ports(port),
		// Topics that only compact say retention.ms=-1 themselves; this is for those that tools create.
		kfake.BrokerConfigs(map[string]string{"log.retention.ms": strconv.FormatInt((7 * 24 * time.Hour).Milliseconds(), 10)}),
	)
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
