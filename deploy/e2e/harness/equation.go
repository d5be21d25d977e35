package harness

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// Request is one notification that was published, however often.
type Request struct {
	ID     string
	Key    string // ordering key; empty: no order was asked for
	Rank   int64  // place of the first copy among the requests of the same Key
	Copies int    // records published with this id, at least 1
	Resend bool   // its policy is RESEND: one more copy for each time that it was unresolved
}

// Call is one message that the simulator accepted: the phone gets it.
type Call struct {
	ID                     string // from the tracking_id; empty when it is not one of ours
	TrackingID             string
	Attempt                int32
	MsgID                  string
	Sequence               int64 // order of acceptance
	Time                   time.Time
	Lost                   bool   // the caller did not get the answer
	Fault                  string // the fault that the answer met, if any
	Callbacks, CallbacksOK int    // posts of its callback, and those answered 200
}

// Window is a time in which the test let answers fail.
type Window struct{ From, To time.Time }

// Event is one record of a result topic, as a read-committed consumer got it.
type Event struct {
	Topic        string
	Partition    int32
	Offset       int64
	ID           string // notification_id
	EventID      string // ce_id
	Attempt      int32
	MsgID        string
	Time         time.Time
	Reason       znsv1.FailureReason // zns.failed
	Cause        znsv1.UnknownCause  // zns.unresolved
	UnknownSince time.Time           // zns.unresolved
	PossiblySent bool                // zns.failed
	Corrects     bool                // zns.sent
	Lateness     time.Duration       // zns.sent: from the request's record to this event
}

// Observation is all that was seen of one run from outside.
type Observation struct {
	Requests   []Request
	Calls      []Call
	Posts      int // requests for a message that the simulator saw, also refused ones
	Sent       []Event
	Failed     []Event
	Unresolved []Event
	Delivered  []Event
	// Kills are the moments at which a sender, or the broker it needs, was stopped without being asked.
	Kills []time.Time
	// Faults are the windows in which the simulator was told to answer badly.
	Faults []Window
}

// Expect says what the run was made for. The zero value is the strictest: everything ended, nothing is unresolved
// without a cause, one copy at most, order kept.
type Expect struct {
	Waiting   int  // requests that may be without any result; -1: any number
	Open      int  // ids that may end in zns.unresolved without a later result; -1: any number
	Unordered bool // the order per key is not looked at
	// LateCalls: the network may hold a call back for longer than its order waits for its outcome. Then what was
	// unresolved may be accepted after those behind it.
	LateCalls bool
	Resend    bool          // policy RESEND: a second copy is allowed after an unresolved attempt
	Delivered bool          // every accepted message must have its zns.delivered
	After     time.Duration // how long after a kill an owner's death may be noticed; default 60 s
}

// Violation is one broken equation.
type Violation struct {
	Rule   string   // the equation
	IDs    []string // who broke it, at most violationIDs of them
	Count  int      // how many broke it
	Detail string   // the first of them in words
}

const violationIDs = 5

func (v Violation) String() string {
	return fmt.Sprintf("%s: %d, such as %s (%s)", v.Rule, v.Count, strings.Join(v.IDs, " "), v.Detail)
}

// Report is what Check found, with the sums for people.
type Report struct {
	Requests, Records                   int // ids and published records
	Posts, Accepted, Twice              int // requests for a message, acceptances, ids with more than one
	Sent, Failed, Unresolved, Delivered int // ids with at least one such event
	Open                                int // ids whose last word is zns.unresolved
	Waiting                             int // ids without any result
	Inversions                          int // acceptances that overtook an earlier request of their key
	Violations                          []Violation
}

// Err is nil when no equation is broken.
func (r *Report) Err() error {
	if len(r.Violations) == 0 {
		return nil
	}
	lines := make([]string, 0, len(r.Violations)+1)
	lines = append(lines, r.String())
	for _, v := range r.Violations {
		lines = append(lines, "broken: "+v.String())
	}
	return fmt.Errorf("%s", strings.Join(lines, "\n"))
}

