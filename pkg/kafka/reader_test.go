package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
)

func readerConfig(b *kafkatest.Server, name string) kafka.ReaderConfig {
	return kafka.ReaderConfig{Client: []kgo.Opt{kgo.SeedBrokers(b.Brokers()...)}, Topic: name}
}

func newReader(t *testing.T, cfg kafka.ReaderConfig) *kafka.Reader {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := kafka.NewReader(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// log writes to partition 0 of one topic.
type log struct {
	t    *testing.T
	b    *kafkatest.Server
	name string
	txn  *kgo.Client
}

func newLog(t *testing.T, b *kafkatest.Server, name string) *log { return &log{t: t, b: b, name: name} }

func (l *log) plain(values ...string) {
	l.t.Helper()
	for _, v := range values {
		l.produce(l.b.Client(l.t, kgo.RecordPartitioner(kgo.ManualPartitioner())), v)
	}
}

func (l *log) produce(c *kgo.Client, value string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 30*time.Second)
	defer cancel()
	if err := c.ProduceSync(ctx, &kgo.Record{Topic: l.name, Value: []byte(value)}).FirstErr(); err != nil {
		l.t.Fatal(err)
	}
}

// open writes in a transaction that stays open until end.
func (l *log) open(values ...string) {
	l.t.Helper()
	l.txn = l.b.Client(l.t, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID(kafkatest.Name("txn")))
	if err := l.txn.BeginTransaction(); err != nil {
		l.t.Fatal(err)
	}
	for _, v := range values {
		l.produce(l.txn, v)
	}
}

func (l *log) end(how kgo.TransactionEndTry) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 30*time.Second)
	defer cancel()
	if err := l.txn.EndTransaction(ctx, how); err != nil {
		l.t.Fatal(err)
	}
}

// deleteBefore removes everything below offset, as retention does; -1 is the end of the log.
func (l *log) deleteBefore(offset int64) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 30*time.Second)
	defer cancel()
	var offsets kadm.Offsets
	offsets.AddOffset(l.name, 0, offset, -1)
	if _, err := kadm.NewClient(l.b.Client(l.t)).DeleteRecords(ctx, offsets); err != nil {
		l.t.Fatal(err)
	}
}

