// Command chaos runs the whole system while everything around it goes wrong, and then does the sums:
//
//	make chaos SEED=1 MINUTES=10
//	go run ./deploy/e2e/cmd/chaos --help
//
// It ends with a table of the equations and with exit code 1 when one of them does not hold.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/znshub/znshub/deploy/e2e/chaos"
)

const help = `chaos starts a real Kafka, webhook-ingest, the Zalo simulator and one to three senders, each a process of its own,
publishes requests of every kind, and meanwhile kills, stops, cuts off, fills up and misleads whatever there is. What
goes wrong and when comes from the seed and the length alone. Then everything is healed, what can end is waited for
(up to four minutes), and the equations are checked: nothing lost, nothing twice, everything explained. What Kafka breaks
by itself meanwhile and does not mend is mended by the book, docs/operations.md, and counted in the table.

Exit code 0: all equations hold. 1: one does not; the logs are kept in the folder that is printed. 2: wrong usage.
It needs java, and Maven once, to fetch Kafka; root, for a small file system that can be filled up, else that is left out.

`

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	f := flag.NewFlagSet("chaos", flag.ContinueOnError)
	seed := f.Uint64("seed", 0, "what goes wrong; 0: chosen at random and printed")
	minutes := f.Float64("minutes", 3, "how long it goes wrong")
	rate := f.Int("rate", 80, "requests per second")
	dir := f.String("dir", "", "`folder` for logs, plan and verdict; empty: a temporary one, kept when something is broken")
	bin := f.String("bin", "", "`folder` for the programs; empty: built anew, and removed afterwards")
	keep := f.Bool("keep", false, "keep the folder in any case")
	plan := f.Bool("plan", false, "print what would go wrong, and do nothing")
	only := f.String("only", "", "comma-separated `kinds`, as --plan prints them, to do nothing else")
	f.Usage = func() {
		fmt.Fprint(f.Output(), help)
		f.PrintDefaults()
	}
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	if f.NArg() > 0 || *minutes <= 0 || *rate < 1 {
		fmt.Fprintln(os.Stderr, "chaos: minutes and rate must be above 0, and there are no arguments; see --help")
		return 2
	}
	if *seed == 0 {
		*seed = rand.Uint64N(1_000_000) + 1
	}
	cfg := chaos.Config{
		Seed: *seed, Length: time.Duration(*minutes * float64(time.Minute)), PerSecond: *rate, Dir: *dir, Bin: *bin, Out: os.Stdout,
	}
	for kind := range strings.SplitSeq(*only, ",") {
		if kind = strings.TrimSpace(kind); kind != "" {
			cfg.Only = append(cfg.Only, chaos.Kind(kind))
		}
	}
	if *plan {
		fmt.Print(chaos.Text(chaos.Plan(cfg.Seed, cfg.Length)))
		return 0
	}
	fmt.Printf("seed %d, %s, %d requests per second\n", cfg.Seed, cfg.Length, cfg.PerSecond)
	if err := play(cfg, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		return 1
	}
	return 0
}

func play(cfg chaos.Config, keep bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if cfg.Dir == "" {
		dir, err := os.MkdirTemp("", fmt.Sprintf("znshub-chaos-%d-", cfg.Seed))
		if err != nil {
			return err
		}
		cfg.Dir = dir
	} else {
		keep = true
	}
	if cfg.Bin == "" {
		cfg.Bin = filepath.Join(cfg.Dir, "bin")
		defer func() { _ = os.RemoveAll(cfg.Bin) }()
	}
	fmt.Println("building the programs")
	if err := chaos.Build(ctx, cfg.Bin); err != nil {
		return err
	}
	begin := time.Now()
	v, err := chaos.Run(ctx, cfg)
	if v != nil {
		fmt.Printf("\nseed %d, %s of chaos, %s in all\n", cfg.Seed, cfg.Length, time.Since(begin).Round(time.Second))
		fmt.Print(v.Table())
		err = errors.Join(err, v.Err())
	}
	if err == nil && !keep {
		return os.RemoveAll(cfg.Dir)
	}
	fmt.Printf("logs, plan and verdict are in %s\n", cfg.Dir)
	if err != nil {
		return fmt.Errorf("seed %d, minutes %g: %w", cfg.Seed, cfg.Length.Minutes(), err)
	}
	return nil
}
