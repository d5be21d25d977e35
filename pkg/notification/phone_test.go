package notification

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/nyaruka/phonenumbers"
)

func TestParsePhone(t *testing.T) {
	for in, want := range map[string]string{
		"0987654321":             "+84987654321",
		"+84987654321":           "+84987654321",
		"84987654321":            "+84987654321",
		"098 765 43 21":          "+84987654321",
		"0987.654.321":           "+84987654321",
		"+84 98-765-4321":        "+84987654321",
		"84 0987654321":          "+84987654321",
		"(+84) 987 654 321":      "+84987654321",
		"+84 (0)987654321":       "+84987654321",
		"00 84 987654321":        "+84987654321",
		"987654321":              "+84987654321", // a spreadsheet ate the zero
		" 0987654321 ":           "+84987654321",
		"098\u00a0765\u00a04321": "+84987654321",
		"028 3823 4567":          "+842838234567",

		"":                       "",
		"09x":                    "",
		"0987654":                "",
		"09876543210":            "",
		"0123456789":             "", // a number block of before 2018
		"+0987654321":            "",
		"+1 650 253 0000":        "",
		"+85298765432":           "",
		"0987654321x":            "",
		"CALL0987654321":         "",
		"0987654321 ext 3":       "",
		"0987654321;0987654322":  "",
		"0987654321/0987654322":  "",
		"0987654321, 0987654322": "",
		"tel:+84987654321":       "",
		"113":                    "",
	} {
		got, ok := ParsePhone(in)
		if got != want || ok != (want != "") {
			t.Errorf("ParsePhone(%q) = %q, %t, want %q", in, got, ok, want)
		}
		if again, ok := ParsePhone(got); want != "" && (again != got || !ok) {
			t.Errorf("ParsePhone(%q) = %q, %t, want it unchanged", got, again, ok)
		}
	}
	if got := APIPhone("+84987654321"); got != "84987654321" {
		t.Errorf("APIPhone = %q", got)
	}
}

// TestShortWayAgreesWithLibrary compares mobile with libphonenumber over all number blocks.
func TestShortWayAgreesWithLibrary(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	taken := 0
	for i := range 10_000 {
		national := fmt.Sprintf("%03d%06d", i%1000, rng.IntN(1e6))
		for _, in := range []string{"0" + national, "84" + national, "+84" + national, "+" + national, national, "0" + national + "1"} {
			short, ok := mobile(in)
			if !ok {
				continue
			}
			taken++
			number, err := phonenumbers.Parse(in, "VN")
			if err != nil || !phonenumbers.IsValidNumber(number) {
				t.Errorf("%q: the short way takes it, the library does not: %v", in, err)
			} else if want := phonenumbers.Format(number, phonenumbers.E164); "+84"+short != want {
				t.Errorf("%q: the short way says +84%s, the library %s", in, short, want)
			}
		}
	}
	if taken < 6000 {
		t.Errorf("the short way took only %d numbers", taken)
	}
}

func BenchmarkParsePhone(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		ParsePhone("0987 654 321")
	}
}
