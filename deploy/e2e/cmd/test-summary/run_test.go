package main

import (
	"strings"
	"testing"
)

// events are those of a run in which a subtest fails, a test is skipped, one waits for its turn, one dies of a panic,
// and a package cannot be built.
const events = `
{"Action":"start","Package":"shop"}
{"Action":"run","Package":"shop","Test":"TestSum"}
{"Action":"output","Package":"shop","Test":"TestSum","Output":"time=x level=INFO msg=\"a log line\"\n"}
{"Action":"run","Package":"shop","Test":"TestSum/sub"}
{"Action":"output","Package":"shop","Test":"TestSum/sub","Output":"    sum_test.go:3: got 1\n"}
{"Action":"output","Package":"shop","Test":"TestSum/sub","Output":"        want 2\n"}
{"Action":"output","Package":"shop","Test":"TestSum/sub","Output":"        or 3\n"}
{"Action":"output","Package":"shop","Test":"TestSum/sub","Output":"        or 4\n"}
{"Action":"output","Package":"shop","Test":"TestSum/sub","Output":"        or 5\n"}
{"Action":"output","Package":"shop","Test":"TestSum/sub","Output":"--- FAIL: TestSum/sub (0.00s)\n"}
{"Action":"fail","Package":"shop","Test":"TestSum/sub"}
{"Action":"fail","Package":"shop","Test":"TestSum"}
{"Action":"run","Package":"shop","Test":"TestNet"}
{"Action":"output","Package":"shop","Test":"TestNet","Output":"    net_test.go:9: no \"net\" here\n"}
{"Action":"skip","Package":"shop","Test":"TestNet"}
{"Action":"run","Package":"shop","Test":"TestFine"}
{"Action":"output","Package":"shop","Test":"TestFine","Output":"    fine_test.go:9: said\n"}
{"Action":"pass","Package":"shop","Test":"TestFine"}
{"Action":"run","Package":"shop","Test":"TestLater"}
{"Action":"pause","Package":"shop","Test":"TestLater"}
{"Action":"run","Package":"shop","Test":"TestDies"}
{"Action":"output","Package":"shop","Test":"TestDies","Output":"panic: dead\n"}
{"Action":"output","Package":"shop","Test":"TestDies","Output":"goroutine 10 [running]:\n"}
{"Action":"output","Package":"shop","Output":"FAIL\tshop\t0.016s\n"}
{"Action":"fail","Package":"shop"}
{"Action":"build-output","ImportPath":"cart [cart.test]","Output":"# cart [cart.test]\n"}
{"Action":"build-output","ImportPath":"cart [cart.test]","Output":"cart_test.go:2:12: undefined: y\n"}
{"Action":"build-fail","ImportPath":"cart [cart.test]"}
{"Action":"start","Package":"cart"}
{"Action":"output","Package":"cart","Output":"FAIL\tcart [build failed]\n"}
{"Action":"fail","Package":"cart","FailedBuild":"cart [cart.test]"}
`

func TestSummary(t *testing.T) {
	r, err := read(strings.NewReader(strings.TrimPrefix(events, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	r.printSkipped(&got)
	if !r.printFailed(&got) {
		t.Error("nothing failed")
	}
	want := `skipped:
  TestNet: no "net" here
failed:
  shop TestSum/sub
    sum_test.go:3: got 1
        want 2
        or 3
        or 4
  shop TestDies (under way when its process ended)
    panic: dead
  cart
    cart_test.go:2:12: undefined: y
`
	if got.String() != want {
		t.Errorf("told\n%s\nwant\n%s", &got, want)
	}
}

// TestLongTales: of a test that said much the last lines are told, cut to a width.
func TestLongTales(t *testing.T) {
	line := `{"Action":"output","Package":"shop","Test":"TestMuch","Output":"    much_test.go:1: ` + strings.Repeat("ừ", 400) + `\n"}` + "\n"
	r, err := read(strings.NewReader(strings.Repeat(line, 20) + `{"Action":"fail","Package":"shop","Test":"TestMuch"}` + "\n{"))
	if err == nil {
		t.Error("half an event was read")
	}
	var got strings.Builder
	r.printFailed(&got)
	if n := strings.Count(got.String(), "much_test.go:1: "); n != linesTold || !strings.Contains(got.String(), "… 4 lines before") {
		t.Errorf("%d lines told:\n%s", n, &got)
	}
	if strings.Contains(got.String(), strings.Repeat("ừ", width)) {
		t.Error("a line was not cut")
	}
}
