package doctor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/notification"
	"github.com/znshub/znshub/proto/topic"
)

// openAllowed is how long a transaction on the input may stay open: readers wait behind it.
const openAllowed = 30 * time.Second

// transactions looks for those that hold readers up: of the hub's topics, and of its groups' offsets.
func (x *examination) transactions(ctx context.Context) []Finding {
	var findings []Finding
	for _, s := range append(slices.Clone(x.Specs), topic.Spec{Name: kafka.ConsumerOffsets}) {
		open, err := x.Admin.HeldBack(ctx, s.Name, x.SenderGroup, x.IngestGroup)
		if err != nil {
			return unasked(err)
		}
		for _, t := range open {
			if f, ok := x.judge(t); ok {
				findings = append(findings, f)
			}
		}
	}
	if len(findings) == 0 {
		return []Finding{good("no transaction holds readers up")}
	}
	return findings
}

// judge says whether an open transaction is more than one of many that are under way.
func (x *examination) judge(t kafka.OpenTransaction) (Finding, bool) {
	age := time.Since(t.LastWrite).Round(time.Second)
	if age < openAllowed && !t.Hangs() {
		return Finding{}, false
	}
	f := Finding{
		Level: Warning, What: fmt.Sprintf("the transaction %s at %s has written nothing for %s and is open", t.ID, t, age),
		Why: fmt.Sprintf("read-committed readers do not see the %d records from there on", t.Behind),
	}
	if t.Topic == kafka.ConsumerOffsets {
		f.Why = "a group's offsets are not settled: whoever is given its partitions cannot begin with them"
	}
	switch {
	case t.Hangs():
		f.Level = Problem
		f.What = fmt.Sprintf("a transaction at %s is open and its coordinator is done with it: nobody will end it", t)
		f.Mend = "zns transactions end   ends it as its coordinator decided"
	case strings.HasPrefix(t.ID, x.SenderGroup+"-") || strings.HasPrefix(t.ID, x.IngestGroup+"-"):
		f.Mend = "its process hangs or is dead; a successor ends it, when one runs. Restart that instance"
	default:
		f.Mend = "its program hangs or is dead; it ends after that program's transaction.timeout.ms. Restart it"
	}
	return f, true
}

// sample is how many of the last records of each partition are read.
const sample = 200

// tail reads the last committed records of a topic, as far as it gets in the time that is left.
func (x *examination) tail(ctx context.Context, name string) ([]kafka.Record, error) {
	ends, err := x.Admin.StableOffsets(ctx, name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout/2)
	defer cancel()
	from := make(map[int32]int64, len(ends))
	for p, end := range ends {
		from[p] = max(0, end-sample)
	}
	var records []kafka.Record
	err = kafka.ReadToEnd(ctx, kafka.ReaderConfig{Client: x.Client, Topic: name, Start: kafka.FromOffsets(from)}, func(r kafka.Record) error {
		records = append(records, r)
		return nil
	})
	if ctx.Err() != nil {
		err = nil // an open transaction at the end: what was read is enough for a sample
	}
	return records, err
}

const (
	headerMoved     = "zns-moved"
	headerDLQReason = "zns-dlq-reason"
)

// movedAllowed is the share of moved records from which on it is worth a producer's while to change.
const movedAllowed = 0.05

// partitioner looks how much of the input is written twice, because producers put it on another partition than murmur2
// of the key.
func (x *examination) partitioner(ctx context.Context) []Finding {
	if !x.exists(ctx, x.Topic) {
		return []Finding{skipped(x.Topic+" does not exist", "zns topics ensure")}
	}
	records, err := x.tail(ctx, x.Topic)
	if err != nil {
		return unasked(err)
	}
	moved, direct := 0, 0
	by := map[string]int{}
	for _, r := range records {
		if _, ok := r.Header(headerMoved); !ok {
			direct++
			continue
		}
		moved++
		if request, _ := notification.Decode(r); request.GetSource() != "" {
			by[request.GetSource()]++
		}
	}
	if direct == 0 {
		return []Finding{skipped("no request on "+x.Topic, "")}
	}
	share := float64(moved) / float64(direct)
	what := fmt.Sprintf("%d of the last %d requests were moved to another partition", moved, direct)
	if share <= movedAllowed {
		return []Finding{good(what)}
	}
	if len(by) > 0 {
		sources := slices.SortedFunc(maps.Keys(by), func(a, b string) int { return by[b] - by[a] })
		what += ", most of source " + strings.Join(sources[:min(3, len(sources))], ", ")
	}
	return []Finding{{
		Level: Warning, What: what,
		Why: "each is written once more and waits for a second commit; whoever reads the topic sees it twice",
		Mend: "let producers partition by murmur2 of ordering_key, else of the id: librdkafka partitioner=murmur2_random, kafka-go Murmur2Balancer, " +
			"Java and franz-go by default, with that as the record's key",
	}}
}

