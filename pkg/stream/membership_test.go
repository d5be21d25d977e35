package stream_test

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/stream"
)

// slowJoin is a connection on which the next JoinGroup stays on its way for a while, as over a lossy network.
type slowJoin struct {
	net.Conn
	armed *atomic.Bool
	held  chan struct{}
}

func (c *slowJoin) Write(b []byte) (int, error) {
	if len(b) > 6 && b[4] == 0 && b[5] == 11 && c.armed.CompareAndSwap(true, false) {
		close(c.held)
		time.Sleep(9500 * time.Millisecond)
		_ = c.SetWriteDeadline(time.Time{})
	}
	return c.Conn.Write(b)
}

// A member whose JoinGroup arrives after its session ended gets a new member id from the client, without the lost
// callback. What it owned was another's meanwhile: it must be restored anew.
func TestMembershipReplacedDuringJoin(t *testing.T) {
	t.Parallel()
	fake, err := kfake.NewCluster(kafkatest.FakeOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	w := newWorld(t, &kafkatest.Server{Addr: strings.Join(fake.ListenAddrs(), ",")}, 2)
	var armed atomic.Bool
	held := make(chan struct{})
	one := w.run("one", func(_ *appConfig, sc *stream.Config) {
		sc.Client = append(sc.Client, kgo.Dialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			return &slowJoin{Conn: c, armed: &armed, held: held}, err
		}))
	})
	one.ready(t, 2)
	want := ids("a", 20)
	w.publish(want...)
	w.finished(want, 20*time.Second)

	armed.Store(true)
	two := w.run("two")
	<-held
	eventually(t, 20*time.Second, "two owns both", func() bool {
		s := two.Status()
		return len(s.Partitions) == 2 && s.Partitions[0].Ready && s.Partitions[1].Ready
	})
	more := ids("b", 20)
	w.publish(more...)
	w.finished(more, 20*time.Second)
	if err := two.stop(t); err != nil {
		t.Error(err)
	}
	last := ids("c", 20)
	w.publish(last...)
	w.finished(last, 40*time.Second)
	time.Sleep(time.Second)
	if err := one.stop(t); err != nil {
		t.Error(err)
	}
	w.check(append(append(want, more...), last...), 0)
}
