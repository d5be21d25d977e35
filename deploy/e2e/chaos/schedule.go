package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/stream"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
)

// Kind is one way in which something goes wrong.
type Kind string

// The kinds. Senders and webhook-ingest are stopped in every way that there is; the broker is one for all.
const (
	Killed      Kind = "kill -9"
	Crashed     Kind = "crash at a step"
	Terminated  Kind = "SIGTERM"
	Paused      Kind = "SIGSTOP"
	CutBroker   Kind = "network to the broker"
	CutZalo     Kind = "network to Zalo"
	ClockSet    Kind = "clock set"
	BrokerKill  Kind = "broker killed"
	BrokerPause Kind = "broker stopped"
	DiskFull    Kind = "broker's disk full"
	Misanswer   Kind = "Zalo answers badly"
	Miscallback Kind = "callbacks go astray"
	CutWebhook  Kind = "network to the webhook"
	ZaloPause   Kind = "Zalo stopped"
	Held        Kind = "campaign held"
	Cancelled   Kind = "campaign cancelled"
)

// What is in no plan: a fault of Kafka itself, and what the attendant does about such.
const (
	GroupAway         Kind = "group not served"
	GroupMoved        Kind = "group moved"
	TransactionsEnded Kind = "transactions ended"
)

// Event is one thing that goes wrong.
type Event struct {
	At      time.Duration // from the start of the traffic
	For     time.Duration
	Kind    Kind
	Who     string // process; empty: broker or simulator
	Weather harness.Weather
	Skew    time.Duration
	Step    string // "step#n"
	Fault   zalosim.Fault

	Campaign string
}

func (e Event) String() string {
	what := string(e.Kind)
	switch e.Kind {
	case Crashed:
		what += " " + e.Step
	case CutBroker, CutZalo, CutWebhook:
		what += " " + e.Weather.String()
	case Held, Cancelled:
		what += " " + e.Campaign
	case ClockSet:
		what += fmt.Sprintf(" %+d s", int(e.Skew.Seconds()))
	case Misanswer, Miscallback:
		what += fmt.Sprintf(" %s", e.Fault.Kind)
		if e.Fault.Code != 0 || e.Fault.Status != 0 {
			what += fmt.Sprintf(" %d", e.Fault.Code+e.Fault.Status)
		}
		what += fmt.Sprintf(" p=%.2f", e.Fault.Probability)
		if e.Fault.TemplateID != "" {
			what += " template " + e.Fault.TemplateID
		}
	}
	return strings.TrimSpace(fmt.Sprintf("%7.1fs %-8s %s for %.1fs", e.At.Seconds(), e.Who, what, e.For.Seconds()))
}

// ends reports whether calls that are under way at the named process may stay without a known outcome: it, or what it
// commits to, was away.
func (e Event) ends(process string) bool {
	switch e.Kind {
	case Killed, Crashed, Paused, CutBroker:
		return e.Who == process
	case BrokerKill, BrokerPause, DiskFull, GroupAway:
		return true
	}
	return false
}

// garbles reports whether the named process may miss an answer of Zalo.
func (e Event) garbles(process string) bool {
	switch e.Kind {
	case CutZalo, Paused:
		return e.Who == process
	case Misanswer, ZaloPause:
		return true
	}
	return false
}

// Senders and Ingest are the processes that events name.
var (
	Senders = []string{"sender-0", "sender-1", "sender-2"}
	Ingest  = harness.Ingest
)

// Sessions, launch deadlines and drains are of some seconds: stays are shorter and longer than each of them.
var stays = []time.Duration{
	300 * time.Millisecond, time.Second, 3 * time.Second, 5500 * time.Millisecond, 8 * time.Second, 13 * time.Second, 20 * time.Second,
}

// skews are within what is tolerated, beyond, and days away.
var skews = []time.Duration{
	4 * time.Second, -4 * time.Second, 20 * time.Second, -20 * time.Second, 45 * time.Second, -45 * time.Second,
	10 * time.Minute, -10 * time.Minute, 25 * time.Hour, -25 * time.Hour,
}

// Steps are those at which a sender can kill itself, in the spelling of hooked-sender.
func Steps() []string {
	all := stream.Steps()
	list := make([]string, 0, 3+len(all))
	list = append(list, "call: dialled", "call: written", "call: answered")
	for _, s := range all {
		list = append(list, s.String())
	}
	return list
}

// answers are the faults of Zalo's answers, callbacks those of its callbacks. Refusals go to templates that carry no
// ordering_key: what is held for them overtakes nobody.
var answers = []zalosim.Fault{
	{Kind: zalosim.FaultLostAnswer}, {Kind: zalosim.FaultResetBefore}, {Kind: zalosim.FaultResetAfter}, {Kind: zalosim.FaultResetMidBody},
	{Kind: zalosim.FaultTruncated}, {Kind: zalosim.FaultHTML, Status: 502, Accept: true}, {Kind: zalosim.FaultHTML, Status: 503},
	{Kind: zalosim.FaultHTML, Status: 429}, {Kind: zalosim.FaultHang}, {Kind: zalosim.FaultSlow, Delay: 2 * time.Second},
	{Kind: zalosim.FaultSlow, Delay: 6 * time.Second}, {Kind: zalosim.FaultQuoted}, {Kind: zalosim.FaultNoMsgID}, {Kind: zalosim.FaultRedirect},
	{Kind: zalosim.FaultCode, Code: -32, TemplateID: templateCare}, {Kind: zalosim.FaultCode, Code: -100, TemplateID: templateCare},
	{Kind: zalosim.FaultCode, Code: -118, TemplateID: templateCare}, {Kind: zalosim.FaultCode, Code: -200, TemplateID: templatePromotion},
	{Kind: zalosim.FaultCode, Code: -1471, TemplateID: templatePromotion},
}