func (r *Report) String() string {
	return fmt.Sprintf("%d records of %d ids = %d sent + %d failed + %d open + %d waiting; %d calls, %d accepted, "+
		"%d ids twice, %d once unresolved, %d delivered, %d order inversions",
		r.Records, r.Requests, r.Sent, r.Failed, r.Open, r.Waiting, r.Posts, r.Accepted, r.Twice, r.Unresolved,
		r.Delivered, r.Inversions)
}

// book gathers violations by rule.
type book map[string]*Violation

func (b book) add(rule, id, detail string, args ...any) {
	v := b[rule]
	if v == nil {
		v = &Violation{Rule: rule, Detail: fmt.Sprintf(detail, args...)}
		b[rule] = v
	}
	v.Count++
	if len(v.IDs) < violationIDs {
		v.IDs = append(v.IDs, id)
	}
}

// The equations by name; the tests break each of them once.
const (
	RuleKnown       = "every call and every event is of a published id"
	RuleOnce        = "each id is accepted at most once"
	RuleResend      = "with policy RESEND each further copy follows an unresolved one"
	RuleSum         = "ids = sent + failed + unresolved + waiting"
	RuleOneSent     = "exactly one zns.sent per sent id"
	RuleSentReached = "a zns.sent only for what Zalo accepted"
	RuleAcceptedIs  = "what Zalo accepted ends in zns.sent or is unresolved"
	RuleOneFailed   = "exactly one zns.failed per failed id"
	RuleFailedTrue  = "a zns.failed that is surely not sent was not accepted"
	RuleOneEnd      = "sent and failed exclude each other"
	RuleExplained   = "every unresolved id is explained by a kill or a lost answer"
	RuleOrder       = "requests of one key are accepted in their order"
	RuleEventIDs    = "event ids are unique"
	RuleDelivered   = "what Zalo accepted is delivered"
	RuleDelivOnce   = "at most one zns.delivered per message"
	RuleOpen        = "unresolved ids without an end"
)

// Check tells which equations hold.
func (o *Observation) Check(want Expect) *Report {
	b := book{}
	r := &Report{Posts: max(o.Posts, len(o.Calls)), Accepted: len(o.Calls)}
	known := make(map[string]*Request, len(o.Requests))
	for i := range o.Requests {
		known[o.Requests[i].ID] = &o.Requests[i]
		r.Records += o.Requests[i].Copies
	}
	r.Requests = len(known)

	sent, failed := byID(o.Sent), byID(o.Failed)
	unresolved, delivered := byID(o.Unresolved), byID(o.Delivered)
	accepted := o.checkCalls(b, r, known, unresolved, want)
	for _, events := range []map[string][]Event{sent, failed, unresolved, delivered} {
		for id := range events {
			if known[id] == nil {
				b.add(RuleKnown, id, "%s at offset %d", events[id][0].Topic, events[id][0].Offset)
			}
		}
	}
	r.Sent, r.Failed, r.Unresolved, r.Delivered = len(sent), len(failed), len(unresolved), len(delivered)
	checkEventIDs(b, o.Sent, o.Failed, o.Unresolved, o.Delivered)
	checkEnds(b, accepted, sent, failed, unresolved)
	for id := range known {
		switch {
		case len(sent[id])+len(failed[id]) > 0:
		case len(unresolved[id]) > 0:
			r.Open++
		default:
			r.Waiting++
		}
	}
	if want.Waiting >= 0 && r.Waiting > want.Waiting {
		waiting := slices.DeleteFunc(slices.Sorted(maps.Keys(known)), func(id string) bool {
			return len(sent[id])+len(failed[id])+len(unresolved[id]) > 0
		})
		for _, id := range waiting {
			b.add(RuleSum, id, "no result at all; accepted by Zalo %d times", len(accepted[id]))
		}
	}
	if want.Open >= 0 && r.Open > want.Open {
		for _, id := range slices.Sorted(maps.Keys(unresolved)) {
			if len(sent[id])+len(failed[id]) == 0 {
				b.add(RuleOpen, id, "%s since %s", unresolved[id][0].Cause, unresolved[id][0].UnknownSince.Format(time.TimeOnly))
			}
		}
	}
	o.checkExplained(b, want)
	if !want.Unordered {
		late := map[string][]Event{}
		if want.LateCalls {
			late = unresolved
		}
		r.Inversions = checkOrder(b, known, accepted, late)
	}
	checkDelivered(b, accepted, delivered, want)
	for _, rule := range slices.Sorted(maps.Keys(b)) {
		r.Violations = append(r.Violations, *b[rule])
	}
	return r
}

