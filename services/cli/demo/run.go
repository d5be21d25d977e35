// Package demo shows the hub's main job with telling cases, on a real sender process that is killed inside a call, and
// adds up what became of each.
//
// Nothing in the result is written down beforehand: what happened is read from the read-committed topics and the ledger,
// and what each phone got from the simulator's books.
package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/cli/dev"
	"github.com/znshub/znshub/services/cli/explain"
)

// Config says on what the demo runs.
type Config struct {
	Kafka   *kafka.Config // somebody's cluster; nil: a fake in this process
	Force   bool
	Environ []string
	// Sender starts a sender process with these settings. Its Kill is a kill -9.
	Sender   func(environ []string) (Process, error)
	Stories  bool              // explain the cases that are not plain
	Progress func(text string) // what is under way, for a person who waits; may be nil
}

// Process is a sender in a process of its own.
type Process interface {
	Ready(ctx context.Context) error // nil once it takes requests
	Kill() error                     // SIGKILL, and waits until it is gone
	Stop() error                     // SIGTERM, and waits for its orderly end
}

// Result is what the demo found.
type Result struct {
	Broker  string          `json:"broker"`
	Seed    uint64          `json:"seed"`
	Rows    []Row           `json:"cases"`
	Stories []explain.Story `json:"stories,omitempty"`
	Sums    Sums            `json:"sums"`
	OK      bool            `json:"ok"`
	Took    time.Duration   `json:"took_ns"`
	Source  string          `json:"source"` // of the requests: their ids derive from it and the key
}

const (
	seed           = 1
	requestTimeout = 1500 * time.Millisecond // the sender's patience with Zalo, short so that the demo is
	lateCallback   = 500 * time.Millisecond  // how long after the timeout the callback of a lost answer comes
	caseTimeout    = 40 * time.Second        // for what should take seconds
)

// Run runs the demo. An error means that it could not be run; a wrong result is in Result.
func Run(ctx context.Context, cfg Config) (result Result, err error) {
	began := time.Now()
	d := &demo{cfg: cfg, source: fmt.Sprintf("zns-demo-%d", began.UnixMilli())}
	d.cases = scenarios(began, fmt.Sprintf("%04d", rand.IntN(10_000)))
	if d.cfg.Progress == nil {
		d.cfg.Progress = func(string) {}
	}
	d.cfg.Progress("starting the broker, the simulator and webhook-ingest")
	d.stack, err = dev.Start(ctx, dev.Config{
		Kafka: cfg.Kafka, Force: cfg.Force, Environ: dev.Without(cfg.Environ, "SENDER_", "INGEST_"),
		Sim: zalosim.Config{
			Seed: seed, Latency: zalosim.Range{Low: 40 * time.Millisecond, High: 90 * time.Millisecond},
			Delivery: zalosim.Range{Low: 200 * time.Millisecond, High: 500 * time.Millisecond},
		},
	})
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, d.close(ctx)) }()
	if err := d.run(ctx); err != nil {
		return Result{}, err
	}
	result = d.result()
	if cfg.Stories {
		if result.Stories, err = d.stories(ctx); err != nil {
			return Result{}, err
		}
	}
	result.Broker, result.Seed, result.Took, result.Source = d.stack.Describe, seed, time.Since(began), d.source
	return result, nil
}

// demo is one run.
type demo struct {
	cfg    Config
	source string
	cases  []scenario
	stack  *dev.Stack
	sender Process

	book *book
}

func (d *demo) run(ctx context.Context) error {
	opts, err := d.stack.KafkaConfig.Options()
	if err != nil {
		return err
	}
	if d.book, err = openBook(ctx, opts, d.source, d.cases); err != nil {
		return err
	}
	writer, err := kafka.NewWriter(opts...)
	if err != nil {
		return err
	}
	defer writer.Close()
	if err := d.arrangeFaults(); err != nil {
		return err
	}
	if err := d.startSender(); err != nil {
		return err
	}
	if err := d.ready(ctx); err != nil {
		return err
	}
	d.cfg.Progress("publishing the cases")
	// The first records find the way to their brokers, and the sender's first transaction the leaders of its topics,
	// which takes half a second. A refused request takes that upon itself, so that the times below are a running hub's.
	last := &d.cases[len(d.cases)-1]
	if err := d.publish(ctx, writer, last); err != nil {
		return err
	}
	if err := d.wait(ctx, func(c *scenario) bool { return c == last }); err != nil {
		return err
	}
	for i := range d.cases {
		if c := &d.cases[i]; c != last && !c.late {
			if err := d.publish(ctx, writer, c); err != nil {
				return err
			}
		}
	}
	d.cfg.Progress("waiting for deliveries, refusals and the callback of a lost answer")
	if err := d.wait(ctx, func(c *scenario) bool { return !c.late }); err != nil {
		return err
	}
	for i := range d.cases {
		if d.cases[i].late {
			if err := d.killInside(ctx, writer, &d.cases[i]); err != nil {
				return err
			}
		}
	}
	return d.wait(ctx, func(*scenario) bool { return true })
}

