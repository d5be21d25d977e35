package chaos_test

import (
	"slices"
	"testing"
	"time"

	"github.com/znshub/znshub/deploy/e2e/chaos"
)

// The same seed makes the same plan, another one another; ten minutes have everything in them; one thing at a time
// happens to each target; all is over when the time is.
func TestPlan(t *testing.T) {
	const length = 10 * time.Minute
	seen := map[chaos.Kind]int{}
	for seed := range uint64(20) {
		plan := chaos.Plan(seed, length)
		if again := chaos.Plan(seed, length); chaos.Text(again) != chaos.Text(plan) {
			t.Errorf("seed %d makes two plans", seed)
		}
		if chaos.Text(chaos.Plan(seed+1, length)) == chaos.Text(plan) {
			t.Errorf("seeds %d and %d make one plan", seed, seed+1)
		}
		if len(plan) < 60 {
			t.Errorf("seed %d: only %d events in ten minutes", seed, len(plan))
		}
		over := map[string]time.Duration{}
		for i, e := range plan {
			if e.At < 0 || e.At+e.For > length {
				t.Errorf("seed %d: %s is not within the run", seed, e)
			}
			if i > 0 && e.At < plan[i-1].At {
				t.Errorf("seed %d: %s comes too late in the plan", seed, e)
			}
			if target := e.Target(); over[target] > e.At {
				t.Errorf("seed %d: %s comes while something else happens to %s", seed, e, target)
			} else {
				over[target] = e.At + e.For
			}
		}
		for kind, n := range chaos.Kinds(plan) {
			seen[kind] += n
		}
	}
	for _, kind := range chaos.AllKinds() {
		if seen[kind] == 0 {
			t.Errorf("no plan has %q", kind)
		}
	}
	if steps := chaos.Steps(); !slices.Contains(steps, "tick: produced") || !slices.Contains(steps, "call: written") {
		t.Errorf("steps %v", steps)
	}
}
