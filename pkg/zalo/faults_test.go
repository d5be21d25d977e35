package zalo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// server answers each request by hand, so that it can do what no HTTP server does.
type server struct {
	url   string
	quiet bool // keep nothing

	mu    sync.Mutex // guards seen and conns
	seen  []seen
	conns []net.Conn
	wg    sync.WaitGroup
}

type seen struct {
	*http.Request
	head, body string
}

// reply answers one request that was read whole; false closes the connection.
type reply func(conn net.Conn) bool

func newServer(t testing.TB, replies ...reply) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{url: "http://" + l.Addr().String()}
	s.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			s.wg.Go(func() { s.serve(conn, replies) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for _, conn := range s.conns {
			conn.Close()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s
}

// serve takes the nth request of the server to the nth reply, and all further ones to the last.
func (s *server) serve(conn net.Conn, replies []reply) {
	defer conn.Close()
	var head bytes.Buffer
	r := bufio.NewReader(io.TeeReader(conn, &head))
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		n := 0
		if !s.quiet {
			s.mu.Lock()
			n = len(s.seen)
			s.seen = append(s.seen, seen{Request: req, head: head.String(), body: string(body)})
			s.mu.Unlock()
		}
		head.Reset()
		if !replies[min(n, len(replies)-1)](conn) {
			return
		}
	}
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}

func (s *server) request(t *testing.T, i int) seen {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if i >= len(s.seen) {
		t.Fatalf("the server saw %d requests", len(s.seen))
	}
	return s.seen[i]
}

func (s *server) closeConns() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.conns {
		reset(conn)
	}
}

func answer(status int, body string, headers ...string) reply {
	return func(conn net.Conn) bool {
		_, err := fmt.Fprintf(conn, "HTTP/1.1 %d x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s",
			status, len(body), strings.Join(append(headers, ""), "\r\n"), body)
		return err == nil
	}
}

func raw(text string) reply {
	return func(conn net.Conn) bool {
		io.WriteString(conn, text)
		return false
	}
}

// reset makes the kernel send RST instead of FIN.
func reset(conn net.Conn) {
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

func hang(conn net.Conn) bool {
	io.Copy(io.Discard, conn) // until the client or the test closes it
	return false
}

func TestFaults(t *testing.T) {
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(accepted))
	for _, tt := range []struct {
		name  string
		reply reply
		want  Outcome
		cause Cause
	}{
		{"reset after the request was read", func(c net.Conn) bool { reset(c); return false }, Unknown, CauseReset},
		{"closed after the request was read", func(net.Conn) bool { return false }, Unknown, CauseReset},
		{"reset mid-header", func(c net.Conn) bool {
			io.WriteString(c, head[:20])
			time.Sleep(20 * time.Millisecond)
			reset(c)
			return false
		}, Unknown, CauseUnreadable},
		{"closed mid-header", raw(head[:20]), Unknown, CauseUnreadable},
		{"closed mid-body", raw(head + accepted[:40]), Unknown, CauseReset},
		{"reset mid-body", func(c net.Conn) bool {
			io.WriteString(c, head+accepted[:40])
			time.Sleep(20 * time.Millisecond)
			reset(c)
			return false
		}, Unknown, CauseReset},
		{"chunked body cut", raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"err"), Unknown, CauseReset},
		{"truncated JSON with a right length", answer(200, accepted[:60]), Unknown, CauseUnreadable},
		{"HTML 200", answer(200, "<html>maintenance</html>"), Unknown, CauseUnreadable},
		{"HTML 502", answer(502, "<html>Bad Gateway</html>"), Unknown, CauseHTTP5xx},
		{"502 with half a body", raw("HTTP/1.1 502 x\r\nContent-Length: 100\r\n\r\n<html>"), Unknown, CauseHTTP5xx},
		{"403 with half a body", raw("HTTP/1.1 403 x\r\nContent-Length: 100\r\n\r\n<html>"), Rejected, CauseNone},
		{"not HTTP", raw("SSH-2.0-OpenSSH_9.6\r\n"), Unknown, CauseUnreadable},
		{"two lengths", raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"), Unknown, CauseUnreadable},
		{"endless header", raw("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxAnswer+9000) + "\r\n\r\n"), Unknown, CauseUnreadable},
		{"header without end", func(c net.Conn) bool {
			_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nX: ")
			for err == nil {
				_, err = c.Write(bytes.Repeat([]byte("x"), 4096))
			}
			return false
		}, Unknown, CauseUnreadable},
		{"what was sent comes back as a header", raw("HTTP/1.1 200 OK\r\n{\"phone\" \"84987654321\"}\r\n\r\n"), Unknown, CauseUnreadable},
		{"body over the limit", answer(200, accepted+strings.Repeat(" ", maxAnswer)), Unknown, CauseUnreadable},
		{"hang", hang, Unknown, CauseTimeout},
		{"hang mid-body", func(c net.Conn) bool { io.WriteString(c, head+accepted[:40]); return hang(c) }, Unknown, CauseTimeout},
		{"slow body", func(c net.Conn) bool {
			io.WriteString(c, head)
			for i := range len(accepted) {
				time.Sleep(20 * time.Millisecond)
				if _, err := io.WriteString(c, accepted[i:i+1]); err != nil {
					return false
				}
			}
			return true
		}, Unknown, CauseTimeout},
		{"slow but in time", func(c net.Conn) bool {
			io.WriteString(c, head)
			time.Sleep(100 * time.Millisecond)
			io.WriteString(c, accepted)
			return true
		}, Accepted, CauseNone},
		{"no length, ended by closing", raw("HTTP/1.1 200 OK\r\n\r\n" + accepted), Accepted, CauseNone},
		{"100 before the answer", raw("HTTP/1.1 100 Continue\r\n\r\n" + head + accepted), Accepted, CauseNone},
		{"gzip that nobody asked for", raw("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08"), Unknown, CauseUnreadable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, tt.reply)
			c := newClient(t, s.url, func(cfg *Config) { cfg.RequestTimeout = 500 * time.Millisecond })
			r := c.Send(t.Context(), otpRequest())
			if r.Outcome != tt.want || r.Cause != tt.cause {
				t.Errorf("%s %s (%v), want %s %s", r.Outcome, r.Cause, r.Err, tt.want, tt.cause)
			}
			if r.Outcome == Unknown && r.Duration <= 0 {
				t.Error("no duration")
			}
			if n := s.count(); n != 1 {
				t.Errorf("the server saw %d requests, want exactly 1", n)
			}
			if r.Err != nil && (strings.Contains(r.Err.Error(), "987654321") || strings.Contains(r.Err.Error(), "the-token") || strings.Contains(r.Err.Error(), "123456")) {
				t.Errorf("personal data or a secret in %q", r.Err)
			}
		})
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	target := newServer(t, answer(200, accepted))
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := newServer(t, answer(status, "", "Location: "+target.url+"/message/template"))
		r := newClient(t, s.url, nil).Send(t.Context(), otpRequest())
		if r.Outcome != Unknown || r.Cause != CauseUnreadable || r.HTTPStatus != status {
			t.Errorf("HTTP %d: %+v", status, r)
		}
	}
	if n := target.count(); n != 0 {
		t.Errorf("%d requests were redirected", n)
	}
}