// arrangeFaults tells the simulator what is to go wrong, for one phone each.
func (d *demo) arrangeFaults() error {
	for _, c := range d.cases {
		var faults []zalosim.Fault
		switch c.zalo {
		case answerLost:
			faults = []zalosim.Fault{
				{Kind: zalosim.FaultLostAnswer}, {Kind: zalosim.FaultCallbackDelayed, Delay: requestTimeout + lateCallback},
			}
		case hangs:
			faults = []zalosim.Fault{{Kind: zalosim.FaultLostAnswer}}
		case noZalo:
			faults = []zalosim.Fault{{Kind: zalosim.FaultCode, Code: noAccount}}
		}
		for _, f := range faults {
			f.Phone = c.phone
			if _, err := d.stack.Sim.AddFault(f); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *demo) startSender() (err error) {
	d.sender, err = d.cfg.Sender(append(d.stack.Environ,
		"SENDER_REQUEST_TIMEOUT="+requestTimeout.String(), "SENDER_UNRESOLVED_AFTER=1s"))
	return err
}

func (d *demo) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, caseTimeout)
	defer cancel()
	return d.sender.Ready(ctx)
}

func (d *demo) publish(ctx context.Context, w *kafka.Writer, c *scenario) error {
	records, err := c.records(d.source)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, caseTimeout)
	defer cancel()
	return w.Write(ctx, records...)
}

// killInside publishes c, kills the sender while Zalo has the message and has not answered, and starts a successor.
func (d *demo) killInside(ctx context.Context, w *kafka.Writer, c *scenario) error {
	d.cfg.Progress("killing the sender inside a call")
	if err := d.publish(ctx, w, c); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, caseTimeout)
	defer cancel()
	for len(d.stack.Sim.ByPhone(c.phone)) == 0 {
		select {
		case <-ctx.Done():
			return nil // the table will tell
		case <-time.After(2 * time.Millisecond):
		}
	}
	if err := d.sender.Kill(); err != nil {
		return fmt.Errorf("kill the sender: %w", err)
	}
	d.book.killed(c)
	d.cfg.Progress("a successor takes over, once Kafka has noticed")
	return d.startSender()
}

// wait returns when every case that is asked for is done. A case that takes too long ends the waiting: the table will
// tell what is wrong with it.
func (d *demo) wait(ctx context.Context, which func(*scenario) bool) error {
	waitCtx, cancel := context.WithTimeout(ctx, caseTimeout)
	defer cancel()
	for {
		done := true
		for i := range d.cases {
			done = done && (!which(&d.cases[i]) || d.book.done(&d.cases[i]))
		}
		if done {
			// A second copy, were there one, would show within moments: deliveries take half a second at most.
			return d.settle(ctx)
		}
		select {
		case <-d.book.changed:
		case err := <-d.book.failed:
			return err
		case err := <-d.stack.Failed():
			return err
		case <-waitCtx.Done():
			return ctx.Err()
		}
	}
}

// settle waits until the simulator has nothing under way any more.
func (d *demo) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, caseTimeout)
	defer cancel()
	for !d.stack.Sim.Idle() {
		select {
		case <-ctx.Done():
			return errors.New("the simulator still has callbacks under way")
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// result reads the books.
func (d *demo) result() Result {
	var r Result
	for i := range d.cases {
		c := &d.cases[i]
		o := d.book.outcome(c)
		accepted := d.stack.Sim.ByPhone(c.phone)
		for _, m := range accepted {
			if !m.DeliveredAt.IsZero() {
				o.Copies++
			}
		}
		row := Row{Case: c.name, Got: o.Copies}
		row.What, row.Wrong = c.tell(&o)
		r.Sums.Records += len(o.Requests)
		r.Sums.Duplicates += max(0, len(o.Requests)-1)
		r.Sums.Messages += len(accepted)
		if len(accepted) > 1 {
			r.Sums.TwoCopies++
		}
		switch state := o.state(); state {
		case sent:
			r.Sums.Sent++
		case failed:
			r.Sums.Failed++
		case held:
			r.Sums.Held++
		default:
			r.Sums.Unexpected++
		}
		if o.state() != c.want && row.Wrong == "" {
			row.Wrong = fmt.Sprintf("it is %q, want %q", o.state(), c.want)
		}
		r.Rows = append(r.Rows, row)
	}
	r.OK = r.Sums.OK() && !anyWrong(r.Rows)
	return r
}

// stories explains the cases in which an outcome was unknown.
func (d *demo) stories(ctx context.Context) ([]explain.Story, error) {
	log, err := explain.OpenLog(d.stack.KafkaConfig)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	var stories []explain.Story
	for i := range d.cases {
		c := &d.cases[i]
		if c.zalo != answerLost && c.zalo != hangs {
			continue
		}
		facts, err := explain.Search(ctx, log, explain.Query{Text: c.naturalKey(), Source: d.source, Input: topic.Requested})
		if err != nil {
			return nil, err
		}
		stories = append(stories, explain.Tell(facts, time.Now()))
	}
	return stories, nil
}

// close stops the sender first, in an orderly way, then the rest.
func (d *demo) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	var errs []error
	if d.sender != nil {
		errs = append(errs, d.sender.Stop())
	}
	if d.book != nil {
		d.book.close()
	}
	return errors.Join(append(errs, d.stack.Close(ctx))...)
}

// bookTopics are what the book reads.
var bookTopics = []string{
	topic.Requested, topic.RequestedLedger, topic.Sent, topic.Failed, topic.Unresolved, topic.Delivered,
}
