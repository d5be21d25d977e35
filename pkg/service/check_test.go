package service

import (
	"bytes"
	"context"
	"errors"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

func TestCheckRunning(t *testing.T) {
	s := New("probe", "i", "test", nil, nil)
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	_, port, _ := strings.Cut(strings.TrimPrefix(server.URL, "http://"), ":")
	addr := "127.0.0.1:" + port

	expect := func(what, addr string, wantExit int, says string) {
		t.Helper()
		var out, errs bytes.Buffer
		exit := checkRunning(what, []string{"ADMIN_ADDR=" + addr}, &out, &errs)
		if exit != wantExit || !strings.Contains(out.String()+errs.String(), says) {
			t.Errorf("--check %s at %s: exit code %d, %q %q; want %d, %q", what, addr, exit, out.String(), errs.String(), wantExit, says)
		}
	}
	expect("readyz", addr, 0, "ready")
	expect("livez", addr, 0, "live")
	s.Ready("kafka", func() error { return errors.New("no broker answers") })
	expect("readyz", addr, 1, "kafka: no broker answers")
	expect("livez", addr, 0, "live")
	expect("health", addr, 2, "livez or readyz")
	expect("livez", "off", 2, "no fixed port")
	expect("livez", "127.0.0.1:0", 2, "no fixed port")
	server.Close()
	expect("livez", addr, 1, "nobody answers")
}

func TestCheckAsksTheOwnMachine(t *testing.T) {
	for addr, want := range map[string]string{
		":8081": "localhost:8081", "0.0.0.0:8081": "localhost:8081", "[::]:8081": "localhost:8081",
		"127.0.0.1:9": "127.0.0.1:9", "10.0.0.4:8081": "10.0.0.4:8081",
	} {
		if got, err := localAddr(addr); got != want || err != nil {
			t.Errorf("localAddr(%q) = %q, %v; want %q", addr, got, err, want)
		}
	}
}

func TestCheckIsAnArgument(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	p := Program{Name: "probe", Run: func(context.Context, *Service) error { t.Error("ran"); return nil }}
	if exit := run(p, []string{"--check", "livez"}, []string{"ADMIN_ADDR=127.0.0.1:1"}, &bytes.Buffer{}, null); exit != exitFailed {
		t.Errorf("exit code %d, want %d", exit, exitFailed)
	}
}

func TestInstanceByHostname(t *testing.T) {
	want, err := os.Hostname()
	if err != nil {
		t.Skipf("this machine has no name: %v", err)
	}
	if got := New("probe", "hostname", "test", nil, nil).Instance; got != want {
		t.Errorf("INSTANCE_ID=hostname gives %q, want %q", got, want)
	}
}
