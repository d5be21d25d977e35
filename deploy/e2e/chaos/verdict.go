package chaos

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/deploy/e2e/harness"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/ingest/status"
)

// Rules that a run adds to those of package harness.
const (
	RuleLedger   = "the ledger and the topics tell the same"
	RuleStuck    = "nothing waits without a reason once everything is well"
	RuleCause    = "every unknown outcome has a cause in what happened to its owner or to Zalo"
	RuleLetters  = "the dead letters are exactly the bad records, each once"
	RuleInvalid  = "bad requests with an id end as FAILED INVALID, good ones never"
	RuleExpired  = "nothing expires early, nothing is called late"
	RuleReceipts = "a callback that was answered 200 is delivered once"
	RuleStatus   = "zns.status is what a fold of all events says"
	RuleAlone    = "nothing ended, failed or told a secret by itself"
)

// Verdict is what a run came to.
type Verdict struct {
	Report   *harness.Report
	States   map[string]int // ledger states, with reason
	Broken   []harness.Violation
	Letters  int
	Expected int    // dead letters
	Unknowns int    // ids that ever were UNKNOWN, as the ledger remembers
	Resent   int    // acceptances beyond the first, by policy
	Faults   int    // of Kafka itself
	Attended string // what was done about these, in words
}

// scene is what the rules look at.
type scene struct {
	wishes   map[string]*Wish
	ledger   map[string]*ledgerv1.Entry
	calls    map[string][]harness.Call
	events   map[string]map[string][]harness.Event // topic, id
	happened []Happened
	orders   []*order
	healed   time.Time
	now      time.Time
	broken   map[string]*harness.Violation
}

func (s *scene) break_(rule, id, detail string, args ...any) {
	v := s.broken[rule]
	if v == nil {
		v = &harness.Violation{Rule: rule, Detail: fmt.Sprintf(detail, args...)}
		s.broken[rule] = v
	}
	if v.Count++; len(v.IDs) < 5 {
		v.IDs = append(v.IDs, id)
	}
}

// Judge sums up. healed is when everything was well again.
func (s *Stage) Judge(ctx context.Context, t *Traffic, healed time.Time) (*Verdict, error) {
	calls, err := s.Simulator().Calls(ctx)
	if err != nil {
		return nil, err
	}
	totals, err := s.Simulator().Totals(ctx)
	if err != nil {
		return nil, err
	}
	ledger, err := harness.Ledger(ctx, s.Brokers)
	if err != nil {
		return nil, err
	}
	o := &harness.Observation{Calls: calls, Posts: totals.Requests}
	sc := &scene{
		wishes: t.wishes, ledger: ledger, calls: map[string][]harness.Call{}, events: map[string]map[string][]harness.Event{},
		happened: s.Happened(), healed: healed, now: time.Now(), broken: map[string]*harness.Violation{},
	}
	s.mu.Lock()
	sc.orders = slices.Clone(s.orders)
	s.mu.Unlock()
	for _, c := range calls {
		sc.calls[c.ID] = append(sc.calls[c.ID], c)
	}
	for name, to := range map[string]*[]harness.Event{topic.Sent: &o.Sent, topic.Failed: &o.Failed, topic.Unresolved: &o.Unresolved, topic.Delivered: &o.Delivered} {
		*to = s.Results.Events(name)
		byID := map[string][]harness.Event{}
		for _, e := range *to {
			byID[e.ID] = append(byID[e.ID], e)
		}
		sc.events[name] = byID
	}
	for _, w := range t.wishes {
		o.Requests = append(o.Requests, w.Request)
	}
	for _, h := range sc.happened {
		if h.ends(h.Who) {
			for at := h.From; at.Before(h.To.Add(time.Second)); at = at.Add(time.Second) {
				o.Kills = append(o.Kills, at)
			}
		}
		if h.garbles(h.Who) {
			o.Faults = append(o.Faults, harness.Window{From: h.From, To: h.To})
		}
	}
	v := &Verdict{Report: o.Check(harness.Expect{Waiting: -1, Open: -1, LateCalls: true}), States: map[string]int{}, Expected: len(t.letters)}
	v.Broken = v.Report.Violations
	for id, w := range t.wishes {
		sc.checkLedger(id, w)
		sc.checkExpiry(id, w)
		sc.checkReceipts(id)
		sc.checkOrders(id, w)
		if e := ledger[id]; e != nil {
			v.States[describe(e)]++
			v.Unknowns += sc.checkCauses(id, e)
		}
		if n := len(sc.calls[id]); n > 1 && w.Resend {
			v.Resent += n - 1
		}
	}
	if err := s.checkStatus(ctx, sc); err != nil {
		return nil, err
	}
	v.Letters = sc.checkLetters(t.letters, s.Results)
	s.checkAlone(sc)
	for _, rule := range slices.Sorted(maps.Keys(sc.broken)) {
		v.Broken = append(v.Broken, *sc.broken[rule])
	}
	return v, nil
}

