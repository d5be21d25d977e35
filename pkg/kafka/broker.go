package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// transactionVersion is the feature level that the engine needs: transactions of KIP-890, which cannot be joined by a
// late request of an earlier transaction of the same producer.
const transactionVersion = 2

// BrokerInfo is what the brokers say of themselves.
type BrokerInfo struct {
	Brokers int
	Version string // of the oldest broker, as guessed from what it understands: "v4.1"
	// Transactions is the level of the feature transaction.version in force, Supported the highest that all brokers know.
	Transactions, Supported int16
}

// Broker asks every broker for its version and features.
func (a *Admin) Broker(ctx context.Context) (BrokerInfo, error) {
	states, err := a.BrokerStates(ctx)
	if err != nil {
		return BrokerInfo{}, err
	}
	info := BrokerInfo{Brokers: len(states)}
	for i, s := range states {
		transactions := s.Features["transaction.version"]
		if i == 0 || transactions.Supported < info.Supported {
			info.Version, info.Supported = s.Version, transactions.Supported
		}
		if i == 0 || transactions.Finalized < info.Transactions {
			info.Transactions = transactions.Finalized
		}
	}
	return info, nil
}

// ErrBrokerTooOld is wrapped by the error of RequireTransactions.
var ErrBrokerTooOld = errors.New("the Kafka cluster is too old for ZNS Hub")

// RequireTransactions returns an error that wraps ErrBrokerTooOld and says what to do unless the brokers run
// transactions of KIP-890: Apache Kafka 4.0 or newer, with the feature transaction.version at 2.
func (a *Admin) RequireTransactions(ctx context.Context) error {
	info, err := a.Broker(ctx)
	switch {
	case err != nil:
		return err
	case info.Supported < transactionVersion:
		return fmt.Errorf("%w: a broker is %s; transactions of KIP-890 need Apache Kafka 4.0 or newer on every broker",
			ErrBrokerTooOld, info.Version)
	case info.Transactions < transactionVersion:
		return fmt.Errorf("%w: its brokers are new enough but the feature transaction.version is %d; run: %s",
			ErrBrokerTooOld, info.Transactions,
			a.command("kafka-features.sh", "upgrade --feature transaction.version=2"))
	}
	return nil
}

// command is a line for a shell with Kafka's own tools.
func (a *Admin) command(tool, args string) string {
	seeds, _ := a.client.OptValue(kgo.SeedBrokers).([]string)
	return fmt.Sprintf("%s --bootstrap-server %s %s", tool, strings.Join(seeds, ","), args)
}
