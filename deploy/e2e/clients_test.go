package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
)

// message is one record as a foreign client shows it.
type message struct {
	Topic, Key string
	Headers    map[string]string
	Value      []byte
}

// foreign is a Kafka client that is not ours. Its publish uses the client's default partitioner; its read returns the
// records of a topic, read committed, until at least want of them are there or ctx ends.
type foreign struct {
	name    string
	missing func(*testing.T) string // why it cannot run here; empty: it can
	publish func(ctx context.Context, in *installation, key string, value []byte, headers map[string]string) error
	read    func(ctx context.Context, in *installation, topic string, want int) ([]message, error)
}

var foreigners = []foreign{
	{
		name: "kcat (librdkafka)",
		missing: func(*testing.T) string {
			if _, err := exec.LookPath("kcat"); err != nil {
				return "kcat is not installed: deploy/e2e/setup.sh installs it"
			}
			return ""
		},
		publish: kcatPublish, read: kcatRead,
	},
	{
		name:    "kafka-go",
		missing: func(*testing.T) string { return "" },
		publish: kafkaGoPublish, read: kafkaGoRead,
	},
	{
		name: "kafka-clients (Java)",
		missing: func(*testing.T) string {
			if err := local.Available(); err != nil {
				return err.Error()
			}
			return ""
		},
		publish: nil, // the sample publisher of the zns command has a test of its own
		read:    javaRead,
	},
}

func kcatPublish(ctx context.Context, in *installation, key string, value []byte, headers map[string]string) error {
	args := []string{"-b", strings.Join(in.brokers, ","), "-P", "-t", requested, "-k", key}
	for k, v := range headers {
		args = append(args, "-H", k+"="+v)
	}
	// One message: the delimiter is a byte that no JSON holds.
	cmd := exec.CommandContext(ctx, "kcat", append(args, "-D", "\x1e")...)
	cmd.Stdin = bytes.NewReader(value)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kcat -P: %w\n%s", err, out)
	}
	return nil
}

func kcatRead(ctx context.Context, in *installation, topic string, want int) ([]message, error) {
	var got []message
	for {
		cmd := exec.CommandContext(ctx, "kcat", "-b", strings.Join(in.brokers, ","), "-C", "-t", topic, "-o", "beginning", "-e", "-q",
			"-X", "isolation.level=read_committed", "-f", "%t\n%k\n%h\n%S\n%s\n")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			return got, errors.Join(fmt.Errorf("kcat -C: %w\n%s", err, stderr.String()), ctx.Err())
		}
		var err error
		if got, err = parseKcat(&stdout); err != nil || len(got) >= want {
			return got, err
		}
		select {
		case <-ctx.Done():
			return got, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// parseKcat reads what the format of kcatRead writes: three lines, the value's length, the value.
func parseKcat(out io.Reader) ([]message, error) {
	r := bufio.NewReader(out)
	var all []message
	for {
		var lines [4]string
		for i := range lines {
			line, err := r.ReadString('\n')
			if i == 0 && errors.Is(err, io.EOF) && line == "" {
				return all, nil
			}
			if err != nil {
				return all, fmt.Errorf("kcat's output breaks off: %w", err)
			}
			lines[i] = strings.TrimSuffix(line, "\n")
		}
		m := message{Topic: lines[0], Key: lines[1], Headers: map[string]string{}}
		for pair := range strings.SplitSeq(lines[2], ",") {
			if k, v, ok := strings.Cut(pair, "="); ok {
				m.Headers[k] = v
			}
		}
		size, err := strconv.Atoi(lines[3])
		if err != nil {
			return all, fmt.Errorf("kcat's length %q: %w", lines[3], err)
		}
		m.Value = make([]byte, size+1)
		if _, err := io.ReadFull(r, m.Value); err != nil {
			return all, fmt.Errorf("kcat's value breaks off: %w", err)
		}
		m.Value = m.Value[:size]
		all = append(all, m)
	}
}

func kafkaGoPublish(ctx context.Context, in *installation, key string, value []byte, headers map[string]string) error {
	// No Balancer: the default, round robin, which does not look at the key.
	w := &kafkago.Writer{Addr: kafkago.TCP(in.brokers...), Topic: requested, RequiredAcks: kafkago.RequireAll, BatchTimeout: 5 * time.Millisecond}
	m := kafkago.Message{Key: []byte(key), Value: value}
	for k, v := range headers {
		m.Headers = append(m.Headers, kafkago.Header{Key: k, Value: []byte(v)})
	}
	return errors.Join(w.WriteMessages(ctx, m), w.Close())
}

func kafkaGoRead(ctx context.Context, in *installation, topic string, want int) ([]message, error) {
	r := kafkago.NewReader(kafkago.ReaderConfig{
		Brokers: in.brokers, Topic: topic, GroupID: kafkatest.Name("kafka-go"), StartOffset: kafkago.FirstOffset,
		IsolationLevel: kafkago.ReadCommitted, MaxWait: 200 * time.Millisecond,
	})
	defer r.Close()
	var got []message
	for len(got) < want {
		m, err := r.ReadMessage(ctx)
		if err != nil {
			return got, fmt.Errorf("kafka-go: %w", err)
		}
		out := message{Topic: m.Topic, Key: string(m.Key), Headers: map[string]string{}, Value: m.Value}
		for _, h := range m.Headers {
			out.Headers[h.Key] = string(h.Value)
		}
		// kafka-go hands out the markers of transactions as messages, with a key of four bytes and no headers. Its users
		// skip what has no ce_type.
		if out.Headers["ce_type"] == "" && len(m.Key) == 4 {
			continue
		}
		got = append(got, out)
	}
	return got, nil
}

func javaRead(ctx context.Context, in *installation, topic string, want int) (got []message, err error) {
	jars, err := local.Jars(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", filepath.Join(jars, "*"),
		filepath.Join("testdata", "java", "Reader.java"), topic)
	cmd.Env = append(cmd.Environ(), "KAFKA_BROKERS="+strings.Join(in.brokers, ","), "GROUP="+kafkatest.Name("java"))
	var stderr lockedBuffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // killed
	}()
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 4<<20)
	for len(got) < want && lines.Scan() {
		fields := strings.Split(lines.Text(), "\t")
		if len(fields) != 4 {
			return got, fmt.Errorf("the Java reader printed %d fields: %s", len(fields), stderr.String())
		}
		m := message{Topic: fields[0], Key: fields[1], Headers: map[string]string{}}
		for pair := range strings.FieldsSeq(fields[2]) {
			k, v, _ := strings.Cut(pair, "=")
			decoded, err := base64.StdEncoding.DecodeString(v)
			if err != nil {
				return got, err
			}
			m.Headers[k] = string(decoded)
		}
		if m.Value, err = base64.StdEncoding.DecodeString(fields[3]); err != nil {
			return got, err
		}
		got = append(got, m)
	}
	if len(got) < want {
		return got, errors.Join(fmt.Errorf("the Java reader ended after %d records: %s", len(got), stderr.String()), ctx.Err())
	}
	return got, nil
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