func describe(e *ledgerv1.Entry) string {
	state := strings.TrimPrefix(e.GetState().String(), "STATE_")
	switch e.GetState() {
	case ledgerv1.State_STATE_HELD:
		return state + "(" + strings.TrimPrefix(e.GetHoldReason().String(), "HOLD_REASON_") + ")"
	case ledgerv1.State_STATE_FAILED:
		return state + "(" + strings.TrimPrefix(znsv1.FailureReason(e.GetFailureReason()).String(), "FAILURE_REASON_") + ")"
	}
	return state
}

// checkLedger holds an id's ledger entry against what the topics tell of it.
func (s *scene) checkLedger(id string, w *Wish) {
	e := s.ledger[id]
	if e == nil {
		s.break_(RuleLedger, id, "it is not in the ledger")
		return
	}
	sent, failed := len(s.events[topic.Sent][id]), s.events[topic.Failed][id]
	switch e.GetState() {
	case ledgerv1.State_STATE_SENT:
		if sent != 1 {
			s.break_(RuleLedger, id, "SENT with %d zns.sent", sent)
		}
	case ledgerv1.State_STATE_FAILED:
		if sent != 0 || len(failed) != 1 || failed[0].Reason != znsv1.FailureReason(e.GetFailureReason()) {
			s.break_(RuleLedger, id, "%s with %d zns.sent and %d zns.failed", describe(e), sent, len(failed))
		}
	default:
		if sent+len(failed) != 0 {
			s.break_(RuleLedger, id, "%s with %d zns.sent and %d zns.failed", describe(e), sent, len(failed))
		}
		if why := s.stuck(id, e); why != "" {
			s.break_(RuleStuck, id, "%s: %s", describe(e), why)
		}
	}
	invalid := e.GetFailureReason() == int32(znsv1.FailureReason_FAILURE_REASON_INVALID)
	if invalid != w.Bad {
		s.break_(RuleInvalid, id, "%s, bad=%t", describe(e), w.Bad)
	}
}

// stuck says why an entry that has not ended should have; empty: it may wait.
func (s *scene) stuck(id string, e *ledgerv1.Entry) string {
	switch e.GetState() {
	case ledgerv1.State_STATE_UNKNOWN:
		if e.GetRequest().GetOnUnknown() == notificationv1.OnUnknown_ON_UNKNOWN_HOLD || e.GetCategory() == notificationv1.Category_CATEGORY_TRANSACTION &&
			e.GetRequest().GetOnUnknown() == notificationv1.OnUnknown_ON_UNKNOWN_UNSPECIFIED {
			return "" // until it expires or an operator decides
		}
		return fmt.Sprintf("unknown since %s, %s after everything was well its policy has not acted",
			time.UnixMilli(e.GetUnknownSinceMs()).Format(time.TimeOnly), s.now.Sub(s.healed).Round(time.Second))
	case ledgerv1.State_STATE_HELD:
		switch e.GetHoldReason() {
		case ledgerv1.HoldReason_HOLD_REASON_ORDER:
			return s.behind(id, e)
		case ledgerv1.HoldReason_HOLD_REASON_OPERATOR, ledgerv1.HoldReason_HOLD_REASON_TOKEN, ledgerv1.HoldReason_HOLD_REASON_ACCOUNT,
			ledgerv1.HoldReason_HOLD_REASON_TEMPLATE_REVIEW, ledgerv1.HoldReason_HOLD_REASON_QUOTA, ledgerv1.HoldReason_HOLD_REASON_HOURS:
			return "" // somebody else ends these
		}
		if until := time.UnixMilli(e.GetHoldUntilMs()); e.GetHoldUntilMs() != 0 && until.After(s.now.Add(-5*time.Second)) {
			return ""
		}
		return "its time has passed"
	}
	return s.behind(id, e)
}

// behind allows to wait behind an earlier one of the same key that waits itself.
func (s *scene) behind(id string, e *ledgerv1.Entry) string {
	w := s.wishes[id]
	if w.Key != "" {
		for other, o := range s.wishes {
			if o.Key != w.Key || o.Rank >= w.Rank || s.ledger[other] == nil {
				continue
			}
			if state := s.ledger[other].GetState(); state != ledgerv1.State_STATE_SENT && state != ledgerv1.State_STATE_FAILED {
				return ""
			}
		}
	}
	return fmt.Sprintf("nothing keeps it, attempt %d", e.GetAttempt())
}

// checkCauses looks for the reason of each unknown outcome that an entry remembers, and returns 1 when there was one.
func (s *scene) checkCauses(id string, e *ledgerv1.Entry) int {
	type intent struct {
		at    time.Time
		owner string
	}
	intents := map[int32]intent{}
	owner, any := "", 0
	for _, step := range e.GetHistory() {
		at := time.UnixMilli(step.GetTimeMs())
		switch step.GetKind() {
		case ledgerv1.StepKind_STEP_KIND_ACCEPTED:
			owner = step.GetOwner()
		case ledgerv1.StepKind_STEP_KIND_INTENT:
			owner = cmp.Or(step.GetOwner(), owner)
			intents[step.GetAttempt()] = intent{at, owner}
		case ledgerv1.StepKind_STEP_KIND_UNKNOWN:
			any = 1
			i, ok := intents[step.GetAttempt()]
			if !ok {
				continue // the history was cut
			}
			s.checkCause(id, znsv1.UnknownCause(step.GetCause()), i.owner, i.at, at)
		}
	}
	return any
}

