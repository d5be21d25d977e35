package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
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
	Cases      []*series `json:"cases"`
}

// series is all runs of one case.
type series struct {
	Name    string   `json:"name"`
	Subject string   `json:"subject"`
	Latency float64  `json:"latency_ms"`
	Keys    int      `json:"keys"`
	Kill    bool     `json:"kill"`
	Runs    []result `json:"runs"`
	// VersusLoop is the median of PerSecond divided by that of the loop in the same case.
	VersusLoop float64 `json:"versus_loop,omitempty"`
	spec       spec
}

func newReport(o options) *report {
	r := &report{
		Time: time.Now().UTC().Truncate(time.Second), Broker: os.Getenv(kafkatest.DescribeEnv), Go: runtime.Version(),
		System: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), CPU: cpuModel(),
		N: o.n, InFlight: o.inFlight, Partitions: o.partitions,
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		r.Load = strings.Join(strings.Fields(string(load))[:3], " ")
	}
	if out, err := exec.Command("git", "describe", "--always", "--abbrev=10", "--dirty=+").Output(); err == nil { //nolint:noctx // at once
		r.Commit = string(bytes.TrimSpace(out))
	}
	return r
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

func (r *report) add(s spec, one result) {
	i := slices.IndexFunc(r.Cases, func(c *series) bool { return c.spec == s })
	if i < 0 {
		i = len(r.Cases)
		r.Cases = append(r.Cases, &series{Name: s.name(), Subject: s.Subject, Latency: milliseconds(s.Latency), Keys: s.Keys, Kill: s.Kill, spec: s})
	}
	r.Cases[i].Runs = append(r.Cases[i].Runs, one)
	for _, c := range r.Cases {
		loop := slices.IndexFunc(r.Cases, func(l *series) bool { return l.Subject == subjectLoop && l.spec.pair() == c.spec.pair() })
		if loop >= 0 && !c.Kill {
			c.VersusLoop = median(c.values(perSecond)) / median(r.Cases[loop].values(perSecond))
			if math.IsNaN(c.VersusLoop) {
				c.VersusLoop = 0 // a run failed
			}
		}
	}
}

func perSecond(r result) float64 { return r.PerSecond }

// values lists one number of all runs that went well, ascending.
func (s *series) values(of func(result) float64) (v []float64) {
	for _, r := range s.Runs {
		if r.Error == "" {
			v = append(v, of(r))
		}
	}
	slices.Sort(v)
	return v
}

func median(sorted []float64) float64 {
	n := len(sorted)
	switch {
	case n == 0:
		return math.NaN()
	case n%2 == 1:
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// spread writes the median, and with more than one run least and most in brackets.
func (s *series) spread(format string, of func(result) float64) string {
	v := s.values(of)
	if len(v) == 0 {
		return "failed"
	}
	text := fmt.Sprintf(format, median(v))
	if len(v) > 1 {
		text += fmt.Sprintf(" ("+format+"–"+format+")", v[0], v[len(v)-1])
	}
	return text
}

// table writes Markdown, so that it can be pasted into a document.
func (r *report) table(w io.Writer) {
	fmt.Fprintln(w)
	rows := [][]string{{"latency", "keys", "subject", "records/s", "of the loop", "of the ceiling", "commit p50 / p99 ms", "CPU ms/record", "peak RSS MiB", "simulator CPU ms/record", "key-order inversions"}}
	kills := [][]string{{"latency", "keys", "subject", "kill -9 half-way: duplicates", "lost", "unknown, of these unresolved", "pause s"}}
	for _, c := range r.Cases {
		head := []string{c.spec.Latency.String(), fmt.Sprint(c.Keys), c.Subject}
		if c.Kill {
			kills = append(kills, append(head,
				c.spread("%.0f", func(r result) float64 { return float64(r.Duplicates) }),
				c.spread("%.0f", func(r result) float64 { return float64(r.Lost) }),
				c.spread("%.0f", func(r result) float64 { return float64(r.Unknown) })+", "+c.spread("%.0f", func(r result) float64 { return float64(r.Unresolved) }),
				c.spread("%.1f", func(r result) float64 { return r.Pause })))
			continue
		}
		versus, ceiling, sim, order := "1", "–", "–", "–"
		if c.Subject != subjectLoop {
			versus = fmt.Sprintf("%.2f", c.VersusLoop)
		}
		if c.spec.Latency > 0 {
			ceiling = fmt.Sprintf("%.2f", median(c.values(func(r result) float64 { return r.Ceiling })))
			sim = fmt.Sprintf("%.3f", median(c.values(func(r result) float64 { return r.SimCPU })))
			order = c.spread("%.0f", func(r result) float64 { return float64(r.Inverted) })
		}
		rows = append(rows, append(head,
			c.spread("%.0f", perSecond), versus, ceiling,
			fmt.Sprintf("%.1f / %.1f", median(c.values(func(r result) float64 { return r.CommitP50 })), median(c.values(func(r result) float64 { return r.CommitP99 }))),
			c.spread("%.3f", func(r result) float64 { return r.CPU }),
			c.spread("%.0f", func(r result) float64 { return r.PeakRSS }), sim, order))
	}
	for _, table := range [][][]string{rows, kills} {
		if len(table) > 1 {
			markdown(w, table)
			fmt.Fprintln(w)
		}
	}
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
func (r result) line(s spec) string {
	if r.Error != "" {
		return "FAILED: " + r.Error
	}
	if s.Kill {
		return fmt.Sprintf("duplicates %d, lost %d, unknown %d, unresolved %d, pause %.1f s", r.Duplicates, r.Lost, r.Unknown, r.Unresolved, r.Pause)
	}
	return fmt.Sprintf("%6.0f/s, %d commits of %.1f/%.1f ms, CPU %.3f ms, RSS %.0f MiB, inversions %d", r.PerSecond, r.Commits, r.CommitP50, r.CommitP99, r.CPU, r.PeakRSS, r.Inverted)
}

func (r *report) write(file string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", file, err)
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// failed is an error when a run broke, or the sender broke a promise of order, loss or copies.
func (r *report) failed() error {
	var problems []error
	for _, c := range r.Cases {
		for i, run := range c.Runs {
			switch {
			case run.Error != "":
				problems = append(problems, fmt.Errorf("%s, run %d: %s", c.Name, i+1, run.Error))
			case c.Subject == subjectSender && run.Duplicates+run.Lost+run.Inverted > 0:
				problems = append(problems, fmt.Errorf("%s, run %d: %d duplicates, %d lost, %d inversions", c.Name, i+1, run.Duplicates, run.Lost, run.Inverted))
			}
		}
	}
	return errors.Join(problems...)
}
