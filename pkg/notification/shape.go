package notification

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// shape describes a value without telling it: "9 characters: 8 digits, 1 letter".
func shape(s string) string {
	if s == "" {
		return "nothing"
	}
	var digits, letters, spaces, others int
	for _, r := range s {
		switch {
		case unicode.IsDigit(r):
			digits++
		case unicode.IsLetter(r):
			letters++
		case unicode.IsSpace(r):
			spaces++
		default:
			others++
		}
	}
	var parts []string
	add := func(n int, one, many string) {
		if n > 0 {
			parts = append(parts, count(n, one, many))
		}
	}
	add(digits, "digit", "digits")
	add(letters, "letter", "letters")
	add(spaces, "space", "spaces")
	add(others, "other", "others")
	return count(utf8.RuneCountInString(s), "character", "characters") + ": " + strings.Join(parts, ", ")
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// name returns s when it looks like the name of a field, a parameter or a type, and its shape when it may be anything.
func name(s string) string {
	if len(s) > 64 {
		return "(" + shape(s) + ")"
	}
	for i, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_'
		if !letter && (i == 0 || !('0' <= c && c <= '9' || c == '.' || c == '-')) {
			return "(" + shape(s) + ")"
		}
	}
	if s == "" {
		return "(empty)"
	}
	return s
}
