package stream_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/stream"
)

// owner notes which partitions a member owns, and complains when it is asked for anything of another.
type owner struct {
	*app
	t     *testing.T
	mu    sync.Mutex
	owned map[int32]bool
	slow  time.Duration // of one Restore
}

func (o *owner) Assigned(p int32) {
	o.mu.Lock()
	o.owned[p] = true
	o.mu.Unlock()
	o.app.Assigned(p)
}

func (o *owner) Dropped(p int32) {
	o.app.Dropped(p)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.owned[p] = false
}

func (o *owner) Restore(p int32, r kafka.Record) error {
	time.Sleep(o.slow)
	if !o.owns(p) {
		o.t.Errorf("%s: Restore for partition %d after Dropped", o.cfg.Name, p)
		return nil
	}
	return o.app.Restore(p, r)
}

func (o *owner) owns(p int32) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.owned[p]
}

// While members come and go, no offset commit names a partition that its member has given up. The fake broker shows
// every request.
func TestNoOffsetCommitAfterRevoke(t *testing.T) {
	t.Parallel()
	fake, err := kfake.NewCluster(kafkatest.FakeOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	var (
		mu      sync.Mutex
		owners  = map[string]*owner{}
		commits int
		txnIDs  = map[string]bool{}
	)
	fake.ControlKey(int16(kmsg.TxnOffsetCommit), func(r kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		req := r.(*kmsg.TxnOffsetCommitRequest)
		mu.Lock()
		defer mu.Unlock()
		txnIDs[req.TransactionalID] = true
		name, _, _ := strings.Cut(req.TransactionalID, "#") // the second producer of the same member
		o := owners[name]
		for _, topic := range req.Topics {
			for _, p := range topic.Partitions {
				commits++
				if !o.owns(p.Partition) {
					t.Errorf("%s committed an offset of partition %d, which it has given up", req.TransactionalID, p.Partition)
				}
			}
		}
		if req.MemberID == "" || req.Generation < 0 {
			t.Errorf("an offset commit without a member: nothing fences it")
		}
		return nil, nil, false
	})
	w := newWorld(t, &kafkatest.Server{Addr: strings.Join(fake.ListenAddrs(), ",")}, 6)
	w.provider.slow(3 * time.Millisecond)
	start := func(name string) *inProcess {
		return w.run(name, func(_ *appConfig, sc *stream.Config) {
			o := &owner{app: sc.Handler.(*app), t: t, owned: map[int32]bool{}}
			mu.Lock()
			owners[w.cfg.Group+"-"+name] = o
			mu.Unlock()
			sc.Handler = o
		})
	}
	var want []string
	publish := func(prefix string) {
		more := ids(prefix, 600)
		want = append(want, more...)
		w.publish(more...)
	}
	one := start("one")
	publish("a")
	one.ready(t, 6)
	for i := range 3 {
		other := start(fmt.Sprint("other", i))
		eventually(t, 30*time.Second, "the other owns some", func() bool {
			s := other.Status()
			return len(s.Partitions) == 3 && s.Partitions[0].Ready && s.Partitions[1].Ready && s.Partitions[2].Ready
		})
		publish(string(rune('b' + i)))
		time.Sleep(300 * time.Millisecond)
		if err := other.stop(t); err != nil {
			t.Error(err)
		}
	}
	w.finished(want, 60*time.Second)
	if err := one.stop(t); err != nil {
		t.Error(err)
	}
	w.check(want, 0)
	if mu.Lock(); commits < 100 {
		t.Errorf("only %d offsets were seen", commits)
	}
	if len(txnIDs) != 8 {
		t.Errorf("four members used the transactional ids %v; two each were to take turns", slices.Collect(maps.Keys(txnIDs)))
	}
	mu.Unlock()
}

// A partition that is revoked in the middle of its restore is dropped at once, and its restore is over by then.
func TestRevokeDuringRestore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kafkatest.Real(t, "a group"), 2)
	for p := range int32(2) {
		for i := range 200 {
			r := w.entry(fmt.Sprint("id-", i))
			r.Partition = p
			w.write(r)
		}
	}
	start := func(name string, slow time.Duration) *inProcess {
		return w.run(name, func(_ *appConfig, sc *stream.Config) {
			sc.Handler = &owner{app: sc.Handler.(*app), t: t, owned: map[int32]bool{}, slow: slow}
		})
	}
	one := start("one", 100*time.Millisecond) // 20 s for each
	eventually(t, 20*time.Second, "one restores", func() bool { return len(one.Status().Partitions) == 2 })
	two := start("two", 0)
	eventually(t, 15*time.Second, "two owns a restored partition", func() bool {
		s := two.Status()
		return len(s.Partitions) == 1 && s.Partitions[0].Ready
	})
	if err := one.stop(t); err != nil {
		t.Error(err)
	}
	two.ready(t, 2)
}
