package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/zalo"
)

// answer is how webhook-ingest answered one callback.
type answer struct {
	at     time.Time
	took   time.Duration
	status int
	err    error
}

// prober sends signed callbacks as Zalo does, twenty a second, of a kind that makes no event of a notification.
type prober struct {
	cancel  context.CancelFunc
	done    sync.WaitGroup
	mu      sync.Mutex // guards answers
	answers []answer
}

func (in *installation) probeWebhook() *prober {
	ctx, cancel := context.WithCancel(in.t.Context())
	p := &prober{cancel: cancel}
	client := &http.Client{Timeout: 5 * time.Second}
	p.done.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			p.done.Go(func() {
				a := sendCallback(client, in.WebhookURL, n)
				p.mu.Lock()
				defer p.mu.Unlock()
				p.answers = append(p.answers, a)
			})
		}
	})
	return p
}

func (p *prober) stop() []answer {
	p.cancel()
	p.done.Wait()
	return p.answers
}

func sendCallback(client *http.Client, url string, n int) answer {
	timestamp := strconv.FormatInt(time.Now().UnixMilli(), 10)
	body := fmt.Appendf(nil, `{"app_id":%q,"oa_id":%q,"event_name":"follow","follower":{"id":"%018d"},"source":"oa_profile","timestamp":%q}`,
		harness.AppID, harness.OAID, n, timestamp)
	begin := time.Now()
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return answer{at: begin, err: err}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(zalo.HeaderSignature, "mac="+zalo.Sign(harness.AppID, harness.OASecret, timestamp, body))
	resp, err := client.Do(req)
	if err != nil {
		return answer{at: begin, took: time.Since(begin), err: err}
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	a := answer{at: begin, took: time.Since(begin), status: resp.StatusCode}
	if a.status != http.StatusOK {
		a.err = fmt.Errorf("%s", text)
	}
	return a
}

func slowest(answers []answer) time.Duration {
	var most time.Duration
	for _, a := range answers {
		most = max(most, a.took)
	}
	return most.Round(time.Millisecond)
}

// waitUntil returns nil as soon as ok, which is asked often, says so.
func waitUntil(ctx context.Context, ok func() bool) error {
	for !ok() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// simLatency makes the simulator answer after an evenly spread time.
func simLatency(low, high string) []string { return []string{"SIM_LATENCY=" + low + ".." + high} }

// simDelivery makes phones get their message, and the hub its callback, after an evenly spread time.
func simDelivery(low, high string) []string { return []string{"SIM_DELIVERY=" + low + ".." + high} }

// orderWait shortens, in the fast lane, how long an unknown outcome holds back those behind it with the same key.
func orderWait() []string { return []string{"SENDER_ORDER_WAIT=" + size("5s", "60s")} }
