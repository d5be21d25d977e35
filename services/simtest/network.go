package simtest

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/twmb/franz-go/pkg/kfake"
)

// wire is one process's way into the network. It can be cut, for a while or for good.
type wire struct {
	network *kfake.VirtualNetwork

	mu    sync.Mutex // guards what follows
	down  map[string]bool
	conns map[net.Conn]string
}

func newWire(network *kfake.VirtualNetwork) *wire {
	return &wire{network: network, down: map[string]bool{}, conns: map[net.Conn]string{}}
}

var errCut = errors.New("the network is cut")

// dial opens a connection to an address, unless the way there is cut.
func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	cut := w.down[address]
	w.mu.Unlock()
	if cut {
		return nil, errCut
	}
	c, err := w.network.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down[address] {
		_ = c.Close()
		return nil, errCut
	}
	w.conns[c] = address
	return &wireConn{Conn: c, wire: w}, nil
}

// cut ends every connection to an address and lets no new one come up; mend ends that.
func (w *wire) cut(addresses ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range addresses {
		w.down[a] = true
		for c, to := range w.conns {
			if to == a {
				_ = c.Close()
				delete(w.conns, c)
			}
		}
	}
}

func (w *wire) mend(addresses ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range addresses {
		delete(w.down, a)
	}
}

type wireConn struct {
	net.Conn
	wire *wire
}

func (c *wireConn) Close() error {
	c.wire.mu.Lock()
	delete(c.wire.conns, c.Conn)
	c.wire.mu.Unlock()
	return c.Conn.Close()
}
