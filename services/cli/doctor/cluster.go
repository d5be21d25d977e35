package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
)

// minimal levels of the cluster's features.
const (
	transactionVersion = 2 // KIP-890: Apache Kafka 4.0
	groupVersion       = 1 // KIP-848
)

// brokers tells how many there are, and whether all of them run the same version.
func (x *examination) brokers(ctx context.Context) []Finding {
	var err error
	if x.brokerStates, err = x.Admin.BrokerStates(ctx); err != nil {
		return unasked(err)
	}
	count := map[string]int{}
	var versions []string
	for _, b := range x.brokerStates {
		if count[b.Version]++; count[b.Version] == 1 {
			versions = append(versions, b.Version)
		}
	}
	if len(versions) > 1 {
		slices.Sort(versions)
		return []Finding{{
			Level: Warning, What: fmt.Sprintf("%d brokers of several versions: %s", len(x.brokerStates), strings.Join(versions, ", ")),
			Why:  "features stay at what the oldest broker knows; a roll that was not finished hides trouble",
			Mend: "finish the upgrade",
		}}
	}
	what := fmt.Sprintf("%d brokers, each about Kafka %s", len(x.brokerStates), strings.TrimPrefix(versions[0], "v"))
	if len(x.brokerStates) == 1 {
		what = "1 broker, about Kafka " + strings.TrimPrefix(versions[0], "v")
	}
	if len(x.brokerStates) < 3 {
		return []Finding{{
			Level: Warning, What: what,
			Why:  "the ledger is the only copy of what was sent: with fewer than 3 brokers the loss of a disk loses it",
			Mend: "run 3 brokers, then give every topic 3 replicas and min.insync.replicas=2",
		}}
	}
	return []Finding{good(what)}
}

// features looks at what the programs need of the protocol.
func (x *examination) features(context.Context) []Finding {
	if len(x.brokerStates) == 0 {
		return []Finding{skipped("the brokers did not tell", "")}
	}
	lowest := func(name string) kafka.Feature {
		f := x.brokerStates[0].Features[name]
		for _, b := range x.brokerStates {
			f.Finalized, f.Supported = min(f.Finalized, b.Features[name].Finalized), min(f.Supported, b.Features[name].Supported)
		}
		return f
	}
	var findings []Finding
	switch f := lowest("transaction.version"); {
	case f.Supported < transactionVersion:
		findings = append(findings, Finding{
			Level: Problem, What: "a broker does not know transaction.version 2",
			Why:  "sender and webhook-ingest refuse to start: without KIP-890 a late request of a dead owner can join a transaction of its successor",
			Mend: "upgrade every broker to Apache Kafka 4.0 or newer",
		})
	case f.Finalized < transactionVersion:
		findings = append(findings, Finding{
			Level: Problem, What: fmt.Sprintf("transaction.version is %d, want 2", f.Finalized),
			Why:  "sender and webhook-ingest refuse to start: without KIP-890 a late request of a dead owner can join a transaction of its successor",
			Mend: x.Admin.Command("kafka-features.sh", "upgrade --feature transaction.version=2"),
		})
	default:
		findings = append(findings, good(fmt.Sprintf("transaction.version %d", f.Finalized)))
	}
	if f := lowest("group.version"); f.Finalized < groupVersion {
		mend := "upgrade every broker to Apache Kafka 4.0 or newer"
		if f.Supported >= groupVersion {
			mend = x.Admin.Command("kafka-features.sh", "upgrade --feature group.version=1")
		}
		findings = append(findings, Finding{
			Level: Warning, What: fmt.Sprintf("group.version is %d: the group protocol of KIP-848 is off", f.Finalized),
			Why: "the classic protocol serves; in storms of joins and leaves it moves partitions more slowly", Mend: mend,
		})
	} else {
		findings = append(findings, good(fmt.Sprintf("group.version %d", f.Finalized)))
	}
	return findings
}

// maxSkew is where the sender stops: beyond it nothing is started, expired or forgotten.
const maxSkew = 30 * time.Second

// clock compares this machine's with the controller's, and with what brokers stamped on the ledger.
func (x *examination) clock(ctx context.Context) []Finding {
	const why = "expiry, night hours and the dedupe window are times of day: a sender whose clock differs from the brokers' by more than 30 s starts nothing"
	at, took, err := x.Admin.ControllerTime(ctx)
	if errors.Is(err, kafka.ErrNotTold) {
		return []Finding{skipped("the brokers do not tell their time", "")}
	}
	if err != nil {
		return unasked(err)
	}
	// It was read at some moment of the round trip.
	ahead := time.Since(at.Add(took / 2))
	if ahead.Abs() <= took {
		ahead = 0
	}
	findings := []Finding{skew("this machine's clock and the controller's", ahead, why)}
	for _, s := range x.Specs {
		if !s.Ledger || !x.exists(ctx, s.Name) {
			continue
		}
		// Append times are the brokers' own; one that lies ahead was stamped by a clock that is.
		latest, err := x.Admin.LatestTime(ctx, s.Name)
		if err == nil && time.Until(latest) > maxSkew {
			findings = append(findings, skew("this machine's clock and that of a broker that wrote "+s.Name, -time.Until(latest), why))
		}
	}
	return findings
}

func skew(what string, by time.Duration, why string) Finding {
	f := Finding{Level: Good, What: fmt.Sprintf("%s differ by %s", what, by.Abs().Round(time.Millisecond))}
	if by == 0 {
		f.What = what + " agree"
	}
	switch {
	case by.Abs() > maxSkew:
		f.Level = Problem
	case by.Abs() > maxSkew/6:
		f.Level = Warning
	default:
		return f
	}
	f.Why, f.Mend = why, "run NTP on every machine (chronyc tracking, timedatectl)"
	return f
}

