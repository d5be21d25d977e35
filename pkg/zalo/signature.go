package zalo

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
)

// Headers of a callback. Zalo sends HeaderTimestamp to some apps only.
const (
	HeaderSignature = "X-Zevent-Signature"
	HeaderTimestamp = "X-Zevent-Timestamp"
	HeaderServer    = "X-Zevent-Server" // "ZNS", or "OA OpenAPI" for chat events
	HeaderNumRetry  = "Num_retry"       // on a resend: its number, from 1
)

// Why VerifySignature refuses a callback.
var (
	// ErrNoSignature: no signature header, or one that is not a SHA-256 in hexadecimal.
	ErrNoSignature = errors.New("callback carries no well-formed X-ZEvent-Signature")
	// ErrNoTimestamp: neither the body nor a header says which timestamp was signed.
	ErrNoTimestamp = errors.New("callback carries no timestamp that could have been signed")
	// ErrSignature: none of the secrets makes this signature.
	ErrSignature = errors.New("callback signature does not match: check that the OA secret key (not the app secret) and the app id are those of the webhook page")
)

// Sign returns the lower-case hexadecimal SHA-256 over appID + body + timestamp + secret, which Zalo sends as
// "mac=<hex>". It is a plain hash, not an HMAC; the secret is the OA secret key of the app's webhook page, which is
// not the app secret; body is exactly what goes over the wire; timestamp is the body's "timestamp", as text.
func Sign(appID, secret, timestamp string, body []byte) string {
	sum := mac(appID, secret, timestamp, body)
	return hex.EncodeToString(sum[:])
}

func mac(appID, secret, timestamp string, body []byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	h.Write([]byte(appID))
	h.Write(body)
	h.Write([]byte(timestamp))
	h.Write([]byte(secret))
	h.Sum(sum[:0])
	return sum
}

// VerifySignature tells whether body was signed by Zalo for this app with one of the secrets (several while the
// secret key is being rotated). It returns nil, ErrNoSignature, ErrNoTimestamp or ErrSignature.
//
// Sources disagree on which timestamp is signed, so the one in the body is tried first and then the header
// X-ZEvent-Timestamp. Nothing is said of the callback's age: Zalo resends for up to two hours and documents no replay
// window.
func VerifySignature(appID string, secrets []string, body []byte, header http.Header) error {
	want, ok := parseSignature(header.Get(HeaderSignature))
	if !ok {
		return ErrNoSignature
	}
	var stamps [2]string
	n := 0
	if raw, ok := bodyTimestamp(body); ok {
		stamps[n] = string(raw)
		n++
	}
	// Digits only: the hash does not mark where the body ends and the timestamp begins.
	if stamp := strings.TrimSpace(header.Get(HeaderTimestamp)); isDigits(stamp) {
		stamps[n] = stamp
		n++
	}
	if n == 0 {
		return ErrNoTimestamp
	}
	match := 0
	for _, stamp := range stamps[:n] {
		for _, secret := range secrets {
			if secret == "" {
				continue // an unset secret must not make everybody's signature valid
			}
			got := mac(appID, secret, stamp, body)
			match |= subtle.ConstantTimeCompare(got[:], want[:])
		}
	}
	if match != 1 {
		return ErrSignature
	}
	return nil
}

// parseSignature reads "mac=<hex>", "mac = <hex>", "sha256=<hex>" or "<hex>".
func parseSignature(value string) (sum [sha256.Size]byte, ok bool) {
	if prefix, rest, found := strings.Cut(value, "="); found {
		switch strings.ToLower(strings.TrimSpace(prefix)) {
		case "mac", "sha256":
			value = rest
		default:
			return sum, false
		}
	}
	value = strings.TrimSpace(value)
	if len(value) != hex.EncodedLen(sha256.Size) {
		return sum, false
	}
	_, err := hex.Decode(sum[:], []byte(value))
	return sum, err == nil
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != "" && len(s) <= 20
}

// bodyTimestamp returns the value of the top-level member "timestamp" as its bytes stand in body, without quotes.
// It scans instead of decoding, because what is signed is the text as written and because it runs before anything is
// known about the body. Like a decoder it takes the last of several.
func bodyTimestamp(body []byte) (value []byte, found bool) {
	depth := 0
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case '"':
			end := stringEnd(body, i)
			if end < 0 {
				return nil, false
			}
			name := body[i+1 : end]
			i = end
			if depth != 1 || string(name) != "timestamp" {
				continue
			}
			colon := skipSpace(body, end+1)
			if colon == len(body) || body[colon] != ':' {
				continue // a value that happens to be "timestamp"
			}
			if v, ok := scalarAt(body, skipSpace(body, colon+1)); ok {
				value, found = v, true
			}
		}
	}
	return value, found
}

// stringEnd returns the index of the quote that closes the string opened at body[open], or -1.
func stringEnd(body []byte, open int) int {
	for i := open + 1; i < len(body); i++ {
		switch body[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return -1
}

// scalarAt returns the digits of the string or number that starts at body[i].
func scalarAt(body []byte, i int) ([]byte, bool) {
	if i == len(body) {
		return nil, false
	}
	var value []byte
	if body[i] == '"' {
		end := stringEnd(body, i)
		if end < 0 {
			return nil, false
		}
		value = body[i+1 : end]
	} else {
		end := i
		for end < len(body) && body[end] >= '0' && body[end] <= '9' {
			end++
		}
		value = body[i:end]
	}
	return value, isDigits(string(value))
}

func skipSpace(body []byte, i int) int {
	for i < len(body) && (body[i] == ' ' || body[i] == '\t' || body[i] == '\n' || body[i] == '\r') {
		i++
	}
	return i
}
