package webhook

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Secrets are the OA secret keys with which Zalo signs. The zero value verifies nothing.
type Secrets struct {
	common []string            // for every OA
	byOA   map[string][]string // for one OA; several while a key is being rotated
}

// ParseSecrets reads the value of ZALO_OA_SECRET: "secret", "new,old" while a key is being rotated, or
// "oa_id=secret,oa_id=secret" for several OAs; an oa_id may stand several times. Its errors hold no secret.
func ParseSecrets(s string) (Secrets, error) {
	secrets := Secrets{byOA: map[string][]string{}}
	for i, item := range strings.Split(s, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		oa, secret, ok := strings.Cut(item, "=")
		oa, secret = strings.TrimSpace(oa), strings.TrimSpace(secret)
		switch {
		case !ok:
			secrets.common = append(secrets.common, item)
		case oa == "" || strings.Trim(oa, "0123456789") != "":
			return Secrets{}, fmt.Errorf("item %d: what stands before = is not an OA id (digits)", i+1)
		case secret == "":
			return Secrets{}, fmt.Errorf("item %d: no secret after =", i+1)
		default:
			secrets.byOA[oa] = append(secrets.byOA[oa], secret)
		}
	}
	if len(secrets.common) == 0 && len(secrets.byOA) == 0 {
		return Secrets{}, errors.New("no secret")
	}
	return secrets, nil
}

// Contains reports whether secret is one of s.
func (s Secrets) Contains(secret string) bool {
	for _, all := range s.byOA {
		if slices.Contains(all, secret) {
			return true
		}
	}
	return slices.Contains(s.common, secret)
}

// of returns the secrets that may have signed for one of the OA ids that a body names.
func (s Secrets) of(ids ...string) []string {
	all := slices.Clone(s.common)
	for i, id := range ids {
		if !slices.Contains(ids[:i], id) {
			all = append(all, s.byOA[id]...)
		}
	}
	return all
}
