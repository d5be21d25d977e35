package harness

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

var begin = time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)

// sound is a run in which every equation holds: four ids, two of one key, one failed, one unresolved after a kill and
// then learnt from its callback.
func sound() *Observation {
	at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
	return &Observation{
		Requests: []Request{
			{ID: "a", Key: "k", Rank: 1, Copies: 2},
			{ID: "b", Key: "k", Rank: 2, Copies: 1},
			{ID: "c", Copies: 1},
			{ID: "d", Copies: 1},
		},
		Calls: []Call{
			{ID: "a", Sequence: 1, MsgID: "ma", Attempt: 1, Time: at(1)},
			{ID: "c", Sequence: 3, MsgID: "mc", Attempt: 1, Time: at(3)},
			{ID: "b", Sequence: 4, MsgID: "mb", Attempt: 1, Time: at(4)},
		},
		Sent: []Event{
			{ID: "a", EventID: "a/sent/1", MsgID: "ma"},
			{ID: "b", EventID: "b/sent/1", MsgID: "mb"},
			{ID: "c", EventID: "c/sent/1", MsgID: "mc"},
		},
		Failed:     []Event{{ID: "d", EventID: "d/failed/1", Reason: znsv1.FailureReason_FAILURE_REASON_REJECTED}},
		Unresolved: []Event{{ID: "c", EventID: "c/unresolved/1", Cause: znsv1.UnknownCause_UNKNOWN_CAUSE_OWNER_DIED, UnknownSince: at(6), Time: at(16)}},
		Delivered: []Event{
			{ID: "a", EventID: "ma/delivered/1", MsgID: "ma"},
			{ID: "b", EventID: "mb/delivered/1", MsgID: "mb"},
			{ID: "c", EventID: "mc/delivered/1", MsgID: "mc"},
		},
		Kills: []time.Time{at(5)},
		Posts: 4,
	}
}

func rules(r *Report) []string {
	var names []string
	for _, v := range r.Violations {
		names = append(names, v.Rule)
	}
	return names
}

func TestASoundRunBreaksNothing(t *testing.T) {
	r := sound().Check(Expect{Delivered: true})
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	want := &Report{Requests: 4, Records: 5, Posts: 4, Accepted: 3, Sent: 3, Failed: 1, Unresolved: 1, Delivered: 3}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("sums (-want +got):\n%s", diff)
	}
}

// Each case breaks one thing in a sound run and must be told by exactly the rules named.
func TestEveryEquationCanFail(t *testing.T) {
	drop := func(events []Event, id string) []Event {
		return slices.DeleteFunc(events, func(e Event) bool { return e.ID == id })
	}
	cases := map[string]struct {
		breakIt func(*Observation)
		want    Expect
		rules   []string
	}{
		"a second copy": {
			breakIt: func(o *Observation) {
				o.Calls = append(o.Calls, Call{ID: "a", Sequence: 9, MsgID: "ma2", Attempt: 2})
			},
			rules: []string{RuleOnce},
		},
		"a second copy that the policy does not explain": {
			breakIt: func(o *Observation) {
				o.Requests[0].Resend = true
				o.Calls = append(o.Calls, Call{ID: "a", Sequence: 9, MsgID: "ma2", TrackingID: "2", Attempt: 2})
			},
			rules: []string{RuleResend},
		},
		"lost before any result": {
			breakIt: func(o *Observation) { o.Calls, o.Sent = slices.Delete(o.Calls, 2, 3), drop(o.Sent, "b") },
			rules:   []string{RuleSum},
		},
		"accepted and never told": {
			breakIt: func(o *Observation) { o.Sent = drop(o.Sent, "b") },
			want:    Expect{Waiting: 1},
			rules:   []string{RuleAcceptedIs},
		},
		"sent told twice": {
			breakIt: func(o *Observation) { o.Sent = append(o.Sent, Event{ID: "a", EventID: "a/sent/2"}) },
			rules:   []string{RuleOneSent},
		},
		"one event twice": {
			breakIt: func(o *Observation) { o.Sent = append(o.Sent, o.Sent[0]) },
			rules:   []string{RuleEventIDs, RuleOneSent},
		},
		"sent told, phone got nothing": {
			breakIt: func(o *Observation) { o.Calls = slices.Delete(o.Calls, 2, 3) },
			rules:   []string{RuleSentReached},
		},
		"failed twice": {
			breakIt: func(o *Observation) { o.Failed = append(o.Failed, Event{ID: "d", EventID: "d/failed/2"}) },
			rules:   []string{RuleOneFailed},
		},
		"failed, but the phone got it": {
			breakIt: func(o *Observation) { o.Calls = append(o.Calls, Call{ID: "d", Sequence: 9, MsgID: "md"}) },
			rules:   []string{RuleFailedTrue, RuleAcceptedIs},
		},
		"sent and failed": {
			breakIt: func(o *Observation) { o.Failed = append(o.Failed, Event{ID: "a", EventID: "a/failed/1"}) },
			rules:   []string{RuleOneEnd},
		},
		"unresolved without a kill": {
			breakIt: func(o *Observation) { o.Kills = nil },
			rules:   []string{RuleExplained},
		},
		"unresolved before the kill": {
			breakIt: func(o *Observation) { o.Kills = []time.Time{begin.Add(time.Hour)} },
			rules:   []string{RuleExplained},
		},
		"unresolved by a timeout that nobody made": {
			breakIt: func(o *Observation) { o.Unresolved[0].Cause = znsv1.UnknownCause_UNKNOWN_CAUSE_TIMEOUT },
			rules:   []string{RuleExplained},
		},
		"unresolved by an answer that failed at another time": {
			breakIt: func(o *Observation) {
				o.Unresolved[0].Cause = znsv1.UnknownCause_UNKNOWN_CAUSE_HTTP_5XX
				o.Faults = []Window{{From: begin.Add(-time.Hour), To: begin.Add(-time.Minute)}}
			},
			rules: []string{RuleExplained},
		},
		"unresolved to the end": {
			breakIt: func(o *Observation) { o.Sent = drop(o.Sent, "c") },
			rules:   []string{RuleOpen},
		},
		"overtaken": {
			breakIt: func(o *Observation) { o.Calls[2].Sequence = 0 },
			rules:   []string{RuleOrder},
		},
		"a call of nobody": {
			breakIt: func(o *Observation) { o.Calls = append(o.Calls, Call{TrackingID: "x"}) },
			rules:   []string{RuleKnown},
		},
		"an event of nobody": {
			breakIt: func(o *Observation) { o.Delivered = append(o.Delivered, Event{ID: "z", EventID: "z"}) },
			rules:   []string{RuleKnown},
		},
		"not delivered": {
			breakIt: func(o *Observation) { o.Delivered = drop(o.Delivered, "a") },
			want:    Expect{Delivered: true},
			rules:   []string{RuleDelivered},
		},
		"delivered twice": {
			breakIt: func(o *Observation) {
				o.Delivered = append(o.Delivered, Event{ID: "a", EventID: "ma/delivered/2", MsgID: "ma"})
			},
			rules: []string{RuleDelivOnce},
		},
	}
	broken := map[string]bool{}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			o := sound()
			tc.breakIt(o)
			r := o.Check(tc.want)
			if diff := cmp.Diff(tc.rules, rules(r)); diff != "" {
				t.Errorf("rules (-want +got):\n%s\n%v", diff, r.Err())
			}
			for _, v := range r.Violations {
				broken[v.Rule] = true
				if len(v.IDs) == 0 || v.Count == 0 || v.Detail == "" {
					t.Errorf("violation says too little: %s", v)
				}
			}
		})
	}
	for _, rule := range []string{
		RuleKnown, RuleOnce, RuleResend, RuleSum, RuleOneSent, RuleSentReached, RuleAcceptedIs, RuleOneFailed, RuleFailedTrue,
		RuleOneEnd, RuleExplained, RuleOrder, RuleEventIDs, RuleDelivered, RuleDelivOnce, RuleOpen,
	} {
		if !broken[rule] {
			t.Errorf("no case breaks %q", rule)
		}
	}
}