func byID(events []Event) map[string][]Event {
	m := make(map[string][]Event, len(events))
	for _, e := range events {
		m[e.ID] = append(m[e.ID], e)
	}
	return m
}

// checkCalls returns the acceptances of each id in the order of their arrival.
func (o *Observation) checkCalls(b book, r *Report, known map[string]*Request, unresolved map[string][]Event, want Expect) map[string][]Call {
	accepted := make(map[string][]Call, len(known))
	for _, c := range o.Calls {
		if known[c.ID] == nil {
			b.add(RuleKnown, c.ID, "call %d with tracking_id %s", c.Sequence, c.TrackingID)
			continue
		}
		accepted[c.ID] = append(accepted[c.ID], c)
	}
	for id, calls := range accepted {
		slices.SortFunc(calls, func(a, b Call) int { return cmp.Compare(a.Sequence, b.Sequence) })
		if len(calls) < 2 {
			continue
		}
		r.Twice++
		if known[id].Resend {
			if told := unresolved[id]; len(calls) > 1+len(told) || calls[0].TrackingID == calls[1].TrackingID {
				b.add(RuleResend, id, "%d times, attempts %d and %d, %d times unresolved", len(calls), calls[0].Attempt, calls[1].Attempt, len(told))
			}
			continue
		}
		if !want.Resend {
			b.add(RuleOnce, id, "%d times: attempt %d at %s, attempt %d at %s", len(calls),
				calls[0].Attempt, calls[0].Time.Format(time.StampMilli), calls[1].Attempt, calls[1].Time.Format(time.StampMilli))
		}
	}
	return accepted
}

func checkEventIDs(b book, topics ...[]Event) {
	for _, events := range topics {
		seen := make(map[string]Event, len(events))
		for _, e := range events {
			if first, ok := seen[e.EventID]; ok {
				b.add(RuleEventIDs, e.ID, "%s %q at %d/%d and %d/%d", e.Topic, e.EventID, first.Partition, first.Offset, e.Partition, e.Offset)
			}
			seen[e.EventID] = e
		}
	}
}

// checkEnds holds the two terminal topics against each other and against what the phone got.
func checkEnds(b book, accepted map[string][]Call, sent, failed, unresolved map[string][]Event) {
	for id, events := range sent {
		if len(events) > 1 {
			b.add(RuleOneSent, id, "%d times, offsets %d/%d and %d/%d", len(events),
				events[0].Partition, events[0].Offset, events[1].Partition, events[1].Offset)
		}
		if len(accepted[id]) == 0 {
			b.add(RuleSentReached, id, "msg_id %q", events[0].MsgID)
		}
		for _, f := range failed[id] {
			if f.Reason != znsv1.FailureReason_FAILURE_REASON_UNRESOLVED || !events[0].Corrects {
				b.add(RuleOneEnd, id, "failed with %s, sent with corrects=%t", f.Reason, events[0].Corrects)
			}
		}
	}
	for id, events := range failed {
		if len(events) > 1 {
			b.add(RuleOneFailed, id, "%d times, %s and %s", len(events), events[0].Reason, events[1].Reason)
		}
		if len(accepted[id]) > 0 && !events[0].PossiblySent && len(sent[id]) == 0 {
			b.add(RuleFailedTrue, id, "%s, accepted %s", events[0].Reason, accepted[id][0].Time.Format(time.StampMilli))
		}
	}
	for id, calls := range accepted {
		if len(sent[id])+len(unresolved[id]) == 0 {
			b.add(RuleAcceptedIs, id, "accepted %s as %s", calls[0].Time.Format(time.StampMilli), calls[0].MsgID)
		}
	}
}

