package zalo

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
)

// Zalo writes the same field as a string in one API and as a number in another, and nobody outside knows all the
// forms. The types below take any JSON value: what has no meaning for them is as if it were absent, so that one odd
// field does not cost the whole message.

// text is a string, or a number kept digit by digit: ids exceed 2^53.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	*t = ""
	switch {
	case len(b) == 0:
	case b[0] == '"':
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		*t = text(s)
	case b[0] == '-' || b[0] >= '0' && b[0] <= '9':
		*t = text(b)
	}
	return nil
}

// texts is a list of text; a single one counts as a list of one.
type texts []string

func (t *texts) UnmarshalJSON(b []byte) error {
	*t = nil
	if len(b) > 0 && b[0] == '[' {
		var items []text
		if err := json.Unmarshal(b, &items); err != nil {
			return err
		}
		for _, item := range items {
			if item != "" {
				*t = append(*t, string(item))
			}
		}
		return nil
	}
	var one text
	if err := one.UnmarshalJSON(b); err != nil {
		return err
	}
	if one != "" {
		*t = texts{string(one)}
	}
	return nil
}

// integer is a whole number or a quoted one. ok is false for anything else, also for null.
type integer struct {
	n  int64
	ok bool
}

func (i *integer) UnmarshalJSON(b []byte) error {
	*i = integer{}
	b = bytes.TrimSpace(bytes.Trim(b, `"`))
	if n, err := strconv.ParseInt(string(b), 10, 64); err == nil {
		*i = integer{n: n, ok: true}
	}
	return nil
}

// int32 returns the number, or nil when there is none or it does not fit.
func (i integer) int32() *int32 {
	if !i.ok || i.n != int64(int32(i.n)) {
		return nil
	}
	return new(int32(i.n))
}

// object is a JSON object; any other value is the zero T.
type object[T any] struct{ v T }

func (o *object[T]) UnmarshalJSON(b []byte) error {
	var zero T
	o.v = zero
	if len(b) == 0 || b[0] != '{' {
		return nil
	}
	return json.Unmarshal(b, &o.v)
}

// epoch reads a point in time as Zalo writes it: milliseconds since 1970. The zero time is returned for what cannot
// be one. Ten digits or fewer are seconds, which some of Zalo's samples show.
func epoch(s text) time.Time {
	n, err := strconv.ParseInt(string(s), 10, 64)
	switch {
	case err != nil || n <= 0:
		return time.Time{}
	case n < 1e10:
		return time.Unix(n, 0)
	case n < 1e15:
		return time.UnixMilli(n)
	default:
		return time.Time{}
	}
}
