package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/znshub/znshub/pkg/zalo"
)

// Zalo says how to ask Zalo.
type Zalo struct {
	URL       string
	Tokens    map[string]string // by OA; none: nothing is asked
	AppSecret string            // for appsecret_proof; empty: none is sent
}

// quotaLow is the share of a day's quota below which it is told.
const quotaLow = 10

// zalo asks for the quota of each OA: a harmless call that also tells whether the token is valid.
func (x *examination) zalo(ctx context.Context) []Finding {
	if len(x.Zalo.Tokens) == 0 {
		return []Finding{skipped("no access token here: Zalo is not asked", "run it with the sender's ZALO_ACCESS_TOKEN and ZALO_OA_ID")}
	}
	client, err := zalo.NewClient(zalo.Config{
		URL: x.Zalo.URL, AppSecret: x.Zalo.AppSecret, RequestTimeout: timeout / 2,
		AccessToken: func(_ context.Context, oa string) (string, error) { return x.Zalo.Tokens[oa], nil },
	})
	if err != nil {
		return []Finding{{Level: Problem, What: err.Error(), Why: "no message can be sent", Mend: "ZALO_API_URL=" + zalo.DefaultURL}}
	}
	defer client.Close()
	var findings []Finding
	for _, oa := range slices.Sorted(maps.Keys(x.Zalo.Tokens)) {
		quota, err := client.Quota(ctx, oa)
		findings = append(findings, judgeQuota(oa, quota, err)...)
	}
	return findings
}

func judgeQuota(oa string, quota zalo.AccountQuota, err error) []Finding {
	refusal, refused := errors.AsType[*zalo.QueryError](err)
	switch {
	case refused && refusal.Info.Class == zalo.ClassToken:
		return []Finding{{
			Level: Problem, What: fmt.Sprintf("OA %s: the access token is refused (%s)", oa, refusal),
			Why:  "every notification of this OA is held until there is a valid one, and expires meanwhile",
			Mend: "a new ZALO_ACCESS_TOKEN; one lives 25 hours at most",
		}}
	case refused:
		return []Finding{{
			Level: Warning, What: fmt.Sprintf("OA %s: %s", oa, refusal), Why: "whether the OA may send is not known",
			Mend: "look up the code; is ZALO_API_URL Zalo's host?",
		}}
	case err != nil:
		return []Finding{{
			Level: Problem, What: fmt.Sprintf("OA %s: Zalo cannot be asked from here: %s", oa, strings.ReplaceAll(err.Error(), "\n", "; ")),
			Why: "a sender on this machine could not send either", Mend: "check the network, HTTPS_PROXY and ZALO_API_URL",
		}}
	case quota.Remaining == nil || quota.Daily == nil:
		return []Finding{good(fmt.Sprintf("OA %s: the access token is valid; Zalo tells no quota", oa))}
	}
	what := fmt.Sprintf("OA %s: the access token is valid, %d of %d messages are left today", oa, *quota.Remaining, *quota.Daily)
	if quota.PromotionsLeft != nil {
		what += fmt.Sprintf(", %d promotions this month", *quota.PromotionsLeft)
	}
	if int64(*quota.Remaining)*100 < int64(*quota.Daily)*quotaLow {
		return []Finding{{
			Level: Warning, What: what, Why: "when it is used up everything is held until midnight in Vietnam",
			Mend: "send promotions tomorrow; ask Zalo for a higher tier",
		}}
	}
	return []Finding{good(what)}
}

// webhook GETs the public address: webhook-ingest answers 200 and keeps nothing.
func (x *examination) webhook(ctx context.Context) []Finding {
	if x.Webhook == "" {
		return []Finding{skipped("not called: its public address is not known here", "zns doctor --webhook https://HOST/webhooks/zalo")}
	}
	const why = "Zalo must reach it: without callbacks nothing becomes zns.delivered, and a lost answer cannot be settled"
	problem := func(what, mend string) []Finding {
		return []Finding{{Level: Problem, What: what, Why: why, Mend: mend}}
	}
	target, err := url.Parse(x.Webhook)
	if err != nil || target.Scheme != "https" && target.Scheme != "http" || target.Host == "" {
		return problem("--webhook is no URL", "for example --webhook https://zns.example.com/webhooks/zalo")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return problem(err.Error(), "for example --webhook https://zns.example.com/webhooks/zalo")
	}
	began := time.Now()
	// Zalo follows no redirect with the signed body: a redirect is not reaching it.
	client := &http.Client{Timeout: timeout / 2, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err
		}
		return problem(fmt.Sprintf("%s does not answer: %v", target.Redacted(), err), "is webhook-ingest running, and the proxy with TLS in front of it?")
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)) // only the status counts
	took := time.Since(began).Round(time.Millisecond)
	switch {
	case response.StatusCode != http.StatusOK:
		return problem(fmt.Sprintf("%s answers HTTP %d", target.Redacted(), response.StatusCode), "the path is /webhooks/zalo on INGEST_ADDR; Zalo wants 200 without a redirect")
	case target.Scheme != "https":
		return []Finding{{Level: Warning, What: fmt.Sprintf("%s answers in %s, without TLS", target.Redacted(), took), Why: "Zalo calls HTTPS addresses only", Mend: "put TLS in front of webhook-ingest"}}
	case took > time.Second:
		return []Finding{{Level: Warning, What: fmt.Sprintf("%s answers in %s", target.Redacted(), took), Why: "Zalo waits 2 s and then calls again", Mend: "look for what is slow between here and webhook-ingest"}}
	}
	return []Finding{good(fmt.Sprintf("%s answers in %s", target.Redacted(), took))}
}
