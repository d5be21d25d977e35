package simtest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/trackingid"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// verdict is what a simulation came to.
type verdict struct {
	notifications, sent, failed, unresolved, accepted, resent, corrected int

	reasons map[string]int // of failures
	refused map[int]int    // Zalo's codes
	broken  map[string]*violation
}

type violation struct {
	count    int
	examples []string
}

func (v *verdict) breaks(rule, id, detail string, args ...any) {
	x := v.broken[rule]
	if x == nil {
		x = &violation{}
		v.broken[rule] = x
	}
	if x.count++; len(x.examples) < 4 {
		x.examples = append(x.examples, id+" "+fmt.Sprintf(detail, args...))
	}
}

func (v *verdict) String() string {
	return fmt.Sprintf("%d notifications = %d sent + %d failed %v; %d accepted, %d again by policy, %d corrected, %d once unresolved; refused %v",
		v.notifications, v.sent, v.failed, v.reasons, v.accepted, v.resent, v.corrected, v.unresolved, v.refused)
}

// accepted is one message that the simulator took.
type accepted struct {
	zalosim.Message
	attempt int32
}

// facts is what the topics and the simulator tell, by id.
type facts struct {
	calls      map[string][]accepted
	sent       map[string][]*znsv1.Sent
	failed     map[string][]*znsv1.Failed
	unresolved map[string][]*znsv1.Unresolved
	ledger     map[string]*ledgerv1.Entry
}

func (w *world) judge(seed uint64, wishes []*wish, told []*order) *verdict {
	v := &verdict{reasons: map[string]int{}, broken: map[string]*violation{}, notifications: len(wishes), refused: w.zalo.Totals().Rejected}
	f := w.facts(v)
	known := map[string]*wish{}
	for _, x := range wishes {
		known[x.id] = x
		v.check(f, x)
		v.checkOperators(f, x, told)
		if calm(seed) {
			v.checkCalm(f, x)
		}
	}
	for id := range f.calls {
		if known[id] == nil {
			v.breaks("every call is of a published id", id, "")
		}
	}
	v.checkOrder(f, wishes)
	v.checkPace(w, float64(rateOf(seed)))
	return v
}

// check holds one notification against the rules.
func (v *verdict) check(f *facts, x *wish) {
	calls, sent, failed, unresolved := f.calls[x.id], f.sent[x.id], f.failed[x.id], f.unresolved[x.id]
	v.accepted += len(calls)
	v.sent += min(1, len(sent))
	v.unresolved += min(1, len(unresolved))
	switch {
	case len(sent) == 1 && len(failed) == 0:
	case len(sent) == 0 && len(failed) == 1:
		v.failed++
		v.reasons[failed[0].GetReason().String()[len("FAILURE_REASON_"):]]++
	case len(sent) == 1 && len(failed) == 1 && sent[0].GetCorrects() && failed[0].GetReason() == znsv1.FailureReason_FAILURE_REASON_UNRESOLVED:
		v.corrected++
	case len(sent)+len(failed) == 0:
		state := "it is not in the ledger"
		if e := f.ledger[x.id]; e != nil {
			state = fmt.Sprintf("%s %s until %s", e.GetState(), e.GetHoldReason(), time.UnixMilli(e.GetHoldUntilMs()).UTC())
		}
		v.breaks("each notification ends", x.id, "%s, published %s", state, x.at.UTC().Format(time.DateTime))
	default:
		v.breaks("each notification ends once", x.id, "%d zns.sent, %d zns.failed", len(sent), len(failed))
	}
	if len(calls) > 1 {
		if x.resend && len(calls) <= 1+len(unresolved) && calls[0].attempt != calls[1].attempt {
			v.resent += len(calls) - 1
		} else {
			v.breaks("nobody gets a second message without the policy RESEND", x.id, "%d accepted, %d times unresolved, resend=%t: %s and %s", len(calls),
				len(unresolved), x.resend, calls[0].AcceptedAt.UTC().Format(time.DateTime), calls[1].AcceptedAt.UTC().Format(time.DateTime))
		}
	}
	switch {
	case len(sent) > 0 && len(calls) == 0:
		v.breaks("sent means that Zalo took it", x.id, "")
	case len(calls) > 0 && len(sent) == 0 && !(len(failed) == 1 && failed[0].GetPossiblySent()):
		v.breaks("what Zalo took is sent, or is said to be possibly sent", x.id, "taken %s", calls[0].AcceptedAt.UTC().Format(time.DateTime))
	}
	for _, c := range calls {
		// The ledger keeps milliseconds.
		if x.m.GetNotBefore() != nil && c.AcceptedAt.Before(x.m.GetNotBefore().AsTime().Truncate(time.Millisecond)) {
			v.breaks("nothing is sent before its time", x.id, "%s before", x.m.GetNotBefore().AsTime().Sub(c.AcceptedAt))
		}
		if end := x.m.GetExpireTime(); end != nil && c.AcceptedAt.After(end.AsTime().Add(time.Second)) {
			v.breaks("nothing is sent after it has expired", x.id, "%s after", c.AcceptedAt.Sub(end.AsTime()))
		}
	}
	for _, e := range failed {
		if end := x.m.GetExpireTime(); end != nil && e.GetReason() == znsv1.FailureReason_FAILURE_REASON_EXPIRED && e.GetEventTime().AsTime().Before(end.AsTime().Truncate(time.Millisecond)) {
			v.breaks("nothing expires early", x.id, "%s early", end.AsTime().Sub(e.GetEventTime().AsTime()))
		}
	}
}

