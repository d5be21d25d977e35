package explain

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/notification"
	"github.com/znshub/znshub/pkg/trackingid"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/cli/event"
	"github.com/znshub/znshub/services/sender/control"
)

// Log reads topics. It is what Search needs of Kafka.
type Log interface {
	// Partitions is the number of partitions of a topic.
	Partitions(ctx context.Context, topicName string) (int32, error)
	// Read calls f with every record of the partitions (nil: all) from start to where they end now, and says what it read.
	Read(ctx context.Context, topicName string, partitions []int32, start kafka.Start, f func(kafka.Record)) ([]Range, error)
}

// Query says what is looked for.
type Query struct {
	Text    string // notification_id, "source/key", natural key, msg_id or tracking_id
	Source  string // the service, when Text is a natural key; may be empty
	Input   string // the sender's input topic
	Cluster string // ZNS_CLUSTER, with which tracking_ids are made
}

// Search collects the facts about the notification that q names. Facts without Found: there is none; Searched tells
// where it looked.
//
// An id leads to one partition of each topic, and a ledger entry to the offset of its request: then little is read. An
// ordering_key, which no id tells, makes it look through all partitions of the ledger. A natural key without its source
// and a msg_id need a look at every record of zns.sent, zns.failed and, when they know nothing, the input.
func Search(ctx context.Context, log Log, q Query) (Facts, error) {
	s := &search{log: log, query: q}
	id, certain := q.id()
	if !certain {
		var err error
		if id, err = s.resolve(ctx); err != nil || id == "" {
			return Facts{Searched: s.scanned}, err
		}
	}
	s.facts = Facts{ID: id}
	err := s.collect(ctx)
	s.facts.Searched = append(s.facts.Searched, s.scanned...)
	s.facts.sortSearched(q.Input)
	return s.facts, err
}

// id is the id that the query names for certain.
func (q *Query) id() (id string, certain bool) {
	if id, err := uuid.Parse(q.Text); err == nil && len(q.Text) == 36 {
		return id.String(), true
	}
	if id, err := trackingid.Decode(q.Cluster, q.Text); err == nil {
		return id.Notification.String(), true
	}
	if q.Source != "" {
		return notification.DeriveID(q.Source, q.Text).String(), true
	}
	return "", false
}

// guesses are the ids that the query means when it is "source/key", with the keys; both may have slashes themselves.
func (q *Query) guesses() (ids, keys []string) {
	for i := range q.Text {
		if q.Text[i] == '/' && i > 0 && i < len(q.Text)-1 {
			ids = append(ids, notification.DeriveID(q.Text[:i], q.Text[i+1:]).String())
			keys = append(keys, q.Text[i+1:])
		}
	}
	return ids, keys
}

// resolve finds the id that the query's text means: by a look at the places of the guesses, else by a search for the
// text.
func (s *search) resolve(ctx context.Context) (string, error) {
	guesses, keys := s.query.guesses()
	for _, id := range guesses {
		for _, name := range []string{topic.LedgerOf(s.query.Input), topic.Sent, topic.Failed} {
			found := false
			partitions, err := s.partitionOf(ctx, name, id)
			if err != nil {
				return "", err
			}
			ranges, err := s.log.Read(ctx, name, partitions, kafka.FromStart(), func(r kafka.Record) { found = found || string(r.Key) == id })
			s.scanned = append(s.scanned, ranges...)
			if err != nil || found {
				return id, err
			}
		}
	}
	return s.scan(ctx, guesses, append(keys, s.query.Text))
}

type search struct {
	log     Log
	query   Query
	scanned []Range

	mu    sync.Mutex // guards facts while topics are read side by side
	facts Facts
}

// collect gathers the facts about facts.ID.
func (s *search) collect(ctx context.Context) error {
	if err := s.ledger(ctx, partitionKey{s.facts.ID}); err != nil {
		return err
	}
	if len(s.facts.Ledger) == 0 {
		// An ordering_key may have led it to another partition.
		if err := s.ledger(ctx, nil); err != nil {
			return err
		}
	}
	start := kafka.FromStart()
	if entry := s.facts.oldest(); entry != nil && entry.GetRequestedMs() > 0 {
		// Clocks of the programs that write the events may differ by a little.
		start = kafka.FromTime(time.UnixMilli(entry.GetRequestedMs()).Add(-time.Minute))
	}
	reads := []func(context.Context) error{func(ctx context.Context) error { return s.requests(ctx) }}
	for _, name := range []string{topic.Sent, topic.Failed, topic.Unresolved, topic.Delivered, topic.Overdue} {
		reads = append(reads, func(ctx context.Context) error { return s.events(ctx, name, start) })
	}
	reads = append(reads, func(ctx context.Context) error { return s.snapshot(ctx, start) }, s.rules)
	reads = append(reads, func(ctx context.Context) error { return s.callbacks(ctx, start) })
	reads = append(reads, func(ctx context.Context) error { return s.deadLetters(ctx, start) })
	errs := make([]error, len(reads))
	var all sync.WaitGroup
	for i, read := range reads {
		all.Go(func() { errs[i] = read(ctx) })
	}
	all.Wait()
	s.facts.sort()
	for _, err := range errs {
		if err != nil {
			return err // the others most likely say the same
		}
	}
	return nil
}

