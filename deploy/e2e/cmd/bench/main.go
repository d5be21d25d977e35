// Command bench measures the sender beside a plain franz-go consume loop, on one broker, in one run:
//
//	make bench                               # a local Apache Kafka, or the one that KAFKA_BROKERS names
//	go run ./deploy/e2e/cmd/bench --help
//
// Each measurement preloads a fresh topic with notifications and lets one of the two work it off against a provider of
// known latency: the simulator over HTTP, or, at latency 0, a function in the process itself. Sender, loop and simulator
// are processes of their own. What is measured is told in run.go, the loop in loop.go. The results go to standard output
// as a table and to bench.json with every single run.
//
// Simulator, broker and this program share the machine with what is measured: compare the two columns of one run, not
// numbers of two machines. The table says what the simulator took.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/proto/topic"
)

// options are the flags.
type options struct {
	n          int
	runs       int
	inFlight   int
	partitions int
	latencies  []time.Duration
	keys       []int
	kill       time.Duration
	only       *regexp.Regexp
	quick      bool
	json       string
	profile    string
	shared     bool
}

func flags(args []string) (options, error) {
	o := options{latencies: []time.Duration{0, 10 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond}, keys: []int{1000, 100_000}}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&o.n, "n", 25_000, "notifications in each preloaded topic")
	f.IntVar(&o.runs, "runs", 2, "runs of each case; the table shows the median and the spread")
	f.IntVar(&o.inFlight, "in-flight", 1000, "calls to the provider under way at most")
	f.IntVar(&o.partitions, "partitions", 8, "partitions of each topic")
	f.Func("latency", "provider `latencies`, comma-separated; 0 is a provider in the process, without HTTP (default 0,10ms,50ms,100ms)", func(s string) error {
		o.latencies = nil
		for part := range strings.SplitSeq(s, ",") {
			d, err := time.ParseDuration(part)
			if err != nil {
				return err
			}
			o.latencies = append(o.latencies, d)
		}
		return nil
	})
	f.Func("keys", "`numbers` of ordering keys, comma-separated (default 1000,100000)", func(s string) error {
		o.keys = nil
		for part := range strings.SplitSeq(s, ",") {
			n, err := strconv.Atoi(part)
			if err != nil {
				return err
			}
			o.keys = append(o.keys, n)
		}
		return nil
	})
	f.DurationVar(&o.kill, "kill-latency", 50*time.Millisecond, "provider latency of the runs with a kill -9 half-way; 0 leaves them out")
	f.Func("only", "`regexp` of the cases to run, for example '^sender/50ms' or kill; names are subject/latency/keys", func(s string) (err error) {
		o.only, err = regexp.Compile(s)
		return err
	})
	f.BoolVar(&o.quick, "quick", false, "a fast look: 5,000 notifications, one run, 0 and 50 ms, 1,000 keys, no warm-up")
	f.StringVar(&o.json, "json", "bench.json", "`file` for the results; empty: none")
	f.StringVar(&o.profile, "profile", "", "`folder` for CPU profiles of the sender, the first 5 s of each run")
	f.BoolVar(&o.shared, "shared", false, "use a cluster whose zns.sent holds events already: this adds to them")
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "bench measures the sender beside a plain franz-go consume loop on the broker of KAFKA_BROKERS.\nmake bench starts one. With the defaults it takes about ten minutes.\n\n")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	set := map[string]bool{}
	f.Visit(func(f *flag.Flag) { set[f.Name] = true })
	if o.quick {
		for name, change := range map[string]func(){
			"n": func() { o.n = 5000 }, "runs": func() { o.runs = 1 }, "keys": func() { o.keys = o.keys[:1] },
			"latency": func() { o.latencies = []time.Duration{0, 50 * time.Millisecond} },
		} {
			if !set[name] {
				change()
			}
		}
	}
	if o.n < 100 || o.runs < 1 || o.inFlight < 1 || o.partitions < 1 || f.NArg() > 0 {
		return o, errors.New("at least 100 notifications, one run, one call in flight, one partition, and no arguments; see --help")
	}
	return o, nil
}

