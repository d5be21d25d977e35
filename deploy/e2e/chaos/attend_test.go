package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/kafka/fake"
)

// Lines that a broker wrote.
const (
	dropped   = "2026-11-22T21:08:10,273 INFO TransactionMarkerChannelManager [Transaction Marker Channel Manager 1]: Couldn't find leader endpoint for partitions Set(notification.requested.ledger-8, __consumer_offsets-4) while trying to send transaction markers for zns-sender-sender-1, these partitions are likely deleted already and hence can be skipped"
	outOfSync = "2026-11-22T21:10:37,586 ERROR CoordinatorRuntime [GroupCoordinator id=1] The state machine of the coordinator __consumer_offsets-4 is out of sync with the underlying log. The last written offset returned is 24897 while the coordinator expected 16386. The coordinator will be reloaded in order to re-synchronize the state machine."
	notLoaded = "2026-11-22T20:12:45,770 ERROR CoordinatorRuntime [GroupCoordinator id=1] Failed to load metadata from __consumer_offsets-4 with epoch 10 due to Replaying record CoordinatorRecord(key=ConsumerGroupCurrentMemberAssignmentKey(groupId='zns-sender', memberId='Gh8DY60x4Sv9HTtgvO8R1A=='), value=ApiMessageAndVersion(ConsumerGroupCurrentMemberAssignmentValue(memberEpoch=2, previousMemberEpoch=0, state=0, assignedPartitions=[], partitionsPendingRevocation=[]) at version 0)) from __consumer_offsets-4 at offset 80893 with producer id -1 and producer epoch -1 failed.."
)

func TestRecognise(t *testing.T) {
	for line, want := range map[string]brokerFault{
		dropped:   {transaction: "zns-sender-sender-1"},
		outOfSync: {coordinator: "__consumer_offsets-4"},
		notLoaded: {coordinator: "__consumer_offsets-4"},
		"":        {},
		"2026-11-22T21:10:36,607 INFO CoordinatorRuntime [GroupCoordinator id=1] Scheduling loading of metadata from __consumer_offsets-4 with epoch 6":                                                                                                        {},
		"2026-11-22T21:10:36,851 INFO CoordinatorRuntime [GroupCoordinator id=1] Finished loading of metadata from __consumer_offsets-4 with epoch 4 in 768ms where 4ms was spent in the scheduler. Loaded 24894 records which total to 3987776 bytes.":        {},
		"2026-11-22T21:10:37,584 INFO CoordinatorRuntime [GroupCoordinator id=1] Ignored load completion from __consumer_offsets-4 because context is in ACTIVE state.":                                                                                        {},
		"2026-11-22T21:10:37,588 ERROR CoordinatorRuntime [GroupCoordinator id=1] Failed to write records to __consumer_offsets-4 due to an unexpected error: No in-memory snapshot for epoch 16383. Snapshot epochs are: 24894, 24897.":                       {},
		"2026-11-22T21:13:12,067 INFO CoordinatorRuntime [GroupCoordinator id=1] Ignored unloading metadata for __consumer_offsets-4 in epoch OptionalInt[7] since metadata was never loaded.":                                                                 {},
		"2026-11-22T21:08:07,638 INFO TransactionStateManager [Transaction State Manager 1]: Sending txn markers for TransactionalIdCoordinatorEpochAndTransitMetadata(zns-sender-sender-1,0,COMMIT,TransactionMetadata(transactionalId=zns-sender-sender-1))": {},
	} {
		if got := recognise(line); got != want {
			t.Errorf("%+v, want %+v, of %s", got, want, line)
		}
	}
}

