// Command kafka-local runs a command with a local Apache Kafka:
//
//	go run ./pkg/kafka/kafkatest/cmd/kafka-local -- go test ./...
//
// The command gets KAFKA_BROKERS; the broker ends with it, and kafka-local exits with its exit code. Without a command
// the broker runs until Ctrl-C. When KAFKA_BROKERS is set already that cluster is used, if it answers. Where a local
// broker cannot be started kafka-local says why and runs the command all the same: tests then fall back to a fake.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
)

func main() { os.Exit(run()) }

func run() int {
	heap := flag.String("heap", "512m", "the broker's heap, as java -Xmx takes it")
	properties := make(map[string]string)
	flag.Func("set", "a broker setting, `key=value`; may be repeated", func(s string) error {
		k, v, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("want key=value")
		}
		properties[k] = v
		return nil
	})
	flag.Parse()
	command := flag.Args()

	// The first signal is handed to the command by the terminal, or by us; it decides when to end. The broker ends last.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	broker, env, err := start(ctx, local.Options{Heap: *heap, Properties: properties})
	if err != nil && (len(command) == 0 || env == nil) {
		fmt.Fprintln(os.Stderr, "kafka-local:", err)
		return 1
	}
	if broker != nil {
		defer func() {
			if err := broker.Stop(); err != nil {
				fmt.Fprintln(os.Stderr, "kafka-local: stop the broker:", err)
			}
		}()
	}
	if len(command) == 0 {
		for _, e := range env {
			fmt.Println(e)
		}
		<-signals
		return 0
	}
	return child(command, env, signals)
}

// start returns the broker, unless one is given or none is possible, and the variables that lead tests to it; without
// such variables the command must not run.
func start(ctx context.Context, opts local.Options) (*local.Broker, []string, error) {
	if given := os.Getenv(kafkatest.BrokersEnv); given != "" {
		s, err := kafkatest.Given(ctx, given)
		if err != nil {
			return nil, nil, err
		}
		return nil, []string{kafkatest.BrokersEnv + "=" + given, kafkatest.DescribeEnv + "=" + s.Describe()}, nil
	}
	if os.Getenv(kafkatest.ChoiceEnv) == "kfake" {
		return nil, []string{
			kafkatest.ChoiceEnv + "=kfake",
			kafkatest.DescribeEnv + "=kfake (a fake: " + kafkatest.ChoiceEnv + "=kfake)",
		}, nil
	}
	b, err := local.Start(ctx, opts)
	if err != nil {
		fmt.Fprintf(os.Stderr, "kafka-local: no local Kafka, tests use a fake broker: %v\n", err)
		return nil, []string{
			kafkatest.ChoiceEnv + "=kfake",
			kafkatest.DescribeEnv + "=kfake (a fake: " + firstLine(err.Error()) + ")",
		}, err
	}
	return b, []string{
		kafkatest.BrokersEnv + "=" + b.Addr(),
		kafkatest.DescribeEnv + "=" + kafkatest.LocalDescription(),
	}, nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func child(command, env []string, signals <-chan os.Signal) int {
	cmd := exec.Command(command[0], command[1:]...) //nolint:noctx // it ends by itself or by the signals passed on
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), env...)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "kafka-local:", err)
		return 1
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s)
		case err := <-ended:
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				return max(exit.ExitCode(), 1)
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "kafka-local:", err)
				return 1
			}
			return 0
		}
	}
}
