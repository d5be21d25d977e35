package stream

import (
	"context"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Config says what an Engine works on.
type Config struct {
	Client     []kgo.Opt // how to reach the brokers: seeds, TLS, SASL
	Group      string    // consumer group
	Input      string    // input topic
	Ledger     string    // ledger topic: compacted; its partition count decides the canonical partitions
	InstanceID string    // names the transactional id; stable over restarts of one instance, random when empty
	Handler    Handler
	Log        *slog.Logger

	SessionTimeout     time.Duration // default 6 s
	TransactionTimeout time.Duration // default 10 s
	DrainTimeout       time.Duration // bound on waiting for calls at a revoke or stop; default 15 s
	MaxRecords         int           // per transaction; default 2000
	MaxBytes           int           // per transaction; default 4 MiB
}

// Engine runs a Handler on the partitions that the group gives to this member.
type Engine struct{}

// New checks cfg. It reaches no broker.
func New(cfg Config) (*Engine, error) { panic("not built yet") }

// Run joins the group and works until ctx ends; then it drains, commits, leaves the group and returns nil.
// Any other return is an error that this process cannot mend by itself: a topic with the wrong policy, a broker that
// is too old, another living process with the same InstanceID.
func (e *Engine) Run(ctx context.Context) error { panic("not built yet") }

// Wake asks for a tick soon: a call has ended. It never blocks and may be called from any goroutine.
func (e *Engine) Wake() { panic("not built yet") }

// Do runs f under the tick lock, between ticks. For questions about the Handler's state from other goroutines.
func (e *Engine) Do(f func()) { panic("not built yet") }

// Status is what the engine owns and how it fares.
func (e *Engine) Status() Status { panic("not built yet") }

// Status is a snapshot for readiness, metrics and "zns status".
type Status struct {
	Joined     bool
	Partitions []PartitionStatus // ascending
	Commits    uint64            // transactions committed since the start
	Aborts     uint64            // transactions aborted since the start
}

// PartitionStatus is the state of one partition that this member owns.
type PartitionStatus struct {
	Partition int32
	Ready     bool  // restored and taking part in ticks
	Full      bool  // fetching is paused because the Handler is full
	Next      int64 // next input offset to accept
	Err       error // why the partition is stopped; nil when it is not
}
