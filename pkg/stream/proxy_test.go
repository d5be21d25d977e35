package stream_test

import (
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/stream"
)

const endTxn = 26

// proxy stands between a member and the broker, and at EndTxn cuts the connection or, with silence, swallows that
// request or answer and all like it for so long.
type proxy struct {
	t        *testing.T
	listener net.Listener
	broker   string
	mu       sync.Mutex
	conns    map[net.Conn]bool
	requests atomic.Bool  // cut when the next EndTxn comes: the broker does not see it
	answers  atomic.Bool  // cut when the next EndTxn was answered: the broker has done it
	deaf     atomic.Int64 // until then (Unix ns) every EndTxn, or its answer, vanishes and nothing is cut
	silence  time.Duration

	swallowsRequests atomic.Bool
	cuts             atomic.Int32
}

func newProxy(t *testing.T, listener net.Listener, broker string) *proxy {
	p := &proxy{t: t, listener: listener, broker: broker, conns: map[net.Conn]bool{}}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		p.mu.Lock()
		for c := range p.conns {
			c.Close()
		}
		p.mu.Unlock()
		serving.Wait()
	})
	return p
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	broker, err := net.Dial("tcp", p.broker)
	if err != nil {
		return
	}
	defer broker.Close()
	p.mu.Lock()
	p.conns[client], p.conns[broker] = true, true
	p.mu.Unlock()
	// strike does to a frame what was asked for; true means that it is gone.
	strike := func(which *atomic.Bool) (gone, closed bool) {
		if which == &p.requests == p.swallowsRequests.Load() && time.Now().UnixNano() < p.deaf.Load() {
			return true, false
		}
		if !which.Swap(false) {
			return false, false
		}
		p.cuts.Add(1)
		if p.silence > 0 {
			p.swallowsRequests.Store(which == &p.requests)
			p.deaf.Store(time.Now().Add(p.silence).UnixNano())
			return true, false
		}
		client.Close()
		broker.Close()
		return true, true
	}
	var asked sync.Map // correlation ids of EndTxn requests
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer broker.Close()
		for {
			frame, err := readFrame(client)
			if err != nil {
				return
			}
			if binary.BigEndian.Uint16(frame[4:]) == endTxn {
				if gone, closed := strike(&p.requests); closed {
					return
				} else if gone {
					continue
				}
				asked.Store(binary.BigEndian.Uint32(frame[8:]), true)
			}
			if _, err := broker.Write(frame); err != nil {
				return
			}
		}
	}()
	for {
		frame, err := readFrame(broker)
		if err != nil {
			break
		}
		if _, ok := asked.LoadAndDelete(binary.BigEndian.Uint32(frame[4:])); ok {
			if gone, closed := strike(&p.answers); closed {
				break
			} else if gone {
				continue
			}
		}
		if _, err := client.Write(frame); err != nil {
			break
		}
	}
	client.Close()
	<-done
}

// readFrame reads one request or answer with its length.
func readFrame(c net.Conn) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	frame := make([]byte, 4+binary.BigEndian.Uint32(size[:]))
	copy(frame, size[:])
	_, err := io.ReadFull(c, frame[4:])
	return frame, err
}

// The connection is cut at EndTxn, before the broker sees it and after it has done it, or all goes silent for longer
// than the engine waits: each result is told exactly once all the same.
func TestEndTxnCut(t *testing.T) {
	t.Parallel()
	server := kafkatest.Real(t, "transactions as they are")
	for _, c := range []struct {
		name      string
		answers   bool
		silence   time.Duration
		times     int
		committed bool // what an unconfirmed end turns out to be
	}{
		{"cut before the broker sees it", false, 0, 10, false},
		{"cut after the broker has done it", true, 0, 10, true},
		{"silence before the broker sees it", false, 3 * time.Second, 2, false},
		{"silence after the broker has done it", true, 3 * time.Second, 2, true},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			p := newProxy(t, listener, server.Brokers()[0])
			p.silence = c.silence
			w := newWorld(t, server, 4)
			w.cfg.Proxy = listener.Addr().String()
			w.provider.slow(2 * time.Millisecond)
			want := ids("a", 4000)
			m := w.start("one")
			w.publish(want...)
			arm := &p.requests
			if c.answers {
				arm = &p.answers
			}
			for i := range c.times {
				eventually(t, 30*time.Second, "it works", func() bool { return w.provider.count() > 300*i })
				arm.Store(true)
				eventually(t, 30*time.Second, "EndTxn comes", func() bool { return !arm.Load() })
			}
			w.finished(want, 60*time.Second)
			m.stop()
			w.check(want, 0)
			if n := int(p.cuts.Load()); n != c.times {
				t.Errorf("EndTxn was disturbed %d times, want %d", n, c.times)
			}
			unconfirmed, settled := m.count(string(stream.StepUnconfirmed)), m.count(string(stream.StepSettled))
			if c.silence > 0 && (unconfirmed != c.times || settled != c.times) {
				t.Errorf("%d ends were unconfirmed and %d settled, want %d", unconfirmed, settled, c.times)
			}
			if reverted := m.count(string(stream.StepAborted)); c.committed && reverted > 0 {
				t.Errorf("%d committed transactions were undone", reverted)
			}
		})
	}
}
