package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
)

func newWriter(t *testing.T, b *kafkatest.Server) *kafka.Writer {
	t.Helper()
	w, err := kafka.NewWriter(kgo.SeedBrokers(b.Brokers()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// within returns a context for one call and fails the test if the call, which ends with the returned function, took
// longer than limit.
func within(t *testing.T, timeout, limit time.Duration) (context.Context, func()) {
	t.Helper()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	return ctx, func() {
		t.Helper()
		cancel()
		if took := time.Since(begin); took > limit {
			t.Errorf("took %s, want at most %s", took, limit)
		}
	}
}

// values reads the whole topic, partition by partition.
func values(t *testing.T, b *kafkatest.Server, name string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var got []string
	err := kafka.ReadToEnd(ctx, kafka.ReaderConfig{Client: []kgo.Opt{kgo.SeedBrokers(b.Brokers()...)}, Topic: name}, func(r kafka.Record) error {
		got = append(got, string(r.Value))
		return nil
	})
	if err != nil {
		t.Fatalf("read %s: %v", name, err)
	}
	return got
}

func TestWritePlacesRecords(t *testing.T) {
	b := kafkatest.Broker(t)
	name := b.Topic(t, "write", 5)
	w := newWriter(t, b)
	at := time.Date(2026, 3, 1, 2, 30, 0, 0, time.UTC)
	var records []kafka.Record
	for i := range 50 {
		records = append(records, kafka.Record{
			Topic: name, Partition: -1, Key: fmt.Appendf(nil, "key-%d", i), Value: []byte("v"), Time: at,
			Headers: []kafka.Header{{Key: "h", Value: []byte("1")}, {Key: "h", Value: []byte("2")}},
		})
	}
	records = append(records, kafka.Record{Topic: name, Partition: 3, Key: []byte("explicit")}, kafka.Record{Topic: name, Partition: -1, Value: []byte("no key")})
	ctx, done := within(t, 30*time.Second, 30*time.Second)
	defer done()
	if err := w.Write(ctx, records...); err != nil {
		t.Fatal(err)
	}
	seen := 0
	err := kafka.ReadToEnd(ctx, kafka.ReaderConfig{Client: []kgo.Opt{kgo.SeedBrokers(b.Brokers()...)}, Topic: name}, func(r kafka.Record) error {
		seen++
		switch {
		case string(r.Key) == "explicit":
			if r.Partition != 3 || r.Value != nil {
				return fmt.Errorf("explicit record in %d with value %q, want 3 and none", r.Partition, r.Value)
			}
		case r.Key != nil:
			if want := kafka.Murmur2Partition(r.Key, 5); r.Partition != want {
				return fmt.Errorf("%s in partition %d, want %d", r.Key, r.Partition, want)
			}
			if h, _ := r.Header("h"); string(h) != "2" || len(r.Headers) != 2 || !r.Time.Equal(at) {
				return fmt.Errorf("headers %v, time %s", r.Headers, r.Time)
			}
		}
		return nil
	})
	if err != nil || seen != len(records) {
		t.Errorf("read %d of %d records: %v", seen, len(records), err)
	}
}

func TestTooLargeRecordIsToldAndStopsNobody(t *testing.T) {
	b := kafkatest.Broker(t)
	name := b.Topic(t, "write", 1)
	w := newWriter(t, b)
	ctx, done := within(t, 30*time.Second, 20*time.Second)
	defer done()
	err := w.Write(ctx,
		kafka.Record{Topic: name, Value: []byte("a")},
		kafka.Record{Topic: name, Value: bytes.Repeat([]byte("x"), 2<<20)},
		kafka.Record{Topic: name, Value: []byte("b")},
	)
	we, ok := errors.AsType[*kafka.WriteError](err)
	if !ok || we.Reason != kafka.ReasonTooLarge || !slices.Equal(we.Failed, []int{1}) || we.Unknown {
		t.Fatalf("error %#v, want record 1 too large", err)
	}
	if got := values(t, b, name); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("the topic holds %q", got)
	}
}

func TestMissingTopicIsTold(t *testing.T) {
	b := kafkatest.Broker(t)
	w := newWriter(t, b)
	ctx, done := within(t, 20*time.Second, 10*time.Second)
	defer done()
	err := w.Write(ctx, kafka.Record{Topic: kafkatest.Name("missing"), Value: []byte("a")})
	if we, ok := errors.AsType[*kafka.WriteError](err); !ok || we.Reason != kafka.ReasonNoTopic || we.Unknown {
		t.Errorf("error %#v, want no_topic", err)
	}
}

// TestHungBrokerHoldsNoWrite is why Write waits by itself: franz-go's ProduceSync waits for the broker.
func TestHungBrokerHoldsNoWrite(t *testing.T) {
	b := kafkatest.Own(t, local.Options{})
	name := b.Topic(t, "write", 1)
	w := newWriter(t, b)
	write := func(value string, timeout, limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- w.Write(ctx, kafka.Record{Topic: name, Value: []byte(value)}) }()
		select {
		case err := <-ended:
			return err
		case <-time.After(limit):
			t.Errorf("a write with a deadline of %s still waits after %s", timeout, limit)
			return nil
		}
	}
	if err := write("before", 20*time.Second, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	b.Pause(t)
	err := write("on its way", 300*time.Millisecond, time.Second)
	we, ok := errors.AsType[*kafka.WriteError](err)
	if !ok || we.Reason != kafka.ReasonDeadline || !we.Unknown || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %#v, want a deadline with unknown outcome", err)
	}
	var others sync.WaitGroup
	for i := range 10 {
		others.Go(func() {
			if err := write(fmt.Sprint("hasty ", i), 500*time.Millisecond, 2*time.Second); err == nil {
				t.Error("a hung broker confirmed a write")
			}
		})
	}
	others.Go(func() {
		if err := write("patient", 40*time.Second, 40*time.Second); err != nil {
			t.Errorf("patient write: %v", err)
		}
	})
	time.Sleep(2 * time.Second)
	b.Resume(t)
	others.Wait()
	if err := write("after", 40*time.Second, 40*time.Second); err != nil {
		t.Fatal(err)
	}
	count := make(map[string]int)
	for _, v := range values(t, b, name) {
		count[v]++
	}
	for _, v := range []string{"before", "patient", "after"} {
		if count[v] != 1 {
			t.Errorf("%q stands %d times in the topic, want once", v, count[v])
		}
	}
	for v, n := range count {
		if n > 1 {
			t.Errorf("%q stands %d times in the topic", v, n)
		}
	}
}

func TestWriterOutlivesAKilledBroker(t *testing.T) {
	b := kafkatest.Own(t, local.Options{})
	name := b.Topic(t, "write", 2)
	w := newWriter(t, b)
	write := func(value string, timeout, limit time.Duration) error {
		ctx, done := within(t, timeout, limit)
		defer done()
		return w.Write(ctx, kafka.Record{Topic: name, Partition: 1, Value: []byte(value)})
	}
	if err := write("before", 20*time.Second, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	b.Kill(t)
	// A caller with more patience is not failed by the end of another whose record waits before its own.
	var others sync.WaitGroup
	for i := range 5 {
		others.Go(func() {
			err := write(fmt.Sprint("down ", i), 500*time.Millisecond, 2*time.Second)
			if we, ok := errors.AsType[*kafka.WriteError](err); !ok || we.Reason != kafka.ReasonDeadline {
				t.Errorf("a dead broker: %v, want the deadline's error", err)
			}
		})
		time.Sleep(20 * time.Millisecond)
	}
	others.Go(func() {
		if err := write("patient", 60*time.Second, 60*time.Second); err != nil {
			t.Errorf("patient write: %v", err)
		}
	})
	time.Sleep(2 * time.Second)
	b.Restart(t)
	others.Wait()
	if err := write("after", 20*time.Second, 5*time.Second); err != nil {
		t.Fatalf("write after the restart: %v", err)
	}
	got := values(t, b, name)
	if !slices.Contains(got, "before") || !slices.Contains(got, "patient") || !slices.Contains(got, "after") {
		t.Errorf("the topic holds %q", got)
	}
	closed := make(chan struct{})
	go func() { w.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("Close hangs")
	}
}
