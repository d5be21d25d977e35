// Command test-summary prints the end of "make test": why tests were skipped, what those that failed said, and one line
// with the broker and the counts. gotestsum runs it with GOTESTSUM_JSONFILE, the events of the run, and TESTS_*.
package main

import (
	"cmp"
	"fmt"
	"os"
	"runtime"
	"strconv"
)

func main() {
	events := os.Getenv("GOTESTSUM_JSONFILE")
	if f, err := os.Open(events); err != nil {
		fmt.Fprintln(os.Stderr, "test-summary: no events of the run:", err)
	} else {
		defer f.Close()
		r, err := read(f)
		r.printSkipped(os.Stdout)
		if r.printFailed(os.Stdout) {
			fmt.Println("everything that was printed is in", events)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "test-summary: %s: %v\n", events, err)
		}
	}
	count := func(name string) int {
		n, _ := strconv.Atoi(os.Getenv(name))
		return n
	}
	if n := count("TESTS_ERRORS"); n > 0 {
		fmt.Println(n, "errors: not every package could be built, or one ended without saying how its tests went")
	}
	failed, skipped := count("TESTS_FAILED"), count("TESTS_SKIPPED")
	fmt.Printf("broker %s · %s · %d passed · %d failed · %d skipped\n",
		cmp.Or(os.Getenv("ZNS_TEST_BROKER_DESCRIPTION"), "chosen by each test package, see above"), runtime.Version(),
		max(0, count("TESTS_TOTAL")-failed-skipped), failed, skipped)
}
