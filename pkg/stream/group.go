package stream

import (
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// groupOptions are those of the consumer: cooperative, with rebalances waiting only while fetched records are handed
// over. The client fetches stable offsets only (KIP-447), without being told.
func (e *Engine) groupOptions() []kgo.Opt {
	opts := e.options(
		kgo.ClientID(e.clientID), // whatever the configuration says: a successor recognises its predecessor by it
		kgo.ConsumerGroup(e.cfg.Group),
		kgo.ConsumeTopics(e.cfg.Input),
		kgo.DisableAutoCommit(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.BlockRebalanceOnPoll(),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.SessionTimeout(e.cfg.SessionTimeout),
		kgo.HeartbeatInterval(min(e.cfg.Pulse, e.cfg.SessionTimeout/3)),
		// A heartbeat tells of the rebalance; then the revoke callback may wait DrainTimeout for calls, and for a tick whose
		// every call times out.
		kgo.RebalanceTimeout(e.cfg.Pulse+e.cfg.DrainTimeout+8*callTimeout+mendTime),
		// A broker that is away throws nobody out of the group: when it is back, sessions begin anew. So the client must
		// not give its membership up meanwhile; with it would go the outcomes of calls that ended in the meantime.
		kgo.RequestRetries(1<<20),
		kgo.RetryTimeoutFn(func(key int16) time.Duration {
			switch kmsg.Key(key) {
			case kmsg.Heartbeat:
				return 0 // for as long as the membership lasts
			case kmsg.JoinGroup, kmsg.SyncGroup:
				return e.cfg.SessionTimeout
			default:
				return 30 * time.Second
			}
		}),
		kgo.MetadataMinAge(50*time.Millisecond),
		kgo.FetchMaxBytes(16<<20),
		kgo.FetchMaxPartitionBytes(1<<20),
		kgo.FetchMaxWait(e.cfg.Pulse/2),
		kgo.OnPartitionsAssigned(e.onAssigned),
		kgo.OnPartitionsRevoked(e.onRevoked),
		kgo.OnPartitionsLost(e.onLost),
		kgo.AdjustFetchOffsetsFn(e.onOffsets),
	)
	if e.consumer {
		opts = append(opts, kgo.ServerSideBalancer())
	}
	return opts
}

// onAssigned makes the partitions' empty state and keeps their fetching paused. No restore here: the group's offsets
// are fetched after this returns, and no rebalance ends before.
func (e *Engine) onAssigned(_ context.Context, cl *kgo.Client, assigned map[string][]int32) {
	e.joined.Store(true)
	member, _ := cl.GroupMetadata()
	e.reown(cl, member)
	ids := assigned[e.cfg.Input]
	if len(ids) == 0 {
		return
	}
	cl.PauseFetchPartitions(map[string][]int32{e.cfg.Input: ids})
	e.forget(ids) // never the case, unless a callback was missed
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range ids {
		e.own(id, member)
	}
	e.log.Info("partitions assigned", "partitions", ids)
	e.publish()
	e.step(StepAssigned)
}

// own makes the empty state of a partition, whose fetching is paused. mu is held.
func (e *Engine) own(id int32, member string) *part {
	p := &part{
		id: id, ledgered: id < e.LedgerPartitions(), assigned: time.Now(), member: member, paused: true, closing: e.draining,
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.holdsUp(errUnstable)
	e.qmu.Lock()
	e.parts[id] = p
	e.qmu.Unlock()
	e.cfg.Handler.Assigned(id)
	return p
}

// reown begins anew with the partitions of an earlier membership. When a JoinGroup comes after the session has ended
// the client takes a new member id, without the lost callback; partitions that it is given again are nothing new to
// it. But they were another's meanwhile.
func (e *Engine) reown(cl *kgo.Client, member string) {
	e.mu.Lock()
	var ids []int32
	for id, p := range e.parts {
		if p.member != member {
			p.closing = true
			ids = append(ids, id)
		}
	}
	e.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	cl.PauseFetchPartitions(map[string][]int32{e.cfg.Input: ids})
	// What was fetched and not accepted stays: the client's place is behind it, and what the ledger holds of it by now is
	// skipped. Nothing is added meanwhile: this callback and the handing over of fetched records exclude each other.
	queues := map[int32][]*kgo.Record{}
	e.qmu.Lock()
	for _, id := range ids {
		queues[id] = e.parts[id].queue
	}
	e.qmu.Unlock()
	e.forget(ids)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range ids {
		p := e.own(id, member)
		e.qmu.Lock()
		p.queue = append(queues[id], p.queue...)
		for _, r := range p.queue {
			p.bytes += size(r)
		}
		e.qmu.Unlock()
		e.beginRestore(p)
	}
	e.log.Warn("the session ended unnoticed: partitions are restored anew", "partitions", ids)
	e.publish()
	e.step(StepAssigned)
}

// beginRestore starts the restore of p. mu is held.
func (e *Engine) beginRestore(p *part) {
	p.restored = make(chan struct{})
	p.holdsUp(nil)
	go func() {
		defer close(p.restored)
		e.restore(p)
	}()
}

// onOffsets runs after the fetch of the group's offsets, which waited until no transaction was open on them: from
// here on the ledger's high watermark tells everything that an earlier owner wrote.
func (e *Engine) onOffsets(_ context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id := range offsets[e.cfg.Input] {
		p := e.parts[id]
		if p == nil || p.restored != nil {
			continue // a rebalance interrupted the fetch before: the restore is under way
		}
		e.beginRestore(p) // it ends with its partition, not with the group session
	}
	return offsets, nil
}

// onRevoked gives partitions up in order: start nothing for them, wait for their calls, commit their outcomes, drop
// them. The member keeps heartbeating meanwhile.
func (e *Engine) onRevoked(_ context.Context, _ *kgo.Client, revoked map[string][]int32) {
	ids := revoked[e.cfg.Input]
	if len(ids) == 0 {
		return
	}
	began := time.Now()
	var ps []*part
	member, _ := e.client.GroupMetadata()
	e.mu.Lock() // a tick under way ends first: it may be committing intents
	for _, id := range ids {
		if p := e.parts[id]; p != nil {
			p.closing = true
			if p.member == member { // of an earlier membership nothing can be committed
				ps = append(ps, p)
			}
		}
	}
	e.mu.Unlock()
	e.step(StepClosing)
	idle := e.awaitIdle(ps)
	e.step(StepIdle)
	e.forget(ids)
	e.step(StepDropped)
	e.log.Info("partitions revoked", "partitions", ids, "took", time.Since(began), "idle", idle)
}

// onLost drops partitions of which the group has already disposed. Nothing may be committed for them.
func (e *Engine) onLost(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
	e.joined.Store(false)
	ids := lost[e.cfg.Input]
	if len(ids) == 0 {
		return
	}
	e.mu.Lock()
	for _, id := range ids {
		if p := e.parts[id]; p != nil {
			p.closing = true
		}
	}
	e.mu.Unlock()
	e.forget(ids)
	e.step(StepDropped)
	e.log.Warn("partitions lost: the session timed out or the group was reset", "partitions", ids)
}

// awaitIdle waits until the closing partitions ps have no call under way and nothing left to write, at most
// DrainTimeout. The loop goes on ticking and commits what there is.
func (e *Engine) awaitIdle(ps []*part) bool {
	deadline := time.Now().Add(e.cfg.DrainTimeout)
	for {
		e.mu.Lock()
		busy := e.unsettled != nil && slices.ContainsFunc(ps, func(p *part) bool { return e.unsettled.touched[p.id] == p })
		for _, p := range ps {
			busy = busy || !p.gone && p.ready && p.err == nil && (e.cfg.Handler.InFlight(p.id) > 0 || e.cfg.Handler.Pending(p.id))
		}
		give := e.abandon
		e.mu.Unlock()
		switch {
		case !busy:
			return true
		case give:
			return false
		case time.Now().After(deadline):
			e.log.Error("calls under way did not end in time: their outcome is lost to this process, their state is in the ledger",
				"waited", e.cfg.DrainTimeout)
			return false
		}
		e.Wake()
		time.Sleep(2 * time.Millisecond)
	}
}

// forget drops partitions: from its return on no offset of theirs is committed and no callback of theirs runs.
func (e *Engine) forget(ids []int32) {
	e.mu.Lock()
	var restoring []chan struct{}
	for _, id := range ids {
		if p := e.parts[id]; p != nil {
			p.cancel()
			if p.restored != nil {
				restoring = append(restoring, p.restored)
			}
		}
	}
	e.mu.Unlock()
	for _, done := range restoring {
		<-done // it takes the tick lock at its end, and may call the Handler until then
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range ids {
		p := e.parts[id]
		if p == nil {
			continue
		}
		p.gone = true
		e.qmu.Lock()
		delete(e.parts, id)
		p.queue, p.bytes, p.open = nil, 0, false
		e.qmu.Unlock()
		e.cfg.Handler.Dropped(id)
		for k := range e.poison {
			if k.partition == id {
				delete(e.poison, k)
			}
		}
	}
	e.publish()
}
