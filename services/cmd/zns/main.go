// Zns is the command line of ZNS Hub: develop, publish, watch, explain.
package main

import (
	"os"

	"github.com/znshub/znshub/services/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
