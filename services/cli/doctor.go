package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/znshub/znshub/pkg/config"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/cli/doctor"
	"github.com/znshub/znshub/services/cli/render"
	"github.com/znshub/znshub/services/ingest"
	"github.com/znshub/znshub/services/sender"
)

type doctorCmd struct {
	Webhook string `placeholder:"URL" help:"Public address of the webhook; it is called with GET, which keeps nothing."`
}

// Help implements kong.HelpProvider.
func (doctorCmd) Help() string {
	return `Looks at brokers, clocks, topics, groups, transactions, the traffic of the last hours, the settings in this environment, and the OA's token and quota at Zalo. It changes nothing and sends nothing. Each finding says why it matters and what mends it. The exit code is 1 when something is a problem, 0 when there are warnings at most.

Run it with the sender's environment: what it takes from there are KAFKA_, ZALO_, SENDER_TOPIC, SENDER_GROUP and INGEST_GROUP.

Examples:

    zns doctor
    env $(cat production.env) zns doctor --webhook https://zns.example.com/webhooks/zalo
    zns doctor --json | jq -r 'select(.level == "problem") | .mend'`
}

// Run examines and tells.
func (c *doctorCmd) Run(ctx context.Context, a *App) error {
	var findings []doctor.Finding
	red := false
	tell := func(f doctor.Finding) {
		red = red || f.Level == doctor.Problem
		if a.Globals.JSON {
			_ = a.printJSON(f) // what cannot be printed cannot be told either
			return
		}
		findings = append(findings, f)
	}
	for _, f := range a.settingsFindings() {
		tell(f)
	}
	cfg, err := a.doctorConfig(ctx)
	if err != nil {
		if len(findings) > 0 {
			a.printFindings(findings)
		}
		return err
	}
	defer cfg.Admin.Close()
	cfg.Webhook = c.Webhook
	doctor.Examine(ctx, cfg, tell)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	a.printFindings(findings)
	if red {
		return errQuiet
	}
	return nil
}

// doctorConfig takes from the environment what the programs would take. Settings that are wrong were told already; what
// can be examined without them is.
func (a *App) doctorConfig(ctx context.Context) (doctor.Config, error) {
	var s sender.Config
	var in ingest.Config
	_, _ = config.LoadFrom(a.Environ, &s)
	_, _ = config.LoadFrom(a.Environ, &in)
	cl, err := a.connect(ctx)
	if err != nil {
		return doctor.Config{}, err
	}
	tokens, _ := s.AccessTokens()
	input := cmp.Or(s.Topic, topic.Requested)
	return doctor.Config{
		Admin: cl.admin, Client: cl.opts, Specs: specs(input),
		Topic: input, SenderGroup: cmp.Or(s.Group, "zns-sender"), IngestGroup: cmp.Or(in.Group, "zns-ingest"),
		Zalo: doctor.Zalo{URL: s.APIURL, Tokens: tokens, AppSecret: proofSecret(s)},
	}, nil
}

// proofSecret is the secret for appsecret_proof where calls carry one.
func proofSecret(s sender.Config) string {
	if s.AppSecretProof {
		return s.AppSecret
	}
	return ""
}

// settingsFindings judges the settings in this environment. Those of webhook-ingest only where there are any: doctor
// usually runs with the sender's.
func (a *App) settingsFindings() []doctor.Finding {
	var findings []doctor.Finding
	add := func(f doctor.Finding) {
		f.Check = "settings"
		if !slices.Contains(findings, f) { // several programs read the same variables
			findings = append(findings, f)
		}
	}
	ingests := slices.ContainsFunc(a.Environ, func(v string) bool {
		return strings.HasPrefix(v, "INGEST_") || strings.HasPrefix(v, "ZALO_OA_SECRET") || strings.HasPrefix(v, "ZALO_APP_ID")
	})
	for _, l := range a.load([]string{"sender", "webhook-ingest"}) {
		if l.program == "webhook-ingest" && !ingests {
			continue
		}
		for _, p := range l.problems {
			add(doctor.Finding{
				Level: doctor.Problem, What: l.program + ": " + render.OneLine(strings.TrimPrefix(p.Name+": "+p.Message, ": "), 400),
				Why: l.program + " would not start with these settings", Mend: "zns config check --program " + l.program,
			})
		}
		for _, w := range l.warnings {
			add(doctor.Finding{
				Level: doctor.Warning, What: render.OneLine(w, 400), Why: "a misspelt setting is not in force, and nobody notices",
				Mend: "correct or remove it; zns config show lists all names",
			})
		}
	}
	if mode := a.getenv("SENDER_MODE"); mode != "" && mode != "live" {
		add(doctor.Finding{
			Level: doctor.Warning, What: "SENDER_MODE is " + render.OneLine(mode, 40), Why: "customers get nothing", Mend: "SENDER_MODE=live in production",
		})
	}
	if len(findings) == 0 {
		what := "the programs would start with the settings here"
		if !ingests {
			what = "sender would start with the settings here; webhook-ingest's are not here"
		}
		add(doctor.Finding{Level: doctor.Good, What: what})
	}
	return findings
}

// printFindings writes the table and then, for what is not well, why it matters and what mends it.
func (a *App) printFindings(findings []doctor.Finding) {
	if a.Globals.JSON {
		return
	}
	paint := map[doctor.Level]func(string) string{
		doctor.Good: a.Style.Good, doctor.Warning: a.Style.Warn, doctor.Problem: a.Style.Bad, doctor.Unknown: a.Style.Dim,
	}
	table := render.Table{Style: a.Style}
	table.Header("check", "state", "finding")
	count := map[doctor.Level]int{}
	for _, f := range findings {
		count[f.Level]++
		table.Cells(render.Cell{Text: f.Check}, render.Cell{Text: string(f.Level), Paint: paint[f.Level]}, render.Cell{Text: render.OneLine(f.What, 160)})
	}
	_, _ = table.WriteTo(a.Out)
	for _, level := range []doctor.Level{doctor.Problem, doctor.Warning} {
		for _, f := range findings {
			if f.Level == level {
				fmt.Fprintf(a.Out, "\n%s %s: %s\n        why:  %s\n        mend: %s\n", paint[level](string(level)), f.Check, f.What, f.Why, f.Mend)
			}
		}
	}
	fmt.Fprintf(a.Out, "\n%s, %s, %d ok, %d skipped\n", plural(count[doctor.Problem], "problem"), plural(count[doctor.Warning], "warning"), count[doctor.Good], count[doctor.Unknown])
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
