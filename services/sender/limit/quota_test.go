package limit

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/znshub/znshub/pkg/zalo"
)

func at(day, hour, minute int) time.Time {
	return time.Date(2026, 11, day, hour, minute, 0, 0, vietnam)
}

// The reserve of a day's quota is for OTP and TRANSACTION; at the reset in Vietnam the others come back one by one.
func TestReserve(t *testing.T) {
	b := newBench(t)
	b.call(flow("1", "a", plain), told(1000, 101, b.now))
	b.want(flow("1", "a", care), "")
	b.call(flow("1", "a", plain), told(1000, 100, b.now))
	h := b.want(flow("1", "a", care), "QUOTA")
	if h.Until.Before(at(23, 0, 0)) || h.Until.After(at(23, 0, 10)) {
		t.Errorf("until %s", h.Until)
	}
	b.want(flow("1", "b", promo), "QUOTA")
	b.want(flow("1", "a", otp), "")
	b.want(flow("2", "a", care), "")
	b.call(flow("1", "a", otp), told(1000, 0, b.now))
	b.want(flow("1", "a", otp), "QUOTA")

	b.now = at(23, 0, 0)
	b.l.Advance(b.now)
	b.want(flow("1", "a", otp), "")
	opened := map[time.Time]int{}
	for i := range 200 {
		h, closed := b.l.Closed(b.now, flow("1", fmt.Sprint(i), care))
		if !closed {
			h.Until = b.now
		}
		opened[h.Until]++
	}
	if len(opened) < 10 {
		t.Errorf("200 flows come back at %d different times", len(opened))
	}
	b.pass(10 * time.Minute)
	for i := range 200 {
		b.want(flow("1", fmt.Sprint(i), care), "")
	}
}

// With calls under way the reserve is kept too: each may be the last.
func TestReserveCountsCallsUnderWay(t *testing.T) {
	b := newBench(t)
	b.call(flow("1", "a", plain), told(1000, 105, b.now))
	n := 0
	for ; n < 1000; n++ {
		if _, _, ok := b.l.Take(b.now, flow("1", "a", care)); !ok {
			break
		}
	}
	if n != 5 {
		t.Errorf("%d calls of what nobody waits for with 105 left and a reserve of 100, want 5", n)
	}
	b.take(flow("1", "a", otp))

	half := newBench(t, func(c *Config) {})
	half.l = New(half.l.cfg)
	half.l.Own(0, 2, half.now) // another process owns the other partition, and does the same
	half.call(flow("1", "a", plain), told(1000, 110, half.now))
	n = 0
	for ; n < 1000; n++ {
		if _, _, ok := half.l.Take(half.now, flow("1", "a", care)); !ok {
			break
		}
	}
	if n != 5 {
		t.Errorf("%d calls by one of two owners with 110 left, want 5", n)
	}
}

// Answers overtake each other, and Zalo may raise a quota: the latest by Zalo's clock counts.
func TestQuotaOutOfOrder(t *testing.T) {
	b := newBench(t)
	t0 := b.now
	early, late := b.take(flow("1", "a", plain)), b.take(flow("1", "a", plain))
	r := told(1000, 100, t0.Add(20*time.Millisecond))
	late.Answered(b.now, &r)
	b.want(flow("1", "a", care), "QUOTA")
	r = told(1000, 101, t0.Add(10*time.Millisecond))
	early.Answered(b.now, &r) // Zalo's answer from before
	b.want(flow("1", "a", care), "QUOTA")
	b.pass(time.Second)
	b.call(flow("1", "a", plain), told(2000, 1100, b.now)) // raised
	b.want(flow("1", "a", care), "")

	b.call(flow("1", "a", plain), told(2000, 0, b.now))
	b.want(flow("1", "a", otp), "QUOTA")
	before := b.now.Add(-time.Minute)
	left, more := int32(500), int32(700)
	b.l.Quota("1", "", Word{nil, &left, before}, b.now)
	b.want(flow("1", "a", otp), "QUOTA")
	b.l.Quota("1", "", Word{nil, &more, b.now.Add(time.Second)}, b.now.Add(2*time.Second))
	b.want(flow("1", "a", otp), "")
}

