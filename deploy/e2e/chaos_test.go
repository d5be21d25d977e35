package e2e

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/proto/topic"
)

const senderGroup = "zns-sender"

// The promise under fire: senders are killed with -9 ten times, one is stopped for longer than its session, and they are
// scaled from one to three and back while requests come in, some of them twice. Afterwards a rolling restart must leave nothing unresolved, and a reset of the group to
// the earliest offset must make no call.
func TestKillsScalingRestartsAndReset(t *testing.T) {
	in := install(t, options{senderEnv: orderWait(), simEnv: simLatency("5ms", "60ms")})
	load := &harness.Load{
		Seed: 1, Total: size(10_000, 100_000), Keys: 1000, Duplicates: 0.05,
		PerSecond: size(150, 500),
	}
	requests := load.Requests()
	known := requests

	if !t.Run("ten kills and scaling", func(t *testing.T) {
		killAndScale(t, in, load)
		report := in.check("ten kills, one to three senders and back", known, harness.Expect{Open: -1, Delivered: true})
		open := report.Open
		t.Logf("%d kills; %d ids once unresolved, %d of them to the end", len(in.Kills()), report.Unresolved, open)
		if report.Accepted+open < len(requests) {
			t.Errorf("%d accepted + %d unresolved of %d", report.Accepted, open, len(requests))
		}
		if len(in.Kills()) < 10 {
			t.Errorf("only %d kills", len(in.Kills()))
		}
	}) {
		return
	}

	t.Run("rolling restart", func(t *testing.T) {
		more := &harness.Load{Seed: 2, Total: size(3000, 20_000), Keys: 300, Duplicates: 0.05, PerSecond: size(200, 400)}
		known = append(known, more.Requests()...)
		before := len(in.results.Events(topic.Unresolved))
		rollingRestart(t, in, more)
		in.check("rolling restart", known, harness.Expect{Open: -1, Delivered: true})
		if after := len(in.results.Events(topic.Unresolved)); after != before {
			t.Errorf("%d new unresolved after a rolling restart, want none", after-before)
		}
	})

	t.Run("reset to earliest", func(t *testing.T) {
		calls, sent := in.totals().Requests, in.results.Counts().Sent
		for _, p := range in.Senders() {
			in.must(p.Terminate(in.within(30 * time.Second)))
		}
		in.must(harness.ResetGroup(in.within(30*time.Second), in.brokers, senderGroup, requested))
		whole, err := harness.Lag(in.within(10*time.Second), in.brokers, senderGroup, requested)
		in.must(err)
		if whole < int64(len(known)) {
			t.Fatalf("the reset left a lag of %d for %d requests", whole, len(known))
		}
		begin := time.Now()
		p := in.Senders()[0]
		in.must(p.Restart(in.within(time.Minute)))
		in.must(waitUntil(in.within(size(2*time.Minute, 5*time.Minute)), func() bool {
			lag, err := harness.Lag(in.within(10*time.Second), in.brokers, senderGroup, requested)
			return err == nil && lag == 0
		}))
		took := time.Since(begin)
		time.Sleep(3 * time.Second) // calls that would follow
		t.Logf("%d records read again in %s", whole, took.Round(100*time.Millisecond))
		if n := in.totals().Requests; n != calls {
			t.Errorf("%d calls after the reset, want none", n-calls)
		}
		if n := in.results.Counts().Sent; n != sent {
			t.Errorf("%d new zns.sent after the reset, want none", n-sent)
		}
		in.check("reset to earliest", known, harness.Expect{Open: -1, Delivered: true})
	})
}

// killAndScale publishes load while senders come, go and die, and waits until every request has a result.
func killAndScale(t *testing.T, in *installation, load *harness.Load) {
	published := publishInBackground(in, load)
	random := rand.New(rand.NewPCG(load.Seed, 99))
	const kills = 10
	for i := range kills {
		due := load.Total * (i + 1) / (kills + 1)
		in.wait(10*time.Minute, "work before the next kill", func(n harness.Counts) bool { return n.Ended+n.Open >= due })
		switch i {
		case 3:
			for range 2 {
				p, err := in.AddSender()
				in.must(err)
				in.must(p.Ready(in.within(time.Minute)))
			}
		case 5:
			stopForTooLong(in, in.Senders()[0])
		case 8:
			for _, p := range in.Senders()[1:] {
				in.must(p.Terminate(in.within(30 * time.Second)))
			}
		}
		var alive []*harness.Process
		for _, p := range in.Senders() {
			if p.Running() {
				alive = append(alive, p)
			}
		}
		p := alive[random.IntN(len(alive))]
		in.must(in.KillSender(p))
		t.Logf("%d of %d published, %d ended: killed %s, one of %d", load.Published(), load.Total, in.results.Counts().Ended, p.Name, len(alive))
		// At once, as a supervisor would, or after the others took over.
		time.Sleep(time.Duration(random.IntN(2)) * 4 * time.Second)
		in.must(p.Restart(in.within(time.Minute)))
	}
	in.must(<-published)
	in.wait(size(3*time.Minute, 15*time.Minute), "a result for every request", func(n harness.Counts) bool {
		return n.Ended+n.Open >= load.Total && n.Delivered >= n.Sent
	})
}

// stopForTooLong stops a sender for longer than its session: the others take it for dead, and what it does when it goes
// on must be refused.
func stopForTooLong(in *installation, p *harness.Process) {
	in.Killed() // what it had under way is as unknown to its successors as after a kill
	in.must(p.Pause())
	time.Sleep(9 * time.Second)
	in.must(p.Resume())
}

// rollingRestart restarts two senders in turn, three times each, while load comes in.
func rollingRestart(t *testing.T, in *installation, load *harness.Load) {
	var pair []*harness.Process
	for _, p := range in.Senders()[:2] {
		if !p.Running() {
			in.must(p.Restart(in.within(time.Minute)))
		}
		pair = append(pair, p)
	}
	ended, delivered := in.results.Counts().Ended, in.results.Counts().Delivered
	published := publishInBackground(in, load)
	for i := range 6 {
		due := load.Total * (i + 1) / 7
		in.must(waitUntil(in.within(5*time.Minute), func() bool { return load.Published() >= due }))
		begin := time.Now()
		p := pair[i%2]
		in.must(p.Terminate(in.within(30 * time.Second)))
		stopped := time.Since(begin)
		in.must(p.Restart(in.within(time.Minute)))
		t.Logf("%s stopped in %s, ready again after %s", p.Name, stopped.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
	}
	in.must(<-published)
	in.wait(size(time.Minute, 5*time.Minute), "a result for every request", func(n harness.Counts) bool {
		return n.Ended >= ended+load.Total && n.Delivered >= delivered+load.Total
	})
}

func publishInBackground(in *installation, load *harness.Load) <-chan error {
	done := make(chan error, 1)
	ctx := in.within(30 * time.Minute)
	go func() {
		_, err := load.Publish(ctx, in.brokers)
		done <- err
	}()
	return done
}
