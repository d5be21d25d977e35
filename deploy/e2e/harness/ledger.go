package harness

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/proto/topic"
)

// Ledger reads the sender's ledger to its end, as its next owner would, and returns the latest entry of each
// notification by id. It is the only part of the harness that looks inside: nothing else tells what waits, and why.
func Ledger(ctx context.Context, brokers []string) (map[string]*ledgerv1.Entry, error) {
	entries := map[string]*ledgerv1.Entry{}
	cfg := kafka.ReaderConfig{Client: []kgo.Opt{kgo.SeedBrokers(brokers...)}, Topic: topic.RequestedLedger}
	err := kafka.ReadToEnd(ctx, cfg, func(r kafka.Record) error {
		if _, err := uuid.ParseBytes(r.Key); err != nil {
			return nil //nolint:nilerr // what the engine and the commands keep there
		}
		if len(r.Value) == 0 {
			delete(entries, string(r.Key))
			return nil
		}
		var e ledgerv1.Entry
		if err := proto.Unmarshal(r.Value, &e); err != nil {
			return fmt.Errorf("ledger entry %s: %w", r.Key, err)
		}
		entries[string(r.Key)] = &e
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	return entries, nil
}
