package simtest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/notification"
	"github.com/znshub/znshub/pkg/virtual"
	"github.com/znshub/znshub/proto/topic"
)

// tail is how long after the last trouble everything has ended: the longest that a request may be put off, and its life.
const tail = longestDelay + 36*time.Hour + time.Hour

// rateOf is how many calls an OA may get in a second, less than a campaign has; 0: any number.
func rateOf(seed uint64) int {
	if seed%3 == 0 {
		return 1
	}
	return 0
}

// Simulate plays a seed over so many days of traffic and fails the test when an equation is broken. It prints the seed,
// and, when it fails, what happened last.
func Simulate(t *testing.T, seed uint64, days int, env ...string) {
	virtual.Test(t, func(t *testing.T) {
		w := newWorld(t, seed, append(env, fmt.Sprintf("SENDER_RATE=%d", rateOf(seed)))...)
		defer w.close()
		begin := time.Now()
		actions, wishes, told := plan(seed, days, begin)
		for _, a := range actions {
			time.Sleep(time.Until(begin.Add(a.at)))
			if a.what != "" {
				w.log.write("%s", a.what)
			}
			a.do(w)
		}
		w.heal()
		w.log.write("everything is well")
		time.Sleep(tail)
		v := w.judge(seed, wishes, told)
		t.Logf("seed %d: %s", seed, v)
		if len(v.broken) > 0 {
			t.Errorf("seed %d is broken; replay it with: go test ./services/simtest -run TestSeeds -seed %d -seeds 1 -days %d", seed, seed, days)
			for rule, x := range v.broken {
				t.Errorf("%s: %d times, such as %s", rule, x.count, strings.Join(x.examples, "; "))
			}
			t.Logf("the last that happened:\n%s", strings.Join(w.log.lines, "\n"))
		}
	})
}

// publish writes a request as a producer with Java's partitioner would.
func (w *world) publish(x *wish) {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(x.m)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		err := w.writer.Write(ctx, kafka.Record{Topic: topic.Requested, Partition: -1, Key: []byte(notification.PartitionKey(x.m)), Value: value})
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			w.t.Fatal(fmt.Errorf("publish: %w", err))
		}
		time.Sleep(100 * time.Millisecond) // a fault of the broker that was meant for the senders
	}
}

func (w *world) cut(i int, address string) {
	if wire := w.crew[i].wire; wire != nil {
		wire.cut(address)
	}
}

func (w *world) mend(i int, address string) {
	if wire := w.crew[i].wire; wire != nil {
		wire.mend(address)
	}
}

// heal makes everything well.
func (w *world) heal() {
	w.zalo.ClearFaults("")
	for i := range senders {
		w.mend(i, kafkaAddr)
		w.mend(i, zaloAddr)
		w.start(i)
	}
}
