package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/znshub/znshub/pkg/kafka/kafkatest"
)

// report gathers the results.
type report struct {
	Time       time.Time `json:"time"`
	Commit     string    `json:"commit,omitempty"` // of the checkout; "+" when it had changes
	Broker     string    `json:"broker"`
	Go         string    `json:"go"`
	System     string    `json:"system"`
	CPUs       int       `json:"cpus"`
	CPU        string    `json:"cpu,omitempty"`
	Load       string    `json:"load_average_before,omitempty"` // of other programs too
	N          int       `json:"notifications"`
	InFlight   int       `json:"in_flight"`
	Partitions int       `json:"partitions"`
	Skipped    []string  `json:"skipped,omitempty"`
	Goals      []outcome `json:"goals"`
	Cases      []*series `json:"cases"`
}

// series is all runs of one case.
type series struct {
	Name   string     `json:"name"`
	About  string     `json:"about"`
	Runs   []readings `json:"runs"`
	Errors []string   `json:"errors,omitempty"`
}

func newReport(o options) *report {
	r := &report{
		Time: time.Now().UTC().Truncate(time.Second), Broker: os.Getenv(kafkatest.DescribeEnv), Go: runtime.Version(),
		System: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), CPU: cpuModel(), Load: loadAverage(),
		N: o.n, InFlight: o.inFlight, Partitions: o.partitions,
	}
	if out, err := exec.Command("git", "describe", "--always", "--abbrev=10", "--dirty=+").Output(); err == nil { //nolint:noctx // at once
		r.Commit = string(bytes.TrimSpace(out))
	}
	return r
}

func loadAverage() string {
	load, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(load))
	return strings.Join(fields[:min(3, len(fields))], " ")
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func (r *report) header(w io.Writer) {
	fmt.Fprintf(w, "%s · %s · %d CPUs %s · %s · load average %s · commit %s\n", r.Broker, r.System, r.CPUs, r.CPU, r.Go, r.Load, r.Commit)
	fmt.Fprintf(w, "%d notifications a run, %d partitions, at most %d calls in flight\n", r.N, r.Partitions, r.InFlight)
}

func (r *report) add(c kase, one readings, err error) {
	i := slices.IndexFunc(r.Cases, func(s *series) bool { return s.Name == c.name })
	if i < 0 {
		i = len(r.Cases)
		r.Cases = append(r.Cases, &series{Name: c.name, About: c.about})
	}
	if err != nil {
		r.Cases[i].Errors = append(r.Cases[i].Errors, err.Error())
		return
	}
	r.Cases[i].Runs = append(r.Cases[i].Runs, one)
}

// values lists one reading of all runs of a case that went well, in their order.
func (r *report) values(name, reading string) (v []float64) {
	for _, s := range r.Cases {
		if s.Name != name {
			continue
		}
		for _, run := range s.Runs {
			if x, ok := run[reading]; ok {
				v = append(v, x)
			}
		}
	}
	return v
}

// median of values in any order; there is at least one.
func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}

// spread writes the median, and with more than one value least and most in brackets.
func spread(format string, v []float64) string {
	if len(v) == 0 {
		return "–"
	}
	text := fmt.Sprintf(format, median(v))
	if len(v) > 1 {
		text += fmt.Sprintf(" ("+format+"–"+format+")", slices.Min(v), slices.Max(v))
	}
	return text
}

// units says how each reading is written, in the order of the columns.
var units = []struct{ reading, title, format string }{
	{"per_second", "notifications/s", "%.0f"}, {"ceiling", "of the ceiling", "%.2f"},
	{"cpu", "CPU ms each", "%.3f"}, {"sim_cpu", "simulator's CPU ms each", "%.3f"},
	{"commit_p50", "commit p50 ms", "%.1f"}, {"commit_p99", "commit p99 ms", "%.1f"},
	{"otp_p50", "OTP p50 ms", "%.1f"}, {"otp_p99", "OTP p99 ms", "%.1f"},
	{"accepted_per_second", "accepted/s", "%.0f"}, {"index_bytes", "index bytes each waiting", "%.1f"}, {"counted", "counted MiB", "%.0f"},
	{"finished_bytes", "bytes each finished", "%.1f"}, {"rss_bytes", "resident bytes each", "%.1f"}, {"ledger_bytes", "ledger bytes each", "%.0f"},
	{"restore", "restore s", "%.1f"}, {"restore_cpu", "CPU s", "%.1f"}, {"rss", "RSS MiB", "%.0f"}, {"rss_peak", "peak RSS MiB", "%.0f"},
	{"pause", "pause s", "%.1f"}, {"idle", "longest idle s", "%.2f"},
	{"duplicates", "duplicates", "%.0f"}, {"lost", "lost", "%.0f"}, {"inversions", "inversions", "%.0f"},
	{"unknown", "unknown", "%.0f"}, {"unresolved", "not settled", "%.0f"}, {"unsettled", "of these accepted", "%.0f"}, {"refused", "calls refused", "%.0f"},
}

