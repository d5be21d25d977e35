// Command bench measures the sender on a real broker, beside what one would write without it, in one run:
//
//	make bench                               # a local Apache Kafka, or the one that KAFKA_BROKERS names
//	go run ./deploy/e2e/cmd/bench --help
//
// Every case works on a topic of its own, with processes of its own: the sender as it is shipped, the simulator as the
// provider, and for comparison a plain franz-go consume loop (loop.go) and, where java and mvn are there, Confluent
// Parallel Consumer (parallel-consumer/). The cases stand in cases.go, the goals in goals.go. The results go to standard
// output as tables and to bench.json with every reading of every run.
//
// Simulator, broker and this program share the machine with what is measured: compare what stands side by side in one
// run, not numbers of two machines.
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
	waiting    int
	finished   int
	only       *regexp.Regexp
	quick      bool
	list       bool
	json       string
	profile    string
	shared     bool
}

func flags(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&o.n, "n", 25_000, "notifications of each run that measures throughput")
	f.IntVar(&o.runs, "runs", 2, "runs of each case that measures throughput; the tables show median and spread")
	f.IntVar(&o.inFlight, "in-flight", 1000, "calls to the provider under way at most")
	f.IntVar(&o.partitions, "partitions", 8, "partitions of each topic")
	f.IntVar(&o.waiting, "waiting", 1_000_000, "promotions that wait in the case backlog")
	f.IntVar(&o.finished, "finished", 5_000_000, "finished notifications in the case restore")
	f.Func("only", "`regexp` of the cases to run, for example '^ordered/50ms' or sender; -list names them", func(s string) (err error) {
		o.only, err = regexp.Compile(s)
		return err
	})
	f.BoolVar(&o.quick, "quick", false, "a fast look: 5,000 notifications, one run, 50,000 waiting, 200,000 finished, no warm-up")
	f.BoolVar(&o.list, "list", false, "list the cases and end")
	f.StringVar(&o.json, "json", "bench.json", "`file` for the results; empty: none")
	f.StringVar(&o.profile, "profile", "", "`folder` for CPU profiles of the sender, 5 s from the start of each run that measures throughput")
	f.BoolVar(&o.shared, "shared", false, "use a cluster whose zns.sent holds events already: this adds to them")
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "bench measures the sender on the broker of KAFKA_BROKERS, beside a plain franz-go consume loop and Confluent Parallel\nConsumer. make bench starts a broker. With the defaults it takes about twenty minutes, with -quick about four.\n\n")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	set := map[string]bool{}
	f.Visit(func(f *flag.Flag) { set[f.Name] = true })
	if o.quick {
		for name, value := range map[string]struct {
			of *int
			is int
		}{"n": {&o.n, 5000}, "runs": {&o.runs, 1}, "waiting": {&o.waiting, 50_000}, "finished": {&o.finished, 200_000}} {
			if !set[name] {
				*value.of = value.is
			}
		}
	}
	if o.n < 100 || o.runs < 1 || o.inFlight < 1 || o.partitions < 1 || o.waiting < 1 || o.finished < 1 || f.NArg() > 0 {
		return o, errors.New("at least 100 notifications, one of everything else, and no arguments; see --help")
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

func bench(ctx context.Context, o options) (err error) {
	all := chosen(o)
	if o.list {
		for _, c := range all {
			fmt.Printf("%-32s %s\n", c.name, c.about)
		}
		return nil
	}
	brokers := os.Getenv("KAFKA_BROKERS")
	if brokers == "" {
		return errors.New("no Kafka: set KAFKA_BROKERS, or use make bench where java and mvn are; a fake broker would measure nothing")
	}
	if len(all) == 0 {
		return errors.New("no case has such a name; -list names them")
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
	if all, err = b.parallelArm(ctx, all, out); err != nil {
		return err
	}
	interrupted := b.all(ctx, all, out)
	out.tables(os.Stdout) // also of a part
	if o.json != "" {
		if err := out.write(o.json); err != nil {
			return errors.Join(interrupted, err)
		}
		fmt.Println("every reading:", o.json)
	}
	return errors.Join(interrupted, out.failed())
}

// all runs the cases. Those that are compared stand next to each other, a machine's mood hits all of them; from run to
// run the order among them turns.
func (b *runner) all(ctx context.Context, all []kase, out *report) error {
	if !b.quick {
		// The broker's code is compiled while it runs: the first thousands of records would be slow ones.
		for _, subject := range []string{subjectLoop, subjectSender} {
			if _, err := b.work(ctx, spec{Subject: subject, Latency: 10 * time.Millisecond, Keys: 1000, N: b.n, InFlight: b.inFlight}); err != nil {
				return fmt.Errorf("warm-up: %w", err)
			}
		}
	}
	for len(all) > 0 {
		n := 1
		for n < len(all) && all[n].group == all[0].group {
			n++
		}
		group := slices.Clone(all[:n])
		all = all[n:]
		runs := b.runs
		if group[0].once {
			runs = 1
		}
		for i := range runs {
			for _, c := range group {
				start := time.Now()
				r, err := c.run(ctx, b)
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				out.add(c, r, err)
				fmt.Fprintf(os.Stderr, "%-32s run %d of %d  %s  (%s)\n", c.name, i+1, runs, line(r, err), time.Since(start).Round(100*time.Millisecond))
			}
			slices.Reverse(group)
		}
	}
	return nil
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
	return harness.CreateTopics(ctx, b.addrs(), int32(b.partitions)) //nolint:gosec // G115: a handful
}
