package sends

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

type rig struct {
	*Sends
	t      *testing.T
	server *kafkatest.Server
	writer *kafka.Writer
}

const partitions = 2

func newRig(t *testing.T, cacheBytes int) *rig {
	t.Helper()
	server := kafkatest.Broker(t)
	r := &rig{t: t, server: server}
	opts := []kgo.Opt{kgo.SeedBrokers(server.Brokers()...)}
	var err error
	if r.writer, err = kafka.NewWriter(opts...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.writer.Close)
	r.Sends = New(Config{
		Client: opts, Window: 7 * 24 * time.Hour, CacheBytes: cacheBytes, Found: func() {}, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Sent: server.Topic(t, "sent", partitions), Failed: server.Topic(t, "failed", partitions), Unresolved: server.Topic(t, "unresolved", partitions),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return r
}

func record(topic string, id uuid.UUID, m proto.Message) kafka.Record {
	rec, err := kafka.NewRecord(topic, []byte(id.String()), kafka.Event{ID: uuid.NewString(), Source: "s", Time: time.Now(), Data: m}, "", "")
	if err != nil {
		panic(err)
	}
	return rec
}

func (r *rig) write(records ...kafka.Record) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	if err := r.writer.Write(ctx, records...); err != nil {
		r.t.Fatal(err)
	}
}

func home(id uuid.UUID) int32 { return kafka.Murmur2Partition([]byte(id.String()), partitions) }

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("not in 20 s: %s", what)
		}
	}
}

func (r *rig) sent(n int) (ids []uuid.UUID) {
	var records []kafka.Record
	for range n {
		id := uuid.New()
		ids = append(ids, id)
		records = append(records, record(r.cfg.Sent, id, &znsv1.Sent{NotificationId: id.String(), Attempt: 1, MsgId: "m-" + id.String()}))
	}
	r.write(records...)
	return ids
}

func TestFollow(t *testing.T) {
	r := newRig(t, 0)
	early := r.sent(20)
	r.Assign(0)
	r.eventually("what was there before", func() bool {
		for _, id := range early {
			if got := r.Find(0, id); home(id) == 0 && (len(got) != 1 || got[0].MsgID != "m-"+id.String() || got[0].Kind != KindSent) {
				return false
			}
		}
		return true
	})
	if got := r.Find(1, early[0]); got != nil {
		t.Errorf("partition 1 is not assigned: %v", got)
	}
	id := uuid.New()
	for home(id) != 0 {
		id = uuid.New()
	}
	r.Watch(0, id)
	r.write(record(r.cfg.Unresolved, id, &znsv1.Unresolved{NotificationId: id.String(), Attempt: 1}))
	r.eventually("zns.unresolved", func() bool { got := r.Take(0); return len(got) == 1 && got[0].Kind == KindUnresolved })
	r.write(record(r.cfg.Failed, id, &znsv1.Failed{NotificationId: id.String(), Attempt: 1}))
	r.eventually("zns.failed", func() bool { got := r.Take(0); return len(got) == 1 && got[0].Kind == KindFailed })
	if got := r.Find(0, id); len(got) != 2 {
		t.Errorf("%d outcomes, want 2", len(got))
	}
	r.Unwatch(0, id)
	r.write(record(r.cfg.Sent, id, &znsv1.Sent{NotificationId: id.String(), Attempt: 1}))
	r.eventually("zns.sent", func() bool { return len(r.Find(0, id)) == 3 })
	if got := r.Take(0); got != nil {
		t.Errorf("told although nobody watches: %v", got)
	}
}

