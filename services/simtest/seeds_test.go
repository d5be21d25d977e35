package simtest

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

var (
	first = flag.Uint64("seed", 1, "first seed")
	count = flag.Uint64("seeds", 0, "how many seeds; 0: two, with ZNS_TEST_LONG 50")
	days  = flag.Int("days", 1, "days of traffic in each")
)

// Weeks of traffic in which senders come, go and die, the network is cut, Zalo is down, refuses, throttles and loses
// answers, callbacks are lost and late, quotas run out and nights pass: nothing is lost, nothing is sent twice without
// the policy that says so, order is kept, and everything ends.
func TestSeeds(t *testing.T) {
	n := *count
	if n == 0 {
		n = 2
		if os.Getenv("ZNS_TEST_LONG") != "" {
			n = 50
		}
	}
	for seed := *first; seed < *first+n; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			Simulate(t, seed, *days)
		})
	}
}
