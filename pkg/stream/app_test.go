package stream_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/stream"
)

// The program under test is a small outbox: each input record is a request to call a provider once. It runs as
// processes of their own (the test binary run again) so that they can be killed and stopped for real.

// appConfig travels in the environment of such a process.
type appConfig struct {
	Brokers, Group, Input, Ledger, Sent, DLQ string
	Name                                     string // INSTANCE_ID
	Provider                                 string // URL
	MaxInFlight                              int
	LaunchWithin                             time.Duration // a call may start so long after its intent was written
	At                                       string        // step at which to act
	Nth                                      int           // how often it must have come before
	Act                                      string        // "kill" or "stop"
	MaxRecords                               int
	CallTimeout                              time.Duration
	Proxy                                    string // every connection to a broker goes there instead
	Drain                                    time.Duration
	NewerReader                              bool   // refuse entries, as a newer format would make an old program do
	BigResultOf                              string // the id whose result is written too large
	Stubborn                                 bool   // write a poisoned request again as it was
	Protocol                                 string // of the group
}

// entry is what the app keeps in the ledger.
type entry struct {
	ID    string `json:"id"`
	State string `json:"state"` // ACCEPTED, SENDING, SENT, UNKNOWN
	Owner string `json:"owner"`
	Body  string `json:"body,omitempty"`
}

// event is a line that the app prints.
type event struct {
	Time      time.Time `json:"time"`
	Who       string    `json:"who"`
	Event     string    `json:"event"`
	Partition int32     `json:"partition"`
	ID        string    `json:"id,omitempty"`
	Text      string    `json:"text,omitempty"`
}

// shelf is the app's state of one partition.
type shelf struct {
	entries  map[string]*entry
	queue    []*entry // ACCEPTED, in order of arrival
	outcomes []*entry // SENT or UNKNOWN, not yet written
	inFlight int      // intents being committed and calls under way
}

type app struct {
	cfg    appConfig
	engine *stream.Engine
	mu     sync.Mutex // guards out and ended
	out    io.Writer
	ended  []func()         // what calls that have ended bring
	parts  map[int32]*shelf // under the tick lock; restores run beside it, so changes and they take restores too
	client *http.Client
	calls  atomic.Int32

	restores sync.Mutex
}

func newApp(cfg appConfig, out io.Writer) *app {
	cfg.MaxInFlight = max(cfg.MaxInFlight, 1)
	return &app{cfg: cfg, out: out, parts: map[int32]*shelf{}, client: &http.Client{
		Timeout: max(cfg.CallTimeout, 2*time.Second), Transport: &http.Transport{MaxIdleConnsPerHost: cfg.MaxInFlight},
	}}
}

func (a *app) say(e event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e.Time, e.Who = time.Now(), a.cfg.Name
	b, _ := json.Marshal(e)
	a.out.Write(append(b, '\n'))
}

func (a *app) Assigned(p int32) {
	a.restores.Lock()
	a.parts[p] = &shelf{entries: map[string]*entry{}}
	a.restores.Unlock()
	a.say(event{Event: "assigned", Partition: p})
}

func (a *app) Restore(p int32, r kafka.Record) error {
	if a.cfg.NewerReader {
		return fmt.Errorf("entry needs reader 9, this program has 1")
	}
	e := new(entry)
	if err := json.Unmarshal(r.Value, e); err != nil {
		return err
	}
	a.restores.Lock()
	s := a.parts[p]
	a.restores.Unlock()
	s.entries[string(r.Key)] = e
	return nil
}

func (a *app) Restored(p int32) {
	s := a.parts[p]
	for _, e := range s.entries {
		switch e.State {
		case "ACCEPTED":
			s.queue = append(s.queue, e)
		case "SENDING":
			a.say(event{Event: "unknown", Partition: p, ID: e.ID, Text: "owner died: " + e.Owner})
			e.State = "UNKNOWN"
			s.outcomes = append(s.outcomes, e)
		}
	}
	a.say(event{Event: "restored", Partition: p, Text: fmt.Sprint(len(s.entries))})
}

