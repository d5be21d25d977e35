package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Bytes is a size in bytes: "1048576", "64KiB", "512MiB", "2GiB", "1.5GB".
type Bytes int64

var units = []struct {
	name  string
	bytes float64
}{
	// Names that end others' come last.
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) error {
	number, scale := strings.TrimSpace(string(text)), 1.0
	for _, unit := range units {
		if rest, ok := strings.CutSuffix(number, unit.name); ok {
			number, scale = strings.TrimSpace(rest), unit.bytes
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n >= 0) || n*scale >= math.MaxInt64 {
		return fmt.Errorf("not a size such as 64KiB, 512MiB or 2GiB")
	}
	*b = Bytes(n * scale)
	return nil
}

// String returns the size in the largest unit that divides it.
func (b Bytes) String() string {
	for i := 3; i >= 0; i-- {
		if unit := Bytes(units[i].bytes); b != 0 && b%unit == 0 {
			return fmt.Sprintf("%d%s", b/unit, units[i].name)
		}
	}
	return fmt.Sprintf("%dB", int64(b))
}

// ParseDuration is time.ParseDuration with days, of 24 hours, before the rest: "7d", "1d12h". For types of a program's
// own that contain durations; fields of type time.Duration are read by it anyway.
func ParseDuration(s string) (time.Duration, error) {
	days, rest, ok := strings.Cut(s, "d")
	if !ok {
		days, rest = "0", s
	}
	n, err := strconv.ParseUint(days, 10, 16) // 65535 days are 179 years; a Duration holds 292
	var d time.Duration
	if err == nil && (rest != "" || !ok) {
		d, err = time.ParseDuration(rest)
	}
	if err != nil || ok && d < 0 {
		return 0, fmt.Errorf("not a duration such as 500ms, 10s, 5m, 24h or 7d")
	}
	return time.Duration(n)*24*time.Hour + d, nil
}