// checkCalm wants nothing unknown where nothing went wrong but that senders came and went.
func (v *verdict) checkCalm(f *facts, x *wish) {
	for _, step := range f.ledger[x.id].GetHistory() {
		if step.GetKind() == ledgerv1.StepKind_STEP_KIND_UNKNOWN {
			v.breaks("a clean stop and a clean revoke leave nothing unknown", x.id, "%s at %s", znsv1.UnknownCause(step.GetCause()), time.UnixMilli(step.GetTimeMs()).UTC().Format(time.DateTime))
		}
	}
}

// obeyed is how long after a command a call may begin: a second, and the launch deadline of an intent that was
// committed before.
const obeyed = 7 * time.Second

func (v *verdict) checkOperators(f *facts, x *wish, told []*order) {
	cancelled := false
	for _, o := range told {
		if o.campaign != x.m.GetCampaignId() {
			continue
		}
		cancelled = cancelled || o.cancel
		for _, c := range f.calls[x.id] {
			switch {
			case c.AcceptedAt.Before(o.given.Add(obeyed)):
			case !o.cancel && c.AcceptedAt.Before(o.until):
				v.breaks("nothing of a held campaign is called", x.id, "%s at %s, held from %s to %s", o.campaign, c.AcceptedAt.UTC().Format(time.DateTime),
					o.given.UTC().Format(time.DateTime), o.until.UTC().Format(time.DateTime))
			case o.cancel && x.at.Before(o.given):
				v.breaks("what was cancelled is not called", x.id, "%s at %s, cancelled at %s", o.campaign, c.AcceptedAt.UTC().Format(time.DateTime), o.given.UTC().Format(time.DateTime))
			}
		}
	}
	for _, e := range f.failed[x.id] {
		if e.GetReason() == znsv1.FailureReason_FAILURE_REASON_CANCELLED && !cancelled {
			v.breaks("nothing else is cancelled", x.id, "%s", x.m.GetCampaignId())
		}
	}
}

// checkPace wants never more than rate × W + owners messages of an OA in any window W.
func (v *verdict) checkPace(w *world, rate float64) {
	if rate == 0 {
		return
	}
	times := map[string][]time.Time{}
	for m := range w.zalo.Messages(0) {
		times[m.OAID] = append(times[m.OAID], m.AcceptedAt)
	}
	for oa, at := range times {
		for _, window := range []time.Duration{time.Second, 10 * time.Second, time.Minute, time.Hour} {
			most := int(rate*window.Seconds()) + senders
			for i := range at {
				if j := i + most; j < len(at) && at[j].Sub(at[i]) < window {
					v.breaks("never more than rate × W + owners in any window W", oa, "%d within %s at %s", most+1, at[j].Sub(at[i]), at[i].UTC().Format(time.DateTime))
					break
				}
			}
		}
	}
}

// checkOrder wants those of one key to be taken in the order in which they were published.
func (v *verdict) checkOrder(f *facts, wishes []*wish) {
	last := map[string]*wish{}
	for _, x := range slices.SortedStableFunc(slices.Values(wishes), func(a, b *wish) int { return a.rank - b.rank }) {
		if x.key == "" || len(f.calls[x.id]) == 0 {
			continue
		}
		if before := last[x.key]; before != nil && f.calls[before.id][0].Seq > f.calls[x.id][0].Seq {
			v.breaks("one key keeps its order", x.id, "number %d of %s was taken before number %d", x.rank, x.key, before.rank)
			continue
		}
		last[x.key] = x
	}
}

func (w *world) facts(v *verdict) *facts {
	f := &facts{
		calls: map[string][]accepted{}, sent: map[string][]*znsv1.Sent{}, failed: map[string][]*znsv1.Failed{},
		unresolved: map[string][]*znsv1.Unresolved{}, ledger: map[string]*ledgerv1.Entry{},
	}
	for m := range w.zalo.Messages(0) {
		id, err := trackingid.Decode(cluster, m.TrackingID)
		if err != nil {
			v.breaks("every call has a tracking_id", m.TrackingID, "%v", err)
			continue
		}
		f.calls[id.Notification.String()] = append(f.calls[id.Notification.String()], accepted{m, id.Attempt})
	}
	seen := map[string]bool{}
	w.read(topic.Sent, func(r kafka.Record) { decode(w, v, seen, r, f.sent, &znsv1.Sent{}) })
	w.read(topic.Failed, func(r kafka.Record) { decode(w, v, seen, r, f.failed, &znsv1.Failed{}) })
	w.read(topic.Unresolved, func(r kafka.Record) { decode(w, v, seen, r, f.unresolved, &znsv1.Unresolved{}) })
	w.read(topic.RequestedLedger, func(r kafka.Record) {
		var e ledgerv1.Entry
		if len(r.Value) > 0 && proto.Unmarshal(r.Value, &e) == nil {
			f.ledger[string(r.Key)] = &e
		} else {
			delete(f.ledger, string(r.Key))
		}
	})
	w.read(topic.RequestedDLQ, func(r kafka.Record) { v.breaks("good requests are no dead letters", string(r.Key), "") })
	return f
}

func decode[M proto.Message](w *world, v *verdict, seen map[string]bool, r kafka.Record, into map[string][]M, m M) {
	if err := kafka.Decode(r, m); err != nil {
		w.t.Error(err)
	}
	if id := r.Topic + kafka.DecodeHeaders(r).ID; seen[id] {
		v.breaks("each event is told once", id, "")
	} else {
		seen[id] = true
	}
	into[string(r.Key)] = append(into[string(r.Key)], m)
}

// read reads a topic to its end, as a read-committed consumer.
func (w *world) read(name string, f func(kafka.Record)) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if err := kafka.ReadToEnd(ctx, kafka.ReaderConfig{Client: w.client(), Topic: name}, func(r kafka.Record) error {
		f(r)
		return nil
	}); err != nil {
		w.t.Error(err)
	}
}
