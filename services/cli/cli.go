// Package cli is the command zns: develop, publish, watch, explain and look after ZNS Hub.
//
// What a command finds goes to standard output, one record a line; with --json each line is a JSON object. What it
// has to say about its work goes to standard error. The exit code is 0 when it did what was asked, 1 when that
// failed, and 2 when the command line or the settings are wrong. Phone numbers are masked everywhere, and template
// data is never printed.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/cli/render"
)

// App is what every command works with.
type App struct {
	In      io.Reader
	Out     io.Writer
	Err     io.Writer
	Environ []string // as os.Environ
	Globals Globals
	Style   render.Style // for Out
}

// Globals are the flags of every command.
type Globals struct {
	JSON    bool     `help:"Print JSON, one object a line."`
	Brokers []string `placeholder:"HOST:PORT" help:"Kafka brokers; default: the variable KAFKA_BROKERS."`
}

type grammar struct {
	Globals
	Version kong.VersionFlag `help:"Print the version."`

	Demo    demoCmd    `cmd:"" help:"Show the main job with telling cases; ends by itself."`
	Dev     devCmd     `cmd:"" help:"Run the whole hub in this process: broker, Zalo simulator, sender, webhook-ingest."`
	Send    sendCmd    `cmd:"" help:"Ask for one notification."`
	Publish publishCmd `cmd:"" help:"Publish requests from standard input: JSON, one or many."`
	Watch   watchCmd   `cmd:"" help:"Print what happens, live, one line an event."`
	Explain explainCmd `cmd:"" help:"Tell the story of one notification."`
	Find    findCmd    `cmd:"" help:"Find the notifications of a phone, a customer, a reference or a campaign."`
	Status  statusCmd  `cmd:"" help:"Show the hub on one screen; exit code 1 when something is wrong."`
	Sample  sampleCmd  `cmd:"" help:"Print a working publisher in Go, Python or Java."`
	Hold    holdCmd    `cmd:"" help:"Begin no call for a campaign, a template, an OA, single notifications or everything."`
	Release releaseCmd `cmd:"" help:"End a hold."`
	Cancel  cancelCmd  `cmd:"" help:"End what was not sent yet."`
	Retry   retryCmd   `cmd:"" help:"Try now what waits for a later time."`
	Unknown unknownCmd `cmd:"" help:"Decide about what was perhaps sent."`
	Redrive redriveCmd `cmd:"" help:"Publish dead letters, or failed notifications, again."`
	Topics  topicsCmd  `cmd:"" help:"Create and check the hub's topics."`

	Transactions transactionsCmd `cmd:"" help:"Find and end transactions that the brokers have left hanging."`

	Doctor doctorCmd `cmd:"" help:"Examine brokers, topics, groups, clocks, traffic, settings and the OA's token; tell what mends them."`
	Config configCmd `cmd:"" help:"Check and show the settings of all programs."`

	DemoSender demoSenderCmd `cmd:"" hidden:"" help:"The sender of zns demo, as a process of its own."`
}

// Main runs the command line args with the process's streams and signals and returns the exit code. The first SIGINT
// or SIGTERM asks the command to stop, the second kills.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	app := &App{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Environ: os.Environ()}
	return app.Run(ctx, args)
}

// exited is thrown where kong wants to end the process, after it has printed help.
type exited int

// Run runs one command line and returns its exit code.
func (a *App) Run(ctx context.Context, args []string) (code int) {
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(exited)
			if !ok {
				panic(r)
			}
			code = int(e)
		}
	}()
	a.Style = render.StyleFor(a.Out, a.getenv)
	if len(args) == 0 {
		args = []string{"--help"}
	} else if args[0] == "help" { // zns help send
		args = append(slices.Clone(args[1:]), "--help")
	}
	var g grammar
	parser, err := kong.New(&g,
		kong.Name("zns"),
		kong.Description("Deliver notifications through Zalo, and know what became of each.\n\n"+
			"First try:\n\n    zns demo        shows what it does, in half a minute\n"+
			"    zns dev         runs the whole hub here; in a second terminal: zns watch"),
		kong.Writers(a.Out, a.Err),
		kong.Exit(func(code int) { panic(exited(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Vars{"requested": topic.Requested, "version": "zns " + service.Version()},
		durations(), times(),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(a),
	)
	if err != nil {
		panic(err) // the grammar itself is wrong
	}
	cmd, err := parser.Parse(args)
	if err != nil {
		var hint string
		if parse, ok := errors.AsType[*kong.ParseError](err); ok && parse.Context != nil && parse.Context.Selected() != nil {
			hint = "zns " + parse.Context.Selected().Path() + " --help"
		} else {
			hint = "zns --help"
		}
		return a.fail(usage(err, hint))
	}
	a.Globals = g.Globals
	if err := cmd.Run(); err != nil {
		return a.fail(err)
	}
	return 0
}

// printJSON writes v to the output as one line of JSON.
func (a *App) printJSON(v any) error { return a.jsonTo(a.Out, v) }

func (a *App) jsonTo(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// getenv returns the last value of a variable in the environment.
func (a *App) getenv(name string) string {
	for _, v := range slices.Backward(a.Environ) {
		if key, value, _ := strings.Cut(v, "="); key == name {
			return value
		}
	}
	return ""
}
