package limit

import (
	"errors"
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/zalo"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

const (
	otp   = notificationv1.Category_CATEGORY_OTP
	plain = notificationv1.Category_CATEGORY_TRANSACTION
	care  = notificationv1.Category_CATEGORY_CUSTOMER_CARE
	promo = notificationv1.Category_CATEGORY_PROMOTION
)

// bench drives Limits by hand, at a time of its own: it begins at noon in Vietnam.
type bench struct {
	t   *testing.T
	l   *Limits
	now time.Time
}

func newBench(t *testing.T, change ...func(*Config)) *bench {
	cfg := Config{MaxInFlight: 256, Reserve: 0.1, Spread: 10 * time.Minute, GainWait: 5 * time.Second}
	cfg.Hours[promo], _ = ParseHours("06:00-21:59")
	for _, f := range change {
		f(&cfg)
	}
	b := &bench{t: t, l: New(cfg), now: time.Date(2026, 11, 22, 12, 0, 0, 0, vietnam)}
	b.l.Own(0, 1, b.now)
	return b
}

func flow(oa, template string, c notificationv1.Category) Flow {
	return Flow{OA: oa, Template: template, Category: c}
}

func (b *bench) pass(d time.Duration) {
	b.now = b.now.Add(d)
	b.l.Advance(b.now)
}

// want says what must hold f back; "": nothing.
func (b *bench) want(f Flow, reason string) Hold {
	b.t.Helper()
	hold, closed := b.l.Closed(b.now, f)
	got := ""
	if closed {
		got = hold.Reason.String()[len("HOLD_REASON_"):]
	}
	if got != reason {
		b.t.Fatalf("%v at %s: held by %q, want %q", f, b.now.Format("02 15:04:05"), got, reason)
	}
	return hold
}

func (b *bench) take(f Flow) *Permit {
	b.t.Helper()
	p, _, ok := b.l.Take(b.now, f)
	if !ok {
		b.t.Fatalf("%v at %s: no permit", f, b.now.Format("02 15:04:05"))
	}
	return p
}

// call makes one call of f that is answered at once.
func (b *bench) call(f Flow, r zalo.Result) {
	b.t.Helper()
	p := b.take(f)
	b.now = b.now.Add(time.Millisecond)
	p.Answered(b.now, &r)
}

func accepted() zalo.Result { return zalo.Result{Outcome: zalo.Accepted, MsgID: "m"} }

func told(daily, left int32, at time.Time) zalo.Result {
	return zalo.Result{Outcome: zalo.Accepted, MsgID: "m", SentTime: at, Quota: &zalo.Quota{Daily: &daily, Remaining: &left}}
}

func refused(code int) zalo.Result {
	info := zalo.LookupCode(zalo.HostBusiness, code)
	return zalo.Result{
		Outcome: zalo.Rejected, Code: code, Class: info.Class, Retryable: info.Action == zalo.ActionRetry,
		Hold: info.Action == zalo.ActionHold, HoldReason: info.Hold, Scope: info.Scope, Period: info.Period,
	}
}

var lost = zalo.Result{Outcome: zalo.Unknown, Cause: zalo.CauseHTTP5xx, HTTPStatus: 503}

// What a refusal closes, for whom, and what stays open.
func TestWhatARefusalCloses(t *testing.T) {
	for _, tc := range []struct {
		code   int
		reason string
		oa     bool // the whole OA
		lane   bool // of the OA this category only
	}{
		{-124, "TOKEN", true, false}, {-216, "TOKEN", true, false}, {-220, "TOKEN", true, false},
		{-115, "ACCOUNT", true, false}, {-135, "ACCOUNT", true, false}, {-145, "ACCOUNT", true, true},
		{-101, "OPERATOR", true, false}, {-1241, "OPERATOR", true, false}, {-125, "OPERATOR", true, false},
		{-144, "QUOTA", true, false}, {-1441, "QUOTA", true, true}, {-147, "QUOTA", false, false},
		{-131, "TEMPLATE_REVIEW", false, false}, {-133, "HOURS", false, false}, {-234, "HOURS", false, false},
	} {
		b := newBench(t, func(c *Config) { c.Hours[promo] = Hours{} })
		b.call(flow("1", "a", promo), refused(tc.code))
		b.want(flow("1", "a", promo), tc.reason)
		b.want(flow("2", "a", promo), "")
		want := ""
		if tc.oa {
			want = tc.reason
		}
		b.want(flow("1", "b", promo), want)
		if tc.lane {
			want = ""
		}
		b.want(flow("1", "b", otp), want)
	}
	for _, code := range []int{-118, -1122, -1471, -1472, -126, -121, -99999} {
		b := newBench(t)
		b.call(flow("1", "a", promo), refused(code))
		b.want(flow("1", "a", promo), "")
	}
}

// Codes that concern one notification hold that one.
func TestOwn(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, vietnam)
	midnight, month := time.Date(2026, 12, 1, 0, 0, 0, 0, vietnam), time.Date(2026, 12, 1, 0, 0, 0, 0, vietnam)
	withAfter := refused(-32)
	withAfter.RetryAfter = 20 * time.Minute
	for _, tc := range []struct {
		name        string
		r           zalo.Result
		reason      ledgerv1.HoldReason
		least, most time.Time
	}{
		{"this person today", refused(-1472), ledgerv1.HoldReason_HOLD_REASON_QUOTA, midnight, midnight.Add(ownSpread)},
		{"this person this month", refused(-1471), ledgerv1.HoldReason_HOLD_REASON_QUOTA, month, month.Add(ownSpread)},
		{"development mode", refused(-126), ledgerv1.HoldReason_HOLD_REASON_QUOTA, midnight, midnight.Add(ownSpread)},
		{"in no table", refused(-99999), ledgerv1.HoldReason_HOLD_REASON_OPERATOR, time.Time{}, time.Time{}},
		{"not a body", refused(-121), ledgerv1.HoldReason_HOLD_REASON_OPERATOR, time.Time{}, time.Time{}},
		{"too many", refused(-32), ledgerv1.HoldReason_HOLD_REASON_RATE, now.Add(800 * time.Millisecond), now.Add(1300 * time.Millisecond)},
		{"Retry-After", withAfter, ledgerv1.HoldReason_HOLD_REASON_RATE, now.Add(20 * time.Minute), now.Add(20 * time.Minute)},
		{"again", refused(-129), ledgerv1.HoldReason_HOLD_REASON_RETRY, now.Add(800 * time.Millisecond), now.Add(1300 * time.Millisecond)},
		{"not sent", zalo.Result{Outcome: zalo.NotSent}, ledgerv1.HoldReason_HOLD_REASON_RETRY, now.Add(400 * time.Millisecond), now.Add(700 * time.Millisecond)},
		{"late", zalo.Result{Outcome: zalo.NotSent, Err: zalo.ErrLate}, ledgerv1.HoldReason_HOLD_REASON_RETRY, now, now},
		{"token", refused(-124), 0, time.Time{}, time.Time{}},
		{"wallet", refused(-115), 0, time.Time{}, time.Time{}},
		{"quota", refused(-144), 0, time.Time{}, time.Time{}},
	} {
		h := Own(now, &tc.r, 0)
		if h.Reason != tc.reason || h.Until.Before(tc.least) || h.Until.After(tc.most) {
			t.Errorf("%s: %s until %s, want %s from %s to %s", tc.name, h.Reason, h.Until, tc.reason, tc.least, tc.most)
		}
	}
}