func TestWhatIsAllowedIsNotAViolation(t *testing.T) {
	lateSent := func(o *Observation) {
		o.Failed = append(o.Failed, Event{ID: "c", EventID: "c/failed/1", Reason: znsv1.FailureReason_FAILURE_REASON_UNRESOLVED, PossiblySent: true})
		o.Sent[2].Corrects = true
	}
	cases := map[string]struct {
		change func(*Observation)
		want   Expect
	}{
		"a late callback corrects a failure": {change: lateSent},
		"a re-send by policy": {
			change: func(o *Observation) {
				o.Calls = append(o.Calls, Call{ID: "c", Sequence: 9, MsgID: "mc2", Attempt: 2})
			},
			want: Expect{Resend: true},
		},
		"a re-send by the request's policy": {
			change: func(o *Observation) {
				o.Requests[2].Resend = true
				o.Calls = append(o.Calls, Call{ID: "c", Sequence: 9, MsgID: "mc2", TrackingID: "2", Attempt: 2})
			},
		},
		"a call that the network held back": {
			change: func(o *Observation) {
				o.Calls[0].Sequence, o.Calls[0].Lost = 9, true
				o.Unresolved = append(o.Unresolved, Event{ID: "a", EventID: "a/unresolved/1", Cause: znsv1.UnknownCause_UNKNOWN_CAUSE_TIMEOUT})
			},
			want: Expect{LateCalls: true},
		},
		"unresolved by an answer that was lost": {
			change: func(o *Observation) {
				o.Kills, o.Calls[1].Lost = nil, true
				o.Unresolved[0].Cause = znsv1.UnknownCause_UNKNOWN_CAUSE_RESET
			},
		},
		"unresolved by an answer that the test let fail": {
			change: func(o *Observation) {
				o.Kills = nil
				o.Unresolved[0].Cause = znsv1.UnknownCause_UNKNOWN_CAUSE_HTTP_5XX
				o.Faults = []Window{{From: begin, To: begin.Add(time.Minute)}}
			},
		},
		"still waiting": {
			change: func(o *Observation) { o.Requests = append(o.Requests, Request{ID: "e", Copies: 1}) },
			want:   Expect{Waiting: 1},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			o := sound()
			tc.change(o)
			if err := o.Check(tc.want).Err(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAViolationNamesFewIDsOfMany(t *testing.T) {
	o := &Observation{}
	want := map[string]bool{}
	for i := range 1000 {
		id := fmt.Sprintf("id-%03d", i)
		want[id] = true
		o.Requests = append(o.Requests, Request{ID: id, Copies: 1})
	}
	r := o.Check(Expect{})
	if len(r.Violations) != 1 || r.Violations[0].Count != 1000 || len(r.Violations[0].IDs) != violationIDs {
		t.Fatalf("violations %v", r.Violations)
	}
	for _, id := range r.Violations[0].IDs {
		if !want[id] {
			t.Errorf("unknown id %s among %d", id, len(slices.Collect(maps.Keys(want))))
		}
	}
}
