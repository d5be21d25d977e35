package config

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/znshub/znshub/pkg/nearest"
)

// prefixes are those of the hub's own variables.
var prefixes = []string{"SENDER_", "INGEST_", "ZALO_", "KAFKA_", "SIM_", "ZNS_"}

// shared are variables that several programs read, but not each: one file of variables may serve them all.
var shared = []string{
	"ZNS_RESULT_PHONE", "ZNS_TRACE_URL",
	"ZALO_API_URL", "ZALO_OA_API_URL", "ZALO_OAUTH_URL", "ZALO_APP_ID", "ZALO_APP_SECRET", "ZALO_OA_ID", "ZALO_OA_SECRET", "ZALO_ACCESS_TOKEN",
}

// kubernetesLink matches the variables that Kubernetes sets in every pod for a Service named sender or kafka.
var kubernetesLink = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP)(_[A-Z]+)?)?)$`)

// unknownVariables warns of variables that look like the hub's and are read by no field.
func unknownVariables(names []string, seen map[string]bool) (warnings []string) {
	for _, name := range names {
		if !seen[name] && !known(name) && ours(name, seen) && !kubernetesLink.MatchString(name) {
			warnings = append(warnings, unknown(name, seen))
		}
	}
	return warnings
}

func known(name string) bool {
	return slices.Contains(shared, strings.TrimSuffix(name, "_FILE"))
}

// ours reports whether a variable has a prefix of which this program reads at least one: the sender's variables say
// nothing to webhook-ingest.
func ours(name string, seen map[string]bool) bool {
	for _, prefix := range prefixes {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		for s := range seen {
			if strings.HasPrefix(s, prefix) {
				return true
			}
		}
	}
	return false
}

func unknown(name string, seen map[string]bool) string {
	text := "nothing reads " + name
	if near, ok := nearest.Name(name, append(slices.Sorted(maps.Keys(seen)), shared...)); ok {
		text += "; did you mean " + near + "?"
	}
	return text
}
