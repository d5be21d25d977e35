package topic_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/znshub/znshub/proto/topic"
)

var update = flag.Bool("update", false, "rewrite testdata")

// TestTable compares the whole table with a reviewed copy: other teams' programs depend on every line of it.
func TestTable(t *testing.T) {
	var b strings.Builder
	for _, s := range topic.Table() {
		fmt.Fprintf(&b, "%s\n  type %q\n  key %s\n  by %s\n", s.Name, s.Type, s.Key, s.Writer)
		if s.Follows != "" {
			fmt.Fprintf(&b, "  partitions at most those of %s\n", s.Follows)
		}
		if s.Beside != "" {
			fmt.Fprintf(&b, "  partitions as %s\n", s.Beside)
		}
		for _, c := range s.Settings() {
			fmt.Fprintf(&b, "  %s=%s%s\n", c.Key, c.Value, map[topic.Rule]string{topic.Exact: " (exactly)", topic.AtLeast: " (at least)"}[c.Rule])
		}
	}
	path := filepath.Join("testdata", "table.txt")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("the table changed (-reviewed +now; -update accepts it):\n%s", diff)
	}
}

func TestNamesAreUniqueAndFound(t *testing.T) {
	seen := make(map[string]bool)
	for _, s := range topic.Table() {
		if seen[s.Name] {
			t.Errorf("%s stands twice in the table", s.Name)
		}
		seen[s.Name] = true
		got, ok := topic.Find(s.Name)
		if !ok || got.Name != s.Name {
			t.Errorf("Find(%q) = %q, %v", s.Name, got.Name, ok)
		}
		for _, other := range []string{s.Follows, s.Beside} {
			if _, ok := topic.Find(other); other != "" && !ok {
				t.Errorf("%s refers to %s, which is not in the table", s.Name, other)
			}
		}
	}
	if _, ok := topic.Find("zns.nothing"); ok {
		t.Error("Find found a topic that does not exist")
	}
}

func TestOwnInputTopicHasItsLedgerAndDLQ(t *testing.T) {
	var got []string
	for _, s := range topic.ForSender("urgent.requested") {
		got = append(got, s.Name)
		if s.Ledger && s.Follows != "urgent.requested" {
			t.Errorf("ledger %s follows %q", s.Name, s.Follows)
		}
	}
	want := []string{
		"urgent.requested", "urgent.requested.ledger", "urgent.requested.dlq",
		"zns.sent", "zns.failed", "zns.unresolved", "zalo.callback", "zns.control",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("topics of a sender (-want +got):\n%s", diff)
	}
}
