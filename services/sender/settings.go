package sender

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

// categories are the names in settings by category.
var categories = []string{"otp", "transaction", "customer_care", "promotion"}

func categoryIndex(c notificationv1.Category) int {
	if c < notificationv1.Category_CATEGORY_OTP || c > notificationv1.Category_CATEGORY_PROMOTION {
		return 1
	}
	return int(c) - 1
}

// CategoryDuration is a duration for each category: "otp=5m,transaction=24h"; those not named keep their defaults.
type CategoryDuration [4]time.Duration

func (d *CategoryDuration) get(c notificationv1.Category) time.Duration { return d[categoryIndex(c)] }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *CategoryDuration) UnmarshalText(text []byte) error {
	*d = CategoryDuration{5 * time.Minute, 24 * time.Hour, 72 * time.Hour, 168 * time.Hour}
	return byCategory(string(text), func(i int, value string) error {
		v, err := time.ParseDuration(value)
		if err != nil || v <= 0 {
			return fmt.Errorf("%q is no positive duration like 24h", value)
		}
		d[i] = v
		return nil
	})
}

// CategoryPolicy is a policy for each category: "otp=fail,transaction=hold"; those not named keep their defaults.
type CategoryPolicy [4]znsv1.UnknownPolicy

func (p *CategoryPolicy) get(c notificationv1.Category) znsv1.UnknownPolicy {
	return p[categoryIndex(c)]
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (p *CategoryPolicy) UnmarshalText(text []byte) error {
	const fail, hold, resend = znsv1.UnknownPolicy_UNKNOWN_POLICY_FAIL, znsv1.UnknownPolicy_UNKNOWN_POLICY_HOLD, znsv1.UnknownPolicy_UNKNOWN_POLICY_RESEND
	*p = CategoryPolicy{fail, hold, fail, fail}
	return byCategory(string(text), func(i int, value string) error {
		v, ok := map[string]znsv1.UnknownPolicy{"fail": fail, "hold": hold, "resend": resend}[strings.ToLower(value)]
		if !ok {
			return fmt.Errorf("%q is not fail, hold or resend", value)
		}
		p[i] = v
		return nil
	})
}

func byCategory(text string, set func(i int, value string) error) error {
	for pair := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
		i := slices.Index(categories, strings.ToLower(strings.TrimSpace(name)))
		if !ok || i < 0 {
			return fmt.Errorf("want category=value pairs with categories %s", strings.Join(categories, ", "))
		}
		if err := set(i, strings.TrimSpace(value)); err != nil {
			return err
		}
	}
	return nil
}

// CategoryHours are hours of the day for each category: "promotion=06:00-21:59". A range alone is promotion's; those not
// named are not limited.
type CategoryHours [4]limit.Hours

// UnmarshalText implements [encoding.TextUnmarshaler].
func (h *CategoryHours) UnmarshalText(text []byte) error {
	*h = CategoryHours{}
	if !strings.Contains(string(text), "=") {
		text = append([]byte("promotion="), text...)
	}
	return byCategory(string(text), func(i int, value string) (err error) {
		h[i], err = limit.ParseHours(value)
		return err
	})
}

// OARate is calls a second: "50", or with OAs that differ "50,2893352839501541173=10".
type OARate struct {
	all float64
	of  map[string]float64
}

// maxRate bounds what may be asked for: above it the pace is finer than a timer.
const maxRate = 100_000

// UnmarshalText implements [encoding.TextUnmarshaler].
func (r *OARate) UnmarshalText(text []byte) error {
	*r = OARate{}
	for part := range strings.SplitSeq(string(text), ",") {
		oa, value, named := strings.Cut(strings.TrimSpace(part), "=")
		if !named {
			oa, value = "", oa
		}
		rate, err := strconv.ParseFloat(value, 64)
		if err != nil || !(rate >= 0 && rate <= maxRate) {
			return fmt.Errorf("%q is not between 0 and %d calls a second", value, maxRate)
		}
		switch {
		case !named:
			r.all = rate
		case !isOA(oa):
			return fmt.Errorf("%q is no OA id, which has digits only", oa)
		default:
			if r.of == nil {
				r.of = map[string]float64{}
			}
			r.of[oa] = rate
		}
	}
	return nil
}

// Percent is a part of a whole: "10%" or "0.1".
type Percent float64

// UnmarshalText implements [encoding.TextUnmarshaler].
func (p *Percent) UnmarshalText(text []byte) error {
	value, percent := strings.CutSuffix(strings.TrimSpace(string(text)), "%")
	v, err := strconv.ParseFloat(value, 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v >= 0 && v < 1) {
		return fmt.Errorf("%q is no part like 10%%", text)
	}
	*p = Percent(v)
	return nil
}

// spreadOver is the time over which flows that nobody waits for come back after a night or a quota's reset.
const spreadOver = 10 * time.Minute