func TestNotSent(t *testing.T) {
	refused := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("connection refused") }
	late, cancelled := otpRequest(), func() context.Context {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		return ctx
	}()
	late.LaunchBy = time.Now().Add(-time.Second)
	for _, tt := range []struct {
		name string
		cfg  func(*Config)
		req  SendRequest
		ctx  context.Context
		err  error
	}{
		{name: "nobody listens", cfg: func(c *Config) { c.Dial = refused }, req: otpRequest()},
		{name: "connecting takes too long", cfg: func(c *Config) {
			c.RequestTimeout = 50 * time.Millisecond
			c.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
		}, req: otpRequest(), err: context.DeadlineExceeded},
		{name: "cancelled before", req: otpRequest(), ctx: cancelled, err: context.Canceled},
		{name: "launch deadline passed", req: late, err: ErrLate},
		{name: "TLS with a stranger", cfg: func(c *Config) {
			c.URL = strings.Replace(c.URL, "http://", "https://", 1)
			c.TLS = &tls.Config{ServerName: "zalo.me"}
		}, req: otpRequest()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, answer(200, accepted))
			if tt.ctx == nil {
				tt.ctx = t.Context()
			}
			r := newClient(t, s.url, tt.cfg).Send(tt.ctx, tt.req)
			if r.Outcome != NotSent || r.Hold || r.Err == nil || tt.err != nil && !errors.Is(r.Err, tt.err) {
				t.Errorf("%+v", r)
			}
			if n := s.count(); n != 0 {
				t.Errorf("NotSent, but %d requests arrived", n)
			}
		})
	}
}

// A write that the kernel refuses whole is NotSent; one that it takes in part is not.
func TestPartialWrite(t *testing.T) {
	for taken, want := range map[int]Outcome{0: NotSent, 1: Unknown} {
		s := newServer(t, answer(200, accepted))
		c := newClient(t, s.url, func(cfg *Config) {
			cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
				return &shortWriter{Conn: conn, take: taken}, err
			}
		})
		if r := c.Send(t.Context(), otpRequest()); r.Outcome != want {
			t.Errorf("with %d bytes taken: %+v", taken, r)
		}
	}
}

type shortWriter struct {
	net.Conn
	take int
}

func (w *shortWriter) Write(p []byte) (int, error) {
	n, _ := w.Conn.Write(p[:w.take])
	return n, errors.New("broken pipe")
}