// A refused token holds its OA until there is another; then one call goes, and only when that is taken the others.
func TestToken(t *testing.T) {
	b := newBench(t)
	b.l.Token("", 0)
	b.want(flow("1", "a", plain), "TOKEN") // there is none
	b.l.Token("1", 1)
	b.l.Token("2", 1)
	old := b.take(flow("1", "a", plain))
	b.call(flow("1", "a", plain), refused(-124))
	b.pass(30 * time.Minute)
	b.want(flow("1", "a", plain), "TOKEN")
	b.want(flow("2", "a", plain), "")
	b.l.Token("1", 1) // the same
	b.want(flow("1", "a", plain), "TOKEN")

	b.l.Token("1", 2)
	b.want(flow("1", "a", plain), "")
	p := b.take(flow("1", "a", plain))
	b.want(flow("1", "b", plain), "TOKEN") // while the first looks
	r := refused(-124)
	old.Answered(b.now, &r) // of the old token: says nothing about the new one
	p.Answered(b.now, &r)
	b.want(flow("1", "a", plain), "TOKEN")

	b.l.Token("1", 3)
	old = b.take(flow("1", "a", plain))
	b.l.Token("1", 4) // renewed while a call is under way
	old.Answered(b.now, &r)
	b.want(flow("1", "a", plain), "")
	b.call(flow("1", "a", plain), accepted())
	b.want(flow("1", "a", plain), "")
	b.want(flow("1", "b", plain), "")
}

