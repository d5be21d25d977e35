package e2e

import (
	"testing"
	"time"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
	"github.com/znshub/znshub/proto/topic"
)

// The broker is killed and comes back. Nobody restarts a program by hand; Zalo gets its 200 all the time; what was
// accepted is delivered afterwards.
func TestBrokerOutage(t *testing.T) {
	outage := size(15*time.Second, 60*time.Second)
	// Callbacks come some seconds after the call, so that many of them come during the outage.
	in := install(t, options{
		senders: 2, senderEnv: orderWait(), session: 4 * time.Second,
		simEnv: append(simLatency("5ms", "60ms"), simDelivery("1s", size("12s", "50s"))...),
	})
	load := &harness.Load{Seed: 3, Total: size(3000, 20_000), Keys: 500, Duplicates: 0.05, PerSecond: 150}
	published := publishInBackground(in, load)
	in.must(waitUntil(in.within(time.Minute), func() bool { return load.Published() >= load.Total/3 }))

	probe := in.probeWebhook()
	down := time.Now()
	in.Killed()
	in.server.Kill(t)
	time.Sleep(outage)
	in.server.Restart(t)
	up := time.Now()
	t.Logf("the broker was away for %s", up.Sub(down).Round(100*time.Millisecond))

	in.must(<-published)
	if err := in.results.Wait(in.within(size(90*time.Second, 6*time.Minute)), "a delivery of every request", func(n harness.Counts) bool {
		return n.Ended+n.Open >= load.Total && n.Delivered >= n.Sent && n.Delivered+n.Open >= load.Total
	}); err != nil {
		t.Fatal(err)
	}
	t.Logf("everything was delivered %s after the broker came back", time.Since(up).Round(100*time.Millisecond))
	answers := probe.stop()
	during := 0
	for _, a := range answers {
		if a.at.After(down) && a.at.Before(up) {
			during++
		}
		if a.status != 200 || a.took > 2*time.Second {
			t.Errorf("webhook-ingest answered %d after %s (%s after the kill): %v", a.status, a.took, a.at.Sub(down).Round(time.Millisecond), a.err)
			break
		}
	}
	t.Logf("webhook-ingest: %d callbacks of ours answered, %d of them during the outage, slowest %s", len(answers), during, slowest(answers))
	if during < 20 {
		t.Errorf("only %d callbacks during the outage: nothing was tested", during)
	}
	if totals := in.totals(); totals.CallbacksFailed > 0 || totals.WebhookDisabled {
		t.Errorf("%d of the simulator's %d callbacks were not answered 200 in time", totals.CallbacksFailed, totals.Callbacks)
	}
	report := in.check("broker outage", load.Requests(), harness.Expect{Open: -1, Delivered: true})
	// What Zalo accepted is learnt from its callbacks. What stays open was never asked for: the broker died between the
	// commit of an intent and its answer, and the sender, which then lost its partitions, starts no such call.
	if report.Open > lostCommits {
		t.Errorf("%d ids ended unresolved, want no more than what two commits held", report.Open)
	}
}

// lostCommits bounds the intents of two transactions, one of each sender, at this load.
const lostCommits = 60

// Zalo's gateway answers 503 for a long time while many wait: the breaker opens, a handful of requests is unresolved,
// all others are sent afterwards.
func TestProviderOutage(t *testing.T) {
	outage := size(20*time.Second, 5*time.Minute)
	in := install(t, options{senders: 2, simEnv: simLatency("2ms", "20ms")})
	load := &harness.Load{Seed: 4, Total: size(5000, 100_000)}

	begin := time.Now()
	in.must(in.Simulator().Fault(in.within(10*time.Second), zalosim.Fault{Kind: zalosim.FaultHTML, Status: 503}))
	_, err := load.Publish(in.within(5*time.Minute), in.brokers)
	in.must(err)
	t.Logf("%d requests published in %s, all answers are 503", load.Total, time.Since(begin).Round(100*time.Millisecond))
	time.Sleep(time.Until(begin.Add(outage)))
	failed := in.totals().Requests
	in.must(in.Simulator().Heal(in.within(10 * time.Second)))
	in.faults = append(in.faults, harness.Window{From: begin, To: time.Now()})
	healed := time.Now()
	t.Logf("%d calls were answered 503 in %s", failed, outage)

	in.wait(size(90*time.Second, 15*time.Minute), "every other request to be sent", func(n harness.Counts) bool {
		return n.Ended+n.Open >= load.Total && n.Delivered >= n.Sent
	})
	t.Logf("every other request was sent and delivered %s after Zalo came back", time.Since(healed).Round(100*time.Millisecond))
	report := in.check("provider outage", load.Requests(), harness.Expect{Open: handful(outage), Delivered: true})
	if report.Sent+report.Open != load.Total || report.Failed != 0 {
		t.Errorf("%d sent + %d open of %d, %d failed", report.Sent, report.Open, load.Total, report.Failed)
	}
	if n := len(in.results.Events(topic.Unresolved)); n == 0 {
		t.Error("no unresolved at all: the outage was not felt")
	}
}

// handful is how many unknowns an outage of the provider may make on two senders: those under way before the breaker
// opens, which begins with 16 calls at a time and a short run behind them, and one for each probe, of which the pauses
// grow to 30 s.
func handful(outage time.Duration) int { return 2*24 + 2*(5+int(outage/(30*time.Second))) }
