// Package render turns what the hub knows into lines that a person reads on a terminal: colours, durations, tables
// and masked phone numbers. Everything here is pure; the same input gives the same bytes.
package render

import (
	"io"
	"os"

	"golang.org/x/term"
)

// Style colours text, or leaves it alone. The zero Style leaves it alone.
type Style struct{ on bool }

// StyleFor returns the Style for output that goes to w: colours only when w is a terminal and neither NO_COLOR
// (https://no-color.org) nor TERM=dumb speaks against them.
func StyleFor(w io.Writer, getenv func(string) string) Style {
	if getenv("NO_COLOR") != "" || getenv("TERM") == "dumb" {
		return Style{}
	}
	return Style{on: IsTerminal(w)}
}

// Coloured is the Style that always colours.
func Coloured() Style { return Style{on: true} }

// IsTerminal reports whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Width is the number of columns of the terminal behind w; 0 when w is none.
func Width(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

func (s Style) paint(code, text string) string {
	if !s.on || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Good is for what ended well.
func (s Style) Good(text string) string { return s.paint("32", text) }

// Bad is for what failed.
func (s Style) Bad(text string) string { return s.paint("31", text) }

// Warn is for what is not known or waits.
func (s Style) Warn(text string) string { return s.paint("33", text) }

// Info is for what is neither good nor bad.
func (s Style) Info(text string) string { return s.paint("36", text) }

// Dim is for what matters less.
func (s Style) Dim(text string) string { return s.paint("2", text) }

// Bold is for headings.
func (s Style) Bold(text string) string { return s.paint("1", text) }
