package limit

import (
	"fmt"
	"strings"
	"time"
)

// vietnam has had one time zone without daylight saving since 1975; a fixed zone needs no zone files.
var vietnam = time.FixedZone("Asia/Ho_Chi_Minh", 7*60*60)

// Hours are the hours of the day in Vietnam at which calls may start. The zero value allows all.
type Hours struct {
	open, close time.Duration // since midnight; from open on, before close; they differ unless all is allowed
}

// ParseHours reads "06:00-21:59": from the first minute on, through the last. A range may go over midnight.
func ParseHours(text string) (Hours, error) {
	bad := func() (Hours, error) {
		return Hours{}, fmt.Errorf("%q is no range of hours like 06:00-21:59", text)
	}
	from, to, ok := strings.Cut(strings.TrimSpace(text), "-")
	if !ok {
		return bad()
	}
	first, err := time.Parse("15:04", strings.TrimSpace(from))
	if err != nil {
		return bad()
	}
	last, err := time.Parse("15:04", strings.TrimSpace(to))
	if err != nil {
		return bad()
	}
	h := Hours{sinceMidnight(first), (sinceMidnight(last) + time.Minute) % day}
	if h.open == h.close {
		return Hours{}, nil // the whole day
	}
	return h, nil
}

// String is the form that ParseHours reads.
func (h Hours) String() string {
	if h == (Hours{}) {
		return "00:00-23:59"
	}
	clock := func(d time.Duration) string { return time.Time{}.Add(d).Format("15:04") }
	return clock(h.open) + "-" + clock((h.close+day-time.Minute)%day)
}

const day = 24 * time.Hour

func sinceMidnight(t time.Time) time.Duration {
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute +
		time.Duration(t.Second())*time.Second + time.Duration(t.Nanosecond())
}

// length is how long the hours last.
func (h Hours) length() time.Duration {
	if h == (Hours{}) {
		return day
	}
	return (h.close - h.open + day) % day
}

// opened is when the hours that now lies in began; false: now lies outside.
func (h Hours) opened(now time.Time) (time.Time, bool) {
	since := (sinceMidnight(now.In(vietnam)) - h.open + day) % day
	return wall(now).Add(-since), since < h.length()
}

// opens is when they begin next.
func (h Hours) opens(now time.Time) time.Time {
	return wall(now).Add(day - (sinceMidnight(now.In(vietnam))-h.open+day)%day)
}

// closes is when the hours that now lies in end.
func (h Hours) closes(now time.Time) time.Time {
	opened, _ := h.opened(now)
	return opened.Add(h.length())
}

// wall drops the monotonic reading: what is bound to the calendar follows the wall clock, also when that is set.
func wall(t time.Time) time.Time { return t.Round(0) }

// midnight is the end of now's day in Vietnam, when quotas per day begin anew. Zalo does not say when they do.
func midnight(now time.Time) time.Time {
	y, m, d := now.In(vietnam).Date()
	return time.Date(y, m, d+1, 0, 0, 0, 0, vietnam)
}

// monthEnd is the end of now's month in Vietnam, when the promotions per month begin anew.
func monthEnd(now time.Time) time.Time {
	y, m, _ := now.In(vietnam).Date()
	return time.Date(y, m+1, 1, 0, 0, 0, 0, vietnam)
}
