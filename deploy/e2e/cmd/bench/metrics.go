package main

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
)

// scrape reads metrics in Prometheus' text format: name with labels, and value.
func scrape(ctx context.Context, url string) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("scrape: %w", err)
	}
	defer resp.Body.Close()
	metrics := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			metrics[name] = v
		}
	}
	return metrics, nil
}

// quantile reads a histogram, with linear interpolation inside a bucket as Prometheus' histogram_quantile does it.
// 0: nothing was observed.
func quantile(metrics map[string]float64, name string, q float64) float64 {
	want := q * metrics[name+"_count"]
	if want == 0 {
		return 0
	}
	// The bucket is the one with the least upper bound whose cumulated count reaches want.
	upper, lower := math.Inf(1), 0.0
	var atUpper, atLower float64
	for key, count := range metrics {
		text, ok := strings.CutPrefix(key, name+`_bucket{le="`)
		bound, err := strconv.ParseFloat(strings.TrimSuffix(text, `"}`), 64)
		if !ok || err != nil {
			continue
		}
		if count >= want && bound <= upper {
			upper, atUpper = bound, count
		}
		if count < want && bound >= lower {
			lower, atLower = bound, count
		}
	}
	if math.IsInf(upper, 1) {
		return lower
	}
	return lower + (upper-lower)*(want-atLower)/(atUpper-atLower)
}

// hasLabel reports whether a metric's full name is of the given name with the given label.
func hasLabel(key, name, label string) bool {
	return strings.HasPrefix(key, name+"{") && strings.Contains(key, label)
}
