package harness_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/znshub/znshub/deploy/e2e/harness"
)

// echo is a server that sends back what it gets.
func echo(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

func TestProxyWeathers(t *testing.T) {
	p, err := harness.NewProxy()
	if err != nil {
		t.Fatal(err)
	}
	p.Target(echo(t))
	dial := func() net.Conn {
		c, err := net.Dial("tcp", p.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	// ask returns how long the echo took, negative when it did not come within the time.
	ask := func(c net.Conn, within time.Duration) (time.Duration, error) {
		begin := time.Now()
		if _, err := c.Write([]byte("x")); err != nil {
			return -1, err
		}
		_ = c.SetReadDeadline(begin.Add(within))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			return -1, err
		}
		return time.Since(begin), nil
	}
	c := dial()
	if _, err := ask(c, 2*time.Second); err != nil {
		t.Fatal(err)
	}
	p.Set(harness.Slow)
	if took, err := ask(c, 5*time.Second); err != nil || took < 300*time.Millisecond {
		t.Errorf("slow: %s, %v", took, err)
	}
	p.Set(harness.Silent)
	if _, err := ask(c, 300*time.Millisecond); err == nil {
		t.Error("silent: answered")
	}
	p.Set(harness.Clear)
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("what was sent in the silence did not arrive: %v", err)
	}
	p.Set(harness.Cut)
	if _, err := ask(c, time.Second); err == nil {
		t.Error("cut: an old connection answered")
	}
	if _, err := ask(dial(), time.Second); err == nil {
		t.Error("cut: a new connection answered")
	}
	p.Set(harness.Clear)
	if _, err := ask(dial(), 2*time.Second); err != nil {
		t.Errorf("clear again: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// From the first request with the key on, what the broker says on that connection is gone, however the bytes come.
func TestProxyMute(t *testing.T) {
	p, err := harness.NewProxy()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.Target(echo(t))
	request := func(api byte) []byte { return []byte{0, 0, 0, 4, 0, api, 0, 0} }
	talk := func(piece int) (answered int) {
		c, err := net.Dial("tcp", p.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, api := range []byte{3, 0, 26, 3} {
			b := request(api)
			for len(b) > 0 {
				n := min(piece, len(b))
				if _, err := c.Write(b[:n]); err != nil {
					t.Fatal(err)
				}
				b = b[n:]
				time.Sleep(2 * time.Millisecond) // pieces of their own
			}
			_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			if _, err := io.ReadFull(c, make([]byte, 8)); err == nil {
				answered++
			}
		}
		return answered
	}
	for _, piece := range []int{1, 3, 5, 8} {
		if n := talk(piece); n != 4 {
			t.Fatalf("%d of 4 requests answered without Mute", n)
		}
	}
	p.Mute(26)
	for _, piece := range []int{5, 6, 8} {
		if n := talk(piece); n != 2 {
			t.Errorf("in pieces of %d bytes: %d requests answered, want the 2 before", piece, n)
		}
	}
	p.Mute(harness.NoAPI)
	if n := talk(8); n != 4 {
		t.Errorf("%d of 4 requests answered afterwards", n)
	}
}
