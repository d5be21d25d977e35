package chaos

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/pause"
)

// How patient the operator on duty is.
const (
	lookEvery    = time.Second
	groupPatient = 30 * time.Second // a group that is refused for so long does not come back by itself
	groupRefused = 10               // answers that must have said so, one after the other
	groupAwayFor = 10 * time.Second // what is shorter is the usual loading after a start
	movesAtMost  = 5                // of one group
	endAfter     = 10 * time.Second // before transactions are ended, and between two tries
	probeTimeout = 3 * time.Second
)

// group is a consumer group of the hub.
type group struct {
	setting string // the variable that names it
	base    string // its name by default
	of      func(s *Stage) []*harness.Process

	name string // at present; guarded by Stage.mu
}

func hubGroups() []*group {
	return []*group{
		{setting: "SENDER_GROUP", base: "zns-sender", name: "zns-sender", of: func(s *Stage) []*harness.Process { return s.Senders() }},
		{setting: "INGEST_GROUP", base: "zns-ingest", name: "zns-ingest", of: func(s *Stage) []*harness.Process { return []*harness.Process{s.Ingest} }},
	}
}

// groupEnv names the groups for programs that ask about them.
func (s *Stage) groupEnv() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	env := make([]string, 0, len(s.groups))
	for _, g := range s.groups {
		env = append(env, g.setting+"="+g.name)
	}
	return env
}

// attendant is the operator on duty: it reads the broker's log, and where Kafka itself has broken something that it
// does not mend it does what docs/operations.md says. What it did stands among what happened; no rule is another for it.
type attendant struct {
	s     *Stage
	begin time.Time
	log   logFollower
	// provoke says when a healthy group is taken for damaged, by its setting.
	provoke map[string]time.Duration

	client  *kgo.Client
	watched []*watchedGroup
	stop    context.CancelFunc
	done    sync.WaitGroup

	// Those of the goroutine that reads the log.
	nextEnd time.Time
	tried   int    // ends of transactions since one succeeded
	said    string // what the latest of these printed
	unable  bool   // this zns cannot end transactions

	mu      sync.Mutex // guards what follows
	damaged bool       // the log has named a partition of __consumer_offsets
	refused int        // groups that will be moved when they are refused for longer
	moved   int        // groups
	dropped int        // transactions
	ended   int        // of these
	last    time.Time  // when it last mended something
}

// watchedGroup is a group with what the goroutine that looks after it remembers.
type watchedGroup struct {
	*group
	refused  time.Time // since when there was no other answer; zero: it was well
	answers  int       // since then
	number   int       // of the latest name
	moves    int
	provoked bool
}

// attend begins the duty. Its end is off.
func (s *Stage) attend(ctx context.Context, begin time.Time, provoke map[string]time.Duration) (*attendant, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.Brokers...), kgo.DialTimeout(probeTimeout))
	if err != nil {
		return nil, fmt.Errorf("open the attendant's client: %w", err)
	}
	a := &attendant{s: s, begin: begin, log: logFollower{name: s.broker.LogFile()}, provoke: provoke, client: client}
	for _, g := range s.groups {
		a.watched = append(a.watched, &watchedGroup{group: g, number: 1})
	}
	ctx, a.stop = context.WithCancel(ctx)
	a.done.Go(func() { a.followLog(ctx) })
	for _, g := range a.watched {
		a.done.Go(func() { a.watch(ctx, g) })
	}
	return a, nil
}

// off ends the duty and waits until what was under way is over.
func (a *attendant) off() {
	a.stop()
	a.done.Wait()
	a.client.Close()
}

func (a *attendant) watch(ctx context.Context, g *watchedGroup) {
	for was := false; pause.For(ctx, lookEvery); {
		now := a.look(ctx, g)
		a.mu.Lock()
		if now && !was {
			a.refused++
		} else if was && !now {
			a.refused--
		}
		a.mu.Unlock()
		was = now
	}
}

func (a *attendant) followLog(ctx context.Context) {
	for pause.For(ctx, lookEvery) {
		a.read()
		a.endTransactions(ctx)
	}
	if a.tried > 0 {
		a.did(Event{Kind: TransactionsEnded}, time.Now(), fmt.Sprintf("not done after %d tries, the last said: %s", a.tried, a.said))
	}
}

// read takes in what the broker has written since.
func (a *attendant) read() {
	lines := a.log.lines()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, line := range lines {
		switch f := recognise(line); {
		case f.coordinator != "":
			a.damaged = true
		case f.transaction != "":
			if a.dropped == a.ended {
				a.nextEnd = time.Now().Add(endAfter)
			}
			a.dropped++
		}
	}
}

// look asks after a group, and moves it when it stays away. It reports whether that may still come.
func (a *attendant) look(ctx context.Context, g *watchedGroup) bool {
	if at, ok := a.provoke[g.setting]; ok && !g.provoked && time.Since(a.begin) >= at {
		g.provoked = true
		a.move(ctx, g, func() bool { return true })
		return false
	}
	a.mu.Lock()
	damaged := a.damaged
	a.mu.Unlock()
	if !damaged {
		return false
	}
	if !a.refuses(ctx, g.name) {
		a.tellAway(g)
		return false
	}
	if g.answers++; g.answers == 1 {
		g.refused = time.Now()
	}
	if g.moves == movesAtMost {
		return false
	}
	if time.Since(g.refused) >= groupPatient && g.answers >= groupRefused {
		a.move(ctx, g, func() bool { return a.refuses(ctx, g.name) })
	}
	return true
}