// checkExplained wants a reason in the world outside for each unresolved id: a caller that died before it had the
// answer, or an answer that the simulator withheld.
func (o *Observation) checkExplained(b book, want Expect) {
	if len(o.Unresolved) == 0 {
		return
	}
	after := want.After
	if after == 0 {
		after = time.Minute
	}
	lost := map[string]bool{}
	for _, c := range o.Calls {
		if c.Lost {
			lost[c.ID] = true
		}
	}
	for _, e := range o.Unresolved {
		if lost[e.ID] {
			continue
		}
		// The sender notes the moment at which the call ended.
		if e.Cause != znsv1.UnknownCause_UNKNOWN_CAUSE_OWNER_DIED && slices.ContainsFunc(o.Faults, func(w Window) bool {
			return !e.UnknownSince.Before(w.From) && !e.UnknownSince.After(w.To.Add(faultLag))
		}) {
			continue
		}
		killed := e.Cause == znsv1.UnknownCause_UNKNOWN_CAUSE_OWNER_DIED &&
			slices.ContainsFunc(o.Kills, func(k time.Time) bool {
				// The event is published some time after the successor found the open intent.
				return !e.UnknownSince.After(k.Add(after)) && !e.Time.Before(k)
			})
		if !killed {
			b.add(RuleExplained, e.ID, "%s, unknown since %s, %d kills", e.Cause, e.UnknownSince.Format(time.StampMilli), len(o.Kills))
		}
	}
}

// faultLag is how long after the end of a fault a call that met it may end.
const faultLag = 11 * time.Second

// checkOrder returns how many ids were accepted before an earlier one of their key. Ids that were never accepted
// (failed, unresolved without reaching Zalo) have no place in the order, nor have late ones.
func checkOrder(b book, known map[string]*Request, accepted map[string][]Call, late map[string][]Event) int {
	keys := map[string][]*Request{}
	for id, q := range known {
		if q.Key != "" && len(accepted[id]) > 0 && len(late[id]) == 0 {
			keys[q.Key] = append(keys[q.Key], q)
		}
	}
	inversions := 0
	for key, requests := range keys {
		slices.SortFunc(requests, func(a, b *Request) int { return cmp.Compare(a.Rank, b.Rank) })
		last := requests[0]
		for _, q := range requests[1:] {
			if accepted[q.ID][0].Sequence > accepted[last.ID][0].Sequence {
				last = q
				continue
			}
			inversions++
			b.add(RuleOrder, q.ID, "key %s: rank %d is call %d, but rank %d was call %d", key,
				q.Rank, accepted[q.ID][0].Sequence, last.Rank, accepted[last.ID][0].Sequence)
		}
	}
	return inversions
}

func checkDelivered(b book, accepted map[string][]Call, delivered map[string][]Event, want Expect) {
	for id, events := range delivered {
		messages := map[string]bool{}
		for _, e := range events {
			if messages[e.MsgID] {
				b.add(RuleDelivOnce, id, "msg_id %s twice", e.MsgID)
			}
			messages[e.MsgID] = true
		}
	}
	if !want.Delivered {
		return
	}
	for id, calls := range accepted {
		if len(delivered[id]) == 0 {
			b.add(RuleDelivered, id, "accepted %s as %s", calls[0].Time.Format(time.StampMilli), calls[0].MsgID)
		}
	}
}