// topics compares them with the table.
func (x *examination) topics(ctx context.Context) []Finding {
	problems, err := x.Admin.Check(ctx, x.Specs)
	if err != nil {
		return unasked(err)
	}
	var findings []Finding
	missing := map[string]bool{}
	for _, p := range problems {
		if p.Warning && len(x.brokerStates) < 3 {
			continue // of the copies, which the finding about brokers tells
		}
		f := Finding{Level: Problem, What: p.Topic + ": " + p.What, Why: x.whyTopic(p.Topic), Mend: p.Command}
		if p.Warning {
			f.Level = Warning
		}
		if !x.exists(ctx, p.Topic) {
			missing[p.Topic] = true
			f.Why = "a program that needs it refuses to start"
		}
		findings = append(findings, f)
	}
	if len(findings) == 0 {
		return []Finding{good(fmt.Sprintf("%d topics with the settings that they must have", len(x.Specs)))}
	}
	// One line for all that are missing: a new cluster would fill the screen.
	if len(missing) > 1 {
		findings = slices.DeleteFunc(findings, func(f Finding) bool { return strings.HasSuffix(f.What, ": it does not exist") })
		findings = append([]Finding{{
			Level: Problem, What: fmt.Sprintf("%d of %d topics do not exist", len(missing), len(x.Specs)),
			Why: "programs that need them refuse to start", Mend: "zns topics ensure",
		}}, findings...)
	}
	return findings
}

func (x *examination) whyTopic(name string) string {
	for _, s := range x.Specs {
		if s.Name == name && s.Ledger {
			return "it is the only copy of what was sent and what waits: with other settings it forgets, and forgotten ids can be sent again"
		}
	}
	return "programs refuse a topic that keeps records otherwise than they rely on"
}

// replicas looks whether partitions can be read and written.
func (x *examination) replicas(ctx context.Context) []Finding {
	names := make([]string, 0, len(x.Specs)+2)
	for _, s := range x.Specs {
		if x.exists(ctx, s.Name) {
			names = append(names, s.Name)
		}
	}
	health, err := x.Admin.Health(ctx, append(names, kafka.ConsumerOffsets, kafka.TransactionState)...)
	if err != nil {
		return unasked(err)
	}
	var findings []Finding
	behind := 0
	for _, name := range append(names, kafka.ConsumerOffsets, kafka.TransactionState) {
		h := health[name]
		if len(h.Leaderless) > 0 {
			findings = append(findings, Finding{
				Level: Problem, What: fmt.Sprintf("%s: no leader for partitions %s", name, list(h.Leaderless)),
				Why: "nobody can read or write them", Mend: "bring back a broker that holds a copy in sync",
			})
		}
		if len(h.UnderMin) > 0 {
			findings = append(findings, Finding{
				Level: Problem, What: fmt.Sprintf("%s: fewer copies in sync than min.insync.replicas in partitions %s", name, list(h.UnderMin)),
				Why: "brokers refuse writes: nothing is sent from these partitions", Mend: "bring back the brokers that are away",
			})
		}
		behind += len(h.Behind)
	}
	if behind > 0 {
		findings = append(findings, Finding{
			Level: Warning, What: fmt.Sprintf("%d partitions have copies that are missing or behind", behind),
			Why: "the next loss of a broker may stop writes", Mend: x.Admin.Command("kafka-topics.sh", "--describe --under-replicated-partitions"),
		})
	}
	if len(findings) == 0 {
		return []Finding{good("every partition has a leader and all its copies in sync")}
	}
	return findings
}

// internalTopics looks at what the promise rests on besides the hub's own topics.
func (x *examination) internalTopics(ctx context.Context) []Finding {
	var findings []Finding
	told := make([]string, 0, 2)
	for _, name := range []string{kafka.TransactionState, kafka.ConsumerOffsets} {
		replicas, least, exists, err := x.Admin.Copies(ctx, name)
		if err != nil {
			return unasked(err)
		}
		if !exists {
			told = append(told, name+" does not exist yet")
			continue
		}
		told = append(told, fmt.Sprintf("%s has %s", name, copies(replicas)))
		if len(x.brokerStates) >= 3 && (replicas < 3 || name == kafka.TransactionState && least < 2) {
			findings = append(findings, Finding{
				Level: Problem, What: fmt.Sprintf("%s has %s and min.insync.replicas %d, want 3 and 2", name, copies(replicas), least),
				Why: "whether a transaction was committed is known there alone: with one disk goes the decision, and an intent that was committed may look aborted",
				Mend: x.Admin.Command("kafka-reassign-partitions.sh",
					"--reassignment-json-file FILE --execute (FILE gives every partition 3 replicas); for new clusters transaction.state.log.replication.factor=3, offsets.topic.replication.factor=3"),
			})
		}
	}
	if len(findings) == 0 {
		return []Finding{good(strings.Join(told, ", "))}
	}
	return findings
}

func copies(n int) string {
	if n == 1 {
		return "1 copy"
	}
	return strconv.Itoa(n) + " copies"
}

// list writes partition numbers, and not hundreds of them.
func list(partitions []int32) string {
	const most = 12
	texts := make([]string, 0, most+1)
	for i, p := range partitions {
		if i == most {
			texts = append(texts, fmt.Sprintf("and %d more", len(partitions)-most))
			break
		}
		texts = append(texts, strconv.Itoa(int(p)))
	}
	return strings.Join(texts, ", ")
}