// A wallet without money is looked at by one call in a while; the first that is taken opens the OA.
func TestAccountProbes(t *testing.T) {
	b := newBench(t)
	b.call(flow("1", "a", plain), refused(-115))
	probes := 0
	for range 6 * 60 {
		b.pass(time.Minute)
		if _, closed := b.l.Closed(b.now, flow("1", "b", plain)); !closed {
			probes++
			b.call(flow("1", "b", plain), refused(-115))
		}
	}
	if probes < 5 || probes > 12 {
		t.Errorf("%d probes in six hours", probes)
	}
	if b.l.Release("1", "") != 1 {
		t.Error("nothing to release")
	}
	b.call(flow("1", "b", plain), accepted())
	for range 10 {
		b.take(flow("1", "a", plain))
	}
	if events := b.l.Events(); len(events) != 2 || events[0].Open || !events[0].NeedsPerson() || events[0].Code != -115 || !events[1].Open {
		t.Errorf("told %+v", events)
	}
}

// A probe that tells nothing about what it was to look at is followed by another one soon, and an undone one at once.
func TestProbeThatTellsNothing(t *testing.T) {
	b := newBench(t)
	f := flow("1", "a", plain)
	b.call(f, refused(-115))
	b.pass(20 * time.Minute)
	b.take(f).Undo()
	b.want(f, "")
	b.call(f, refused(-118)) // the person has no Zalo
	b.want(f, "ACCOUNT")
	b.pass(unsure)
	b.want(f, "")
	b.call(f, lost)
	b.want(f, "ACCOUNT")
	b.pass(unsure)
	b.want(f, "")
}

// Stragglers of before a closing neither open it nor prolong it.
func TestStragglers(t *testing.T) {
	b := newBench(t)
	f := flow("1", "a", plain)
	early, late := b.take(f), b.take(f)
	b.pass(time.Millisecond)
	b.call(f, refused(-115))
	ok := accepted()
	early.Answered(b.now, &ok)
	b.want(f, "ACCOUNT")
	b.pass(18*time.Minute + time.Second)
	r := refused(-115)
	late.Answered(b.now, &r)
	b.want(f, "") // the probe is not put off
}

// Until a template is enabled none of its messages go; then one looks.
func TestTemplateReview(t *testing.T) {
	b := newBench(t)
	f := flow("1", "a", plain)
	b.call(f, refused(-131))
	b.l.TemplateEnabled("1", "a", b.now.Add(-time.Hour)) // read late
	b.want(f, "TEMPLATE_REVIEW")
	b.pass(time.Minute)
	b.l.TemplateEnabled("1", "a", b.now)
	b.want(f, "")
	b.call(f, accepted())
	b.want(f, "")
}