// A callback tells a raised quota and not what is left of it: one call looks at once, and what nobody waits for may use
// what came on top. One that tells less, or the same again, opens nothing.
func TestRaisedQuota(t *testing.T) {
	b := newBench(t)
	f := flow("1", "a", plain)
	b.call(f, told(1000, 0, b.now))
	b.want(f, "QUOTA")
	says := func(total int32) {
		b.pass(time.Minute)
		b.l.Quota("1", "", Word{Total: &total, At: b.now}, b.now)
	}
	says(1000)
	b.want(f, "QUOTA")
	says(900)
	b.want(f, "QUOTA")
	says(2000)
	p := b.take(f)
	b.want(f, "QUOTA") // one call
	r := refused(-144)
	p.Answered(b.now, &r)
	b.want(f, "QUOTA") // it does not hold yet
	says(3000)
	b.call(f, zalo.Result{Outcome: zalo.Accepted})
	n := 0
	for ; n < 5000; n++ {
		if _, _, ok := b.l.Take(b.now, flow("1", "a", care)); !ok {
			break
		}
	}
	if n != 2100-300-1 {
		t.Errorf("%d calls of what nobody waits for after 2100 came on top of nothing, want all but the reserve of 300", n)
	}
}

// An answer from before the reset that comes after it says nothing about the new day; one from after it does, also when
// Zalo's day does not begin at midnight.
func TestAnswersAroundTheReset(t *testing.T) {
	b := newBench(t)
	b.now = at(22, 23, 59)
	b.call(flow("1", "a", plain), told(1000, 3, b.now))
	p := b.take(flow("1", "a", plain))
	b.now = at(23, 0, 0).Add(500 * time.Millisecond)
	b.l.Advance(b.now)
	r := told(1000, 2, at(22, 23, 59).Add(59*time.Second))
	p.Answered(b.now, &r)
	b.pass(11 * time.Minute)
	b.want(flow("1", "a", care), "")
	b.call(flow("1", "a", plain), told(1000, 1, b.now)) // its day has not ended
	b.want(flow("1", "a", care), "QUOTA")
	b.pass(time.Hour)
	b.call(flow("1", "a", plain), told(1000, 999, b.now))
	b.want(flow("1", "a", care), "")
}

// -144 holds until midnight, but for a probe in a while: nobody told when the quota begins anew, or whether it was raised.
func TestOverQuotaIsProbed(t *testing.T) {
	b := newBench(t)
	f := flow("1", "a", plain)
	b.call(f, refused(-144))
	if h := b.want(f, "QUOTA"); !h.Until.Equal(at(23, 0, 0)) {
		t.Errorf("until %s", h.Until)
	}
	probes := 0
	for b.now.Before(at(22, 23, 59)) {
		b.pass(time.Minute)
		if _, closed := b.l.Closed(b.now, f); !closed {
			probes++
			b.call(f, refused(-144))
		}
	}
	if probes < 4 || probes > 12 {
		t.Errorf("%d probes in twelve hours", probes)
	}
	b.pass(2 * time.Minute)
	b.want(f, "")
}

// Months end where they end, in Vietnam, also in December and in leap years.
func TestResets(t *testing.T) {
	for _, tc := range []struct{ now, midnight, month string }{
		{"2026-11-22T12:00:00+07:00", "2026-11-23T00:00:00+07:00", "2026-12-01T00:00:00+07:00"},
		{"2026-12-31T23:59:59+07:00", "2027-01-01T00:00:00+07:00", "2027-01-01T00:00:00+07:00"},
		{"2027-01-31T00:00:00+07:00", "2027-02-01T00:00:00+07:00", "2027-02-01T00:00:00+07:00"},
		{"2028-02-29T17:30:00Z", "2028-03-02T00:00:00+07:00", "2028-04-01T00:00:00+07:00"},
		{"2026-11-30T16:59:59Z", "2026-12-01T00:00:00+07:00", "2026-12-01T00:00:00+07:00"},
		{"2026-11-30T17:00:00Z", "2026-12-02T00:00:00+07:00", "2027-01-01T00:00:00+07:00"},
	} {
		now, _ := time.Parse(time.RFC3339, tc.now)
		if got := midnight(now).Format(time.RFC3339); got != tc.midnight {
			t.Errorf("%s: the day ends at %s, want %s", tc.now, got, tc.midnight)
		}
		if got := monthEnd(now).Format(time.RFC3339); got != tc.month {
			t.Errorf("%s: the month ends at %s, want %s", tc.now, got, tc.month)
		}
	}
}

