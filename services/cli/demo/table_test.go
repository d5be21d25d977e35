package demo

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/znshub/znshub/services/cli/render"
)

func TestTable(t *testing.T) {
	rows := []Row{
		{Case: "otp-771", What: "accepted 4 ms · sent 61 ms · delivered 0.4 s", Got: 1},
		{Case: `bad phone "09x"`, What: "zns.failed INVALID", Got: 0},
	}
	sums := Sums{Records: 3, Duplicates: 1, Sent: 1, Failed: 1, Messages: 1}
	want := strings.Join([]string{
		`case             what happened                                 phone got`,
		`otp-771          accepted 4 ms · sent 61 ms · delivered 0.4 s  1`,
		`bad phone "09x"  zns.failed INVALID                            0`,
		`3 records - 1 duplicate = 2 = 1 sent + 1 failed + 0 held · phones with two copies: 0  OK`,
		``,
	}, "\n")
	if diff := cmp.Diff(want, Table(render.Style{}, rows, sums)); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

// One wrong number in any place is enough.
func TestSumsAreNotOKWhen(t *testing.T) {
	right := Sums{Records: 8, Duplicates: 1, Sent: 4, Failed: 2, Held: 1, Messages: 4}
	if !right.OK() {
		t.Fatalf("the right sums are not OK: %s", right)
	}
	for name, breakOne := range map[string]func(*Sums){
		"nothing was published":   func(s *Sums) { *s = Sums{} },
		"one is lost":             func(s *Sums) { s.Held = 0 },
		"a duplicate was sent":    func(s *Sums) { s.Sent++; s.Messages++ },
		"Zalo accepted more":      func(s *Sums) { s.Messages++ },
		"a phone got two copies":  func(s *Sums) { s.TwoCopies = 1 },
		"one id has both results": func(s *Sums) { s.Unexpected = 1 },
	} {
		s := right
		breakOne(&s)
		if s.OK() {
			t.Errorf("%s: sums are OK: %s", name, s)
		}
		if text := Table(render.Style{}, nil, s); !strings.Contains(text, "WRONG") {
			t.Errorf("%s: the table does not say so: %s", name, text)
		}
	}
	if text := Table(render.Style{}, []Row{{Case: "x", Wrong: "late"}}, right); !strings.Contains(text, "WRONG: late") {
		t.Errorf("a wrong case is not told: %s", text)
	}
}
