// Command webhook-ingest receives Zalo's callbacks; see package ingest.
package main

import (
	"context"
	"os"

	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/services/ingest"
)

const help = `webhook-ingest receives Zalo's signed callbacks, keeps them in Kafka (on its disk while Kafka is away) and
publishes deliveries as zns.delivered.`

func main() {
	var cfg ingest.Config
	os.Exit(service.Main(service.Program{
		Name: "webhook-ingest", Help: help, Settings: []any{&cfg},
		Run: func(ctx context.Context, s *service.Service) error {
			cfg.InstanceID = s.Instance
			g, err := ingest.New(cfg, ingest.Deps{Log: s.Log, Registerer: s.Registry, Tracer: s.Tracer})
			if err != nil {
				return err
			}
			s.Ready("webhook", g.Ready)
			return g.Run(ctx)
		},
	}))
}