// Promotions per month: from oa.quota and from -1441, for promotions only.
func TestMonth(t *testing.T) {
	b := newBench(t)
	none, some, total := int32(0), int32(50), int32(300)
	b.l.Month("1", Word{&total, &none, b.now.Add(-time.Minute)}, b.now)
	h := b.want(flow("1", "a", promo), "QUOTA")
	if h.Until.Before(at(31, 0, 0)) || h.Until.After(at(31, 0, 10)) { // November has 30
		t.Errorf("until %s", h.Until)
	}
	b.want(flow("1", "a", care), "")
	b.pass(time.Minute)
	b.l.Month("1", Word{&total, &some, b.now}, b.now)
	b.want(flow("1", "a", promo), "")
	b.l.Month("2", Word{&total, &none, b.now.AddDate(0, -1, 0)}, b.now) // last month's
	b.want(flow("2", "a", promo), "")
	yesterday := int32(0)
	b.l.Quota("3", "", Word{&total, &yesterday, b.now.AddDate(0, 0, -1)}, b.now)
	b.want(flow("3", "a", plain), "")
}

func TestTemplateQuota(t *testing.T) {
	b := newBench(t)
	total, none := int32(100), int32(0)
	b.l.Quota("1", "a", Word{&total, &none, b.now}, b.now)
	b.want(flow("1", "a", otp), "QUOTA")
	b.want(flow("1", "b", otp), "")
}

// What somebody waits for is held by Zalo's word that the template's quota is used up, not by an estimate of it: nothing
// would correct that before the reset.
func TestTemplateQuotaIsNotGuessedForOTPs(t *testing.T) {
	b := newBench(t)
	for p := range int32(3) {
		b.l.Own(p, 12, b.now)
	}
	total, left := int32(100), int32(4)
	b.l.Quota("1", "a", Word{&total, &left, b.now}, b.now)
	for range 4 { // and the other owners have sent nothing
		b.call(flow("1", "a", otp), accepted())
	}
	b.want(flow("1", "a", promo), "QUOTA")
}

// Whatever Zalo says in whatever order, a quota that it says is used up is not left by more than the calls that were
// under way, and no word is lost for longer than a day.
func TestQuotaAtRandom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := epoch
		q := quota{}
		truth := int64(1000)
		type word struct {
			left int32
			at   time.Time
		}
		var late []word
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "do") {
			case 0, 1: // Zalo takes a message and answers, now or later
				truth = max(0, truth-1)
				w := word{int32(truth), now}
				if rapid.Bool().Draw(t, "late") {
					late = append(late, w)
					continue
				}
				total := int32(1000)
				q.roll(now, 0.1)
				q.learn(Word{&total, &w.left, w.at}, now)
				if q.remaining != truth {
					t.Fatalf("the latest word says %d, believed %d", truth, q.remaining)
				}
				late = late[:0:0]
			case 2:
				if len(late) > 0 {
					i := rapid.IntRange(0, len(late)-1).Draw(t, "which")
					total := int32(1000)
					before, known := q.remaining, q.known
					q.learn(Word{&total, &late[i].left, late[i].at}, now)
					if known && late[i].at.Before(q.at) && q.remaining != before {
						t.Fatal("an old word counted")
					}
					late = append(late[:i], late[i+1:]...)
				}
			case 3:
				now = now.Add(time.Duration(rapid.IntRange(1, 4*3600).Draw(t, "seconds")) * time.Second)
				if q.known && !now.Before(q.resets) {
					truth, late = 1000, nil
					now = now.Add(maxLate)
				}
				q.roll(now, 0.1)
			}
		}
	})
}

