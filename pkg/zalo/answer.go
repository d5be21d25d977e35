package zalo

import (
	"encoding/json"
	"strconv"
	"strings"
)

type sendAnswer struct {
	Error integer `json:"error"`
	Data  object[struct {
		MsgID    text `json:"msg_id"`
		SentTime text `json:"sent_time"`
		Quota    object[struct {
			Daily     integer `json:"dailyQuota"`
			Remaining integer `json:"remainingQuota"`
		}] `json:"quota"`
	}] `json:"data"`
}

// readAnswer decodes an answer to a message by phone. What Zalo usually writes is scanned once; encoding/json, which scans
// nested objects of liberal types again on each level, reads all the rest. A fuzz test holds one against the other.
func readAnswer(body []byte) (sendAnswer, error) {
	s := scanner{rest: body}
	if a, ok := s.answer(); ok {
		return a, nil
	}
	var a sendAnswer
	err := json.Unmarshal(body, &a)
	return a, err
}

// scanner reads the plain part of JSON: strings without escapes, in ASCII; whole numbers; objects with the fields that
// are known, once each, and others with a scalar. Its methods report false for anything else, which says nothing about
// whether that is valid.
type scanner struct{ rest []byte }

func (s *scanner) answer() (a sendAnswer, ok bool) {
	ok = s.object([]string{"error", "data"}, func(field int) bool {
		switch field {
		case 0:
			return s.integer(&a.Error)
		case 1:
			return s.object([]string{"msg_id", "sent_time", "quota"}, func(field int) bool {
				switch data := &a.Data.v; field {
				case 0:
					return s.text(&data.MsgID)
				case 1:
					return s.text(&data.SentTime)
				case 2:
					return s.object([]string{"dailyQuota", "remainingQuota"}, func(field int) bool {
						return s.integer([]*integer{&data.Quota.v.Daily, &data.Quota.v.Remaining}[field])
					})
				}
				return false
			})
		}
		return false
	})
	s.space()
	return a, ok && len(s.rest) == 0
}

// object reads an object: value is called with the index of each known field.
func (s *scanner) object(known []string, value func(field int) bool) bool {
	if !s.take('{') {
		return false
	}
	if s.take('}') {
		return true
	}
	for seen := 0; ; {
		name, ok := s.str()
		if !ok || !s.take(':') {
			return false
		}
		field := -1
		for i, k := range known {
			if string(name) == k {
				field = i
			} else if strings.EqualFold(string(name), k) {
				return false // encoding/json takes it for k
			}
		}
		if field < 0 {
			if _, ok := s.scalar(); !ok {
				return false
			}
		} else if seen&(1<<field) != 0 || !value(field) {
			return false
		} else {
			seen |= 1 << field
		}
		if s.take('}') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

func (s *scanner) text(t *text) bool {
	value, ok := s.scalar()
	*t = text(value)
	return ok
}

func (s *scanner) integer(i *integer) bool {
	value, ok := s.scalar()
	n, err := strconv.ParseInt(string(value), 10, 64)
	*i = integer{n: n, ok: err == nil}
	return ok && err == nil
}

// scalar reads a string, without its quotes, or a whole number.
func (s *scanner) scalar() (value []byte, ok bool) {
	s.space()
	if len(s.rest) > 0 && s.rest[0] == '"' {
		return s.str()
	}
	n := 0
	if len(s.rest) > 0 && s.rest[0] == '-' {
		n++
	}
	digits := n
	for n < len(s.rest) && '0' <= s.rest[n] && s.rest[n] <= '9' {
		n++
	}
	if n == digits || n-digits > 1 && s.rest[digits] == '0' {
		return nil, false
	}
	value, s.rest = s.rest[:n], s.rest[n:]
	return value, true
}

func (s *scanner) str() ([]byte, bool) {
	if !s.take('"') {
		return nil, false
	}
	for i, c := range s.rest {
		switch {
		case c == '"':
			value := s.rest[:i]
			s.rest = s.rest[i+1:]
			return value, true
		case c < ' ' || c == '\\' || c > '~':
			return nil, false
		}
	}
	return nil, false
}

func (s *scanner) take(c byte) bool {
	s.space()
	if len(s.rest) == 0 || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

func (s *scanner) space() {
	for len(s.rest) > 0 && (s.rest[0] == ' ' || s.rest[0] == '\n' || s.rest[0] == '\r' || s.rest[0] == '\t') {
		s.rest = s.rest[1:]
	}
}
