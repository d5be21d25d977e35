//go:build unix

package local_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
)

// TestMain lets the test binary be the program that starts a broker and is killed.
func TestMain(m *testing.M) {
	if os.Getenv("LOCAL_TEST_START") == "1" {
		b, err := local.Start(context.Background(), local.Options{})
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println(b.Pid(), filepath.Dir(b.LogFile()))
		select {}
	}
	os.Exit(m.Run())
}

func need(t *testing.T) {
	t.Helper()
	if err := local.Available(); err != nil {
		t.Skip(err)
	}
}

func TestBrokerEndsWithItsKilledParent(t *testing.T) {
	need(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LOCAL_TEST_START=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	var dir string
	if _, err := fmt.Fscan(out, &pid, &dir); err != nil {
		_ = cmd.Process.Kill()
		t.Fatalf("the child started no broker: %v", err)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("broker %d is not running: %v", pid, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "the broker to end", func() bool { return !running(pid) })
	eventually(t, "its folder to go", func() bool { _, err := os.Stat(dir); return errors.Is(err, os.ErrNotExist) })
}

func TestDataAndAddressSurviveKillAndPause(t *testing.T) {
	need(t)
	ctx := t.Context()
	b, err := local.Start(ctx, local.Options{Properties: map[string]string{"num.partitions": "3"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Stop(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Dir(b.LogFile())); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Stop left the broker's folder behind: %v", err)
		}
	}()
	addr := b.Addr()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	if _, err := admin.CreateTopic(ctx, -1, 1, nil, "kept"); err != nil {
		t.Fatal(err)
	}

	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	if b.Pid() != 0 {
		t.Error("a killed broker has a pid")
	}
	if err := b.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if b.Addr() != addr {
		t.Errorf("address %s became %s", addr, b.Addr())
	}
	topics, err := admin.ListTopics(ctx, "kept")
	if err != nil || len(topics["kept"].Partitions) != 3 {
		t.Errorf("after the restart topic kept has partitions %v, error %v; want 3", topics["kept"].Partitions, err)
	}

	if err := b.Pause(); err != nil {
		t.Fatal(err)
	}
	answers := func(within time.Duration) error {
		ctx, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		return client.Ping(ctx)
	}
	// The threads of a busy machine take a moment to stop.
	for end := time.Now().Add(10 * time.Second); answers(300*time.Millisecond) == nil; {
		if time.Now().After(end) {
			t.Fatal("a paused broker answers")
		}
	}
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := answers(30 * time.Second); err != nil {
		t.Errorf("a resumed broker does not answer: %v", err)
	}
	if err := b.Terminate(); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(b.LogFile())
	if !strings.Contains(string(text), "shut down completed") {
		t.Errorf("Terminate did not wait for a clean shutdown:\n%s", text)
	}
}

// Who comes in through an advertised address is sent nowhere else; the data lies where it was asked for.
func TestAdvertisedAddress(t *testing.T) {
	need(t)
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	data := t.TempDir()
	b, err := local.Start(t.Context(), local.Options{Advertise: []string{proxy.Addr().String()}, Data: data, QuickStart: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Stop(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(data, "meta.properties")); err != nil {
			t.Errorf("the data went with the broker: %v", err)
		}
	}()
	go func() {
		for {
			in, err := proxy.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", b.ListensFor(proxy.Addr().String()))
			if err != nil {
				in.Close()
				continue
			}
			go func() { _, _ = io.Copy(out, in); out.Close() }()
			go func() { _, _ = io.Copy(in, out); in.Close() }()
		}
	}()
	var mu sync.Mutex
	dialled := map[string]bool{}
	client, err := kgo.NewClient(kgo.SeedBrokers(proxy.Addr().String()), kgo.Dialer(func(ctx context.Context, network, address string) (net.Conn, error) {
		mu.Lock()
		dialled[address] = true
		mu.Unlock()
		return new(net.Dialer).DialContext(ctx, network, address)
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	if _, err := admin.CreateTopic(t.Context(), 1, 1, nil, "a"); err != nil {
		t.Fatal(err)
	}
	if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: "a", Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(dialled) != 1 || !dialled[proxy.Addr().String()] {
		t.Errorf("the client went to %v", dialled)
	}
	if !b.Running() {
		t.Error("the broker does not run")
	}
}

// A port that one call returned is no other call's, although nothing listens on it yet.
func TestFreePorts(t *testing.T) {
	seen := map[string]bool{}
	for range 2000 {
		addrs, err := local.FreePorts(2)
		if err != nil || len(addrs) != 2 {
			t.Fatalf("%v, %v", addrs, err)
		}
		for _, addr := range addrs {
			if seen[addr] {
				t.Fatalf("%s twice", addr)
			}
			seen[addr] = true
		}
	}
}

func TestStartTellsWhyItFailed(t *testing.T) {
	need(t)
	_, err := local.Start(t.Context(), local.Options{Properties: map[string]string{"offsets.topic.num.partitions": "none"}})
	if err == nil || !strings.Contains(err.Error(), "offsets.topic.num.partitions") {
		t.Errorf("error %v does not name the bad setting", err)
	}
}

// running reports whether the process lives; one that ended and that nobody reaped does not.
func running(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