// A forecast is made hours before, told once, and withdrawn when it no longer holds.
func TestForecast(t *testing.T) {
	b := newBench(t)
	b.now = at(22, 1, 0)
	b.call(flow("1", "a", plain), told(10_000, 9000, b.now))
	var news []Forecast
	arrive := func(perMinute, minutes int) {
		for range minutes {
			for range perMinute {
				b.l.Arrived(b.now, flow("1", "a", plain))
			}
			b.pass(time.Minute)
			news = append(news, b.l.Forecasts(b.now)...)
		}
	}
	arrive(1, 60)
	if len(news) != 0 {
		t.Fatalf("60 an hour and 9000 left: %+v", news)
	}
	arrive(20, 120)
	if len(news) == 0 || len(news) > 4 {
		t.Fatalf("1200 an hour and 9000 left: told %d times", len(news))
	}
	last := news[len(news)-1]
	if d := last.Exhausted.Sub(b.now); d < 5*time.Hour || d > 11*time.Hour {
		t.Errorf("used up in %s, want about 8 h", d)
	}
	if *last.Day != 10_000 || *last.Left != 9000 {
		t.Errorf("%+v", last)
	}
	news = nil
	arrive(0, 6*60)
	if len(news) == 0 || !news[len(news)-1].Exhausted.IsZero() {
		t.Errorf("nothing arrives any more: %+v", news)
	}
}

// A forecast that stood in oa.quota when the process began is withdrawn when it does not hold any more.
func TestForecastOfBefore(t *testing.T) {
	b := newBench(t)
	b.now = at(22, 1, 0)
	b.l.Told("1", "", b.now.Add(time.Hour), b.now.Add(-3*time.Hour))
	b.l.Advance(b.now)
	b.call(flow("1", "a", plain), told(10_000, 9000, b.now))
	if news := b.l.Forecasts(b.now); len(news) != 1 || !news[0].Exhausted.IsZero() {
		t.Errorf("%+v", news)
	}
}

// However what is foreseen changes, a quota's forecast is not told more often than once in ten minutes.
func TestForecastIsToldSeldom(t *testing.T) {
	b := newBench(t)
	b.now = at(22, 1, 0)
	var seen []time.Time
	for i := range 120 {
		b.call(flow("1", "a", plain), told(10_000, int32(9000-8900*(i%2)), b.now))
		for range 20 {
			b.l.Arrived(b.now, flow("1", "a", plain))
		}
		b.pass(time.Minute)
		for range b.l.Forecasts(b.now) {
			seen = append(seen, b.now)
		}
	}
	if len(seen) < 5 {
		t.Fatalf("told %d times in two hours: the test does not test", len(seen))
	}
	for i, again := range seen[1:] {
		if gap := again.Sub(seen[i]); gap < tellAgain {
			t.Errorf("told again after %s", gap)
		}
	}
}

func TestHours(t *testing.T) {
	b := newBench(t)
	f := flow("1", "a", promo)
	for _, tc := range []struct {
		at   time.Time
		open bool
	}{
		{at(22, 5, 59), false}, {at(22, 6, 10), true}, {at(22, 21, 59).Add(59 * time.Second), true}, {at(22, 22, 0), false}, {at(23, 0, 0), false},
	} {
		b.now = tc.at
		hold, closed := b.l.Closed(b.now, f)
		if closed == tc.open {
			t.Errorf("%s: closed %v", tc.at, closed)
		}
		if closed && (hold.Until.Hour() != 6 || hold.Until.Minute() > 10 || !hold.Until.After(tc.at)) {
			t.Errorf("%s: until %s", tc.at, hold.Until)
		}
		b.want(flow("1", "a", otp), "")
		b.want(flow("1", "a", care), "")
	}
	b.now = at(22, 21, 59).Add(58 * time.Second)
	if got := b.l.Closes(b.now, f); !got.Equal(at(22, 22, 0)) {
		t.Errorf("closes at %s", got)
	}
	if !b.l.Closes(b.now, flow("1", "a", otp)).IsZero() {
		t.Error("OTPs have no hours")
	}
	for text, want := range map[string]string{
		"06:00-21:59": "06:00-21:59", "22:00-05:29": "22:00-05:29", "00:00-23:59": "00:00-23:59", "8:00 - 17:59": "08:00-17:59",
		"6-22": "", "06:00": "", "25:00-26:00": "", "06:00-21:60": "", "": "",
	} {
		h, err := ParseHours(text)
		if (err != nil) != (want == "") || err == nil && h.String() != want {
			t.Errorf("%q: %s, %v", text, h, err)
		}
	}
	night, _ := ParseHours("22:00-05:29")
	for at, open := range map[time.Time]bool{at(22, 23, 0): true, at(22, 5, 29): true, at(22, 5, 30): false, at(22, 12, 0): false} {
		if _, got := night.opened(at); got != open {
			t.Errorf("22:00-05:29 at %s: %v", at, got)
		}
	}
}

