// Package nearest finds the name that somebody probably meant, for "did you mean" in messages about unknown fields,
// variables and commands. Its functions are pure and safe for concurrent use.
package nearest

import "strings"

// Name returns the candidate that is nearest to name, when one is near enough to be worth suggesting: at most one edit
// for every three characters. An edit inserts, removes or replaces a character, or swaps two neighbours. Upper and
// lower case, '_', '-' and '.' make no difference. Of equally near candidates the first one wins.
func Name(name string, candidates []string) (string, bool) {
	want := fold(name)
	best, bestDistance := "", len(want)/3+1
	if len(want) > 64 { // nobody's typing error, and the distance is quadratic
		return "", false
	}
	for _, candidate := range candidates {
		if d := distance(want, fold(candidate)); d < bestDistance {
			best, bestDistance = candidate, d
		}
	}
	return best, best != ""
}

var folder = strings.NewReplacer("_", "", "-", "", ".", "")

func fold(s string) string { return folder.Replace(strings.ToLower(s)) }

// distance is the optimal string alignment distance of a and b in bytes.
func distance(a, b string) int {
	before, previous, current := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := 1; i <= len(a); i++ {
		current[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			current[j] = min(previous[j]+1, current[j-1]+1, previous[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				current[j] = min(current[j], before[j-2]+1)
			}
		}
		before, previous, current = previous, current, before
	}
	return previous[len(b)]
}
