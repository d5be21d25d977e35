package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/znshub/znshub/services/cli/render"
)

// Exit codes, part of the contract with scripts.
const (
	exitFailed = 1
	exitUsage  = 2
)

// problem is an error that tells the next step and the exit code.
type problem struct {
	err  error
	next []string // commands or sentences that help, one a line
	code int
}

func (p *problem) Error() string { return p.err.Error() }
func (p *problem) Unwrap() error { return p.err }

// usage marks err as a mistake in the command line or the settings.
func usage(err error, next ...string) error {
	return &problem{err: err, next: next, code: exitUsage}
}

// failed marks err as a failure of the work itself and says what helps.
func failed(err error, next ...string) error {
	return &problem{err: err, next: next, code: exitFailed}
}

// errQuiet ends the command with exit code 1 after its output has already told why.
var errQuiet = errors.New("")

// fail tells err on the error stream and returns the exit code that fits it.
func (a *App) fail(err error) int {
	if errors.Is(err, errQuiet) {
		return exitFailed
	}
	if errors.Is(err, context.Canceled) {
		return exitFailed // interrupted: the person knows
	}
	p, ok := errors.AsType[*problem](err)
	if !ok {
		p = &problem{err: err, code: exitFailed}
	}
	if a.Globals.JSON {
		line, marshalErr := json.Marshal(map[string]any{"error": err.Error(), "next": p.next, "exit": p.code})
		if marshalErr == nil {
			fmt.Fprintln(a.Err, string(line))
		}
		return p.code
	}
	style := render.StyleFor(a.Err, a.getenv)
	fmt.Fprintf(a.Err, "%s %s\n", style.Bad("zns:"), strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "\n  "))
	for i, next := range p.next {
		label := "next:"
		if i > 0 {
			label = "     "
		}
		fmt.Fprintf(a.Err, "%s %s\n", style.Dim(label), next)
	}
	return p.code
}