// A partition that comes, goes and comes again is followed without a gap, and the others go on where they were.
func TestReassign(t *testing.T) {
	r := newRig(t, 0)
	var all []uuid.UUID
	check := func(what string, p int32) {
		t.Helper()
		r.eventually(what, func() bool {
			for _, id := range all {
				if home(id) == p && len(r.Find(p, id)) != 1 {
					return false
				}
			}
			return true
		})
	}
	r.Assign(0)
	for i := range 6 {
		all = append(all, r.sent(10)...)
		if i%2 == 0 {
			r.Assign(1)
		} else {
			r.Drop(1)
		}
		check("partition 0, which stays", 0) // so that each change meets a reader under way
	}
	all = append(all, r.sent(10)...)
	check("partition 0, which stayed", 0)
	r.Assign(1)
	check("partition 1, which came again", 1)
	if st := r.Stats(); st.Indexed != len(all) {
		t.Errorf("%d indexed, want %d", st.Indexed, len(all))
	}
}

// What is no longer in memory is read again when somebody asks, far apart or close together.
func TestReadAgain(t *testing.T) {
	r := newRig(t, 1)
	r.Assign(0)
	r.Assign(1)
	ids := r.sent(300)
	r.eventually("all indexed", func() bool { return r.Stats().Indexed == 300 })
	if st := r.Stats(); st.Cached > 1 {
		t.Fatalf("%d in memory; the test wants them gone", st.Cached)
	}
	want := map[uuid.UUID]bool{}
	for i, id := range ids {
		if i%7 == 0 || i > 280 {
			want[id] = true
			r.Watch(home(id), id)
		}
	}
	r.eventually("all found", func() bool {
		for p := range int32(partitions) {
			for _, s := range r.Take(p) {
				if s.MsgID != "m-"+s.Notification.String() {
					t.Errorf("%+v", s)
				}
				delete(want, s.Notification)
			}
		}
		return len(want) == 0
	})
}

// CaughtUp is zero while an outcome is being read again, and goes on when retention has deleted it.
func TestReadAgainDeleted(t *testing.T) {
	r := newRig(t, 1)
	r.Assign(0)
	r.Assign(1)
	ids := r.sent(50)
	r.eventually("all indexed", func() bool { return r.Stats().Indexed == 50 })
	admin := kadm.NewClient(r.server.Client(t))
	ends, err := admin.ListEndOffsets(t.Context(), r.cfg.Sent)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.DeleteRecords(t.Context(), ends.Offsets()); err != nil {
		t.Fatal(err)
	}
	r.Watch(home(ids[0]), uuid.New()) // one that has no outcome yet
	r.eventually("caught up before", func() bool { return !r.CaughtUp(home(ids[0])).IsZero() })
	r.Watch(home(ids[0]), ids[0])
	if !r.CaughtUp(home(ids[0])).IsZero() {
		t.Error("caught up while an outcome is being read again")
	}
	start := time.Now()
	r.eventually("caught up", func() bool { return r.CaughtUp(home(ids[0])).After(start) })
	if got := r.Take(home(ids[0])); got != nil {
		t.Errorf("found what was deleted: %v", got)
	}
}

// CaughtUp goes on also when the topic of an outcome that is to be read again was made anew, and is shorter now.
func TestReadAgainMadeAnew(t *testing.T) {
	r := newRig(t, 1)
	r.Assign(0)
	r.Assign(1)
	ids := r.sent(50)
	r.eventually("all indexed", func() bool { return r.Stats().Indexed == 50 })
	r.server.DeleteTopic(t, r.cfg.Sent)
	r.server.CreateTopic(t, r.cfg.Sent, partitions)
	var err error
	if r.writer, err = kafka.NewWriter(kgo.SeedBrokers(r.server.Brokers()...)); err != nil { // the other knows the earlier topic
		t.Fatal(err)
	}
	t.Cleanup(r.writer.Close)
	r.sent(1)
	r.eventually("the new topic is followed", func() bool { return r.Stats().Indexed == 51 })
	p := home(ids[45])
	r.Watch(p, ids[45])
	start := time.Now()
	r.eventually("caught up", func() bool { return r.CaughtUp(p).After(start) })
	if got := r.Take(p); got != nil {
		t.Errorf("found what was deleted: %v", got)
	}
}

