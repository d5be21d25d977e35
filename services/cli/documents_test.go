package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDocuments(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     []string
		err      string
	}{
		{"none", " \n", nil, ""},
		{"one", `{"a":1}`, []string{`{"a":1}`}, ""},
		{"lines", "{\"a\":1}\n{\"a\":2}\n", []string{`{"a":1}`, `{"a":2}`}, ""},
		{"spread over lines", "{\n \"a\": 1\n}\n\n{}", []string{"{\n \"a\": 1\n}", `{}`}, ""},
		{"a list", ` [{"a":1}, {"a":2}] `, []string{`{"a":1}`, `{"a":2}`}, ""},
		{"an empty list", `[]`, nil, ""},
		{"with a byte order mark", "\ufeff{}", []string{`{}`}, ""},
		{"cut", `{"a":1} {"a":`, []string{`{"a":1}`}, "record 2, after byte 7 of the input: the input ends inside it"},
		{"a cut list", `[{"a":1}`, []string{`{"a":1}`}, "end of the list"},
		{"not JSON", `{"a":1}` + "\nhello", []string{`{"a":1}`}, "record 2, after byte 7 of the input: invalid character"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			var err error
			for doc, e := range documents(strings.NewReader(c.in)) {
				if e != nil {
					err = e
					continue
				}
				got = append(got, string(doc))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("documents (-want +got):\n%s", diff)
			}
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
		})
	}
}
