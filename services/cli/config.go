package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/znshub/znshub/pkg/config"
	"github.com/znshub/znshub/services/cli/render"
)

type configCmd struct {
	Check configCheckCmd `cmd:"" help:"Check the settings of all programs; exit code 1 when one of them could not start."`
	Show  configShowCmd  `cmd:"" help:"Print every setting with its value and where it comes from; secrets are masked."`
}

type configCheckCmd struct {
	Program []string `enum:"sender,webhook-ingest,zalo-sim" help:"Only these programs."`
}

type configShowCmd struct {
	Program []string `enum:"sender,webhook-ingest,zalo-sim" help:"Only these programs."`
	Set     bool     `help:"Only what is not at its default."`
}

// Help implements kong.HelpProvider.
func (configCheckCmd) Help() string {
	return `Reads the environment and the YAML file that ZNS_CONFIG names, as the programs do. Reaches no broker and not Zalo.

Examples:

    zns config check
    env $(cat production.env) zns config check --program sender`
}

// Help implements kong.HelpProvider.
func (configShowCmd) Help() string {
	return `Examples:

    zns config show
    zns config show --set
    zns config show --program sender --json | jq -r 'select(.origin != "default") | .name'`
}

// loaded is what one program found.
type loaded struct {
	program  string
	settings []config.Setting
	warnings []string
	problems []config.Problem
}

// load reads the settings of the programs named, of all when none is.
func (a *App) load(names []string) []loaded {
	var all []loaded
	for _, p := range programs() {
		if len(names) > 0 && !slices.Contains(names, p.name) {
			continue
		}
		l, err := config.LoadFrom(a.Environ, p.settings...)
		out := loaded{program: p.name, settings: once(l.Settings), warnings: l.Warnings}
		if bad, ok := errors.AsType[*config.Error](err); ok {
			out.problems = bad.Problems
		} else if p.kafka != nil {
			// What the variables say together, and the certificates that they name.
			if _, err := p.kafka.Options(); err != nil {
				for line := range strings.Lines(err.Error()) {
					out.problems = append(out.problems, config.Problem{Message: strings.TrimSpace(line)})
				}
			}
		}
		all = append(all, out)
	}
	return all
}

// once leaves out settings that several structs of a program share.
func once(settings []config.Setting) []config.Setting {
	seen := map[string]bool{}
	return slices.DeleteFunc(slices.Clone(settings), func(s config.Setting) bool {
		again := seen[s.Name]
		seen[s.Name] = true
		return again
	})
}

// Run reports problems and warnings.
func (c *configCheckCmd) Run(a *App) error {
	bad := false
	for _, l := range a.load(c.Program) {
		bad = bad || len(l.problems) > 0
		if a.Globals.JSON {
			problems := make([]map[string]string, 0, len(l.problems))
			for _, p := range l.problems {
				problems = append(problems, map[string]string{"name": p.Name, "message": p.Message})
			}
			if err := a.printJSON(map[string]any{"program": l.program, "ok": len(l.problems) == 0, "problems": problems, "warnings": orEmpty(l.warnings)}); err != nil {
				return err
			}
			continue
		}
		verdict := a.Style.Good("ok")
		if len(l.problems) > 0 {
			verdict = a.Style.Bad("would not start")
		}
		fmt.Fprintf(a.Out, "%s: %s\n", a.Style.Bold(l.program), verdict)
		for _, p := range l.problems {
			fmt.Fprintf(a.Out, "  %s %s\n", a.Style.Bad("problem"), render.OneLine(strings.TrimPrefix(p.Name+": "+p.Message, ": "), 400))
		}
		for _, w := range l.warnings {
			fmt.Fprintf(a.Out, "  %s %s\n", a.Style.Warn("warning"), render.OneLine(w, 400))
		}
	}
	if bad {
		return errQuiet
	}
	return nil
}

// Run prints the settings.
func (c *configShowCmd) Run(a *App) error {
	for i, l := range a.load(c.Program) {
		if !a.Globals.JSON {
			if i > 0 {
				fmt.Fprintln(a.Out)
			}
			fmt.Fprintln(a.Out, a.Style.Bold(l.program))
		}
		table := render.Table{Style: a.Style}
		for _, s := range l.settings {
			s.Value = withoutPhones(s)
			if c.Set && s.Origin == config.Default {
				continue
			}
			if a.Globals.JSON {
				if err := a.printJSON(map[string]any{
					"program": l.program, "name": s.Name, "value": s.Value, "default": s.Default, "origin": s.Origin, "secret": s.Secret, "help": s.Help,
				}); err != nil {
					return err
				}
				continue
			}
			table.Cells(settingCells(a.Style, s)...)
		}
		if table.Empty() && !a.Globals.JSON {
			table.Cells(render.Cell{Text: "  everything is at its default", Paint: a.Style.Dim})
		}
		if _, err := table.WriteTo(a.Out); err != nil {
			return err
		}
	}
	return nil
}

func settingCells(style render.Style, s config.Setting) []render.Cell {
	value := render.Cell{Text: render.OneLine(s.Value, 60)}
	if s.Value == "" {
		value = render.Cell{Text: "-", Paint: style.Dim}
	}
	origin := render.Cell{Text: string(s.Origin), Paint: style.Dim}
	if s.Origin != config.Default {
		origin.Paint = style.Info
	}
	return []render.Cell{{Text: "  " + s.Name}, value, origin, {Text: s.Help, Paint: style.Dim}}
}

// withoutPhones masks the settings that list people.
func withoutPhones(s config.Setting) string {
	if s.Name != "SENDER_ALLOW_PHONES" && s.Name != "SIM_ADMINS" || s.Value == "" {
		return s.Value
	}
	phones := strings.Split(s.Value, ",")
	for i, p := range phones {
		phones[i] = render.Phone(p)
	}
	return strings.Join(phones, ",")
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