// A call that times out while its write hangs is NotSent only if the write ended without having taken a byte.
func TestWriteThatHangs(t *testing.T) {
	for taken, want := range map[int]Outcome{0: NotSent, 10: Unknown} {
		s := newServer(t, answer(200, accepted))
		c := newClient(t, s.url, func(cfg *Config) {
			cfg.RequestTimeout = 50 * time.Millisecond
			cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
				return &hangingWriter{Conn: conn, take: taken, closed: make(chan struct{})}, err
			}
		})
		result := make(chan Result, 1)
		go func() { result <- c.Send(context.Background(), otpRequest()) }()
		select {
		case r := <-result:
			if r.Outcome != want || want == Unknown && r.Cause != CauseTimeout {
				t.Errorf("with %d bytes taken: %+v", taken, r)
			}
		case <-time.After(2 * time.Second):
			t.Fatal("Send waits for the write")
		}
	}
}

type hangingWriter struct {
	net.Conn
	take   int
	once   sync.Once
	closed chan struct{}
}

func (w *hangingWriter) Write(p []byte) (int, error) {
	n, _ := w.Conn.Write(p[:w.take])
	<-w.closed
	return n, net.ErrClosed
}

func (w *hangingWriter) Close() error {
	w.once.Do(func() { close(w.closed) })
	return w.Conn.Close()
}

// A write that is still running counts as written, and a sealed connection takes none that begins later.
func TestCountedConn(t *testing.T) {
	client, far := net.Pipe()
	defer far.Close()
	c := &countedConn{Conn: client}
	written := make(chan error, 1)
	go func() {
		_, err := c.Write([]byte("12345"))
		written <- err
	}()
	for begin := time.Now(); c.maybeWritten.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Since(begin) > time.Second {
			t.Fatal("a running write is not counted")
		}
	}
	if n := c.seal(); n != 5 {
		t.Errorf("seal during a write = %d, want 5", n)
	}
	if _, err := io.ReadFull(far, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
	if n, err := c.Write([]byte("6")); n != 0 || !errors.Is(err, net.ErrClosed) || c.seal() != 5 {
		t.Errorf("write after seal: %d, %v, counted %d", n, err, c.seal())
	}
}

// The classic race of keep-alive: the other side closes an idle connection while a request is on its way. However it
// falls out, the server must see each tracking_id at most once, and never when the client says NotSent.
func TestResetOfReusedConnections(t *testing.T) {
	s := newServer(t, answer(200, accepted))
	c := newClient(t, s.url, nil)
	outcomes := map[Outcome]int{}
	byTracking := map[string]Outcome{}
	for i := range 300 {
		req := otpRequest()
		req.TrackingID = fmt.Sprintf("t%d", i)
		done := make(chan struct{})
		if i%3 != 0 {
			go func() { defer close(done); s.closeConns() }()
		} else {
			close(done)
		}
		r := c.Send(t.Context(), req)
		outcomes[r.Outcome]++
		byTracking[req.TrackingID] = r.Outcome
		<-done
	}
	counts := map[string]int{}
	for i := range s.count() {
		_, after, _ := strings.Cut(s.request(t, i).body, `"tracking_id":"`)
		id, _, _ := strings.Cut(after, `"`)
		counts[id]++
	}
	for id, outcome := range byTracking {
		n := counts[id]
		if n > 1 || outcome == NotSent && n != 0 || outcome == Accepted && n != 1 {
			t.Errorf("%s: %s, arrived %d times", id, outcome, n)
		}
	}
	t.Logf("outcomes: %v", outcomes)
	if outcomes[Accepted] < 100 {
		t.Errorf("outcomes %v: a connection that died idle should cost nothing", outcomes)
	}
}

func TestConnectionsAreReused(t *testing.T) {
	s := newServer(t, answer(200, accepted))
	c := newClient(t, s.url, func(cfg *Config) { cfg.MaxInFlight = 4 })
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				if r := c.Send(t.Context(), otpRequest()); r.Outcome != Accepted {
					t.Errorf("%+v", r)
				}
			}
		})
	}
	wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) != 80 || len(s.conns) > 4 {
		t.Errorf("%d requests over %d connections, want 80 over at most 4", len(s.seen), len(s.conns))
	}
}

// Waiting for a free connection is not sending.
func TestNoFreeConnection(t *testing.T) {
	s := newServer(t, hang)
	c := newClient(t, s.url, func(cfg *Config) { cfg.MaxInFlight, cfg.RequestTimeout = 1, 300*time.Millisecond })
	first := make(chan Result, 1)
	go func() { first <- c.Send(context.Background(), otpRequest()) }()
	for begin := time.Now(); s.count() == 0; time.Sleep(time.Millisecond) {
		if time.Since(begin) > time.Second {
			t.Fatal("the first call did not arrive")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if r := c.Send(ctx, otpRequest()); r.Outcome != NotSent {
		t.Errorf("second call: %+v", r)
	}
	if r := <-first; r.Outcome != Unknown || r.Cause != CauseTimeout {
		t.Errorf("first call: %+v", r)
	}
	if n := s.count(); n != 1 {
		t.Errorf("%d requests arrived", n)
	}
}
