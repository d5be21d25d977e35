package zalosim

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// dice rolls numbers that hang on the seed and on a request, not on the order of requests.
type dice uint64

func newDice(seed uint64, phone, trackingID string) dice {
	return dice(hashString(hashString(mix(seed), phone), trackingID))
}

// roll returns a number from 0 to below 1.
func (d dice) roll(what string) float64 {
	return float64(mix(hashString(uint64(d), what))>>11) / (1 << 53)
}

// hashString is FNV-1a over h; good enough for chance after mix.
func hashString(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 0x100000001b3
	}
	return (h ^ 0xff) * 0x100000001b3
}

// mix is the finaliser of splitmix64: a bijection.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Range is a distribution of durations. The zero value is always 0.
type Range struct {
	Low, High time.Duration
	// Skewed makes it lognormal with the median Low and the 99th percentile High; else it is even from Low to High.
	Skewed bool
}

// ParseRange reads "50ms" (always), "10ms..80ms" (even) or "50ms~400ms" (lognormal: median and 99th percentile).
func ParseRange(s string) (Range, error) {
	low, high, skewed := s, s, false
	if a, b, ok := strings.Cut(s, ".."); ok {
		low, high = a, b
	} else if a, b, ok := strings.Cut(s, "~"); ok {
		low, high, skewed = a, b, true
	}
	var r Range
	var err error
	if r.Low, err = time.ParseDuration(strings.TrimSpace(low)); err == nil {
		r.High, err = time.ParseDuration(strings.TrimSpace(high))
	}
	r.Skewed = skewed
	if err == nil && (r.Low < 0 || r.High < r.Low || skewed && r.Low == 0) {
		err = fmt.Errorf("the second must not be below the first")
	}
	if err != nil {
		return Range{}, fmt.Errorf("duration %q: want 50ms, 10ms..80ms or 50ms~400ms: %w", s, err)
	}
	return r, nil
}

// UnmarshalText reads what ParseRange reads.
func (r *Range) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRange(string(b))
	return err
}

func (r Range) String() string {
	switch {
	case r.Low == r.High:
		return r.Low.String()
	case r.Skewed:
		return r.Low.String() + "~" + r.High.String()
	default:
		return r.Low.String() + ".." + r.High.String()
	}
}

// z99 is the 99th percentile of the normal distribution.
const z99 = 2.3263478740408408

// pick maps a number from 0 to below 1 to a duration.
func (r Range) pick(u float64) time.Duration {
	switch {
	case r.Low == r.High:
		return r.Low
	case r.Skewed:
		z := math.Sqrt2 * math.Erfinv(2*min(max(u, 1e-9), 1-1e-9)-1)
		sigma := math.Log(float64(r.High)/float64(r.Low)) / z99
		return time.Duration(float64(r.Low) * math.Exp(sigma*z))
	default:
		return r.Low + time.Duration(u*float64(r.High-r.Low))
	}
}
