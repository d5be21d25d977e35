package operate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
	controlv1 "github.com/znshub/znshub/proto/control/v1"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/sender/control"
)

// Giver gives commands.
type Giver struct {
	Client []kgo.Opt // how to reach the brokers
	Source string    // ce_source of the commands
	Input  string    // the senders' input topic: whose ledger answers
}

// Answer is what became of commands within the time.
type Answer struct {
	Partitions int           // of the ledger
	Missing    []int32       // those that did not answer in time, ascending; they obey when somebody owns them
	Changed    int           // notifications that the commands changed
	TooLate    int           // those that they came too late for
	Left       int           // those of their scope that they are not for
	Skipped    []int32       // partitions whose owner did not understand a command: an older version
	Took       time.Duration // until the last answer
}

// Give writes the commands to zns.control and waits until every partition of the ledger says that its owner has obeyed
// them, for as long as within allows. An error says that they may not have been given; Missing is none.
func (g *Giver) Give(ctx context.Context, within time.Duration, commands ...*controlv1.Command) (*Answer, error) {
	records := make([]kafka.Record, len(commands))
	for i, c := range commands {
		var err error
		if records[i], err = control.Record(c, g.Source); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	admin, err := kafka.NewAdmin(g.Client...)
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	// The reader takes its place before the commands are there, so that no answer is missed.
	ledger, err := kafka.NewReader(ctx, kafka.ReaderConfig{Client: g.Client, Topic: topic.LedgerOf(g.Input), Start: kafka.FromEnd()})
	if err != nil {
		return nil, err
	}
	defer ledger.Close()
	writer, err := kafka.NewWriter(g.Client...)
	if err != nil {
		return nil, err
	}
	defer writer.Close()
	writeCtx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := writer.Write(writeCtx, records...); err != nil {
		return nil, fmt.Errorf("write to %s: %w", topic.Control, err)
	}
	ends, err := admin.EndOffsets(ctx, topic.Control)
	if err != nil {
		return nil, fmt.Errorf("the commands are given, but whether they are obeyed cannot be seen: %w", err)
	}
	w := wait{commands: commands, ends: map[int32]int64{}, waiting: map[int32]bool{}, acks: map[int32]control.Ack{}}
	for i := range records {
		p := kafka.Murmur2Partition(records[i].Key, int32(len(ends)))
		w.ends[p] = ends[p]
	}
	for p := range ledger.Positions() {
		w.waiting[p] = true
	}
	if err := w.run(ctx, ledger, within); err != nil {
		return nil, err
	}
	return w.answer(time.Since(began)), nil
}

// wait gathers the answers of the ledger's partitions.
type wait struct {
	commands []*controlv1.Command
	ends     map[int32]int64 // of the partitions of zns.control that hold the commands
	waiting  map[int32]bool
	acks     map[int32]control.Ack
}

func (w *wait) run(ctx context.Context, ledger *kafka.Reader, within time.Duration) error {
	waitCtx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for len(w.waiting) > 0 {
		records, err := ledger.Poll(waitCtx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for i := range records {
			if err := w.take(&records[i]); err != nil {
				return err
			}
		}
		if waitCtx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the commands are given, but whether they are obeyed cannot be seen: %w", err)
		}
	}
	return nil
}

func (w *wait) take(r *kafka.Record) error {
	if string(r.Key) != control.AckKey {
		return nil
	}
	ack, err := control.DecodeAck(r.Value)
	if err != nil {
		return fmt.Errorf("the commands are given, but whether they are obeyed cannot be seen: %w", err)
	}
	w.acks[r.Partition] = ack
	for p, end := range w.ends {
		if !ack.Position.Reached(p, end-1) {
			return nil
		}
	}
	delete(w.waiting, r.Partition)
	return nil
}

func (w *wait) answer(took time.Duration) *Answer {
	a := &Answer{Partitions: len(w.acks), Missing: slices.Sorted(maps.Keys(w.waiting)), Took: took}
	for p := range w.waiting {
		if _, answered := w.acks[p]; !answered {
			a.Partitions++
		}
	}
	for _, p := range slices.Sorted(maps.Keys(w.acks)) {
		skipped := false
		for _, c := range w.commands {
			if c.GetAction() == controlv1.Action_ACTION_HOLD || c.GetAction() == controlv1.Action_ACTION_RELEASE {
				continue
			}
			r, told := w.acks[p].Result(uuid.MustParse(c.GetCommandId()))
			skipped = skipped || !told && !w.waiting[p]
			a.Changed, a.TooLate, a.Left = a.Changed+r.Changed, a.TooLate+r.TooLate, a.Left+r.Left
		}
		if skipped {
			a.Skipped = append(a.Skipped, p)
		}
	}
	return a
}

// Rules reads zns.control to its end and returns what it says.
func Rules(ctx context.Context, client []kgo.Opt) (*control.View, error) {
	return control.Read(ctx, client)
}

// Tidy writes tombstones for what no sender needs any more, and returns how many. Senders that never came back within
// age do not miss it: what was to be done once has expired for them.
func (g *Giver) Tidy(ctx context.Context, view *control.View, age time.Duration) (int, error) {
	keys := view.Stale(time.Now(), age)
	if len(keys) == 0 {
		return 0, nil
	}
	records := make([]kafka.Record, len(keys))
	for i, key := range keys {
		records[i] = kafka.Record{Topic: topic.Control, Partition: -1, Key: []byte(key)}
	}
	writer, err := kafka.NewWriter(g.Client...)
	if err != nil {
		return 0, err
	}
	defer writer.Close()
	if err := writer.Write(ctx, records...); err != nil {
		return 0, fmt.Errorf("tidy %s: %w", topic.Control, err)
	}
	return len(keys), nil
}

// ErrNotConfirmed is returned where a person had to agree and did not.
var ErrNotConfirmed = errors.New("not confirmed: nothing was done")
