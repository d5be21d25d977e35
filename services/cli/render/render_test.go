package render

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	for _, c := range []struct {
		d    time.Duration
		want string
	}{
		{0, "0 s"},
		{300 * time.Microsecond, "<1 ms"},
		{4 * time.Millisecond, "4 ms"},
		{61400 * time.Microsecond, "61 ms"},
		{400 * time.Millisecond, "0.4 s"},
		{2100 * time.Millisecond, "2.1 s"},
		{59 * time.Second, "59 s"},
		{65 * time.Second, "1 min 5 s"},
		{60 * time.Minute, "1 h"},
		{200 * time.Minute, "3 h 20 min"},
		{52 * time.Hour, "2 d 4 h"},
		{-2 * time.Second, "-2.0 s"},
	} {
		if got := Duration(c.d); got != c.want {
			t.Errorf("Duration(%v) = %q, want %q", c.d, got, c.want)
		}
	}
}

func TestPhone(t *testing.T) {
	for _, c := range []struct{ number, want string }{
		{"+84987654321", "84*****321"},
		{"84987654321", "84*****321"},
		{"0987654321", "84*****321"},
		{"0987 654-321", "84*****321"},
		{"09x", "*****"},
		{"", "*****"},
		{"12345678", "*****"},
		{"call 0987654321", "*****"},
	} {
		if got := Phone(c.number); got != c.want {
			t.Errorf("Phone(%q) = %q, want %q", c.number, got, c.want)
		}
	}
}

func TestOneLineDropsTerminalEscapes(t *testing.T) {
	got := OneLine("a\x1b[2Jb\r\nc\u0085d\xff", 40)
	if strings.ContainsAny(got, "\x1b\r\n\u0085") {
		t.Errorf("OneLine kept a control character: %q", got)
	}
	if got := OneLine(strings.Repeat("ơ", 50), 10); got != strings.Repeat("ơ", 10)+"…" {
		t.Errorf("OneLine cut to %q", got)
	}
}

func TestTableAlignsColouredCells(t *testing.T) {
	table := Table{Style: Coloured()}
	table.Header("case", "got")
	table.Cells(Cell{Text: "đơn hàng", Paint: Coloured().Good}, Cell{Text: "1"})
	table.Row("x", "22")
	want := "\x1b[1mcase\x1b[0m      \x1b[1mgot\x1b[0m\n" +
		"\x1b[32mđơn hàng\x1b[0m  1\n" +
		"x         22\n"
	if got := table.String(); got != want {
		t.Errorf("table:\n%q\nwant\n%q", got, want)
	}
}

func TestStyleForWhatIsNoTerminal(t *testing.T) {
	none := func(string) string { return "" }
	if got := StyleFor(&bytes.Buffer{}, none).Bad("x"); got != "x" {
		t.Errorf("a buffer got colours: %q", got)
	}
	if got := Coloured().Bad("x"); got == "x" {
		t.Error("Coloured does not colour")
	}
}

func TestClock(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.Local)
	if got := Clock(now.Add(-time.Hour), now); got != "11:00:00.000" {
		t.Errorf("today: %q", got)
	}
	if got := Clock(now.Add(-24*time.Hour), now); got != "2026-11-21 12:00:00" {
		t.Errorf("yesterday: %q", got)
	}
}

func TestStyleForATerminal(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo-terminal here: %v", err)
	}
	defer terminal.Close()
	if !IsTerminal(terminal) {
		t.Skip("the pseudo-terminal's master does not count as a terminal on this system")
	}
	for _, c := range []struct {
		environ map[string]string
		colours bool
	}{
		{nil, true},
		{map[string]string{"NO_COLOR": "1"}, false},
		{map[string]string{"TERM": "dumb"}, false},
		{map[string]string{"TERM": "xterm"}, true},
	} {
		style := StyleFor(terminal, func(name string) string { return c.environ[name] })
		if got := style.Bad("x") != "x"; got != c.colours {
			t.Errorf("with %v: colours %v, want %v", c.environ, got, c.colours)
		}
	}
}