func (a *app) Full(p int32) bool { return len(a.parts[p].queue) > 2000 }

func (a *app) Accept(u *stream.Unit, r kafka.Record) {
	p, id := u.Partition(), string(r.Key)
	if err := u.Poison(); err != nil && !a.cfg.Stubborn {
		u.Publish(kafka.Record{Topic: a.cfg.DLQ, Partition: -1, Key: r.Key, Value: []byte(fmt.Sprintf("%d@%d", p, r.Offset))})
		u.OnCommit(func() { a.say(event{Event: "dead letter", Partition: p, ID: id, Text: err.Error()}) })
		return
	}
	if p >= u.LedgerPartitions() {
		u.Publish(kafka.Record{Topic: a.cfg.Input, Partition: kafka.Murmur2Partition(r.Key, u.LedgerPartitions()), Key: r.Key, Value: r.Value,
			Headers: []kafka.Header{{Key: "zns-moved", Value: []byte(fmt.Sprintf("%d@%d", p, r.Offset))}}})
		return
	}
	s := a.parts[p]
	if s.entries[id] != nil {
		u.OnCommit(func() { a.say(event{Event: "duplicate", Partition: p, ID: id}) })
		return
	}
	e := &entry{ID: id, State: "ACCEPTED", Owner: a.cfg.Name, Body: string(r.Value)}
	s.entries[id] = e
	s.queue = append(s.queue, e)
	u.OnAbort(func() {
		delete(s.entries, id)
		s.queue = s.queue[:len(s.queue)-1]
	})
	a.put(u, *e)
}

func (a *app) put(u *stream.Unit, e entry) {
	b, _ := json.Marshal(e)
	u.Ledger(e.ID, b)
}

func (a *app) Work(tx *stream.Tx) time.Time {
	a.mu.Lock()
	ended := a.ended
	a.ended = nil
	a.mu.Unlock()
	for _, f := range ended {
		f()
	}
	for _, p := range tx.Partitions() {
		s := a.parts[p]
		for len(s.outcomes) > 0 {
			e := s.outcomes[0]
			u := tx.Unit(p, e.ID)
			if u == nil {
				return tx.Now()
			}
			a.put(u, entry{ID: e.ID, State: e.State, Owner: a.cfg.Name})
			if e.State == "SENT" {
				result := []byte(a.cfg.Name)
				if e.ID == a.cfg.BigResultOf && u.Poison() == nil {
					result = incompressible(30_000)
				} else if e.ID == a.cfg.BigResultOf {
					u.OnCommit(func() { a.say(event{Event: "small result", Partition: p, ID: e.ID}) })
				}
				u.Publish(kafka.Record{Topic: a.cfg.Sent, Partition: -1, Key: []byte(e.ID), Value: result})
			}
			s.outcomes = s.outcomes[1:]
			u.OnAbort(func() { s.outcomes = append([]*entry{e}, s.outcomes...) })
		}
		for len(s.queue) > 0 && s.inFlight < a.cfg.MaxInFlight && !tx.Closing(p) && !tx.Full() {
			e := s.queue[0]
			u := tx.Unit(p, e.ID)
			if u == nil {
				return tx.Now()
			}
			a.put(u, entry{ID: e.ID, State: "SENDING", Owner: a.cfg.Name, Body: e.Body})
			s.queue = s.queue[1:]
			s.inFlight++
			e.State = "SENDING"
			deadline := tx.Now().Add(a.cfg.LaunchWithin)
			u.OnAbort(func() {
				s.queue = append([]*entry{e}, s.queue...)
				s.inFlight--
				e.State = "ACCEPTED"
			})
			u.OnCommit(func() {
				a.calls.Add(1)
				go a.call(p, s, e, deadline)
			})
		}
	}
	return time.Time{}
}

func (a *app) InFlight(p int32) int { return a.parts[p].inFlight }
func (a *app) Pending(p int32) bool { return len(a.parts[p].outcomes) > 0 }
func (a *app) Dropped(p int32) {
	a.restores.Lock()
	delete(a.parts, p)
	a.restores.Unlock()
	a.say(event{Event: "dropped", Partition: p})
}