// tables writes Markdown, so that it can be pasted into a document: the goals, then every case with its readings.
func (r *report) tables(w io.Writer) {
	r.Goals = judge(r)
	fmt.Fprintln(w)
	rows := make([][]string, 0, 1+len(r.Goals))
	rows = append(rows, []string{"measure", "goal", "result", ""})
	for _, g := range r.Goals {
		rows = append(rows, []string{g.Measure, g.Goal, g.Result, g.Verdict})
	}
	if len(rows) > 1 {
		markdown(w, rows)
	}
	for begin := 0; begin < len(r.Cases); {
		end := begin + 1
		for end < len(r.Cases) && slices.Equal(r.Cases[begin].columns(), r.Cases[end].columns()) {
			end++
		}
		rows := [][]string{{"case"}}
		for _, i := range r.Cases[begin].columns() {
			rows[0] = append(rows[0], units[i].title)
		}
		for _, s := range r.Cases[begin:end] {
			row := []string{s.Name}
			for _, i := range s.columns() {
				row = append(row, spread(units[i].format, r.values(s.Name, units[i].reading)))
			}
			rows = append(rows, row)
		}
		fmt.Fprintln(w)
		markdown(w, rows)
		begin = end
	}
	for _, reason := range r.Skipped {
		fmt.Fprintln(w, "\nSkipped:", reason)
	}
	fmt.Fprintln(w, "\nLoad average at the end:", loadAverage())
}

// columns are the indexes in units of what the case's runs read.
func (s *series) columns() (list []int) {
	for i, u := range units {
		if slices.ContainsFunc(s.Runs, func(r readings) bool { _, ok := r[u.reading]; return ok }) {
			list = append(list, i)
		}
	}
	return list
}

func markdown(w io.Writer, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	for i, row := range rows {
		fmt.Fprintln(tw, "| "+strings.Join(row, "\t| ")+"\t|")
		if i == 0 {
			fmt.Fprintln(tw, "|"+strings.Repeat("---\t|", len(row)))
		}
	}
	_ = tw.Flush()
}

// line tells one run.
func line(r readings, err error) string {
	if err != nil {
		return "FAILED: " + err.Error()
	}
	var parts []string
	known := map[string]bool{}
	for _, u := range units {
		if v, ok := r[u.reading]; ok {
			known[u.reading] = true
			parts = append(parts, u.title+" "+fmt.Sprintf(u.format, v))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r)) {
		if !known[name] {
			parts = append(parts, fmt.Sprintf("%s %g", name, r[name]))
		}
	}
	return strings.Join(parts, ", ")
}

func (r *report) write(file string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", file, err)
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// failed is an error when a run broke, or the sender lost, repeated or reordered anything.
func (r *report) failed() error {
	var problems []error
	for _, s := range r.Cases {
		for _, err := range s.Errors {
			problems = append(problems, fmt.Errorf("%s: %s", s.Name, err))
		}
		if strings.HasSuffix(s.Name, "/"+subjectLoop) || strings.HasSuffix(s.Name, "/"+subjectParallel) {
			continue
		}
		for i, run := range s.Runs {
			if run["duplicates"]+run["lost"]+run["inversions"] > 0 {
				problems = append(problems, fmt.Errorf("%s, run %d: %.0f duplicates, %.0f lost, %.0f inversions", s.Name, i+1, run["duplicates"], run["lost"], run["inversions"]))
			}
		}
	}
	return errors.Join(problems...)
}
