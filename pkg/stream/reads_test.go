package stream

import (
	"context"
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Reads that were given up before they began keep no place from others.
func TestReadsGivenUpKeepNoPlace(t *testing.T) {
	e, err := New(Config{Group: "g", Input: "in", Ledger: "l", Handler: struct{ Handler }{}})
	if err != nil {
		t.Fatal(err)
	}
	if e.reader, err = kgo.NewClient(kgo.SeedBrokers("127.0.0.1:1")); err != nil {
		t.Fatal(err)
	}
	defer e.reader.Close()
	e.ledgerParts.Store(1)
	e.leaders.Store(&map[int32]int32{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		if _, err := e.ReadLedger(ctx, 0, []int64{0, 1000, 2000}); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if n := len(e.reads); n > 0 {
			t.Fatalf("%d places are kept", n)
		}
	}
}
