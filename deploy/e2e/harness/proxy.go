package harness

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Weather is what a Proxy does to connections.
type Weather int

// The weathers. Cut is a cable that was pulled out and noticed: connections break and new ones are refused. Silent is
// one that was not noticed: nothing arrives on either side, nothing breaks, and what was sent meanwhile arrives at the
// end or never, as the sides decide. Slow delays each piece of data by a fifth of a second on each way.
const (
	Clear Weather = iota
	Cut
	Silent
	Slow
)

func (w Weather) String() string { return [...]string{"clear", "cut", "silent", "slow"}[w] }

const slowness = 200 * time.Millisecond

// Proxy is a TCP proxy on 127.0.0.1 that stands between one program and what it talks to. Its methods may be called from
// any goroutine.
type Proxy struct {
	listener net.Listener
	running  sync.WaitGroup

	mu      sync.Mutex // guards what follows
	target  string
	weather Weather
	changed chan struct{} // closed when the weather changes
	conns   map[net.Conn]bool
	closed  bool

	mutes atomic.Int32 // see Mute
}

// NoAPI is for [Proxy.Mute]: no request of Kafka's protocol has this key.
const NoAPI = -1

// NewProxy listens. Until Target is called it refuses everybody.
func NewProxy() (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // nothing to cancel on loopback
	if err != nil {
		return nil, fmt.Errorf("open a proxy: %w", err)
	}
	p := &Proxy{listener: l, conns: map[net.Conn]bool{}, changed: make(chan struct{})}
	p.mutes.Store(NoAPI)
	p.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.serve(c) })
		}
	})
	return p, nil
}

// Addr is where it listens.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Target says to whom new connections lead.
func (p *Proxy) Target(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = addr
}

// Set changes the weather at once, for living connections too.
func (p *Proxy) Set(w Weather) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.weather = w
	close(p.changed)
	p.changed = make(chan struct{})
	if w == Cut {
		p.breakAll()
	}
}

// Mute is for connections to a Kafka broker: a request with this API key passes, and from it on nothing that the broker
// says on that connection. It holds for each such request until it is called with another key or NoAPI; a connection
// that is mute stays so.
func (p *Proxy) Mute(api int16) { p.mutes.Store(int32(api)) }

// breakAll resets all connections. mu is held.
func (p *Proxy) breakAll() {
	for c := range p.conns {
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // a reset, not an orderly end
		}
		_ = c.Close()
	}
	clear(p.conns)
}

// Close breaks all connections and waits until nothing of the proxy is left.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	close(p.changed)
	p.changed = make(chan struct{})
	p.breakAll()
	p.mu.Unlock()
	err := p.listener.Close()
	p.running.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (p *Proxy) now() (target string, w Weather, changed <-chan struct{}, closed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.target, p.weather, p.changed, p.closed
}

// keep remembers a connection until drop; false when it came into a cut.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.weather == Cut {
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	_ = c.Close()
}

func (p *Proxy) serve(in net.Conn) {
	defer p.drop(in)
	target, _, _, _ := p.now()
	if target == "" || !p.keep(in) {
		if t, ok := in.(*net.TCPConn); ok {
			_ = t.SetLinger(0)
		}
		return
	}
	if !p.pass() {
		return
	}
	out, err := (&net.Dialer{Timeout: 2 * time.Second}).Dial("tcp", target)
	if err != nil {
		return
	}
	defer p.drop(out)
	if !p.keep(out) {
		return
	}
	var there sync.WaitGroup
	var mute atomic.Bool
	there.Go(func() {
		var requests frames
		p.pump(out, in, func(b []byte) bool {
			if requests.begins(b, p.mutes.Load()) {
				mute.Store(true)
			}
			return true
		})
	})
	p.pump(in, out, func([]byte) bool { return !mute.Load() })
	there.Wait()
}

// frames follows Kafka's requests in a stream: a length of four bytes, and in what it counts first the API key, two.
type frames struct {
	head []byte // of the request that begins
	rest int64  // of the request under way
}

// begins takes the next bytes of the stream and reports whether a request with the API key begins in them.
func (f *frames) begins(b []byte, api int32) (found bool) {
	for len(b) > 0 {
		if n := min(f.rest, int64(len(b))); n > 0 {
			f.rest -= n
			b = b[n:]
			continue
		}
		f.head = append(f.head, b[0])
		b = b[1:]
		if len(f.head) == 6 {
			found = found || int32(binary.BigEndian.Uint16(f.head[4:])) == api
			f.rest = int64(binary.BigEndian.Uint32(f.head)) - 2
			f.head = f.head[:0]
		}
	}
	return found
}

// pump copies what may pass until one side ends, and then ends both: none of the programs here half-closes.
func (p *Proxy) pump(to, from net.Conn, may func([]byte) bool) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && may(buffer[:n]) {
			if !p.pass() {
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pass waits as long as the weather says; false when the proxy was closed meanwhile.
func (p *Proxy) pass() bool {
	for {
		_, w, changed, closed := p.now()
		switch {
		case closed:
			return false
		case w == Silent:
			<-changed
		case w == Slow:
			select {
			case <-changed:
			case <-time.After(slowness):
			}
			return true
		default:
			return true
		}
	}
}