// deadLetters tells what could not be read or broke the rules during the last day.
func (x *examination) deadLetters(ctx context.Context) []Finding {
	name := topic.DLQOf(x.Topic)
	if !x.exists(ctx, name) {
		return []Finding{skipped(name+" does not exist", "zns topics ensure")}
	}
	offsets, err := x.younger(ctx, name, 24*time.Hour)
	if err != nil {
		return unasked(err)
	}
	most := int64(0)
	for _, n := range offsets {
		most = max(most, n)
	}
	if most == 0 {
		return []Finding{good("none in the last 24 hours")}
	}
	records, err := x.tail(ctx, name)
	if err != nil {
		return unasked(err)
	}
	reasons := map[string]int{}
	count := 0
	for _, r := range records {
		if time.Since(r.Time) >= 24*time.Hour {
			continue
		}
		count++
		if reason, ok := r.Header(headerDLQReason); ok {
			reasons[string(reason)]++
		}
	}
	if count == 0 {
		return []Finding{good("none in the last 24 hours")}
	}
	// Records are counted, not offsets, of which the markers of transactions have some too.
	number := fmt.Sprint(count)
	if most > sample {
		number += " or more"
	}
	told := make([]string, 0, len(reasons))
	for _, reason := range slices.SortedFunc(maps.Keys(reasons), func(a, b string) int { return reasons[b] - reasons[a] }) {
		told = append(told, fmt.Sprintf("%s %d", reason, reasons[reason]))
	}
	return []Finding{{
		Level: Warning, What: fmt.Sprintf("%s in the last 24 hours (%s)", number, strings.Join(told, ", ")),
		Why:  "somebody asks for notifications that cannot be sent as they are: nobody gets them",
		Mend: "zns watch --kind dead-letter --since 24h shows them with their reasons; each tells in its headers zns-dlq-… what is wrong and where it came from",
	}}
}

// younger is how many offsets of each partition of a topic are younger than an age.
func (x *examination) younger(ctx context.Context, name string, age time.Duration) (map[int32]int64, error) {
	from, err := x.Admin.OffsetsAt(ctx, name, time.Now().Add(-age))
	if err != nil {
		return nil, err
	}
	ends, err := x.Admin.EndOffsets(ctx, name)
	if err != nil {
		return nil, err
	}
	n := make(map[int32]int64, len(ends))
	for p, end := range ends {
		n[p] = max(0, end-from[p])
	}
	return n, nil
}

// since is how many offsets of a topic are younger than an age.
func (x *examination) since(ctx context.Context, name string, age time.Duration) (int64, error) {
	offsets, err := x.younger(ctx, name, age)
	sum := int64(0)
	for _, n := range offsets {
		sum += n
	}
	return sum, err
}

// sentBefore and sentFor bound what is judged: receipts of what was just sent are still under way.
const (
	judged = time.Hour
	enough = 50
)

// callbacks compares what was sent with what Zalo called back: nothing at all means that Zalo does not reach us.
func (x *examination) callbacks(ctx context.Context) []Finding {
	if !x.exists(ctx, topic.Sent) || !x.exists(ctx, topic.Callback) {
		return []Finding{skipped(topic.Sent+" or "+topic.Callback+" does not exist", "zns topics ensure")}
	}
	sent, err := x.since(ctx, topic.Sent, judged)
	if err != nil {
		return unasked(err)
	}
	got, err := x.since(ctx, topic.Callback, judged)
	if err != nil {
		return unasked(err)
	}
	if got == 0 && sent >= enough {
		return []Finding{{
			Level: Warning, What: "none within the last hour, although messages were sent",
			Why:  "without Zalo's callbacks nothing becomes zns.delivered, and a lost answer cannot be settled",
			Mend: "is the webhook's URL entered and enabled at developers.zalo.me? zns doctor --webhook https://HOST/webhooks/zalo calls it",
		}}
	}
	if got == 0 {
		return []Finding{skipped("none within the last hour, and little was sent", "")}
	}
	return []Finding{good("they arrive")}
}
