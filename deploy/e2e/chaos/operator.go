package chaos

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/pause"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// Rules about what operators said.
const (
	RuleHeld      = "nothing of a campaign is called while it is held"
	RuleCancelled = "what was cancelled is not called afterwards, and nothing else is cancelled"
)

// order is what an operator told the senders, as far as all of them said that they obey.
type order struct {
	campaign  string
	cancel    bool
	given     time.Time // before the command
	obeyed    time.Time // when it came back
	until     time.Time // of a hold: before its release
	confirmed bool
}

// launched is how long after a sender obeys a call may still begin whose intent was committed before, and arrive.
const launched = 6 * time.Second

// zns runs the operator's program and returns what it printed, in one line.
func (s *Stage) zns(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, harness.ZNS), args...)
	cmd.Env = append(os.Environ(), "KAFKA_BROKERS="+s.Brokers[0], "ZNS_CLUSTER="+harness.Cluster)
	cmd.Env = append(cmd.Env, s.groupEnv()...)
	out, err := cmd.CombinedOutput()
	return strings.Join(strings.Fields(string(out)), " "), err
}

// hold holds a campaign for a while. A command that not every partition obeyed in time holds all the same, but nothing
// can be asked of it.
func (s *Stage) hold(ctx context.Context, e Event) (string, error) {
	o := &order{campaign: e.Campaign, given: time.Now()}
	said, err := s.zns(ctx, "hold", "--campaign", e.Campaign, "--reason", "chaos", "--timeout", "10s")
	o.obeyed, o.confirmed = time.Now(), err == nil
	pause.For(ctx, e.For)
	o.until = time.Now()
	s.mu.Lock()
	s.orders = append(s.orders, o)
	s.mu.Unlock()
	note := "obeyed: " + said
	if err != nil {
		note = "not obeyed in time: " + said
	}
	if err := s.release(context.WithoutCancel(ctx), e.Campaign); err != nil {
		note += "; released at the end of the run only: the broker was away"
	}
	return note, nil
}

// release ends a hold. It must be written; that every partition obeys at once is not asked for.
func (s *Stage) release(ctx context.Context, campaign string) error {
	var said string
	for range 3 {
		var err error
		if said, err = s.zns(ctx, "release", "--campaign", campaign, "--timeout", "1s"); err == nil || strings.Contains(said, "did not answer") {
			return nil
		}
		if strings.Contains(said, "unknown command") || strings.Contains(said, "unexpected argument") {
			break
		}
		time.Sleep(2 * time.Second) // the broker is away
	}
	return fmt.Errorf("campaign %s could not be released: %s", campaign, said)
}

func (s *Stage) cancel(ctx context.Context, e Event) (string, error) {
	o := &order{campaign: e.Campaign, cancel: true, given: time.Now()}
	said, err := s.zns(ctx, "cancel", "--campaign", e.Campaign, "--reason", "chaos", "--timeout", "10s", "--yes")
	o.obeyed, o.confirmed = time.Now(), err == nil
	s.mu.Lock()
	s.orders = append(s.orders, o)
	s.mu.Unlock()
	if err != nil {
		return "not obeyed in time: " + said, nil //nolint:nilerr // the broker may be away
	}
	return "obeyed: " + said, nil
}

// unknownBefore reports whether an attempt was already unknown at that time: a cancel comes too late for it, and its
// policy may send it again.
func (s *scene) unknownBefore(id string, at time.Time) bool {
	return slices.ContainsFunc(s.ledger[id].GetHistory(), func(step *ledgerv1.Step) bool {
		return step.GetKind() == ledgerv1.StepKind_STEP_KIND_UNKNOWN && time.UnixMilli(step.GetTimeMs()).Before(at)
	})
}

// checkOrders holds the calls of one notification against what operators said.
func (s *scene) checkOrders(id string, w *Wish) {
	campaign := w.Message.GetCampaignId()
	mayBeCancelled := false
	for _, o := range s.orders {
		if o.campaign != campaign {
			continue
		}
		mayBeCancelled = mayBeCancelled || o.cancel
		if !o.confirmed {
			continue
		}
		for _, c := range s.calls[id] {
			switch late := c.Time.After(o.obeyed.Add(launched)); {
			case late && !o.cancel && c.Time.Before(o.until):
				s.break_(RuleHeld, id, "%s was held from %s to %s and called at %s", campaign, o.obeyed.Format(time.TimeOnly), o.until.Format(time.TimeOnly), c.Time.Format(time.TimeOnly))
			case late && o.cancel && !w.Published.IsZero() && w.Published.Before(o.given) && !s.unknownBefore(id, o.obeyed):
				s.break_(RuleCancelled, id, "%s was cancelled at %s, it was published %s and called %s", campaign, o.obeyed.Format(time.TimeOnly), w.Published.Format(time.TimeOnly), c.Time.Format(time.TimeOnly))
			}
		}
	}
	for _, f := range s.events[topic.Failed][id] {
		if f.Reason == znsv1.FailureReason_FAILURE_REASON_CANCELLED && !mayBeCancelled {
			s.break_(RuleCancelled, id, "campaign %q was never cancelled", campaign)
		}
	}
}