// tellAway notes the time in which a group was refused, which is over. Until then no sender could commit.
func (a *attendant) tellAway(g *watchedGroup) {
	if g.answers > 0 && time.Since(g.refused) >= groupAwayFor {
		a.did(Event{Kind: GroupAway, Who: g.name}, g.refused, fmt.Sprintf("%d times refused", g.answers))
	}
	g.refused, g.answers = time.Time{}, 0
}

// refuses reports whether the broker answers and does not serve the group. It is the only broker, so that it should. A
// group that does not exist is served.
func (a *attendant) refuses(ctx context.Context, name string) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	req.Groups = []string{name}
	answer, err := a.client.SeedBrokers()[0].Request(ctx, req)
	if err != nil {
		return false // it is away, and that is another matter
	}
	resp, ok := answer.(*kmsg.ConsumerGroupDescribeResponse)
	return ok && slices.ContainsFunc(resp.Groups, func(g kmsg.ConsumerGroupDescribeResponseGroup) bool {
		err := kerr.ErrorForCode(g.ErrorCode)
		return errors.Is(err, kerr.NotCoordinator) || errors.Is(err, kerr.CoordinatorLoadInProgress) || errors.Is(err, kerr.CoordinatorNotAvailable)
	})
}

// move stops all processes of a group, gives them a group that was never used, and starts those that ran. It does
// nothing when the group is needed no more once it is nobody else's turn.
func (a *attendant) move(ctx context.Context, g *watchedGroup, needed func() bool) {
	processes := g.of(a.s)
	defer a.s.takeTurns(processes)()
	if ctx.Err() != nil || !needed() {
		return
	}
	name := ""
	for range movesAtMost { // its partition of __consumer_offsets may be the same, or be damaged too
		g.number++
		if name = fmt.Sprintf("%s-%d", g.base, g.number); !a.refuses(ctx, name) {
			break
		}
	}
	g.moves++
	begin := time.Now()
	var ran []string
	var stopping sync.WaitGroup
	for _, p := range processes {
		if p.Running() {
			ran = append(ran, p.Name)
			stopping.Go(func() { a.terminate(ctx, p) })
		}
	}
	stopping.Wait()
	stopped := time.Since(begin)
	for _, p := range processes {
		p.Env = append(slices.DeleteFunc(slices.Clone(p.Env), func(v string) bool { return strings.HasPrefix(v, g.setting+"=") }), g.setting+"="+name)
		if !slices.Contains(ran, p.Name) {
			continue
		}
		if err := p.Start(); err != nil {
			a.s.note("move to group %s: %v", name, err)
		}
	}
	a.tellAway(g)
	was := g.name
	a.s.mu.Lock()
	g.name = name
	a.s.mu.Unlock()
	a.did(Event{Kind: GroupMoved, Who: was}, begin, fmt.Sprintf("to %s: %s stopped in %.1fs and started", name, strings.Join(ran, ", "), stopped.Seconds()))
	a.mu.Lock()
	a.moved++
	a.last = time.Now()
	a.mu.Unlock()
}

// terminate stops a process. One that has to be killed for it is as dead as any that was killed.
func (a *attendant) terminate(ctx context.Context, p *harness.Process) {
	begin := time.Now()
	if err := terminate(ctx, p); err != nil {
		a.s.note("stop for another group: %v", err)
		a.did(Event{Kind: Killed, Who: p.Name}, begin, "it did not stop for another group")
	}
}

// endTransactions ends those whose markers Kafka has dropped, until none is left.
func (a *attendant) endTransactions(ctx context.Context) {
	a.mu.Lock()
	dropped, open := a.dropped, a.dropped > a.ended
	a.mu.Unlock()
	if !open || a.unable || time.Now().Before(a.nextEnd) {
		return
	}
	begin := time.Now()
	said, err := a.s.zns(ctx, "transactions", "end", "--yes")
	if ctx.Err() != nil {
		return
	}
	a.tried++
	a.said = said
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == usage {
		a.unable, a.tried = true, 0
		a.did(Event{Kind: TransactionsEnded}, begin, "not done, this zns does not know how: "+said)
		return
	}
	if err != nil {
		a.nextEnd = time.Now().Add(endAfter) // the broker may be away
		return
	}
	a.did(Event{Kind: TransactionsEnded}, begin, fmt.Sprintf("try %d: %s", a.tried, said))
	a.tried = 0
	a.mu.Lock()
	a.ended, a.last = dropped, time.Now()
	a.mu.Unlock()
}

// usage is the exit code of a zns that was called in a way that it does not know.
const usage = 2

// did notes something that is over by now.
func (a *attendant) did(e Event, from time.Time, note string) {
	now := time.Now()
	e.At, e.For = from.Sub(a.begin), now.Sub(from)
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.s.done = append(a.s.done, Happened{Event: e, From: from, To: now, Note: note})
}

// settled is from when on everything can have ended: the later of the given moment and of what was mended last.
func (a *attendant) settled(healed time.Time) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refused > 0 {
		return time.Now()
	}
	if a.last.After(healed) {
		return a.last
	}
	return healed
}

// told is how many faults of Kafka itself were met, and what was done.
func (a *attendant) told() (int, string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var did []string
	switch a.moved {
	case 0:
	case 1:
		did = append(did, "1 group moved")
	default:
		did = append(did, fmt.Sprintf("%d groups moved", a.moved))
	}
	if a.dropped > 0 {
		did = append(did, fmt.Sprintf("the brokers forgot the end of %d transactions, %d not ended since", a.dropped, a.dropped-a.ended))
	}
	return a.moved + a.dropped, strings.Join(did, ", ")
}
