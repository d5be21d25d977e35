package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/deploy/e2e/chaos"
	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
	"github.com/znshub/znshub/pkg/stream"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/services/cli/explain"
)

// telling are the steps of the fast lane: between each two of them lies another state of the world.
var telling = []string{
	stream.StepProduced.String(), stream.StepSettled.String(), "call: written", stream.StepIdle.String(),
}

// once are the steps of a restore that pass once, however many partitions there are.
var once = []string{stream.StepAssigned.String(), stream.StepTakeover.String()}

// crashStage is two senders of which one, the victim, kills itself, with a proxy between it and the broker.
type crashStage struct {
	*installation
	victim, peer *harness.Process
	toKafka      *harness.Proxy
	known        []harness.Request
	env          []string // of the victim, without a crash
}

// A sender kills itself with -9 at every step of a tick, of a call, of giving partitions up, of a restore, of a takeover
// and of a stop, at the first passing and at a later one; it is started again; and the equations hold.
func TestCrashPoints(t *testing.T) {
	s := newCrashStage(t)
	for _, step := range chaos.Steps() {
		if !long() && !slices.Contains(telling, step) {
			continue
		}
		passings := size([]int{2}, []int{1, 3})
		if strings.HasPrefix(step, "revoke") || strings.HasPrefix(step, "stop") || slices.Contains(once, step) {
			passings = []int{1} // they pass once, or nobody can tell when they pass again
		}
		if _, slow := unanswered[step]; slow { // a request waits its time out at each passing
			passings = size([]int{1}, []int{1, 2})
		}
		for _, nth := range passings {
			if !t.Run(fmt.Sprintf("%s %d", strings.ReplaceAll(step, ": ", " "), nth), func(t *testing.T) { s.crashAt(t, step, nth) }) {
				return // what follows would count the same violations again
			}
		}
	}
}

func newCrashStage(t *testing.T) *crashStage {
	proxy, err := harness.NewProxy()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	server := kafkatest.Own(t, local.Options{Heap: "768m", Controller: true, Advertise: []string{proxy.Addr()}, Properties: map[string]string{
		"broker.session.timeout.ms": "60000",
	}})
	proxy.Target(server.ListensFor(proxy.Addr()))
	in := install(t, options{
		brokers: server.Addr, program: "./deploy/e2e/" + chaos.Program, kafkaVia: map[string]string{"sender-0": proxy.Addr()},
		senderEnv: append(orderWait(), "SENDER_UNRESOLVED_AFTER=1s"), simEnv: simLatency("5ms", "60ms"),
	})
	s := &crashStage{installation: in, victim: in.Senders()[0], toKafka: proxy, env: in.Senders()[0].Env}
	if s.peer, err = in.NewSender(); err != nil {
		t.Fatal(err)
	}
	return s
}

// crashAt lets the victim kill itself at the nth passing of a step while requests come in.
func (s *crashStage) crashAt(t *testing.T, step string, nth int) {
	whole := s.t
	s.t = t
	defer func() { s.t = whole }()
	load := &harness.Load{Seed: uint64(1000 + len(s.known)), Total: 400, Keys: 60, Duplicates: 0.05, PerSecond: 100}
	s.known = append(s.known, load.Requests()...)
	// A victim of a revoke or a takeover must have somebody to give to or to take from.
	switch {
	case step == stream.StepTakeover.String():
		s.arm(s.peer, stream.StepProduced.String(), 5)
	case strings.HasPrefix(step, "revoke"):
		s.stop(s.peer)
	default:
		s.run(s.peer)
	}
	s.stop(s.victim)
	published := publishInBackground(s.installation, load)
	s.Killed()
	s.arm(s.victim, step, nth)
	s.provoke(step)
	select {
	case <-s.victim.Ended():
	case <-time.After(90 * time.Second):
		t.Fatalf("the victim does not pass %q %d times; end of its log:\n%s", step, nth, s.victim.LogTail(10))
	}
	if !strings.Contains(s.victim.LogTail(3), "hooked-sender: killed at") {
		t.Fatalf("the victim ended in another way; end of its log:\n%s", s.victim.LogTail(10))
	}
	s.Killed()
	s.toKafka.Mute(harness.NoAPI)
	s.run(s.victim)
	s.run(s.peer)
	s.must(<-published)
	s.wait(2*time.Minute, "a result for every request", func(n harness.Counts) bool {
		return n.Ended+n.Open >= len(s.known) && n.Delivered >= n.Sent
	})
	report := s.check(step, s.known, harness.Expect{Open: -1, Delivered: true})
	if most := 3 * 256; report.Open > most {
		t.Errorf("%d ids are unresolved", report.Open)
	}
}

