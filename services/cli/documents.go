package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"unicode"
)

// documents yields every JSON value in r: one, many lines, values one after the other with any white space between
// them, or one array of them. After an error nothing follows: where the next value begins is anybody's guess.
func documents(r io.Reader) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		buffered := bufio.NewReader(r)
		array, err := startsArray(buffered)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				yield(nil, err)
			}
			return
		}
		dec := json.NewDecoder(buffered)
		if array {
			if _, err := dec.Token(); err != nil {
				yield(nil, err)
				return
			}
		}
		for n := 1; !array || dec.More(); n++ {
			var doc json.RawMessage
			if err := dec.Decode(&doc); err != nil {
				if !array && errors.Is(err, io.EOF) {
					return
				}
				if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
					err = errors.New("the input ends inside it")
				}
				yield(nil, fmt.Errorf("record %d, after byte %d of the input: %w", n, dec.InputOffset(), err))
				return
			}
			if !yield(doc, nil) {
				return
			}
		}
		if array {
			if _, err := dec.Token(); err != nil {
				yield(nil, fmt.Errorf("end of the list: %w", err))
			}
		}
	}
}

// startsArray reports whether the first character that is not white space is '['. io.EOF: there is none.
func startsArray(r *bufio.Reader) (bool, error) {
	for {
		c, _, err := r.ReadRune()
		if err != nil {
			return false, err
		}
		if c == '\ufeff' || unicode.IsSpace(c) {
			continue
		}
		return c == '[', r.UnreadRune()
	}
}