// TestReadToEndOfEveryTail is the promise that no kind of log end makes a reader wait for ever.
func TestReadToEndOfEveryTail(t *testing.T) {
	b := kafkatest.Broker(t)
	for name, c := range map[string]struct {
		write func(*log)
		want  []string
	}{
		"empty":                  {func(*log) {}, nil},
		"records":                {func(l *log) { l.plain("a", "b") }, []string{"a", "b"}},
		"commit marker":          {func(l *log) { l.plain("a"); l.open("b"); l.end(kgo.TryCommit) }, []string{"a", "b"}},
		"aborted":                {func(l *log) { l.plain("a"); l.open("b", "c"); l.end(kgo.TryAbort) }, []string{"a"}},
		"nothing but an abort":   {func(l *log) { l.open("b"); l.end(kgo.TryAbort) }, nil},
		"all deleted":            {func(l *log) { l.plain("a", "b"); l.deleteBefore(-1) }, nil},
		"markers, records after": {func(l *log) { l.open("a"); l.end(kgo.TryAbort); l.open("b"); l.end(kgo.TryCommit); l.plain("c") }, []string{"b", "c"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			topic := b.Topic(t, "tail", 2) // partition 1 stays empty
			c.write(newLog(t, b, topic))
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			var got []string
			err := kafka.ReadToEnd(ctx, readerConfig(b, topic), func(r kafka.Record) error {
				got = append(got, string(r.Value))
				return nil
			})
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("read %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestWatermarkWaitsForOpenTransactions(t *testing.T) {
	b := kafkatest.Broker(t)
	name := b.Topic(t, "open", 1)
	l := newLog(t, b, name)
	l.plain("a")
	l.open("b")
	r := newReader(t, readerConfig(b, name))
	mark, err := r.Watermark(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := drain(t, r, 2*time.Second)
	if !slices.Equal(got, []string{"a"}) || r.Reached(mark) {
		t.Fatalf("while the transaction is open: read %q, reached %v", got, r.Reached(mark))
	}
	l.end(kgo.TryCommit)
	if got := until(t, r, mark); !slices.Equal(got, []string{"b"}) {
		t.Errorf("after the commit: read %q", got)
	}
}

// drain polls for a while.
func drain(t *testing.T, r *kafka.Reader, d time.Duration) (values []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	for {
		records, err := r.Poll(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			return values
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range records {
			values = append(values, string(rec.Value))
		}
	}
}

// until polls up to a watermark.
func until(t *testing.T, r *kafka.Reader, mark kafka.Watermark) (values []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !r.Reached(mark) {
		records, err := r.Poll(ctx)
		if err != nil {
			t.Fatalf("poll: %v; positions %v", err, r.Positions())
		}
		for _, rec := range records {
			values = append(values, string(rec.Value))
		}
	}
	return values
}

func TestStarts(t *testing.T) {
	b := kafkatest.Broker(t)
	name := b.Topic(t, "starts", 2, "message.timestamp.type=LogAppendTime")
	l := newLog(t, b, name)
	l.plain("0", "1", "2", "3")
	time.Sleep(20 * time.Millisecond) // LogAppendTime counts milliseconds
	between := time.Now()
	time.Sleep(20 * time.Millisecond)
	l.plain("4", "5")
	l.deleteBefore(2)
	for what, c := range map[string]struct {
		start kafka.Start
		want  []string
	}{
		"start":           {kafka.FromStart(), []string{"2", "3", "4", "5"}},
		"end":             {kafka.FromEnd(), nil},
		"time":            {kafka.FromTime(between), []string{"4", "5"}},
		"later time":      {kafka.FromTime(time.Now().Add(time.Hour)), nil},
		"offset":          {kafka.FromOffsets(map[int32]int64{0: 3}), []string{"3", "4", "5"}},
		"deleted offset":  {kafka.FromOffsets(map[int32]int64{0: 0, 1: 7}), []string{"2", "3", "4", "5"}},
		"no offset given": {kafka.FromOffsets(nil), []string{"2", "3", "4", "5"}},
	} {
		cfg := readerConfig(b, name)
		cfg.Start = c.start
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		var got []string
		err := kafka.ReadToEnd(ctx, cfg, func(r kafka.Record) error { got = append(got, string(r.Value)); return nil })
		cancel()
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("from %s: read %q, %v; want %q", what, got, err, c.want)
		}
	}
	cfg := readerConfig(b, name)
	cfg.Partitions = []int32{1}
	if r := newReader(t, cfg); len(r.Positions()) != 1 {
		t.Errorf("a reader of partition 1 has positions %v", r.Positions())
	}
	cfg.Partitions = []int32{0, 7}
	if _, err := kafka.NewReader(t.Context(), cfg); err == nil {
		t.Error("a reader of a partition that does not exist was made")
	}
	if _, err := kafka.NewReader(t.Context(), readerConfig(b, kafkatest.Name("missing"))); err == nil {
		t.Error("a reader of a topic that does not exist was made")
	}
}

func TestReaderGoesOnWhereTheLogIs(t *testing.T) {
	b := kafkatest.Broker(t)
	name := b.Topic(t, "deleted", 1)
	l := newLog(t, b, name)
	l.plain("0", "1", "2", "3")
	l.deleteBefore(3)
	for what, c := range map[string]struct {
		at   int64
		want []string
	}{
		"below its start": {1, []string{"3"}},
		"above its end":   {9, nil},
	} {
		r := newReader(t, readerConfig(b, name))
		if err := r.Rewind(map[int32]int64{0: c.at}); err != nil {
			t.Fatal(err)
		}
		if got := drain(t, r, 3*time.Second); !slices.Equal(got, c.want) || r.Positions()[0] != 4 {
			t.Errorf("%s: read %q up to %v, want %q up to 4", what, got, r.Positions(), c.want)
		}
	}
}

func TestReaderFollowsATopicMadeAnew(t *testing.T) {
	b := kafkatest.Broker(t)
	name := b.Topic(t, "anew", 1)
	l := newLog(t, b, name)
	l.plain("old 0", "old 1")
	r := newReader(t, readerConfig(b, name))
	old, err := r.Watermark(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := until(t, r, old); len(got) != 2 {
		t.Fatalf("read %q", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if _, err := kadm.NewClient(b.Client(t)).DeleteTopics(ctx, name); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond) // the broker deletes behind its answer
	b.CreateTopic(t, name, 1)
	newLog(t, b, name).plain("new 0", "new 1", "new 2") // more than the old one had
	var got []string
	for len(got) < 3 {
		records, err := r.Poll(ctx)
		if ctx.Err() != nil {
			t.Fatalf("read %q of the new topic: %v", got, err)
		}
		for _, rec := range records {
			got = append(got, string(rec.Value))
		}
	}
	if !slices.Equal(got, []string{"new 0", "new 1", "new 2"}) {
		t.Errorf("read %q", got)
	}
	if r.Reached(old) {
		t.Error("a watermark of the old topic counts for the new one")
	}
	if err := r.ReadTo(ctx, old, func([]kafka.Record) error { return nil }); !errors.Is(err, kafka.ErrMadeAnew) {
		t.Errorf("reading to a watermark of the old topic: %v, want %v", err, kafka.ErrMadeAnew)
	}
	mark, err := r.Watermark(ctx)
	if err != nil {
		t.Fatal(err)
	}
	until(t, r, mark)
}

// TestReadOn reads to an end, and on from there: nothing that came with the last records before it is left out.
func TestReadOn(t *testing.T) {
	b := kafkatest.Broker(t)
	name := b.Topic(t, "on", 1)
	l := newLog(t, b, name)
	l.plain("0", "1")
	r := newReader(t, readerConfig(b, name))
	mark, err := r.Watermark(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l.plain("2")
	var got []string
	stop := errors.New("stop")
	take := func(enough int) func([]kafka.Record) error {
		return func(records []kafka.Record) error {
			for _, rec := range records {
				got = append(got, string(rec.Value))
			}
			if len(got) >= enough {
				return stop
			}
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := r.ReadTo(ctx, mark, take(9)); err != nil || len(got) < 2 {
		t.Fatalf("read %q, %v", got, err)
	}
	l.plain("3")
	if err := r.ReadOn(ctx, take(4)); !errors.Is(err, stop) || !slices.Equal(got, []string{"0", "1", "2", "3"}) {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestCloseEndsPoll(t *testing.T) {
	b := kafkatest.Broker(t)
	r := newReader(t, readerConfig(b, b.Topic(t, "close", 1)))
	ended := make(chan error)
	go func() {
		for {
			if _, err := r.Poll(context.Background()); err != nil {
				ended <- err
				return
			}
		}
	}()
	time.Sleep(50 * time.Millisecond)
	r.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, kafka.ErrClosed) {
			t.Errorf("error %v, want ErrClosed", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Poll waits on after Close")
	}
	if _, err := r.Poll(t.Context()); !errors.Is(err, kafka.ErrClosed) {
		t.Errorf("error %v, want ErrClosed", err)
	}
}

func TestReaderOutlivesItsBroker(t *testing.T) {
	b := kafkatest.Own(t, local.Options{})
	name := b.Topic(t, "outlive", 1)
	l := newLog(t, b, name)
	l.plain("0")
	r := newReader(t, readerConfig(b, name))
	var got []string
	got = append(got, drain(t, r, 2*time.Second)...)
	b.Pause(t)
	begin := time.Now()
	got = append(got, drain(t, r, 500*time.Millisecond)...)
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("a hung broker held Poll for %s", took)
	}
	b.Resume(t)
	b.Kill(t)
	got = append(got, drain(t, r, 500*time.Millisecond)...)
	b.Restart(t)
	newLog(t, b, name).plain("1")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	mark, err := r.Watermark(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, until(t, r, mark)...)
	if fmt.Sprint(got) != "[0 1]" {
		t.Errorf("read %q, want each record once", got)
	}
}