// Zalo's own word that it is night counts until the morning; in the middle of the day it is asked again soon.
func TestZaloSaysNight(t *testing.T) {
	b := newBench(t)
	f := flow("1", "a", care)
	b.now = at(22, 23, 0)
	b.call(f, refused(-133))
	if h := b.want(f, "HOURS"); h.Until.Before(at(23, 6, 0)) || h.Until.After(at(23, 6, 10)) {
		t.Errorf("until %s", h.Until)
	}
	b = newBench(t)
	b.now = at(22, 6, 0).Add(time.Second) // Zalo's clock is two seconds behind
	b.call(f, refused(-133))
	if h := b.want(f, "HOURS"); h.Until.After(b.now.Add(21 * time.Minute)) {
		t.Errorf("until %s", h.Until)
	}
}

// Ten thousand templates and as many OAs that only appear in requests: the state is bounded, and forgotten when idle.
func TestMemoryIsBounded(t *testing.T) {
	b := newBench(t, func(c *Config) { c.MaxOAs, c.MaxTemplates = 100, 1000 })
	for i := range 10_000 {
		f := flow(fmt.Sprint(i), "a", plain)
		b.l.Arrived(b.now, f)
		b.call(f, accepted())
	}
	if n := len(b.l.oas); n > 101 {
		t.Errorf("%d OAs are remembered", n)
	}
	b.pass(3 * time.Hour)
	if n := len(b.l.oas); n > 1 {
		t.Errorf("%d idle OAs are remembered", n)
	}
	b = newBench(t, func(c *Config) { c.MaxOAs, c.MaxTemplates = 100, 1000 })
	for i := range 10_000 {
		b.call(flow("1", fmt.Sprint(i), plain), refused(-131))
	}
	if b.l.templates > 1000 || len(b.l.oas["1"].templates) > 1000 {
		t.Errorf("%d templates are remembered", b.l.templates)
	}
	b.l.Token("", 0)
	for i := range 1000 {
		b.l.Arrived(b.now, flow("x"+fmt.Sprint(i), "a", plain))
	}
	if len(b.l.oas) > 1 {
		t.Errorf("%d OAs without a token are remembered", len(b.l.oas))
	}
	for range 3 * maxEvents {
		b.l.event(Event{})
	}
	if len(b.l.Events()) > maxEvents {
		t.Error("events pile up")
	}
}

// A clock that jumps a day ahead and back does not lose what Zalo says afterwards.
func TestClockJumps(t *testing.T) {
	b := newBench(t)
	b.call(flow("1", "a", plain), told(1000, 50, b.now))
	b.want(flow("1", "a", care), "QUOTA")
	right := b.now
	b.now = b.now.Add(25 * time.Hour)
	b.l.Advance(b.now)
	b.now = right.Add(time.Second)
	b.l.Advance(b.now)
	b.want(flow("1", "a", otp), "")
	b.call(flow("1", "a", plain), told(1000, 0, b.now))
	if h := b.want(flow("1", "a", otp), "QUOTA"); !h.Until.Equal(at(23, 0, 0)) {
		t.Errorf("until %s", h.Until)
	}
}