// The promise of CaughtUp: an outcome in a transaction that was open at that moment has been seen.
func TestCaughtUpWaitsForOpenTransactions(t *testing.T) {
	r := newRig(t, 0)
	r.Assign(0)
	r.Assign(1)
	id := uuid.New()
	p := home(id)
	r.Watch(p, id)
	r.eventually("caught up with empty topics", func() bool { return !r.CaughtUp(p).IsZero() })

	tx := r.server.Client(t, kgo.TransactionalID(kafkatest.Name("tx")), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := tx.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	rec := record(r.cfg.Sent, id, &znsv1.Sent{NotificationId: id.String(), Attempt: 1})
	if err := tx.ProduceSync(t.Context(), &kgo.Record{Topic: rec.Topic, Partition: p, Key: rec.Key, Value: rec.Value}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	written := time.Now()
	time.Sleep(1500 * time.Millisecond)
	if at := r.CaughtUp(p); at.After(written) {
		t.Fatalf("caught up %v after a record was written that is not seen", at.Sub(written))
	}
	if err := tx.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	r.eventually("caught up", func() bool { return r.CaughtUp(p).After(written) })
	if got := r.Take(p); len(got) != 1 {
		t.Errorf("caught up and %d found", len(got))
	}
}

func TestIndex(t *testing.T) {
	now := time.Now()
	x := index{}
	a, b := uuid.New(), uuid.New()
	x.add(a, now.Add(-48*time.Hour), newPlace(KindUnresolved, 5))
	x.add(a, now, newPlace(KindSent, 7))
	x.add(a, now, newPlace(KindUnresolved, 9)) // does not replace zns.sent
	x.add(b, now.Add(-9*day), newPlace(KindFailed, 1<<50))
	if p, ok := x.find(a); !ok || p.kind() != KindSent || p.offset() != 7 {
		t.Errorf("place %d", p)
	}
	if p, ok := x.find(b); !ok || p.kind() != KindFailed || p.offset() != 1<<50 {
		t.Errorf("place %d", p)
	}
	if x.len() != 2 {
		t.Errorf("%d entries", x.len())
	}
	x.expire(now.Add(-8 * day))
	if _, ok := x.find(b); ok || x.len() != 1 {
		t.Error("an old day was not forgotten")
	}
}

func TestDecode(t *testing.T) {
	id := uuid.NewString()
	for _, tt := range []struct {
		kind Kind
		m    proto.Message
	}{
		{KindSent, &znsv1.Sent{NotificationId: id, Attempt: 2, MsgId: "m"}},
		{KindFailed, &znsv1.Failed{NotificationId: id, Attempt: 2, MsgId: "m"}},
		{KindUnresolved, &znsv1.Unresolved{NotificationId: id, Attempt: 2, MsgId: "m"}},
	} {
		b, err := proto.Marshal(tt.m)
		if err != nil {
			t.Fatal(err)
		}
		s, err := Decode(tt.kind, b)
		if err != nil || s.Notification.String() != id || s.Attempt != 2 || s.MsgID != "m" || s.Kind != tt.kind {
			t.Errorf("%+v, %v", s, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	b, _ := proto.Marshal(&znsv1.Sent{NotificationId: uuid.NewString()})
	f.Add(uint8(0), b)
	f.Add(uint8(1), []byte{0xff})
	f.Fuzz(func(t *testing.T, k uint8, b []byte) {
		if s, err := Decode(Kind(k%kinds), b); err == nil && s.Event == nil {
			t.Fatal("decoded nothing")
		}
	})
}

func BenchmarkIndex(b *testing.B) {
	for _, n := range []int{1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			ids := make([]uuid.UUID, n)
			for i := range ids {
				ids[i] = uuid.New()
			}
			now := time.Now()
			for b.Loop() {
				x := index{}
				for i, id := range ids {
					x.add(id, now.Add(-time.Duration(i%7)*day), newPlace(KindSent, int64(i)))
				}
			}
		})
	}
}
