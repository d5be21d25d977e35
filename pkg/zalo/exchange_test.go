package zalo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestMain runs every test twice: calls go by the exchanger, or through a proxy by http.Transport, and must end alike.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		byTransport = true
		fmt.Println("again, by http.Transport")
		code = m.Run()
	}
	os.Exit(code)
}

func TestWayByProxy(t *testing.T) {
	c := newClient(t, "https://business.openapi.zalo.me", nil)
	if (c.exchanger == nil) != byTransport {
		t.Errorf("without a proxy: exchanger %v, byTransport %t", c.exchanger, byTransport)
	}
}

// What stands in a connection without having been asked for is no answer to the next request.
func TestUnaskedAnswerIsNotTaken(t *testing.T) {
	forged := strings.ReplaceAll(accepted, "a4d0243feee163bd3af2", "stale")
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(accepted))
	stale := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(forged), forged)
	for name, first := range map[string]reply{
		"at once": func(c net.Conn) bool { _, err := io.WriteString(c, head+accepted+stale); return err == nil },
		"later": func(c net.Conn) bool {
			io.WriteString(c, head+accepted)
			time.Sleep(50 * time.Millisecond)
			_, err := io.WriteString(c, stale)
			return err == nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, first, answer(200, accepted))
			c := newClient(t, s.url, nil)
			for i := range 2 {
				if r := c.Send(t.Context(), otpRequest()); r.Outcome != Accepted || r.MsgID != "a4d0243feee163bd3af2" {
					t.Errorf("call %d: %+v", i, r)
				}
				time.Sleep(100 * time.Millisecond)
			}
			if n := s.connections(); n != 2 {
				t.Errorf("%d connections, want another one for the second call", n)
			}
		})
	}
}

func tokens(token string) func(context.Context, string) (string, error) {
	return func(context.Context, string) (string, error) { return token, nil }
}

func (s *server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// A connection that the other side closed while it was idle costs nothing, and one that was idle for too long is closed.
func TestIdleConnections(t *testing.T) {
	s := newServer(t, answer(200, accepted))
	c := newClient(t, s.url, func(cfg *Config) { cfg.IdleTimeout = 100 * time.Millisecond })
	send := func() {
		t.Helper()
		if r := c.Send(t.Context(), otpRequest()); r.Outcome != Accepted {
			t.Errorf("%+v", r)
		}
	}
	for range 3 {
		send()
		s.closeConns()
		time.Sleep(20 * time.Millisecond)
	}
	before := s.connections()
	send()
	send()
	if n := s.connections() - before; n != 1 {
		t.Errorf("%d connections for two calls in a row", n)
	}
	if c.exchanger != nil {
		waitFor(t, func() bool {
			c.exchanger.mu.Lock()
			defer c.exchanger.mu.Unlock()
			return len(c.exchanger.idle) == 0
		})
	}
	time.Sleep(150 * time.Millisecond)
	send()
	if n := s.connections() - before; n != 2 {
		t.Errorf("%d connections, want a new one after the idle timeout", n)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > 5*time.Second {
			t.Fatal("waited for 5 s")
		}
	}
}

// Nothing of the token may end a header and begin another.
func TestTokenCannotAddHeaders(t *testing.T) {
	s := newServer(t, answer(200, accepted))
	c := newClient(t, s.url, func(cfg *Config) { cfg.AccessToken = tokens("x\r\nX-Evil: 1") })
	if r := c.Send(t.Context(), otpRequest()); r.Outcome != NotSent {
		t.Errorf("%+v", r)
	}
	if n := s.count(); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}

// TestPayloadIsJSON compares the way in which bodies are written with encoding/json.
func TestPayloadIsJSON(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	pieces := []string{"", "a", "Nguyễn Văn", "\"", "\\", "<&>", "\x00", "\n", "\x7f", "\u2028", "\xff", "\xc3", "😀", "\ufffd", strings.Repeat("é", 300)}
	text := func() string { return pieces[rng.IntN(len(pieces))] + pieces[rng.IntN(len(pieces))] }
	for range 2000 {
		p := sendJSON{Phone: text(), HashPhone: text(), TemplateID: text(), TrackingID: text(), SendingMode: text(), Mode: text(), TemplateData: map[string]string{}}
		for range rng.IntN(20) {
			p.TemplateData[text()+text()] = text()
		}
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(&p); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.TrimSuffix(want.String(), "\n"), string(p.append(nil))); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	}
}

// The counting connection is found below TLS, and HTTP/2 is not spoken even to a server that would.
func TestOverTLS(t *testing.T) {
	hung := make(chan struct{})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 {
			t.Errorf("spoke %s", r.Proto)
		}
		body, _ := io.ReadAll(r.Body)
		if bytes.Contains(body, []byte(`"hang"`)) {
			<-hung
		}
		io.WriteString(w, accepted)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	defer close(hung)
	c := newClient(t, s.URL, func(cfg *Config) {
		cfg.TLS = s.Client().Transport.(*http.Transport).TLSClientConfig
		cfg.RequestTimeout = time.Second
	})
	if r := c.Send(t.Context(), otpRequest()); r.Outcome != Accepted {
		t.Errorf("%+v", r)
	}
	late := otpRequest()
	late.LaunchBy = time.Now().Add(-time.Second)
	if r := c.Send(t.Context(), late); r.Outcome != NotSent || !errors.Is(r.Err, ErrLate) {
		t.Errorf("late: %+v", r)
	}
	slow := otpRequest()
	slow.TrackingID = "hang"
	if r := c.Send(t.Context(), slow); r.Outcome != Unknown || r.Cause != CauseTimeout {
		t.Errorf("hang: %+v", r)
	}
}

// BenchmarkSend is a call over the loopback, 64 at a time. The server's share is the same both ways.
func BenchmarkSend(b *testing.B) {
	for _, way := range []string{"exchanger", "transport"} {
		b.Run(way, func(b *testing.B) {
			s := newServer(b, answer(200, accepted))
			s.quiet = true
			byTransport = way == "transport"
			defer func() { byTransport = false }()
			c, err := NewClient(Config{URL: s.url, MaxInFlight: 64, AccessToken: tokens("the-token")})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			b.ReportAllocs()
			var wg sync.WaitGroup
			share := b.N/64 + 1
			for range 64 {
				wg.Go(func() {
					for range share {
						if r := c.Send(b.Context(), otpRequest()); r.Outcome != Accepted {
							b.Errorf("%+v", r)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}