// partitionKey is the key that chooses the one partition to read; nil reads all.
type partitionKey []string

func (s *search) read(ctx context.Context, name string, key partitionKey, start kafka.Start, f func(kafka.Record)) error {
	var partitions []int32
	if len(key) > 0 {
		var err error
		if partitions, err = s.partitionOf(ctx, name, key[0]); err != nil {
			return err
		}
	}
	return s.readPartitions(ctx, name, partitions, start, f)
}

// partitionOf is the partition that the hub gives to a record with this key.
func (s *search) partitionOf(ctx context.Context, name, key string) ([]int32, error) {
	n, err := s.log.Partitions(ctx, name)
	if err != nil {
		return nil, err
	}
	return []int32{kafka.Murmur2Partition([]byte(key), n)}, nil
}

func (s *search) readPartitions(ctx context.Context, name string, partitions []int32, start kafka.Start, f func(kafka.Record)) error {
	ranges, err := s.log.Read(ctx, name, partitions, start, func(r kafka.Record) {
		s.mu.Lock()
		defer s.mu.Unlock()
		f(r)
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.facts.Searched = append(s.facts.Searched, ranges...)
	return err
}

func (s *search) ledger(ctx context.Context, key partitionKey) error {
	name := topic.LedgerOf(s.query.Input)
	id := []byte(s.facts.ID)
	var broken error
	err := s.read(ctx, name, key, kafka.FromStart(), func(r kafka.Record) {
		if !bytes.Equal(r.Key, id) {
			return
		}
		v := Version{Topic: name, Partition: r.Partition, Offset: r.Offset, Time: r.Time}
		if r.Value != nil {
			v.Entry = &ledgerv1.Entry{}
			if err := proto.Unmarshal(r.Value, v.Entry); err != nil {
				broken = fmt.Errorf("read %s[%d]@%d: %w", name, r.Partition, r.Offset, err)
				return
			}
		}
		s.facts.Ledger = append(s.facts.Ledger, v)
	})
	return errors.Join(err, broken)
}

// requests finds the request, its repetitions and, when it was moved, where its caller first wrote it.
func (s *search) requests(ctx context.Context) error {
	match := func(r kafka.Record) {
		if e := event.Decode(r); e.ID == s.facts.ID {
			s.facts.Requests = append(s.facts.Requests, e)
		}
	}
	entry := s.facts.oldest()
	if entry == nil {
		return s.read(ctx, s.query.Input, nil, kafka.FromStart(), match)
	}
	at := s.facts.Ledger[0].Partition
	if err := s.readPartitions(ctx, s.query.Input, []int32{at}, kafka.FromOffsets(map[int32]int64{at: entry.GetInputOffset()}), match); err != nil {
		return err
	}
	partition, offset, moved := strings.Cut(entry.GetMovedFrom(), "@")
	p, pErr := strconv.ParseInt(partition, 10, 32)
	o, oErr := strconv.ParseInt(offset, 10, 64)
	if known := moved && pErr == nil && oErr == nil; !known {
		return nil
	}
	first := false
	return s.readPartitions(ctx, s.query.Input, []int32{int32(p)}, kafka.FromOffsets(map[int32]int64{int32(p): o}), func(r kafka.Record) {
		if r.Offset == o && !first {
			first = true
			match(r)
		}
	})
}

func (s *search) events(ctx context.Context, name string, start kafka.Start) error {
	id := []byte(s.facts.ID)
	return s.read(ctx, name, partitionKey{s.facts.ID}, start, func(r kafka.Record) {
		if bytes.Equal(r.Key, id) {
			s.facts.Events = append(s.facts.Events, event.Decode(r))
		}
	})
}

// snapshot finds the latest snapshot in zns.status.
func (s *search) snapshot(ctx context.Context, start kafka.Start) error {
	id := []byte(s.facts.ID)
	return s.read(ctx, topic.Status, partitionKey{s.facts.ID}, start, func(r kafka.Record) {
		if !bytes.Equal(r.Key, id) {
			return
		}
		m := &znsv1.Status{}
		if r.Value == nil || kafka.Decode(r, m) != nil {
			s.facts.Status = nil
			return
		}
		s.facts.Status = &Snapshot{Partition: r.Partition, Offset: r.Offset, Time: r.Time, Status: m}
	})
}

// rules finds the standing holds of operators, all of them: there are few.
func (s *search) rules(ctx context.Context) error {
	var records []kafka.Record
	err := s.readPartitions(ctx, topic.Control, nil, kafka.FromStart(), func(r kafka.Record) { records = append(records, r) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.facts.Rules = control.ViewOf(control.Position{}, records...).Rules()
	return err
}

func (s *search) callbacks(ctx context.Context, start kafka.Start) error {
	id := []byte(s.facts.ID)
	return s.read(ctx, topic.Callback, partitionKey{s.facts.ID}, start, func(r kafka.Record) {
		if bytes.Equal(r.Key, id) {
			s.facts.Callbacks = append(s.facts.Callbacks, event.Decode(r))
		}
	})
}

// deadLetters looks through all dead letters: their keys are those of whoever wrote the request.
func (s *search) deadLetters(ctx context.Context, start kafka.Start) error {
	return s.read(ctx, topic.DLQOf(s.query.Input), nil, start, func(r kafka.Record) {
		if e := event.Decode(r); e.ID == s.facts.ID {
			s.facts.Events = append(s.facts.Events, e)
		}
	})
}

// scan looks for the query's text as natural key or msg_id, and for the guesses, and returns the newest notification
// that fits. Every record that fits holds one of the texts.
func (s *search) scan(ctx context.Context, guesses, texts []string) (id string, err error) {
	var newest time.Time
	match := func(r kafka.Record) {
		// Decoding is dear. Values with a backslash may be JSON that spells the text in its own way.
		may := bytes.IndexByte(r.Value, '\\') >= 0
		for _, text := range texts {
			may = may || bytes.Contains(r.Value, []byte(text))
		}
		if !may {
			return
		}
		e := event.Decode(r)
		result, _ := e.Message.(interface{ GetMsgId() string })
		if e.ID == "" || e.Key != s.query.Text && !slices.Contains(guesses, e.ID) && (result == nil || result.GetMsgId() != s.query.Text) {
			return
		}
		if !r.Time.Before(newest) {
			newest, id = r.Time, e.ID
		}
	}
	for _, name := range []string{topic.Sent, topic.Failed, topic.Status, s.query.Input} {
		ranges, err := s.log.Read(ctx, name, nil, kafka.FromStart(), match)
		s.scanned = append(s.scanned, ranges...)
		if err != nil || id != "" {
			return id, err
		}
	}
	return "", nil
}

// oldest is the oldest version of the entry that is still there and no tombstone.
func (f *Facts) oldest() *ledgerv1.Entry {
	for _, v := range f.Ledger {
		if v.Entry != nil {
			return v.Entry
		}
	}
	return nil
}

// sort brings the facts into an order that does not depend on which read was first.
func (f *Facts) sort() {
	byTime := func(a, b event.Event) int {
		return cmp.Or(a.Record.Time.Compare(b.Record.Time), cmp.Compare(a.Record.Topic, b.Record.Topic), cmp.Compare(a.Record.Offset, b.Record.Offset))
	}
	slices.SortStableFunc(f.Requests, func(a, b event.Event) int {
		// A moved copy keeps the time of the caller's own record, which goes first.
		return cmp.Or(a.Record.Time.Compare(b.Record.Time), cmp.Compare(a.MovedFrom(), b.MovedFrom()), cmp.Compare(a.Record.Offset, b.Record.Offset))
	})
	f.Requests = slices.CompactFunc(f.Requests, func(a, b event.Event) bool {
		return a.Record.Partition == b.Record.Partition && a.Record.Offset == b.Record.Offset
	})
	slices.SortStableFunc(f.Events, byTime)
	slices.SortStableFunc(f.Callbacks, byTime)
	slices.SortStableFunc(f.Ledger, func(a, b Version) int { return cmp.Compare(a.Offset, b.Offset) })
}

// sortSearched lists what was read in the order of a notification's life, each range once.
func (f *Facts) sortSearched(input string) {
	order := append(event.Topics(input), topic.LedgerOf(input))
	slices.SortStableFunc(f.Searched, func(a, b Range) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Topic), slices.Index(order, b.Topic)), cmp.Compare(a.Partition, b.Partition),
			cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	f.Searched = slices.CompactFunc(f.Searched, func(a, b Range) bool {
		return a.Topic == b.Topic && a.Partition == b.Partition && a.From == b.From && a.To == b.To
	})
}