// Three messages of a template in a row with a code that is in no table, and nothing of it is called again by itself.
func TestUnlistedCodesCloseTheTemplate(t *testing.T) {
	b := newBench(t)
	f := flow("1", "a", plain)
	b.call(f, refused(-99999))
	b.call(f, refused(-99998))
	b.call(f, accepted())
	b.call(f, refused(-99999))
	b.call(f, refused(-99999))
	b.want(f, "")
	b.call(f, refused(-99999))
	b.want(f, "OPERATOR")
	b.want(flow("1", "b", plain), "")
	for range 100 {
		b.pass(time.Hour)
		b.want(f, "OPERATOR")
	}
	b.l.Release("1", "a")
	b.call(f, accepted())
	b.want(f, "")
}

// Messages in a row are counted however far apart they are.
func TestUnlistedCodesFarApart(t *testing.T) {
	b := newBench(t)
	f := flow("1", "a", plain)
	for range 3 {
		b.want(f, "")
		b.call(f, refused(-99999))
		b.pass(5 * time.Minute)
	}
	b.want(f, "OPERATOR")
}

// After a restore a flow that was held begins with one call.
func TestSeed(t *testing.T) {
	b := newBench(t)
	f := flow("1", "a", plain)
	b.l.Seed(f, Hold{Reason: ledgerv1.HoldReason_HOLD_REASON_ACCOUNT}, b.now)
	b.want(f, "")
	p := b.take(f)
	b.want(f, "ACCOUNT")
	r := refused(-115)
	p.Answered(b.now.Add(time.Second), &r)
	b.want(f, "ACCOUNT")
	b.pass(time.Minute)
	b.want(f, "ACCOUNT") // now it is known why

	b = newBench(t)
	b.l.Seed(f, Hold{Reason: ledgerv1.HoldReason_HOLD_REASON_QUOTA, Until: b.now.Add(time.Hour)}, b.now)
	b.call(f, accepted())
	b.take(f)
	b.take(f)
	b.l.Seed(f, Hold{Reason: ledgerv1.HoldReason_HOLD_REASON_QUOTA, Until: b.now.Add(-time.Hour)}, b.now) // over
	b.take(f)
}

// A run of calls without an answer closes the OA, one probe at a time opens it, and it begins with few.
func TestCircuit(t *testing.T) {
	b := newBench(t)
	f := flow("1", "a", plain)
	for range breakAfter - 1 {
		b.call(f, lost)
	}
	b.call(f, refused(-118)) // an answer of Zalo's own
	for range breakAfter - 1 {
		b.call(f, lost)
	}
	b.want(f, "")
	b.call(f, lost)
	b.want(f, "CIRCUIT")
	b.want(flow("2", "a", plain), "") // nothing is known about others
	probes := 0
	for range 50 * 60 {
		b.pass(100 * time.Millisecond)
		if _, closed := b.l.Closed(b.now, f); !closed {
			probes++
			p := b.take(f)
			if _, _, ok := b.l.Take(b.now, f); ok {
				t.Fatal("two probes at a time")
			}
			p.Answered(b.now, &lost)
		}
	}
	if probes < 5 || probes > 20 {
		t.Errorf("%d probes in five minutes", probes)
	}
	b.pass(3 * time.Minute)
	b.call(f, accepted())
	var held []*Permit
	for len(held) < 1000 {
		p, _, ok := b.l.Take(b.now, f)
		if !ok {
			break
		}
		held = append(held, p)
	}
	if len(held) != 2 {
		t.Errorf("%d calls at a time after the first good answer, want 2", len(held))
	}
	late := zalo.Result{Outcome: zalo.NotSent, Err: zalo.ErrLate}
	b = newBench(t)
	for range 100 { // a machine that was stopped says nothing about Zalo
		b.call(f, late)
	}
	b.want(f, "")
}

