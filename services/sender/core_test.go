package sender

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/config"
	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/pkg/stream"
	"github.com/znshub/znshub/pkg/zalo"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// core drives a handler without Kafka and without time: a tick is committed or aborted as the test says, calls are
// answered by hand. It owns partitions 0 and 1 of 2.
type core struct {
	t      testing.TB
	h      *handler
	now    time.Time
	ledger map[int32][]kafka.Record // committed, in order
	ends   map[int32]int64          // the latest offset of each ledger partition
	out    []kafka.Record           // committed publications
	calls  []*call                  // begun and not answered
	full   bool
	poison map[string]error
	offset int64
	reads  int       // of the ledger
	wait   time.Time // what Work returned last
	close  map[int32]bool
}

func testConfig(t testing.TB) Config {
	t.Helper()
	var cfg Config
	_, err := config.LoadFrom([]string{"ZALO_ACCESS_TOKEN=2893352839501541173=token", "SENDER_MAX_IN_FLIGHT=4"}, &cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func newCore(t testing.TB, change ...func(*Config)) *core {
	t.Helper()
	cfg := testConfig(t)
	for _, f := range change {
		f(&cfg)
	}
	s, err := cfg.settings()
	if err != nil {
		t.Fatal(err)
	}
	s.of(service.New("sender", "test", "default", nil, nil))
	s.partitions = func() int32 { return 2 }
	c := &core{t: t, now: morning(), ledger: map[int32][]kafka.Record{}, ends: map[int32]int64{}, poison: map[string]error{}, close: map[int32]bool{}}
	h := &handler{
		settings: s, log: slog.New(slog.DiscardHandler), metrics: newMetrics(prometheus.NewRegistry()), parts: map[int32]*partition{},
		rules:  rules{unresolvedAfter: cfg.UnresolvedAfter.Milliseconds(), orderWait: cfg.OrderWait.Milliseconds(), watch: watchFailed.Milliseconds()},
		tracer: tracer{group: cfg.Group, url: s.url},
	}
	wake := func() {}
	h.limit(s.limits)
	h.dispatch = newDispatcher(h.limits, nil, wake)
	h.dispatch.begin = func(func()) { // collect takes the calls
		h.dispatch.active--
		h.dispatch.begun--
	}
	h.callbacks = newReconciler(nil, wake, h.log)
	h.clock = newClock(nil, wake, h.log)
	h.clock.off = true
	h.loader = newLoader(c.readLedger, func(r kafka.Record) (*entry, error) { return h.decodeEntry(r.Value) }, wake, h.log)
	c.h = h
	c.own(0, 1)
	return c
}

// morning is the next nine o'clock in Vietnam: promotions may go out, whenever the test runs.
func morning() time.Time {
	now := time.Now()
	at := time.Date(now.Year(), now.Month(), now.Day(), 2, 0, 0, 0, time.UTC)
	for at.Before(now) {
		at = at.Add(24 * time.Hour)
	}
	return now.Add(at.Sub(now))
}

// readLedger is what the engine would read back.
func (c *core) readLedger(_ context.Context, p int32, offsets []int64) (found []kafka.Record, err error) {
	c.reads++
	for _, offset := range offsets {
		all := c.ledger[p]
		if i, ok := slices.BinarySearchFunc(all, offset, func(r kafka.Record, at int64) int { return int(r.Offset - at) }); ok {
			found = append(found, all[i])
		}
	}
	return found, nil
}

// entryOf is a live notification as it is known, wherever that is; nil: it is not live.
func (c *core) entryOf(id uuid.UUID) *entry {
	p, r := c.h.lookup(id)
	if p == nil {
		return nil
	}
	if e := p.entries[r]; e != nil {
		return e
	}
	return c.kept(p, r)
}

// kept is the entry of r as the ledger has it.
func (c *core) kept(p *partition, r ref) *entry {
	c.t.Helper()
	records, _ := c.readLedger(c.t.Context(), p.id, []int64{p.at(r).ledger.get()})
	if len(records) != 1 {
		c.t.Fatalf("the ledger has no record at offset %d", p.at(r).ledger.get())
	}
	e, err := c.h.decodeEntry(records[0].Value)
	if err != nil || e.id != p.at(r).id {
		c.t.Fatalf("offset %d: %v", p.at(r).ledger.get(), err)
	}
	return e
}

// own gives the handler partitions, restored from what the ledger holds.
func (c *core) own(parts ...int32) {
	for _, p := range parts {
		c.h.Assigned(p)
		for _, r := range c.ledger[p] {
			if err := c.h.Restore(p, r); err != nil {
				c.t.Fatal(err)
			}
		}
		c.h.Restored(p)
	}
}

// successor is another program that takes over what this one's ledger holds.
func (c *core) successor() *core {
	n := newCore(c.t)
	n.h.settings, n.h.rules, n.now, n.ledger, n.ends, n.offset = c.h.settings, c.h.rules, c.now, c.ledger, c.ends, c.offset
	n.h.Dropped(0)
	n.h.Dropped(1)
	n.own(0, 1)
	for _, p := range n.h.parts {
		p.upSince = ms(n.now)
		for e := range n.liveOf(p) {
			if e.state == stateUnknown && e.cause == znsv1.UnknownCause_UNKNOWN_CAUSE_OWNER_DIED {
				e.unknownSince = ms(n.now)
			}
		}
	}
	return n
}

func (c *core) liveOf(p *partition) map[*entry]bool {
	out := map[*entry]bool{}
	for r := ref(1); uint32(r) <= p.slots.top; r++ {
		if p.at(r).state != 0 {
			out[c.entryOf(p.at(r).id)] = true
		}
	}
	return out
}

// fakeUnit is a unit of a tick that is not committed yet.
type fakeUnit struct {
	c      *core
	p      int32
	key    string
	ledger []kafka.Record
	out    []kafka.Record
	commit []func()
	abort  []func()
}

func (u *fakeUnit) Now() time.Time          { return u.c.now }
func (u *fakeUnit) Partition() int32        { return u.p }
func (u *fakeUnit) LedgerPartitions() int32 { return 2 }
func (u *fakeUnit) Poison() error           { return u.c.poison[u.key] }
func (u *fakeUnit) Ledger(key string, v []byte) *stream.Written {
	u.c.ends[u.p]++ // what is aborted has a place too
	u.ledger = append(u.ledger, kafka.Record{Partition: u.p, Offset: u.c.ends[u.p], Key: []byte(key), Value: v})
	return stream.WrittenAt(u.c.ends[u.p])
}
func (u *fakeUnit) Publish(r kafka.Record) { u.out = append(u.out, r) }
func (u *fakeUnit) OnCommit(f func())      { u.commit = append(u.commit, f) }
func (u *fakeUnit) OnAbort(f func())       { u.abort = append(u.abort, f) }

type fakeTick struct {
	c     *core
	units []*fakeUnit
}

func (t *fakeTick) Now() time.Time { return t.c.now }
func (t *fakeTick) Partitions() []int32 {
	var ps []int32
	for p := range t.c.h.parts {
		ps = append(ps, p)
	}
	slices.Sort(ps)
	return ps
}
func (t *fakeTick) Owns(p int32) bool    { return t.c.h.parts[p] != nil }
func (t *fakeTick) Closing(p int32) bool { return t.c.close[p] }
func (t *fakeTick) Full() bool           { return t.c.full }
func (t *fakeTick) Unit(p int32, key string) unit {
	u := &fakeUnit{c: t.c, p: p, key: key}
	t.units = append(t.units, u)
	return u
}

// tick runs one transaction over the given input. commit false undoes it.
func (c *core) tick(commit bool, input ...kafka.Record) {
	c.t.Helper()
	tx := &fakeTick{c: c}
	for _, r := range input {
		c.h.accept(tx.Unit(r.Partition, fmt.Sprintf("@%d", r.Offset)), r)
	}
	c.wait = c.h.work(tx)
	defer func() {
		for c.h.loader.step(c.t.Context()) {
		}
	}()
	if !commit {
		for _, u := range slices.Backward(tx.units) {
			for _, f := range slices.Backward(u.abort) {
				f()
			}
		}
		return
	}
	for _, u := range tx.units {
		c.ledger[u.p] = append(c.ledger[u.p], u.ledger...)
		c.out = append(c.out, u.out...)
	}
	for _, u := range tx.units {
		for _, f := range u.commit {
			f()
		}
	}
	c.collect()
}

// collect takes the calls that the dispatcher would begin.
func (c *core) collect() {
	d := c.h.dispatch
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		d.active++
		x := d.next(c.now)
		if x == nil {
			d.active--
			return
		}
		c.calls = append(c.calls, x)
	}
}

// answer ends the oldest call that was begun for id.
func (c *core) answer(id uuid.UUID, r zalo.Result) {
	c.t.Helper()
	i := slices.IndexFunc(c.calls, func(x *call) bool { return x.e.id == id })
	if i < 0 {
		c.t.Fatalf("no call is under way for %s; its state is %s", id, c.state(id))
	}
	x := c.calls[i]
	c.calls = slices.Delete(c.calls, i, i+1)
	d := c.h.dispatch
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active--
	x.result = r
	x.permit.Answered(c.now, &r)
	d.recall()
	d.finish(x)
}

func (c *core) pass(d time.Duration) { c.now = c.now.Add(d) }

// request makes a record on the partition that it belongs to.
func (c *core) request(change ...func(*notificationv1.NotificationRequested)) (uuid.UUID, kafka.Record) {
	c.t.Helper()
	req := &notificationv1.NotificationRequested{
		NotificationId: uuid.NewString(), OaId: "2893352839501541173", TemplateId: "643118",
		Recipient:    &notificationv1.Recipient{Phone: "0987654321"},
		TemplateData: map[string]string{"order_code": "DH-1042"},
		Fallback:     map[string]string{"sms_text": "Don hang DH-1042"},
	}
	for _, f := range change {
		f(req)
	}
	key := req.OrderingKey
	if key == "" {
		key = req.NotificationId
	}
	value, err := proto.Marshal(req)
	if err != nil {
		c.t.Fatal(err)
	}
	c.offset++
	id, _ := uuid.Parse(req.NotificationId)
	return id, kafka.Record{
		Topic: topic.Requested, Partition: kafka.Murmur2Partition([]byte(key), 2), Offset: c.offset, Time: c.now, Key: []byte(key), Value: value,
	}
}

// state tells where id stands, as a test writes it: "SENDING(1)", "HELD(retry)", "FAILED(REJECTED)".
func (c *core) state(id uuid.UUID) string {
	if e := c.entryOf(id); e != nil {
		return describeState(e)
	}
	for _, p := range c.h.parts {
		if known, _, _ := p.known(id); known {
			return "done"
		}
	}
	return "none"
}

func describeState(e *entry) string {
	name := strings.TrimPrefix(e.state.String(), "STATE_")
	switch e.state {
	case stateSending:
		return fmt.Sprintf("%s(%d)", name, e.attempt)
	case stateHeld:
		return fmt.Sprintf("%s(%s)", name, holdName(e.reason))
	case stateFailed:
		return fmt.Sprintf("%s(%s)", name, strings.TrimPrefix(e.failure.String(), "FAILURE_REASON_"))
	}
	return name
}

func (c *core) want(id uuid.UUID, state string) {
	c.t.Helper()
	if got := c.state(id); got != state {
		c.t.Fatalf("state is %s, want %s", got, state)
	}
}

// events returns what was published to a topic about id.
func events[M proto.Message](c *core, to string, id uuid.UUID, m M) []M {
	c.t.Helper()
	var out []M
	for _, r := range c.out {
		if r.Topic != to || string(r.Key) != id.String() {
			continue
		}
		x := m.ProtoReflect().New().Interface().(M)
		if err := proto.Unmarshal(r.Value, x); err != nil {
			c.t.Fatal(err)
		}
		out = append(out, x)
	}
	return out
}

func (c *core) sent(id uuid.UUID) []*znsv1.Sent { return events(c, topic.Sent, id, &znsv1.Sent{}) }
func (c *core) failed(id uuid.UUID) []*znsv1.Failed {
	return events(c, topic.Failed, id, &znsv1.Failed{})
}
func (c *core) unresolved(id uuid.UUID) []*znsv1.Unresolved {
	return events(c, topic.Unresolved, id, &znsv1.Unresolved{})
}

// ledgerOf is the latest ledger record about id; nil after a tombstone.
func (c *core) ledgerOf(id uuid.UUID) *ledgerv1.Entry {
	c.t.Helper()
	var latest *ledgerv1.Entry
	for _, rs := range c.ledger {
		for _, r := range rs {
			if string(r.Key) != id.String() {
				continue
			}
			latest = nil
			if r.Value != nil {
				latest = &ledgerv1.Entry{}
				if err := proto.Unmarshal(r.Value, latest); err != nil {
					c.t.Fatal(err)
				}
			}
		}
	}
	return latest
}

// ledgerKeys are the notifications of p's ledger.
func (p *partition) ledgerKeys(c *core) map[uuid.UUID]bool {
	keys := map[uuid.UUID]bool{}
	for _, r := range c.ledger[p.id] {
		if id, err := uuid.ParseBytes(r.Key); err == nil {
			keys[id] = true
		}
	}
	return keys
}

func accepted(msgID string) zalo.Result {
	return zalo.Result{Outcome: zalo.Accepted, MsgID: msgID, SentTime: time.Now(), HTTPStatus: 200}
}

func rejected(code int) zalo.Result {
	info := zalo.LookupCode(zalo.HostBusiness, code)
	return zalo.Result{
		Outcome: zalo.Rejected, Code: code, Class: info.Class, Message: info.Text, HTTPStatus: 200,
		Retryable: info.Action == zalo.ActionRetry, Hold: info.Action == zalo.ActionHold, HoldReason: info.Hold,
		Scope: info.Scope, Period: info.Period,
	}
}

var (
	lost      = zalo.Result{Outcome: zalo.Unknown, Cause: zalo.CauseTimeout}
	notSent   = zalo.Result{Outcome: zalo.NotSent, Retryable: true}
	throttled = zalo.Result{Outcome: zalo.Rejected, Retryable: true, Code: -129, Class: zalo.ClassTransient}
)

func ordered(key string) func(*notificationv1.NotificationRequested) {
	return func(r *notificationv1.NotificationRequested) { r.OrderingKey = key }
}

func onUnknown(p notificationv1.OnUnknown) func(*notificationv1.NotificationRequested) {
	return func(r *notificationv1.NotificationRequested) { r.OnUnknown = p }
}

func ofCategory(cat notificationv1.Category) func(*notificationv1.NotificationRequested) {
	return func(r *notificationv1.NotificationRequested) { r.Category = cat }
}

func ttl(d time.Duration) func(*notificationv1.NotificationRequested) {
	return func(r *notificationv1.NotificationRequested) { r.Ttl = durationpb.New(d) }
}

func notBefore(t time.Time) func(*notificationv1.NotificationRequested) {
	return func(r *notificationv1.NotificationRequested) { r.NotBefore = timestamppb.New(t) }
}

// callback tells the handler of a stored callback about an attempt.
func (c *core) callback(id uuid.UUID, trackingID string) {
	c.h.callbacks.queue.pushBack(&heardCallback{id: id, trackingID: trackingID, msgID: "m-callback"})
}

// readerPassed says that every callback stored until now was read.
func (c *core) readerPassed() {
	c.pass(time.Second) // a policy that may not act yet is asked again a little later
	r := c.h.callbacks
	r.mu.Lock()
	defer r.mu.Unlock()
	r.caughtUp = ms(c.now)
	if r.healthy == 0 {
		r.healthy = 1
	}
}
