package sender

import (
	"slices"
	"testing"
	"time"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// sleepUntil waits for the next time that it is so late in Vietnam.
func sleepUntil(hour int) {
	now := time.Now().UTC().Add(7 * time.Hour)
	next := time.Date(now.Year(), now.Month(), now.Day(), hour, 0, 0, 0, time.UTC)
	if !next.After(now) {
		next = next.AddDate(0, 0, 1)
	}
	time.Sleep(next.Sub(now))
}

// TestVirtualOutageOfHours: while Zalo is away for three hours a handful of calls is made, what must expire expires, and
// afterwards everything else is sent, the urgent lanes first.
func TestVirtualOutageOfHours(t *testing.T) {
	inVirtualDays(t, time.Minute, func(t *testing.T, w *world, s *Sender) {
		sleepUntil(9)
		w.provider.respond(func(post) answer { return answer{status: 503, body: "<html>", after: 20 * time.Millisecond} })
		start := time.Now()
		var reqs []*notificationv1.NotificationRequested
		for range 150 {
			reqs = append(reqs, request("promotion", ofCategory(promotion)), request("care", ofCategory(care)),
				request("plain", ofCategory(plain)), request("otp", ofCategory(otp)))
		}
		ids := w.publish(reqs...)
		time.Sleep(3 * time.Hour)
		during := len(w.provider.got(""))
		unknown := int(s.h.waiting()[waitUnknown])
		for i, id := range ids {
			if f := w.failed(id); i%4 == 3 && (len(f) != 1 || f[0].Reason != znsv1.FailureReason_FAILURE_REASON_EXPIRED && f[0].Reason != znsv1.FailureReason_FAILURE_REASON_UNRESOLVED) {
				t.Fatalf("OTP after three hours: %v", f)
			}
			if f := w.failed(id); i%4 == 3 && f[0].Reason == znsv1.FailureReason_FAILURE_REASON_EXPIRED && w.at(id, topic.Failed).Sub(start) > 5*time.Minute+2*time.Second {
				t.Errorf("an OTP expired after %s", w.at(id, topic.Failed).Sub(start))
			}
		}
		if during > 150 {
			t.Errorf("%d calls in three hours without an answer", during)
		}
		w.provider.respond(func(post) answer { return answer{after: 20 * time.Millisecond} })
		time.Sleep(10 * time.Minute)
		var order []string
		for _, p := range w.provider.got("")[during:] {
			if p.Key != "otp" {
				order = append(order, p.Key)
			}
		}
		// The first transactions go before the first promotions: only the small share of the lower lanes is among them.
		early := order[:min(40, len(order))]
		if n := count(early, "plain"); n < len(early)*3/4 {
			t.Errorf("%d of the first %d are transactions: %v", n, len(early), early)
		}
		sent, failed := 0, 0
		for _, id := range ids {
			sent += len(w.sent(id))
			failed += len(w.failed(id))
		}
		waiting := int(s.h.waiting()[waitUnknown])
		t.Logf("%d calls during the outage, %d unknown then, %d now; %d sent, %d failed", during, unknown, waiting, sent, failed)
		if sent+failed+waiting != len(ids) || sent < 300 {
			t.Errorf("%d sent, %d failed, %d unknown of %d", sent, failed, waiting, len(ids))
		}
	}, "SENDER_MAX_IN_FLIGHT=16")
}

func count(list []string, what string) (n int) {
	for _, x := range list {
		if x == what {
			n++
		}
	}
	return n
}

// TestVirtualTokenOfOneOA: an OA whose token is refused costs the other OA nothing, makes a handful of calls, and goes on
// when it has a newer token.
func TestVirtualTokenOfOneOA(t *testing.T) {
	const other = "1111111111111111111"
	inVirtualDays(t, time.Minute, func(t *testing.T, w *world, s *Sender) {
		sleepUntil(9)
		w.provider.respond(func(p post) answer {
			if p.TemplateID == "666" {
				return answer{code: -124, after: 50 * time.Millisecond}
			}
			return answer{after: 50 * time.Millisecond}
		})
		var bad, good []*notificationv1.NotificationRequested
		for range 400 {
			bad = append(bad, request("bad", ofOA(other), ofTemplate("666")))
			good = append(good, request("good"))
		}
		refusedIDs := w.publish(bad...)
		ids := w.publish(good...)
		start := time.Now()
		for _, id := range ids {
			for len(w.sent(id)) == 0 && time.Since(start) < time.Minute {
				time.Sleep(10 * time.Millisecond)
			}
		}
		took := time.Since(start)
		// 400 calls of 50 ms, 32 at a time: 0.7 s with the slow start.
		if took > 2*time.Second {
			t.Errorf("the other OA's 400 took %s", took)
		}
		time.Sleep(50 * time.Minute)
		if n := len(w.provider.got("bad")); n > 32 {
			t.Errorf("%d calls with a refused token", n)
		}
		w.provider.respond(func(post) answer { return answer{after: 50 * time.Millisecond} })
		time.Sleep(time.Minute)
		if n := len(w.sent(refusedIDs[399])); n != 0 {
			t.Error("sent although there is no newer token")
		}
		s.tokens.set(map[string]string{testOA: "t", other: "newer"})
		s.engine.Wake()
		time.Sleep(20 * time.Second)
		for _, id := range refusedIDs {
			if len(w.sent(id)) != 1 {
				t.Fatalf("%d zns.sent after there is a newer token", len(w.sent(id)))
			}
		}
	}, "SENDER_MAX_IN_FLIGHT=32", "ZALO_ACCESS_TOKEN="+testOA+"=t,"+other+"=old")
}

// TestVirtualWallet: without money a few calls look in a while, the OA's other templates wait too, and after the wallet
// is filled everything goes out by itself.
func TestVirtualWallet(t *testing.T) {
	inVirtualDays(t, time.Minute, func(t *testing.T, w *world, s *Sender) {
		w.provider.respond(func(post) answer { return answer{code: -115} })
		var reqs []*notificationv1.NotificationRequested
		for range 300 {
			reqs = append(reqs, request("x"), request("x", ofTemplate("2")))
		}
		ids := w.publish(reqs...)
		time.Sleep(5 * time.Hour)
		calls := len(w.provider.got(""))
		if calls > 60 || calls < 5 {
			t.Errorf("%d calls in five hours without money", calls)
		}
		closed := s.h.limits.State(time.Now(), 10).OAs[0].Closed
		if len(closed) != 1 || closed[0].Code != -115 || !closed[0].NeedsPerson() {
			t.Errorf("told %+v", closed)
		}
		w.provider.respond(func(post) answer { return answer{} })
		time.Sleep(80 * time.Minute)
		for _, id := range ids {
			if len(w.sent(id)) != 1 {
				t.Fatal("not sent after the wallet was filled")
			}
		}
	})
}

// TestVirtualNight: promotions of the night go out in the morning, spread over minutes; OTPs go at once.
func TestVirtualNight(t *testing.T) {
	inVirtualDays(t, time.Minute, func(t *testing.T, w *world, _ *Sender) {
		sleepUntil(23)
		start := time.Now()
		var reqs []*notificationv1.NotificationRequested
		for i := range 60 {
			reqs = append(reqs, request("promotion", ofCategory(promotion), ofTemplate(string(rune('1'+i%9)))))
		}
		ids := w.publish(reqs...)
		code := w.publish(request("otp", ofCategory(otp)))[0]
		time.Sleep(6*time.Hour + 59*time.Minute)
		if n := len(w.provider.got("promotion")); n != 0 {
			t.Errorf("%d promotions at night", n)
		}
		w.wantAfter(code, topic.Sent, start, 0, 2*time.Second)
		time.Sleep(12 * time.Minute)
		var at []time.Time
		for _, id := range ids {
			if len(w.sent(id)) != 1 {
				t.Fatal("not sent in the morning")
			}
			at = append(at, w.at(id, topic.Sent).Truncate(30*time.Second))
		}
		slices.SortFunc(at, time.Time.Compare)
		if n := len(slices.Compact(at)); n < 3 {
			t.Errorf("60 promotions of nine templates went at %d different times", n)
		}
	})
}

// TestVirtualPace: the rate is kept to the call, and used.
func TestVirtualPace(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world, _ *Sender) {
		w.provider.respond(func(post) answer { return answer{after: 30 * time.Millisecond} })
		time.Sleep(10 * time.Second)
		start := time.Now()
		ids := w.many(3000, nil)
		time.Sleep(90 * time.Second)
		posts := w.provider.got("")
		if len(posts) != 3000 {
			t.Fatalf("%d calls in 90 s", len(posts))
		}
		for i := range posts {
			for _, span := range []int{1, 10, 50, 500} {
				if i >= span {
					if d := posts[i].At.Sub(posts[i-span].At); d < time.Duration(span)*20*time.Millisecond-slackOfPace {
						t.Fatalf("%d calls within %s at 50 a second", span+1, d)
					}
				}
			}
		}
		if took := posts[2999].At.Sub(start); took > 63*time.Second {
			t.Errorf("3000 calls at 50 a second took %s", took)
		}
		if len(w.sent(ids[0])) != 1 {
			t.Error("not sent")
		}
	}, "SENDER_RATE=50")
}

// slackOfPace is how much nearer two calls may come than the rate says.
const slackOfPace = 5 * time.Millisecond