// Trouble of several OAs is the host's.
func TestHostCircuit(t *testing.T) {
	b := newBench(t)
	for i := range breakAfter {
		b.call(flow([]string{"1", "2"}[i%2], "a", plain), lost)
	}
	b.want(flow("3", "a", plain), "CIRCUIT")
	if n, probing := b.l.Slots(); n != 1 || !probing {
		t.Errorf("%d slots, probing %v", n, probing)
	}
	b.pass(2 * time.Second)
	b.call(flow("3", "a", plain), accepted())
	for _, oa := range []string{"1", "2", "3"} {
		b.want(flow(oa, "a", plain), "")
	}
	if n, _ := b.l.Slots(); n < 2 || n > 3 {
		t.Errorf("begins again with %d calls at a time", n)
	}
}

// The number of calls at a time doubles with each round trip, and is halved by a refusal for coming too often.
func TestWindow(t *testing.T) {
	b := newBench(t)
	f := flow("1", "a", plain)
	trips := 0
	for n, _ := b.l.Slots(); n < 256; n, _ = b.l.Slots() {
		var ps []*Permit
		for range n {
			ps = append(ps, b.take(f))
		}
		b.pass(50 * time.Millisecond)
		for _, p := range ps {
			r := accepted()
			p.Answered(b.now, &r)
		}
		trips++
	}
	if trips != 4 { // 16, 32, 64, 128
		t.Errorf("%d round trips to 256 calls at a time", trips)
	}
	var ps []*Permit
	for range 100 {
		ps = append(ps, b.take(f))
	}
	r := zalo.Result{Outcome: zalo.Rejected, Hold: true, HoldReason: zalo.HoldRate, HTTPStatus: 429}
	b.pass(50 * time.Millisecond)
	ps[0].Answered(b.now, &r)
	ps[1].Answered(b.now, &r) // of the same round trip
	if n, _ := b.l.Slots(); n != 50 {
		t.Errorf("%d calls at a time after a 429 among 100, want 50", n)
	}
	if _, _, ok := b.l.Take(b.now, f); ok {
		t.Error("98 calls are under way, and one more may start")
	}
	b.want(f, "")
	ps[2].Answered(b.now, &r)
	b.want(f, "RATE")
}

// Single lost answers, and even one in five, do not throttle.
func TestSomeLostAnswersDoNotThrottle(t *testing.T) {
	b := newBench(t)
	f := flow("1", "a", plain)
	for i := range 2000 {
		r := accepted()
		if i%5 == 0 {
			r = lost
		}
		b.call(f, r)
	}
	if n, _ := b.l.Slots(); n != 256 {
		t.Errorf("%d calls at a time", n)
	}
}

// What Zalo asks for is obeyed, clamped.
func TestRetryAfterAndRateLimit(t *testing.T) {
	f := flow("1", "a", plain)
	for asked, most := range map[time.Duration]time.Duration{time.Minute: 61 * time.Second, 48 * time.Hour: 61 * time.Minute} {
		b := newBench(t)
		r := refused(-32)
		r.RetryAfter = asked
		b.call(f, r)
		h := b.want(f, "RATE")
		if wait := h.Until.Sub(b.now); wait < min(asked, maxObeyed)-time.Second || wait > most {
			t.Errorf("asked for %s, waits %s", asked, wait)
		}
		b.want(flow("2", "a", plain), "")
	}
	b := newBench(t)
	r := accepted()
	r.RateLimit = &zalo.RateLimit{Limit: 4000, Remaining: 1}
	b.call(f, r)
	b.want(f, "")
	r.RateLimit = &zalo.RateLimit{Limit: 4000, Remaining: 0}
	b.call(f, r)
	if h := b.want(f, "RATE"); h.Until.Sub(b.now) > 2*time.Minute {
		t.Errorf("waits %s", h.Until.Sub(b.now))
	}
}

func TestErrorsOfTheTokenSource(t *testing.T) {
	b := newBench(t)
	b.call(flow("1", "a", plain), zalo.Result{Outcome: zalo.NotSent, Hold: true, HoldReason: zalo.HoldToken, Scope: "oa", Class: zalo.ClassToken, Err: errors.New("none")})
	b.want(flow("1", "b", plain), "TOKEN")
	b.want(flow("2", "b", plain), "")
}
