package zalo

import (
	"context"
	"net"
	"net/http/httptrace"
	"os"
	"sync/atomic"
	"time"
)

// countedConn counts the bytes that may have left and can be sealed against further ones. It lies below TLS, so it
// counts alerts too: too many is the safe direction.
type countedConn struct {
	net.Conn
	// maybeWritten is raised before a write begins and lowered afterwards by what the system did not take, so that a
	// write still running counts as written.
	maybeWritten atomic.Int64
	sealed       atomic.Bool
	read         atomic.Int64
	dry          bool // reads find nothing; belongs to whoever reads
}

func (c *countedConn) Read(p []byte) (int, error) {
	if c.dry {
		return 0, os.ErrDeadlineExceeded // one after which TLS can be read on
	}
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	// The order of these two lines and of those in seal is what makes NotSent a proof: either seal sees the raised
	// count, or this sees the seal.
	c.maybeWritten.Add(int64(len(p)))
	if c.sealed.Load() {
		c.maybeWritten.Add(-int64(len(p)))
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Write(p)
	c.maybeWritten.Add(int64(n - len(p)))
	return n, err
}

// seal refuses all further writes and returns the count, which is final.
func (c *countedConn) seal() int64 {
	c.sealed.Store(true)
	return c.maybeWritten.Load()
}

func countingDial(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &countedConn{Conn: conn}, nil
	}
}

// use is one request's use of a connection. HTTP/1.1 serves one request at a time, so what a connection wrote after
// it was handed to the request was written for it.
type use struct {
	conn *countedConn // nil: a connection that cannot be counted
	base int64        // of conn.maybeWritten
	read int64        // of conn.read
}

// ledgerOfBytes knows every connection that one request was handed: the transport takes another one when a kept-alive
// connection died before a byte was written. It belongs to the goroutine of the call: the transport calls gotConn in it.
type ledgerOfBytes struct {
	uses     []use
	launchBy time.Time
	late     bool
	room     [2]use
}

func (l *ledgerOfBytes) gotConn(info httptrace.GotConnInfo) { l.took(counted(info.Conn)) }

// took notes that the request is about to use c. When it is too late for that c is sealed.
func (l *ledgerOfBytes) took(c *countedConn) {
	u := use{conn: c}
	if c != nil {
		u.base, u.read = c.maybeWritten.Load(), c.read.Load()
		if l.isLate() {
			// The write that follows fails with nothing written.
			l.late = true
			c.seal()
		}
	}
	l.uses = append(l.uses, u)
}

// isLate looks at both clocks: the monotonic one stands still while a machine sleeps, the wall clock can be set back.
func (l *ledgerOfBytes) isLate() bool {
	if l.launchBy.IsZero() {
		return false
	}
	now := time.Now()
	return now.After(l.launchBy) || now.Round(0).After(l.launchBy.Round(0))
}

// nothingLeft tells, after the call has failed, whether no byte of the request left and none will: it seals the
// connections that the request was handed.
func (l *ledgerOfBytes) nothingLeft() bool {
	nothing := true
	for _, u := range l.uses {
		if u.conn == nil || u.conn.seal() != u.base {
			nothing = false
		}
	}
	return nothing
}

// anythingRead tells whether the other side said anything to the request.
func (l *ledgerOfBytes) anythingRead() bool {
	for _, u := range l.uses {
		if u.conn != nil && u.conn.read.Load() != u.read {
			return true
		}
	}
	return false
}

// counted finds the counted connection below the layers of TLS.
func counted(conn net.Conn) *countedConn {
	for conn != nil {
		if c, ok := conn.(*countedConn); ok {
			return c
		}
		layer, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		conn = layer.NetConn()
	}
	return nil
}
