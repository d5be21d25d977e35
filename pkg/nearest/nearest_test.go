package nearest

import (
	"strings"
	"testing"
)

func TestName(t *testing.T) {
	names := []string{"notification_id", "template_id", "template_data", "expire_time", "oa_id", "ttl"}
	for in, want := range map[string]string{
		"templateId":             "template_id",
		"template_dat":           "template_data",
		"TEMPLATE-DATA":          "template_data",
		"expier_time":            "expire_time",
		"expires_time":           "expire_time",
		"oaid":                   "oa_id",
		"tll":                    "ttl",
		"x":                      "",
		"":                       "",
		"phone":                  "",
		strings.Repeat("a", 1e6): "",
	} {
		got, ok := Name(in, names)
		if got != want || ok != (want != "") {
			t.Errorf("Name(%.20q) = %q, %t, want %q", in, got, ok, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"kitten", "sitting", 3}, {"ab", "ba", 1}, {"abcd", "acbd", 1}, {"same", "same", 0}} {
		if got := distance(tc.a, tc.b); got != tc.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}
