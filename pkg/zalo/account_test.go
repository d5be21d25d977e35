package zalo

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestQuota(t *testing.T) {
	const token = "very-secret-token"
	var status int
	var body string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/message/quota" || r.Header.Get("access_token") != token {
			t.Errorf("asked with %s %s", r.Method, r.URL.Path)
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	defer server.Close()
	client, err := NewClient(Config{URL: server.URL, AccessToken: func(context.Context, string) (string, error) { return token, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	n := func(i int32) *int32 { return &i }
	for name, c := range map[string]struct {
		status int
		body   string
		want   AccountQuota
		code   int  // of a refusal
		fails  bool // with a refusal
	}{
		"strings": {200, `{"data":{"dailyQuota":"500","remainingQuota":"499","dailyQuotaPromotion":"125"},"error":0,"message":"success"}`, AccountQuota{Daily: n(500), Remaining: n(499)}, 0, false},
		"numbers": {200, `{"data":{"dailyQuota":500,"remainingQuota":0,"monthlyPromotionQuota":125,"remainingMonthlyPromotionQuota":null},"error":0}`, AccountQuota{Daily: n(500), Remaining: n(0), MonthlyPromotion: n(125)}, 0, false},
		"refused": {200, `{"error":-124,"message":"Access token is invalid"}`, AccountQuota{}, -124, true},
		"html":    {502, `<html>`, AccountQuota{}, 0, true},
		"no code": {200, `{}`, AccountQuota{}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			status, body = c.status, c.body
			got, err := client.Quota(t.Context(), "1")
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("quota (-want +got):\n%s", diff)
			}
			refusal, ok := errors.AsType[*QueryError](err)
			if ok != c.fails || ok && refusal.Info.Code != c.code {
				t.Errorf("error %v", err)
			}
			if err != nil && strings.Contains(err.Error(), token) {
				t.Errorf("the error tells the token: %v", err)
			}
		})
	}
	server.Close()
	if _, err := client.Quota(t.Context(), "1"); err == nil || strings.Contains(err.Error(), token) {
		t.Errorf("nobody answers: %v", err)
	}
}
