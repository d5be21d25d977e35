// Package doctor examines what a hub stands on (brokers, topics, groups, clocks, Zalo's side) and says of each thing
// whether it is as it must be, why that matters, and what mends it.
//
// An examination changes nothing and sends nothing to anybody: it reads settings, offsets and the tails of topics, asks
// Zalo for an OA's quota, and at most GETs the webhook. It does not need a running sender. Findings carry no personal
// data and no secret. What cannot be asked becomes a finding of its own: an examination never fails as a whole.
package doctor

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/proto/topic"
)

// Level is how bad a finding is.
type Level string

// The levels.
const (
	Good    Level = "ok"
	Warning Level = "warning" // works, and should be mended
	Problem Level = "problem" // a program refuses to work, or a promise does not hold
	Unknown Level = "skipped" // was not examined
)

// Finding is one thing that was looked at.
type Finding struct {
	Check string `json:"check"`
	Level Level  `json:"level"`
	What  string `json:"what"`
	Why   string `json:"why,omitempty"`  // why it matters; empty when all is well
	Mend  string `json:"mend,omitempty"` // the command or setting that mends it
}

// Config says what is examined.
type Config struct {
	Admin  *kafka.Admin
	Client []kgo.Opt // how to reach the brokers
	Specs  []topic.Spec

	Topic       string // of requests
	SenderGroup string
	IngestGroup string

	Zalo    Zalo
	Webhook string // public URL of the webhook; empty: it is not called
}

// timeout bounds one check.
const timeout = 10 * time.Second

type check struct {
	name string
	run  func(*examination, context.Context) []Finding
}

// checks in the order in which they are told: what others rest on comes first.
var checks = []check{
	{"brokers", (*examination).brokers},
	{"features", (*examination).features},
	{"clock", (*examination).clock},
	{"topics", (*examination).topics},
	{"replicas", (*examination).replicas},
	{"kafka's own topics", (*examination).internalTopics},
	{"sessions", (*examination).sessions},
	{"sender group", (*examination).senderGroup},
	{"ingest group", (*examination).ingestGroup},
	{"transactions", (*examination).transactions},
	{"partitioner", (*examination).partitioner},
	{"dead letters", (*examination).deadLetters},
	{"callbacks", (*examination).callbacks},
	{"webhook", (*examination).webhook},
	{"zalo", (*examination).zalo},
}

// examination is one run over a cluster.
type examination struct {
	Config
	brokerStates []kafka.BrokerState
	found        map[string]kafka.TopicInfo // of Specs
	groups       map[string]kafka.Group
}

// Examine runs every check and hands each finding to tell as soon as it is there.
func Examine(ctx context.Context, cfg Config, tell func(Finding)) {
	x := &examination{Config: cfg, groups: map[string]kafka.Group{}}
	for _, c := range checks {
		within, cancel := context.WithTimeout(ctx, timeout)
		for _, f := range c.run(x, within) {
			f.Check = c.name
			tell(f)
		}
		cancel()
	}
}

func good(what string) Finding { return Finding{Level: Good, What: what} }

func skipped(what, mend string) Finding { return Finding{Level: Unknown, What: what, Mend: mend} }

// unasked is the finding where the cluster did not answer a question.
func unasked(err error) []Finding {
	return []Finding{{
		Level: Warning, What: "could not be examined: " + err.Error(), Why: "nobody knows whether it is as it must be",
		Mend: "ask again; a refused question wants the ACLs Describe and DescribeConfigs on cluster, topics and groups",
	}}
}

// exists reports whether a topic of the table is there.
func (x *examination) exists(ctx context.Context, name string) bool {
	if x.found == nil {
		names := make([]string, len(x.Specs))
		for i, s := range x.Specs {
			names[i] = s.Name
		}
		var err error
		if x.found, err = x.Admin.Topics(ctx, names...); err != nil {
			x.found = nil
			return false
		}
	}
	_, ok := x.found[name]
	return ok
}
