package notification

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"unicode"

	"github.com/nyaruka/phonenumbers"
)

// ParsePhone reads a Vietnamese phone number in any usual form (0987654321, +84 98 765 43 21, 84987654321) and returns
// it in E.164, "+84987654321". Letters, extensions, several numbers in one field and numbers that do not exist are
// refused: libphonenumber alone would drop what it does not understand and so reach somebody.
func ParsePhone(s string) (e164 string, ok bool) {
	if len(s) > 64 || strings.ContainsFunc(s, func(r rune) bool { return !phoneRune(r) }) {
		return "", false
	}
	if national, ok := mobile(s); ok {
		return "+84" + national, true
	}
	number, err := phonenumbers.Parse(s, "VN")
	if err != nil || number.GetCountryCode() != 84 || !phonenumbers.IsValidNumber(number) {
		return "", false
	}
	return phonenumbers.Format(number, phonenumbers.E164), true
}

// APIPhone returns a number in E.164 as Zalo's API wants it: "84987654321".
func APIPhone(e164 string) string { return strings.TrimPrefix(e164, "+") }

func phoneRune(r rune) bool {
	return unicode.IsDigit(r) || unicode.Is(unicode.Zs, r) || strings.ContainsRune("+.-()", r)
}

// isMobile knows the first three digits of Vietnamese mobile numbers without prefix, by libphonenumber's own pattern.
// Of the few blocks in which the further digits matter it knows nothing.
var isMobile = sync.OnceValue(func() func(block int) bool {
	var blocks [1000]bool
	pattern := mobilePattern()
	for i := range blocks {
		blocks[i] = true
		for next := 0; next < 1000 && blocks[i]; next += 37 {
			blocks[i] = pattern.MatchString(fmt.Sprintf("%03d%03d123", i, next))
		}
	}
	return func(block int) bool { return blocks[block] }
})

// mobilePattern is libphonenumber's own pattern of a Vietnamese mobile number without prefix.
func mobilePattern() *regexp.Regexp {
	collection, err := phonenumbers.MetadataCollection()
	if err != nil {
		panic(fmt.Sprintf("notification: phone metadata: %v", err)) // it is embedded in the program
	}
	for _, region := range collection.GetMetadata() {
		if region.GetId() == "VN" {
			return regexp.MustCompile("^(?:" + region.GetMobile().GetNationalNumberPattern() + ")$")
		}
	}
	panic("notification: no phone metadata of VN")
}

// mobile is the short way for what nearly every request has: a mobile number of nine digits behind 0, 84 or +84. It
// takes a twentieth of the time of the library, to which everything else is left.
func mobile(s string) (national string, ok bool) {
	var buf [12]byte
	digits, plus := buf[:0], false
	for i, c := range []byte(s) {
		switch {
		case '0' <= c && c <= '9':
			if len(digits) == cap(digits) {
				return "", false
			}
			digits = append(digits, c)
		case c == '+' && i == 0:
			plus = true
		case c == ' ' || c == '.' || c == '-':
		default:
			return "", false
		}
	}
	switch {
	case len(digits) == 11 && digits[0] == '8' && digits[1] == '4':
		digits = digits[2:]
	case len(digits) == 10 && digits[0] == '0' && !plus:
		digits = digits[1:]
	default:
		return "", false
	}
	block := 100*int(digits[0]-'0') + 10*int(digits[1]-'0') + int(digits[2]-'0')
	if len(digits) != 9 || !isMobile()(block) {
		return "", false
	}
	return string(digits), true
}