func main() {
	if os.Getenv(loopEnv) != "" {
		os.Exit(loopMain())
	}
	o, err := flags(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err = bench(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// cases lists what is measured, the two subjects of a case next to each other: a machine's mood hits both.
func cases(o options) []spec {
	var all []spec
	add := func(s spec) {
		for _, s.Subject = range []string{subjectLoop, subjectSender} {
			if o.only == nil || o.only.MatchString(s.name()) {
				all = append(all, s)
			}
		}
	}
	for _, latency := range o.latencies {
		for _, keys := range o.keys {
			add(spec{Latency: latency, Keys: keys})
		}
	}
	if o.kill > 0 && len(o.keys) > 0 {
		add(spec{Latency: o.kill, Keys: o.keys[0], Kill: true})
	}
	return all
}

func bench(ctx context.Context, o options) (err error) {
	brokers := os.Getenv("KAFKA_BROKERS")
	if brokers == "" {
		return errors.New("no Kafka: set KAFKA_BROKERS, or use make bench where java and mvn are; a fake broker would measure nothing")
	}
	all := cases(o)
	if len(all) == 0 {
		return errors.New("no case has such a name; names are subject/latency/keys, for example sender/50ms/1000")
	}
	dir, err := os.MkdirTemp("", "znshub-bench-")
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			err = os.RemoveAll(dir)
		} else {
			err = fmt.Errorf("%w\nlogs: %s", err, dir)
		}
	}()
	bin := filepath.Join(dir, "bin")
	if err := harness.Build(ctx, bin, harness.Sender, harness.Ingest, harness.ZaloSim); err != nil {
		return err
	}
	b := &runner{options: o, brokers: brokers, bin: bin, dir: dir}
	if b.admin, err = kafka.NewAdmin(kgo.SeedBrokers(b.addrs()...), kgo.MetadataMinAge(20*time.Millisecond)); err != nil {
		return err
	}
	defer b.admin.Close()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	out := newReport(o)
	out.header(os.Stdout)
	if !o.quick {
		// The broker's code is compiled while it runs: the first thousands of records would be slow ones.
		for _, subject := range []string{subjectLoop, subjectSender} {
			if _, err := b.run(ctx, spec{Subject: subject, Latency: 10 * time.Millisecond, Keys: 1000}); err != nil {
				return fmt.Errorf("warm-up: %w", err)
			}
		}
	}
	for i := range o.runs {
		order := slices.Clone(all)
		if i%2 == 1 {
			for j := 0; j+1 < len(order); j++ {
				if order[j].pair() == order[j+1].pair() {
					order[j], order[j+1] = order[j+1], order[j]
					j++
				}
			}
		}
		for _, s := range order {
			begin := time.Now()
			r, err := b.run(ctx, s)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				r.Error = err.Error()
			}
			out.add(s, r)
			fmt.Fprintf(os.Stderr, "run %d of %d  %-22s %s  (%s)\n", i+1, o.runs, s.name(), r.line(s), time.Since(begin).Round(100*time.Millisecond))
		}
	}
	out.table(os.Stdout)
	if o.json != "" {
		if err := out.write(o.json); err != nil {
			return err
		}
		fmt.Println("every run:", o.json)
	}
	return out.failed()
}

// prepare creates the topics that all runs share and refuses a cluster that is used for something else.
func (b *runner) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	found, err := b.admin.Topics(ctx, topic.Sent)
	if err != nil {
		return err
	}
	if len(found) > 0 && !b.shared {
		ends, err := b.admin.EndOffsets(ctx, topic.Sent)
		if err != nil {
			return err
		}
		for _, end := range ends {
			if end > 0 {
				return fmt.Errorf("%s holds events already, and this would add %d to them; -shared allows it", topic.Sent, b.n)
			}
		}
	}
	return harness.CreateTopics(ctx, b.addrs(), int32(b.partitions))
}