// checkCause wants an event that explains why nobody knows: between intent and the moment at which that was noticed,
// something must have happened to the owner, or to what it talks to.
func (s *scene) checkCause(id string, cause znsv1.UnknownCause, owner string, intent, unknown time.Time) {
	if cause != znsv1.UnknownCause_UNKNOWN_CAUSE_OWNER_DIED && slices.ContainsFunc(s.calls[id], func(c harness.Call) bool { return c.Lost }) {
		return
	}
	for _, h := range s.happened {
		// Clocks may be off by what is tolerated, and what an event leaves behind lasts for a call.
		if h.From.After(unknown.Add(skewTolerated)) || h.To.Before(intent.Add(-requestTimeout-skewTolerated)) {
			continue
		}
		if cause == znsv1.UnknownCause_UNKNOWN_CAUSE_OWNER_DIED && h.ends(owner) || h.garbles(owner) && cause != znsv1.UnknownCause_UNKNOWN_CAUSE_OWNER_DIED {
			return
		}
	}
	s.break_(RuleCause, id, "%s of %s, intent %s, unknown %s", cause, owner, intent.Format(time.TimeOnly), unknown.Format(time.TimeOnly))
}

// skewTolerated is how far a sender's clock may be off while it works: it starts and expires nothing beyond.
const skewTolerated = 31 * time.Second

// checkExpiry holds the times against the request's.
func (s *scene) checkExpiry(id string, w *Wish) {
	e := s.ledger[id]
	if e == nil || w.Bad || e.GetExpireMs() == 0 {
		return
	}
	expire := time.UnixMilli(e.GetExpireMs())
	for _, f := range s.events[topic.Failed][id] {
		if f.Reason == znsv1.FailureReason_FAILURE_REASON_EXPIRED && f.Time.Before(expire.Add(-time.Second)) {
			s.break_(RuleExpired, id, "EXPIRED at %s, expires at %s", f.Time.Format(time.TimeOnly), expire.Format(time.TimeOnly))
		}
	}
	for _, c := range s.calls[id] {
		if c.Time.After(expire.Add(skewTolerated + requestTimeout)) {
			s.break_(RuleExpired, id, "accepted at %s, expired at %s", c.Time.Format(time.TimeOnly), expire.Format(time.TimeOnly))
		}
	}
}

// checkReceipts wants a zns.delivered for each message whose callback webhook-ingest has taken.
func (s *scene) checkReceipts(id string) {
	for _, c := range s.calls[id] {
		told := 0
		for _, e := range s.events[topic.Delivered][id] {
			if e.MsgID == c.MsgID {
				told++
			}
		}
		if c.CallbacksOK > 0 && told != 1 {
			s.break_(RuleReceipts, id, "%d callbacks taken, %d zns.delivered", c.CallbacksOK, told)
		}
	}
}

// checkStatus folds all events again and compares.
func (s *Stage) checkStatus(ctx context.Context, sc *scene) error {
	_, err := status.Verify(ctx, status.VerifyConfig{
		Client: []kgo.Opt{kgo.SeedBrokers(s.Brokers...)}, Wait: time.Second,
		Topics: status.Topics{
			Unresolved: topic.Unresolved, Failed: topic.Failed, Sent: topic.Sent, Delivered: topic.Delivered, Overdue: topic.Overdue, Status: topic.Status,
		},
		Found: func(d status.Difference) error {
			sc.break_(RuleStatus, d.NotificationID, "%s: %s, want %s", d.What, d.State, d.Want)
			return nil
		},
	})
	return err
}

// checkLetters returns how many dead letters there are.
func (s *scene) checkLetters(want map[string]string, results *harness.Collector) int {
	seen := map[string]int{}
	letters := results.Letters()
	for _, r := range letters {
		header := func(name string) string {
			for _, h := range r.Headers {
				if h.Key == name {
					return string(h.Value)
				}
			}
			return ""
		}
		place := header("zns-dlq-partition") + "@" + header("zns-dlq-offset")
		seen[place]++
		switch reason := header("zns-dlq-reason"); {
		case want[place] == "":
			s.break_(RuleLetters, place, "a good record became a dead letter: %s %s", reason, header("zns-dlq-message"))
		case want[place] != reason:
			s.break_(RuleLetters, place, "%s, want %s", reason, want[place])
		}
	}
	for place, reason := range want {
		if seen[place] != 1 {
			s.break_(RuleLetters, place, "%s is there %d times", reason, seen[place])
		}
	}
	return len(letters)
}

// checkAlone looks for what nobody did.
func (s *Stage) checkAlone(sc *scene) {
	s.mu.Lock()
	wrong := slices.Clone(s.wrong)
	s.mu.Unlock()
	for _, err := range []error{s.Crashes(), s.Secrets(), s.Results.Err()} {
		if err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	for _, w := range wrong {
		sc.break_(RuleAlone, "-", "%s", w)
	}
}
