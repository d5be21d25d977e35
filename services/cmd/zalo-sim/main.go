// Command zalo-sim is a fake Zalo; see package zalosim.
package main

import (
	"context"
	"os"

	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
	"github.com/znshub/znshub/services/sim"
)

const help = `zalo-sim is a fake Zalo: it takes template messages by phone, posts signed callbacks, fails on demand and tells what
each phone got.

` + zalosim.Usage + "\n" + zalosim.Convention

func main() {
	var cfg sim.Config
	os.Exit(service.Main(service.Program{
		Name: "zalo-sim", Help: help, Settings: []any{&cfg},
		Run: func(ctx context.Context, s *service.Service) error { return sim.Run(ctx, cfg, s.Log, os.Stdout) },
	}))
}