var callbacks = []zalosim.Fault{
	{Kind: zalosim.FaultCallbackBefore}, {Kind: zalosim.FaultCallbackTwice}, {Kind: zalosim.FaultCallbackSwapped},
	{Kind: zalosim.FaultCallbackDelayed, Delay: 30 * time.Second}, {Kind: zalosim.FaultCallbackDelayed, Delay: 8 * time.Second},
	{Kind: zalosim.FaultCallbackLost}, {Kind: zalosim.FaultCallbackForged}, {Kind: zalosim.FaultCallbackApp},
	{Kind: zalosim.FaultOffline, Delay: 10 * time.Second}, {Kind: zalosim.FaultNeverDelivered},
}

// shares says how often each kind comes.
var shares = []struct {
	kind   Kind
	weight int
}{
	{Killed, 12}, {Crashed, 16}, {Terminated, 8}, {Paused, 9}, {CutBroker, 10}, {CutZalo, 6}, {ClockSet, 5},
	{BrokerKill, 3}, {BrokerPause, 2}, {DiskFull, 1}, {Misanswer, 14}, {Miscallback, 8}, {CutWebhook, 3}, {ZaloPause, 2}, {Held, 5}, {Cancelled, 2},
}

// gap is the usual time from one event to the next.
const gap = 3500 * time.Millisecond

// Plan says what goes wrong in a run of the given length. The same seed and length make the same plan. One process, and
// the broker, has one event at a time.
func Plan(seed uint64, length time.Duration) []Event {
	r := rand.New(rand.NewPCG(seed, 77))
	total := 0
	for _, s := range shares {
		total += s.weight
	}
	busy := map[string]time.Duration{}
	var plan []Event
	for at := 5 * time.Second; ; at += time.Duration((0.2 + 1.6*r.Float64()) * float64(gap)) {
		n := r.IntN(total)
		kind := shares[0].kind
		for _, s := range shares {
			if kind = s.kind; n < s.weight {
				break
			}
			n -= s.weight
		}
		e := Event{At: at, For: stays[r.IntN(len(stays))], Kind: kind}
		e.detail(r)
		if at+e.For > length {
			if at > length {
				return plan
			}
			continue
		}
		on := e.Target()
		if busy[on] > at {
			continue
		}
		busy[on] = at + e.For + 2*time.Second
		if on == "broker" {
			busy[on] += 25 * time.Second // it comes back slowly, and there is only one
		}
		plan = append(plan, e)
	}
}

// detail chooses what a kind leaves open.
func (e *Event) detail(r *rand.Rand) {
	sender := Senders[r.IntN(len(Senders))]
	anyone := sender
	if r.IntN(5) == 0 {
		anyone = Ingest
	}
	weather := []harness.Weather{harness.Cut, harness.Silent, harness.Slow}[r.IntN(3)]
	switch e.Kind {
	case Killed, Terminated, Paused:
		e.Who = anyone
	case CutBroker:
		e.Who, e.Weather = anyone, weather
	case CutZalo:
		e.Who, e.Weather = sender, weather
	case CutWebhook:
		e.Weather = weather
	case ClockSet:
		e.Who, e.Skew = sender, skews[r.IntN(len(skews))]
	case Crashed:
		all := Steps()
		e.Who, e.Step = sender, fmt.Sprintf("%s#%d", all[r.IntN(len(all))], 1+r.IntN(6))
	case Held, Cancelled:
		e.Campaign = campaign(r)
	case BrokerKill, BrokerPause, DiskFull:
		e.For = min(e.For, 13*time.Second)
	case Misanswer:
		e.Fault = answers[r.IntN(len(answers))]
		e.Fault.Probability = []float64{0.02, 0.1, 0.5, 1}[r.IntN(4)]
	case Miscallback:
		e.Fault = callbacks[r.IntN(len(callbacks))]
		e.Fault.Probability = []float64{0.1, 0.5, 1}[r.IntN(3)]
	}
}

// Target is what can take one event at a time.
func (e Event) Target() string {
	switch e.Kind {
	case BrokerKill, BrokerPause, DiskFull:
		return "broker"
	case Misanswer:
		return "answers"
	case Miscallback, CutWebhook:
		return "callbacks"
	case ZaloPause:
		return "zalo"
	case Held, Cancelled:
		return e.Campaign
	case CutBroker, CutZalo:
		return e.Who + " network"
	}
	return e.Who
}

// AllKinds lists every kind.
func AllKinds() []Kind {
	kinds := make([]Kind, 0, len(shares))
	for _, s := range shares {
		kinds = append(kinds, s.kind)
	}
	return kinds
}

// Kinds counts a plan by kind.
func Kinds(plan []Event) map[Kind]int {
	m := map[Kind]int{}
	for _, e := range plan {
		m[e.Kind]++
	}
	return m
}

// Text is a plan for people, one event per line.
func Text(plan []Event) string {
	sorted := slices.SortedStableFunc(slices.Values(plan), func(a, b Event) int { return int(a.At - b.At) })
	var b strings.Builder
	for _, e := range sorted {
		fmt.Fprintln(&b, e)
	}
	return b.String()
}
