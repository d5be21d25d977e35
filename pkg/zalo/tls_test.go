package zalo

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// gathering holds writes back, so that several TLS records come in one piece.
type gathering struct {
	net.Conn
	hold   bool
	gather bytes.Buffer
}

func (g *gathering) Write(p []byte) (int, error) {
	if g.hold {
		return g.gather.Write(p)
	}
	return g.Conn.Write(p)
}

// What came with an answer, and stays in the TLS layer, is neither taken for the next answer nor for a living connection.
func TestUnaskedOverTLS(t *testing.T) {
	if byTransport {
		t.Skip("http.Transport gives a connection to the next request before it looks at what else stands in it")
	}
	certs := httptest.NewTLSServer(http.NotFoundHandler())
	defer certs.Close()
	forged := strings.ReplaceAll(accepted, "a4d0243feee163bd3af2", "stale")
	whole := func(body string) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
	for name, more := range map[string]func(*tls.Conn){
		"nothing":  func(*tls.Conn) {},
		"answer":   func(c *tls.Conn) { io.WriteString(c, whole(forged)) },
		"the end":  func(c *tls.Conn) { c.CloseWrite() },
		"a byte":   func(c *tls.Conn) { io.WriteString(c, " ") },
		"two more": func(c *tls.Conn) { io.WriteString(c, whole(forged)); io.WriteString(c, whole(forged)) },
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			connections := make(chan struct{}, 10)
			go func() {
				for {
					raw, err := l.Accept()
					if err != nil {
						return
					}
					connections <- struct{}{}
					go func() {
						defer raw.Close()
						below := &gathering{Conn: raw}
						c := tls.Server(below, certs.TLS)
						in := bufio.NewReader(c)
						for {
							req, err := http.ReadRequest(in)
							if err != nil {
								return
							}
							io.Copy(io.Discard, req.Body)
							below.hold = true
							io.WriteString(c, whole(accepted))
							more(c)
							below.hold = false
							raw.SetWriteDeadline(time.Time{}) // CloseWrite has set one
							raw.Write(below.gather.Bytes())
							below.gather.Reset()
						}
					}()
				}
			}()
			c := newClient(t, "https://"+l.Addr().String(), func(cfg *Config) {
				cfg.TLS = certs.Client().Transport.(*http.Transport).TLSClientConfig
			})
			for i := range 3 {
				if r := c.Send(t.Context(), otpRequest()); r.Outcome != Accepted || r.MsgID != "a4d0243feee163bd3af2" {
					t.Errorf("call %d: %+v", i, r)
				}
			}
			want := 3
			if name == "nothing" {
				want = 1
			}
			if n := len(connections); n != want {
				t.Errorf("%d connections, want %d", n, want)
			}
		})
	}
}
