package zalo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// AccountQuota is what an OA may still send. Nil: Zalo did not say.
type AccountQuota struct {
	Daily, Remaining                 *int32 // messages a day
	MonthlyPromotion, PromotionsLeft *int32 // promotions a month
}

// QueryError is a refusal of one of Zalo's queries.
type QueryError struct {
	HTTPStatus int
	Info       CodeInfo // of Zalo's error code; Code 0: the answer was none of Zalo's
}

func (e *QueryError) Error() string {
	if e.Info.Code == 0 {
		return fmt.Sprintf("HTTP %d without Zalo's JSON", e.HTTPStatus)
	}
	return fmt.Sprintf("Zalo answers %d: %s", e.Info.Code, e.Info.Text)
}

type quotaAnswer struct {
	Error integer `json:"error"`
	Data  object[struct {
		Daily            integer `json:"dailyQuota"`
		Remaining        integer `json:"remainingQuota"`
		MonthlyPromotion integer `json:"monthlyPromotionQuota"`
		PromotionsLeft   integer `json:"remainingMonthlyPromotionQuota"`
	}] `json:"data"`
}

// Quota asks Zalo what the OA may still send (GET /message/quota). It sends nothing to anybody and costs nothing, so it
// also tells whether the access token is valid. A refusal is a *QueryError; errors never hold the token.
func (c *Client) Quota(ctx context.Context, oaID string) (AccountQuota, error) {
	var quota AccountQuota
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	defer cancel()
	token, err := c.cfg.AccessToken(ctx, oaID)
	if err != nil {
		return quota, fmt.Errorf("access token: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.phone.JoinPath("../quota").String(), nil)
	if err != nil {
		return quota, fmt.Errorf("ask for the quota: %w", err)
	}
	request.Header["access_token"] = []string{token} // Zalo's spelling
	if c.cfg.AppSecret != "" {
		request.Header["appsecret_proof"] = []string{AppSecretProof(c.cfg.AppSecret, token)}
	}
	resp, err := c.transport.RoundTrip(request)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err
		}
		return quota, fmt.Errorf("ask for the quota: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return quota, fmt.Errorf("read the quota: %w", err)
	}
	var answer quotaAnswer
	if json.Unmarshal(body, &answer) != nil || !answer.Error.ok {
		return quota, &QueryError{HTTPStatus: resp.StatusCode}
	}
	if code := int(answer.Error.n); code != 0 {
		return quota, &QueryError{HTTPStatus: resp.StatusCode, Info: LookupCode(HostBusiness, code)}
	}
	data := answer.Data.v
	return AccountQuota{
		Daily: data.Daily.int32(), Remaining: data.Remaining.int32(),
		MonthlyPromotion: data.MonthlyPromotion.int32(), PromotionsLeft: data.PromotionsLeft.int32(),
	}, nil
}