// call asks the provider. Its outcome is written by a later tick.
func (a *app) call(p int32, s *shelf, e *entry, deadline time.Time) {
	defer a.calls.Add(-1)
	state, why := "UNKNOWN", ""
	if now := time.Now(); now.After(deadline) || now.Round(0).After(deadline.Round(0)) {
		state = "ACCEPTED" // provably not sent
		a.say(event{Event: "launch deadline passed", Partition: p, ID: e.ID})
	} else {
		req, _ := http.NewRequest(http.MethodPost, a.cfg.Provider, strings.NewReader(e.Body))
		req.Header.Set("X-Id", e.ID)
		req.Header.Set("X-Deadline", deadline.Format(time.RFC3339Nano))
		if resp, err := a.client.Do(req); err != nil {
			why = err.Error()
		} else {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				state = "SENT"
			}
		}
	}
	a.mu.Lock()
	a.ended = append(a.ended, func() {
		s.inFlight--
		e.State = state
		switch {
		case state == "ACCEPTED":
			s.queue = append([]*entry{e}, s.queue...)
		case a.parts[p] != s:
			return // given up meanwhile
		default:
			s.outcomes = append(s.outcomes, e)
		}
	})
	a.mu.Unlock()
	if state == "UNKNOWN" {
		a.say(event{Event: "unknown", Partition: p, ID: e.ID, Text: "call failed: " + why})
	}
	a.engine.Wake()
}

// step acts at the configured moment. It is called on several goroutines, never two at a time for one step.
func (a *app) step() func(stream.Step) {
	var mu sync.Mutex
	seen := 0
	return func(s stream.Step) {
		if string(s) == a.cfg.At {
			mu.Lock()
			seen++
			act := seen == a.cfg.Nth
			mu.Unlock()
			if act {
				a.say(event{Event: "acting", Text: a.cfg.Act + " at " + a.cfg.At})
				if a.cfg.Act == "kill" {
					syscall.Kill(os.Getpid(), syscall.SIGKILL)
					select {}
				}
				// The pause between a call's look at its deadline and its first byte remains; keep it out of this.
				for a.calls.Load() > 0 {
					time.Sleep(time.Millisecond)
				}
				syscall.Kill(os.Getpid(), syscall.SIGSTOP)
				time.Sleep(200 * time.Millisecond) // the signal reaches all threads a moment later
			}
		}
		if s == stream.StepTakeover || s == stream.StepUnconfirmed || s == stream.StepSettled || s == stream.StepAborted {
			a.say(event{Event: string(s)})
		}
	}
}

func (a *app) streamConfig(log *slog.Logger) stream.Config {
	// The client id of a configuration is not the one by which a member is known.
	client := []kgo.Opt{kgo.SeedBrokers(strings.Split(a.cfg.Brokers, ",")...), kgo.ClientID("configured")}
	if a.cfg.Proxy != "" {
		client = append(client, kgo.Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, a.cfg.Proxy)
		}))
	}
	return stream.Config{
		Client: client,
		Group:  a.cfg.Group, Input: a.cfg.Input, Ledger: a.cfg.Ledger, InstanceID: a.cfg.Name,
		Handler: a, Log: log, Step: a.step(), MaxRecords: a.cfg.MaxRecords, DrainTimeout: a.cfg.Drain,
		GroupProtocol: a.cfg.Protocol,
	}
}

// runApp is main of the process.
func runApp(config string) int {
	var cfg appConfig
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	a := newApp(cfg, os.Stdout)
	e, err := stream.New(a.streamConfig(slog.New(slog.NewTextHandler(os.Stderr, nil))))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	a.engine = e
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	a.say(event{Event: "started"})
	err = e.Run(ctx)
	s := e.Status()
	if err != nil {
		a.say(event{Event: "failed", Text: err.Error()})
		return 1
	}
	a.say(event{Event: "stopped", Text: fmt.Sprintf("commits %d aborts %d partitions %d", s.Commits, s.Aborts, len(s.Partitions))})
	return 0
}