// Each line is told once, when it is whole.
func TestLogFollower(t *testing.T) {
	name := filepath.Join(t.TempDir(), "broker.log")
	l := logFollower{name: name}
	write := func(text string) {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	want := func(lines ...string) {
		t.Helper()
		if got := l.lines(); !slices.Equal(got, lines) {
			t.Errorf("%q, want %q", got, lines)
		}
	}
	want() // it is not there yet
	write("one\ntwo\nth")
	want("one", "two")
	want()
	write("ree")
	want()
	write("\n\nfour\n")
	want("three", "", "four")
	want()
}

// stage is a Stage with nothing on it but a group of one process, and a Kafka that refuses the named groups.
func stage(t *testing.T, refused ...string) (*attendant, *harness.Process) {
	t.Helper()
	cluster, err := kfake.NewCluster(fake.Options("attend")...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	cluster.ControlKey(int16(kmsg.ConsumerGroupDescribe), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		asked := req.(*kmsg.ConsumerGroupDescribeRequest)
		if !slices.Contains(refused, asked.Groups[0]) {
			return nil, nil, false
		}
		resp := asked.ResponseKind().(*kmsg.ConsumerGroupDescribeResponse)
		g := kmsg.NewConsumerGroupDescribeResponseGroup()
		g.Group, g.ErrorCode = asked.Groups[0], kerr.NotCoordinator.Code
		resp.Groups = append(resp.Groups, g)
		return resp, nil, true
	})
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.DialTimeout(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	p := &harness.Process{Name: "program", Path: "/bin/sleep", Args: []string{"600"}, Env: []string{"A=1", "THE_GROUP=first"}, LogFile: filepath.Join(t.TempDir(), "program.log")}
	t.Cleanup(func() { _ = p.Kill() })
	g := &group{setting: "THE_GROUP", base: "group", name: "group", of: func(*Stage) []*harness.Process { return []*harness.Process{p} }}
	s := &Stage{bin: t.TempDir(), Brokers: cluster.ListenAddrs(), groups: []*group{g}, turns: map[string]*sync.Mutex{}}
	return &attendant{s: s, begin: time.Now(), client: client, watched: []*watchedGroup{{group: g, number: 1}}}, p
}

// A group is left alone until the broker's log has told of damage and the broker has refused the group for long; then
// its processes are moved to the first group that is served. What ran runs again.
func TestMoves(t *testing.T) {
	a, p := stage(t, "group", "group-2")
	g := a.watched[0]
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	look := func() bool { return a.look(t.Context(), g) }
	if look() || g.answers > 0 {
		t.Error("it looks though the log has told of nothing")
	}
	a.damaged = true
	for range groupRefused {
		if !look() {
			t.Error("the group is refused and would not be moved")
		}
	}
	if g.name != "group" {
		t.Fatalf("moved to %s at once", g.name)
	}
	g.refused = time.Now().Add(-groupPatient)
	pid := p.Pid()
	look()
	if n, told := a.told(); g.name != "group-3" || n != 1 || told != "1 group moved" {
		t.Errorf("group %s, %d: %s", g.name, n, told)
	}
	if !slices.Equal(p.Env, []string{"A=1", "THE_GROUP=group-3"}) || !p.Running() || p.Pid() == pid {
		t.Errorf("environment %q, running=%t", p.Env, p.Running())
	}
	if env := a.s.groupEnv(); !slices.Equal(env, []string{"THE_GROUP=group-3"}) {
		t.Errorf("other programs are told %q", env)
	}
	var kinds []string
	for _, h := range a.s.Happened() {
		kinds = append(kinds, fmt.Sprintf("%s %s %t", h.Kind, h.Who, h.ends("any")))
	}
	if want := []string{"group not served group true", "group moved group false"}; !slices.Equal(kinds, want) {
		t.Errorf("happened %q, want %q", kinds, want)
	}
	if len(a.s.wrong) > 0 {
		t.Errorf("wrong: %q", a.s.wrong)
	}
	if look() || g.moves != 1 {
		t.Error("a group that is served is moved")
	}
	if healed := a.begin.Add(-time.Hour); !a.settled(healed).Equal(a.last) || !a.settled(a.last.Add(time.Second)).Equal(a.last.Add(time.Second)) {
		t.Error("the time to settle does not begin with what was mended last")
	}
}

// A group that is served in between, or of which nobody answers, is not moved; nor is one whose processes it is somebody
// else's turn with until it is served again.
func TestDoesNotMove(t *testing.T) {
	a, p := stage(t)
	g := a.watched[0]
	a.damaged = true
	g.refused, g.answers = time.Now().Add(-groupPatient), groupRefused
	if a.look(t.Context(), g) || g.answers != 0 || g.moves != 0 {
		t.Errorf("%d answers, %d moves", g.answers, g.moves)
	}
	a.move(t.Context(), g, func() bool { return false })
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	g.refused, g.answers = time.Now(), 1
	if a.look(gone, g) || g.answers != 0 {
		t.Errorf("%d answers of nobody", g.answers)
	}
	if g.moves != 0 || g.name != "group" || p.Running() {
		t.Errorf("%d moves to %s", g.moves, g.name)
	}
}

// zns transactions end is run again until it succeeds, once for each batch of losses; a zns that does not know it is
// asked once.
func TestEndsTransactions(t *testing.T) {
	a, _ := stage(t)
	a.log.name = filepath.Join(t.TempDir(), "broker.log")
	zns := func(script string) {
		if err := os.WriteFile(filepath.Join(a.s.bin, harness.ZNS), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil { //nolint:gosec // it is run
			t.Fatal(err)
		}
	}
	end := func() {
		if until := time.Until(a.nextEnd); until > endAfter {
			t.Errorf("the next try is %s away", until)
		}
		a.nextEnd = time.Time{}
		a.endTransactions(t.Context())
	}
	expect := func(tried int, told string, happened ...string) {
		t.Helper()
		var notes []string
		for _, h := range a.s.Happened() {
			notes = append(notes, h.Note)
		}
		if _, got := a.told(); a.tried != tried || got != told || !slices.Equal(notes, happened) {
			t.Errorf("%d tries, %s, %q; want %d, %s, %q", a.tried, got, notes, tried, told, happened)
		}
	}
	end()
	expect(0, "")
	zns(`[ "$*" = "transactions end --yes" ] && [ "$THE_GROUP" = group ] && echo still 1 hangs; exit 1`)
	if err := os.WriteFile(a.log.name, []byte(strings.Repeat(dropped+"\n", 2)), 0o600); err != nil {
		t.Fatal(err)
	}
	a.read()
	a.endTransactions(t.Context())
	expect(0, "the brokers forgot the end of 2 transactions, 2 not ended since") // a little later
	end()
	end()
	expect(2, "the brokers forgot the end of 2 transactions, 2 not ended since")
	zns("echo done")
	end()
	end()
	expect(0, "the brokers forgot the end of 2 transactions, 0 not ended since", "try 3: done")
	a.mu.Lock()
	a.dropped++
	a.mu.Unlock()
	zns("echo unknown command; exit 2")
	end()
	end()
	expect(0, "the brokers forgot the end of 3 transactions, 1 not ended since", "try 3: done", "not done, this zns does not know how: unknown command")
}
