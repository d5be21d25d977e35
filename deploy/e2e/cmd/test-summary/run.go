package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// event is a line of "go test -json" (go doc test2json).
type event struct {
	Action, Package, Test, Output string
	ImportPath                    string // of build-output instead of Package
}

// test is one test of a run, or, without a name, what a package printed beside its tests.
type test struct {
	pkg, name string
	state     string // the last action that is no output: run, pause, cont, pass, fail, skip
	said      []string
	more      int // lines of the message under way, besides its first
}

// run is what happened in a run of "go test -json", in the order in which it began.
type run struct {
	tests []*test
}

// The lines to tell of a test: the beginnings of what it said itself, and why its process died. Logs and stacks of the
// programs under test are not among them.
var (
	own     = regexp.MustCompile(`^ {4,}\S`)
	source  = regexp.MustCompile(`^ *\w+\.go:\d+: `)
	deathly = regexp.MustCompile(`^(panic: |fatal error: |ThreadSanitizer: |WARNING: DATA RACE|SIG[A-Z]+: |signal: |exit status |runtime: )`)
)

const (
	linesTold   = 16  // of one test
	messageTold = 4   // lines of one message
	width       = 300 // of one line
)

// read reads the events of a run; with an error it tells those before it.
func read(r io.Reader) (*run, error) {
	type key struct{ pkg, name string }
	var all run
	known := map[key]*test{}
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if err := json.Unmarshal(line, &e); err != nil {
				return &all, err
			}
			built, _, _ := strings.Cut(e.ImportPath, " [") // "of [of.test]"
			k := key{e.Package + built, e.Test}
			x := known[k]
			if x == nil {
				x = &test{pkg: k.pkg, name: k.name}
				known[k] = x
				all.tests = append(all.tests, x)
			}
			x.take(e)
		}
		if err == io.EOF {
			return &all, nil
		}
		if err != nil {
			return &all, err
		}
	}
}

func (x *test) take(e event) {
	switch e.Action {
	case "output", "build-output":
		text := strings.TrimRight(e.Output, "\n")
		result := strings.HasPrefix(text, "FAIL") || strings.HasPrefix(text, "ok ") || strings.HasPrefix(text, "# ")
		switch {
		case source.MatchString(text), deathly.MatchString(text), x.name == "" && !result && text != "":
			x.more = 0
			x.said = append(x.said, text)
		case own.MatchString(text):
			if x.more++; x.more < messageTold {
				x.said = append(x.said, text)
			}
		}
	case "build-fail":
		x.state = "fail"
	default:
		x.state = e.Action
	}
}

// printSkipped prints each reason with the tests that gave it.
func (r *run) printSkipped(w io.Writer) {
	names := map[string][]string{}
	for _, x := range r.tests {
		if x.state != "skip" || x.name == "" {
			continue
		}
		why := "no reason given"
		for _, line := range x.said {
			if source.MatchString(line) {
				why = source.ReplaceAllString(line, "")
			}
		}
		names[why] = append(names[why], x.name)
	}
	if len(names) == 0 {
		return
	}
	fmt.Fprintln(w, "skipped:")
	for _, why := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(w, "  %s: %s\n", strings.Join(names[why], ", "), why)
	}
}

// printFailed prints the tests and packages that failed, with the last of what they said, and reports whether there are
// any. A test that was under way when its process ended comes with what ended it.
func (r *run) printFailed(w io.Writer) bool {
	failed := map[string]bool{} // packages
	told := map[string]bool{}   // packages of which a test told something
	for _, x := range r.tests {
		failed[x.pkg] = failed[x.pkg] || x.name == "" && x.state == "fail"
	}
	found := false
	tell := func(x *test, how string) {
		if !found {
			fmt.Fprintln(w, "failed:")
		}
		found, told[x.pkg] = true, true
		fmt.Fprintln(w, strings.TrimRight("  "+x.pkg+" "+x.name+how, " "))
		if n := len(x.said) - linesTold; n > 0 {
			fmt.Fprintf(w, "    … %d lines before\n", n)
		}
		for _, line := range x.said[max(0, len(x.said)-linesTold):] {
			if text := []rune(line); len(text) > width {
				line = string(text[:width]) + " …"
			}
			fmt.Fprintf(w, "    %s\n", strings.TrimPrefix(line, "    "))
		}
	}
	for _, x := range r.tests {
		switch {
		case x.name == "":
		case x.state == "fail" && !r.failedWithin(x):
			tell(x, "")
		case failed[x.pkg] && (x.state == "run" || x.state == "cont"):
			tell(x, " (under way when its process ended)")
		}
	}
	for _, x := range r.tests {
		if x.name == "" && x.state == "fail" && !told[x.pkg] {
			tell(x, "")
		}
	}
	return found
}

// failedWithin reports whether a subtest of x failed and x itself said nothing.
func (r *run) failedWithin(x *test) bool {
	return len(x.said) == 0 && slices.ContainsFunc(r.tests, func(y *test) bool {
		return y.pkg == x.pkg && y.state == "fail" && strings.HasPrefix(y.name, x.name+"/")
	})
}
