package explain

import (
	"time"

	"github.com/google/uuid"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/services/cli/render"
	"github.com/znshub/znshub/services/sender/control"
	"github.com/znshub/znshub/services/sender/limit"
)

// waits says why an entry waits, and which operators' holds it waits for.
func (s *Story) waits(f Facts, entry *ledgerv1.Entry, now time.Time) {
	switch entry.GetState() {
	case ledgerv1.State_STATE_SENT, ledgerv1.State_STATE_FAILED, ledgerv1.State_STATE_SENDING:
		return
	case ledgerv1.State_STATE_HELD:
		whose := "the OA's"
		if oa := entry.GetRequest().GetOaId(); oa != "" {
			whose = "OA " + render.OneLine(oa, 40) + "'s"
		}
		s.Because = because(entry.GetHoldReason(), whose)
	}
	id, err := uuid.Parse(f.ID)
	if err != nil {
		return
	}
	req := entry.GetRequest()
	flow := limit.Flow{OA: req.GetOaId(), Template: req.GetTemplateId(), Campaign: req.GetCampaignId(), Category: entry.GetCategory()}
	for _, c := range f.Rules {
		if c.Scope.Matches(id, flow) && !c.Expired(now) {
			s.HeldBy = append(s.HeldBy, HoldText(c))
		}
	}
	if len(s.HeldBy) > 0 && s.Because != "" && entry.GetHoldReason() != ledgerv1.HoldReason_HOLD_REASON_OPERATOR {
		s.Because += "; when that ends an operator's hold still stands"
	}
}

// HoldText says what a standing rule holds, since when, until when, by whom and why.
func HoldText(c *control.Command) string {
	text := c.Scope.String() + " since " + stamp(c.At)
	if !c.Expires.IsZero() {
		text += ", until " + stamp(c.Expires)
	}
	if c.Actor != "" {
		text += ", by " + render.OneLine(c.Actor, 60)
	}
	if c.Reason != "" {
		text += ": " + render.OneLine(c.Reason, 100)
	}
	return text
}

// because says why a notification that is held waits, and what ends that; whose tells the OA.
func because(reason ledgerv1.HoldReason, whose string) string {
	switch reason {
	case ledgerv1.HoldReason_HOLD_REASON_NOT_BEFORE:
		return "the request's own not_before"
	case ledgerv1.HoldReason_HOLD_REASON_RATE:
		return "the pace: SENDER_RATE, or what Zalo allows"
	case ledgerv1.HoldReason_HOLD_REASON_QUOTA:
		return "a quota of Zalo is used up"
	case ledgerv1.HoldReason_HOLD_REASON_HOURS:
		return "outside its category's hours, SENDER_HOURS (promotions: 06:00 to 21:59 Vietnam time, unless it says otherwise)"
	case ledgerv1.HoldReason_HOLD_REASON_TOKEN:
		return whose + " access token is missing or refused; a newer one ends the wait"
	case ledgerv1.HoldReason_HOLD_REASON_TEMPLATE_REVIEW:
		return "Zalo has not approved the template; its approval ends the wait"
	case ledgerv1.HoldReason_HOLD_REASON_CIRCUIT:
		return "Zalo is failing; single probes find out when it works again"
	case ledgerv1.HoldReason_HOLD_REASON_RETRY:
		return "a refusal that may be tried again"
	case ledgerv1.HoldReason_HOLD_REASON_ORDER:
		return "an earlier one of the same ordering_key is not done"
	case ledgerv1.HoldReason_HOLD_REASON_ACCOUNT:
		return whose + " account or billing; a probe or zns retry ends the wait"
	case ledgerv1.HoldReason_HOLD_REASON_OPERATOR:
		return "an operator holds it, or must decide: zns release, zns retry, zns unknown"
	}
	return ""
}
