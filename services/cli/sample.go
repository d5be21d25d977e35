package cli

import (
	_ "embed"
	"fmt"
	"io"
)

//go:embed samples/go/main.go
var sampleGo string

//go:embed samples/python/publisher.py
var samplePython string

//go:embed samples/java/Publisher.java
var sampleJava string

// samples are the programs that zns sample prints: file name and text.
var samples = map[string]struct{ File, Text string }{
	"go":     {"main.go", sampleGo},
	"python": {"publisher.py", samplePython},
	"java":   {"Publisher.java", sampleJava},
}

type sampleCmd struct {
	Language string `arg:"" enum:"go,python,java" help:"go, python or java."`
}

// Help implements kong.HelpProvider.
func (sampleCmd) Help() string {
	return `The program publishes one request with a natural key and the hub's partitioner; its first lines say how to run it.

Examples:

    zns sample go > main.go
    zns sample python > publisher.py
    zns sample java > Publisher.java`
}

// Run prints the program.
func (c *sampleCmd) Run(a *App) error {
	s := samples[c.Language]
	if a.Globals.JSON {
		return a.printJSON(map[string]string{"language": c.Language, "file": s.File, "program": s.Text})
	}
	if _, err := io.WriteString(a.Out, s.Text); err != nil {
		return fmt.Errorf("print the sample: %w", err)
	}
	return nil
}
