package harness

import (
	"errors"
	"fmt"
	"net"
	"sync"
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
}

// NewProxy listens. Until Target is called it refuses everybody.
func NewProxy() (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // nothing to cancel on loopback
	if err != nil {
		return nil, fmt.Errorf("open a proxy: %w", err)
	}
	p := &Proxy{listener: l, conns: map[net.Conn]bool{}, changed: make(chan struct{})}
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
	there.Go(func() { p.pump(out, in) })
	p.pump(in, out)
	there.Wait()
}

// pump copies until one side ends, and then ends both: none of the programs here half-closes.
func (p *Proxy) pump(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
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
