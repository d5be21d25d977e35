package zalo

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"
)

// exchanger makes the calls. A call takes an idle connection or opens one, writes the request with one system call and
// reads the answer, all in the caller's goroutine: net/http's transport has two goroutines for each connection, which
// cost more processor time than all else that the sender does with a notification. Answers are parsed by net/http.
//
// It knows one kind of request, HTTP/1.1 without a proxy, and follows nothing. It takes a second connection only when
// the first provably wrote nothing.
type exchanger struct {
	dial        func(context.Context, string, string) (net.Conn, error)
	address     string
	tls         *tls.Config // nil: plain HTTP
	idleTimeout time.Duration
	slots       chan struct{} // a token for each call under way

	mu     sync.Mutex // guards what follows
	idle   []*conn    // the last used one last
	sweep  *time.Timer
	closed bool
}

func newExchanger(cfg *Config, base *url.URL) *exchanger {
	x := &exchanger{dial: cfg.Dial, address: base.Host, idleTimeout: cfg.IdleTimeout, slots: make(chan struct{}, cfg.MaxInFlight)}
	port := "80"
	if base.Scheme == "https" {
		port = "443"
		x.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		if cfg.TLS != nil {
			x.tls = cfg.TLS.Clone()
		}
		if x.tls.ServerName == "" {
			x.tls.ServerName = base.Hostname()
		}
		x.tls.NextProtos = []string{"http/1.1"}
	}
	if base.Port() == "" {
		x.address = net.JoinHostPort(base.Hostname(), port)
	}
	return x
}

// conn is one connection between two calls, or in one.
type conn struct {
	net.Conn // what is read and written: counted, or TLS above it
	counted  *countedConn
	in       io.LimitedReader // bounds an answer
	reader   *bufio.Reader
	used     time.Time
}

// tlsHandshakeTimeout is as that of http.DefaultTransport, halved: the whole call has ten seconds.
const tlsHandshakeTimeout = 5 * time.Second

// answered is an answer that was read whole, or its head and what broke behind it.
type answered struct {
	status int
	header http.Header
	body   []byte // nil when it is longer than maxAnswer
	broken error  // the body did not come to its end
}

// do writes raw, which is a whole request, and reads the answer. An error means that there is no answer; bytesOf knows
// then whether anything left.
func (x *exchanger) do(ctx context.Context, raw []byte, bytesOf *ledgerOfBytes) (answered, error) {
	if ctx.Err() != nil {
		return answered{}, ctx.Err()
	}
	select {
	case x.slots <- struct{}{}:
	case <-ctx.Done():
		return answered{}, ctx.Err()
	}
	defer func() { <-x.slots }()
	for {
		c, reused, err := x.take(ctx)
		if err != nil {
			return answered{}, orEnd(ctx, err)
		}
		// Closing ends a read or a write whatever kind of connection it is.
		stop := context.AfterFunc(ctx, func() { c.counted.Close() })
		if bytesOf.took(c.counted); bytesOf.late {
			stop()
			c.counted.Close()
			return answered{}, ErrLate
		}
		if _, err := c.Write(raw); err != nil {
			stop()
			nothing := bytesOf.nothingLeft()
			c.counted.Close()
			if nothing && reused && ctx.Err() == nil {
				continue
			}
			return answered{}, orEnd(ctx, err)
		}
		a, again, err := c.read()
		again = again && c.drained()
		if stopped := stop(); stopped && again {
			x.put(c)
		} else {
			c.counted.Close()
		}
		a.broken = orEnd(ctx, a.broken)
		return a, orEnd(ctx, err)
	}
}

// orEnd is err, or why ctx ended when that is what broke the connection.
func orEnd(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// read reads one answer; again: the connection can be used for another request.
func (c *conn) read() (a answered, again bool, err error) {
	c.in.N = 2*maxAnswer + 4096
	for range 5 {
		resp, err := http.ReadResponse(c.reader, &postRequest) //nolint:bodyclose // closing would read on; the connection is closed instead
		if err != nil {
			if c.in.N <= 0 {
				err = errNotHTTP // a header without end
			}
			return a, false, err
		}
		if resp.StatusCode >= 100 && resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		a.status, a.header = resp.StatusCode, resp.Header
		a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
		if err != nil {
			a.body, a.broken = nil, err
			return a, false, nil //nolint:nilerr // the head alone may say enough
		}
		if len(a.body) > maxAnswer {
			a.body = nil
			return a, false, nil
		}
		return a, !resp.Close && resp.StatusCode >= 200 && c.reader.Buffered() == 0, nil
	}
	return a, false, errNotHTTP
}

var postRequest = http.Request{Method: http.MethodPost}

// drained reports whether everything that was taken from the socket has been read. TLS may hold a further record, which
// would be the answer to the next request, or the end of the stream; silent sees no more than the socket.
func (c *conn) drained() bool {
	c.in.N = 1
	c.counted.dry = true
	_, err := c.reader.Peek(1)
	c.counted.dry = false
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// take returns an idle connection that lives, or a new one.
func (x *exchanger) take(ctx context.Context) (c *conn, reused bool, err error) {
	for {
		x.mu.Lock()
		n := len(x.idle)
		if n == 0 {
			x.mu.Unlock()
			c, err = x.open(ctx)
			return c, false, err
		}
		c, x.idle[n-1] = x.idle[n-1], nil
		x.idle = x.idle[:n-1]
		x.mu.Unlock()
		if time.Since(c.used) < x.idleTimeout && silent(c.counted.Conn) {
			return c, true, nil
		}
		c.counted.Close()
	}
}

func (x *exchanger) open(ctx context.Context) (*conn, error) {
	raw, err := x.dial(ctx, "tcp", x.address)
	if err != nil {
		return nil, err
	}
	c := &conn{counted: &countedConn{Conn: raw}}
	c.Conn = c.counted
	if x.tls != nil {
		layer := tls.Client(c.counted, x.tls)
		handshake, cancel := context.WithTimeout(ctx, tlsHandshakeTimeout)
		defer cancel()
		if err := layer.HandshakeContext(handshake); err != nil {
			c.counted.Close()
			return nil, fmt.Errorf("TLS: %w", err)
		}
		c.Conn = layer
	}
	c.in.R = c.Conn
	c.reader = bufio.NewReader(&c.in)
	return c, nil
}

// put keeps c for the next call.
func (x *exchanger) put(c *conn) {
	c.used = time.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		c.counted.Close()
		return
	}
	x.idle = append(x.idle, c)
	if x.sweep == nil {
		x.sweep = time.AfterFunc(x.idleTimeout, x.closeOld)
	}
}

// closeOld closes connections that nobody has used for long.
func (x *exchanger) closeOld() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sweep = nil
	now, old := time.Now(), 0
	for old < len(x.idle) && now.Sub(x.idle[old].used) >= x.idleTimeout {
		x.idle[old].counted.Close()
		old++
	}
	x.idle = append(x.idle[:0], x.idle[old:]...)
	if len(x.idle) > 0 && !x.closed {
		x.sweep = time.AfterFunc(x.idleTimeout-now.Sub(x.idle[0].used), x.closeOld)
	}
}

// close closes idle connections, and those of calls under way when they end.
func (x *exchanger) close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed = true
	if x.sweep != nil {
		x.sweep.Stop()
	}
	for _, c := range x.idle {
		c.counted.Close()
	}
	x.idle = nil
}
