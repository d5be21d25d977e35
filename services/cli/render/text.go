package render

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Duration writes d the way a person says it: "4 ms", "2.1 s", "1 min 5 s", "3 h 20 min", "2 d 4 h".
func Duration(d time.Duration) string {
	if d < 0 {
		return "-" + Duration(-d)
	}
	switch {
	case d == 0:
		return "0 s"
	case d < time.Millisecond:
		return "<1 ms"
	case d < 300*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Round(time.Second).Seconds()))
	case d < time.Hour:
		return two(d, time.Minute, "min", time.Second, "s")
	case d < 24*time.Hour:
		return two(d, time.Hour, "h", time.Minute, "min")
	default:
		return two(d, 24*time.Hour, "d", time.Hour, "h")
	}
}

func two(d, big time.Duration, bigName string, small time.Duration, smallName string) string {
	d = d.Round(small)
	text := fmt.Sprintf("%d %s", d/big, bigName)
	if rest := d % big / small; rest > 0 {
		text += fmt.Sprintf(" %d %s", rest, smallName)
	}
	return text
}

// Clock writes t as seen from now: the time of day with milliseconds, and the date when it is not today's.
func Clock(t, now time.Time) string {
	t, now = t.Local(), now.Local()
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format("15:04:05.000")
	}
	return t.Format("2006-01-02 15:04:05")
}

// vietnam has had one time zone without daylight saving since 1975; a fixed zone needs no zone files.
var vietnam = time.FixedZone("Asia/Ho_Chi_Minh", 7*60*60)

// Vietnam writes a time as clocks in Vietnam show it, which quotas, hours and customers go by: "2026-11-22 11:00:00".
func Vietnam(t time.Time) string { return t.In(vietnam).Format("2006-01-02 15:04:05") }

// Phone masks a phone number: "+84987654321" becomes "84*****321". Text too short to keep anything becomes "*****".
func Phone(number string) string {
	digits := strings.Map(func(r rune) rune {
		if strings.ContainsRune("+ .-()", r) {
			return -1
		}
		return r
	}, number)
	if strings.HasPrefix(digits, "0") {
		digits = "84" + digits[1:]
	}
	if len(digits) < 9 || strings.ContainsFunc(digits, func(r rune) bool { return r < '0' || r > '9' }) {
		return "*****"
	}
	return digits[:2] + "*****" + digits[len(digits)-3:]
}

// Short keeps the first n characters of an id, enough to recognise it.
func Short(id string, n int) string {
	if len(id) <= n {
		return id
	}
	return id[:n] + "…"
}

// OneLine makes text from outside safe to print: control characters, line breaks and terminal escapes become spaces,
// and what is longer than limit characters is cut.
func OneLine(text string, limit int) string {
	clean := strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == 0x2028 || r == 0x2029 || r == utf8.RuneError {
			return ' '
		}
		return r
	}, text)
	if utf8.RuneCountInString(clean) <= limit {
		return clean
	}
	runes := []rune(clean)
	return string(runes[:limit]) + "…"
}

// Plural writes a count with its noun: "1 record", "3 records".
func Plural(n int, noun string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, noun)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
