package cli

import (
	"fmt"
	"time"

	"github.com/znshub/znshub/services/cli/render"
)

// progressEvery is how often a line of progress is rewritten, and firstAfter from when on there is one.
const (
	progressEvery = 200 * time.Millisecond
	firstAfter    = time.Second
)

// progress rewrites one line on a terminal's error stream during long reads; elsewhere it is silent.
type progress struct {
	a     *App
	on    bool
	what  string
	total int64
	began time.Time
	last  time.Time
	shown bool
}

// progress begins to tell how far reading total records is.
func (a *App) readProgress(what string, total int64) *progress {
	return &progress{a: a, on: !a.Globals.JSON && render.IsTerminal(a.Err), what: what, total: total, began: time.Now()}
}

// at says how many records were read.
func (p *progress) at(n int64) {
	if !p.on || n%1024 != 0 {
		return
	}
	now := time.Now()
	if now.Sub(p.began) < firstAfter || now.Sub(p.last) < progressEvery {
		return
	}
	p.last, p.shown = now, true
	percent := int64(100)
	if p.total > 0 {
		percent = min(100*n/p.total, 100) // compaction leaves fewer records than offsets
	}
	fmt.Fprintf(p.a.Err, "\r%s %3d %%, %d records\x1b[K", p.what, percent, n)
}

// end removes the line.
func (p *progress) end() {
	if p.shown {
		fmt.Fprint(p.a.Err, "\r\x1b[K")
	}
}

func (a *App) errStyle() render.Style { return render.StyleFor(a.Err, a.getenv) }