// unanswered are the steps that come when the broker does not answer a request: its API key.
var unanswered = map[string]kmsg.Key{
	stream.StepAborted.String():     kmsg.TxnOffsetCommit,
	stream.StepUnconfirmed.String(): kmsg.EndTxn,
	stream.StepSettled.String():     kmsg.EndTxn,
}

// provoke makes the victim come to a step that needs a reason.
func (s *crashStage) provoke(step string) {
	switch {
	case strings.HasPrefix(step, "revoke"):
		s.must(waitUntil(s.within(time.Minute), s.victimOwnsAll)) // one that joins beside it would leave nothing to give
		s.run(s.peer)                                             // the victim gives it some of its partitions
	case strings.HasPrefix(step, "stop"):
		s.must(s.victim.Ready(s.within(time.Minute)))
		s.must(s.victim.Ask())
	default:
		if api, ok := unanswered[step]; ok {
			s.toKafka.Mute(api.Int16())
		}
	}
}

// victimOwnsAll reports whether the victim has restored every partition since its latest start.
func (s *crashStage) victimOwnsAll() bool {
	log := s.victim.Log()
	log = log[max(0, strings.LastIndex(log, ": start ")):]
	return strings.Count(log, `"msg":"partition restored"`) >= partitions
}

// arm starts a sender anew so that it kills itself at a step.
func (s *crashStage) arm(p *harness.Process, step string, nth int) {
	s.stop(p)
	whole := slices.Clone(p.Env)
	p.Env = append(slices.Clone(whole), fmt.Sprintf("ZNS_CRASH_AT=%s#%d", step, nth))
	s.must(p.Start())
	p.Env = whole
	p.MayEnd()
}

func (s *crashStage) stop(p *harness.Process) { s.must(p.Terminate(s.within(time.Minute))) }

func (s *crashStage) run(p *harness.Process) {
	if !p.Running() {
		s.must(p.Start())
	}
}

// The sender with hooks is the sender: built with a clock that can be set, it notices that it was.
func TestClockIsSet(t *testing.T) {
	if !long() {
		t.Skip("builds the standard library anew: in the long lane only")
	}
	dir := filepath.Join(t.TempDir(), "bin")
	if err := harness.BuildWithClock(t.Context(), dir, "./deploy/e2e/"+chaos.Program); err != nil {
		t.Fatal(err)
	}
	server := kafkatest.Own(t, local.Options{})
	in := install(t, options{brokers: server.Addr, bin: dir, program: chaos.Program})
	p := in.Senders()[0]
	load := &harness.Load{Seed: 5, Total: 50}
	_, err := load.Publish(in.within(time.Minute), in.brokers)
	in.must(err)
	in.wait(time.Minute, "the first requests", func(n harness.Counts) bool { return n.Delivered == load.Total })
	in.must(p.SetClock(10 * time.Minute))
	in.must(waitUntil(in.within(20*time.Second), func() bool { return p.ReadyNow(in.within(time.Second)) != nil }))
	notBefore := time.Now().Add(15 * time.Second)
	more := &harness.Load{Seed: 6, Total: 50, Change: func(i int, r *notificationv1.NotificationRequested) {
		if i == 0 {
			r.NotBefore = timestamppb.New(notBefore)
		}
	}}
	requests, err := more.Publish(in.within(time.Minute), in.brokers)
	in.must(err)
	time.Sleep(5 * time.Second)
	if n := in.totals().Requests; n != load.Total {
		t.Errorf("%d calls while the clock was wrong", n-load.Total)
	}
	if err := p.ReadyNow(in.within(time.Second)); err == nil || !strings.Contains(err.Error(), "differs from the broker's by 10m0s") {
		t.Errorf("the clock that was set was not compared with the broker's: %v", err)
	}
	in.must(p.SetClock(0))
	in.wait(time.Minute, "the others once the clock is right", func(n harness.Counts) bool { return n.Delivered == load.Total+more.Total })
	for _, c := range in.calls() {
		if c.ID == requests[0].ID && c.Time.Before(notBefore) {
			t.Errorf("called %s before its not_before", notBefore.Sub(c.Time))
		}
	}
	out, errs, code := in.zns("explain", requests[1].ID, "--json")
	var story explain.Story
	if err := json.Unmarshal([]byte(out), &story); err != nil || code != 0 || len(story.Lines) < 3 {
		t.Fatalf("zns explain: exit code %d, %v\n%s%s", code, err, out, errs)
	}
	for _, l := range story.Lines {
		if l.Time.After(time.Now()) {
			t.Errorf("%s %s: a wrong clock tells", l.Time, l.Label)
		}
	}
}
