// Command webhook-ingest receives Zalo's callbacks; see package ingest.
package main

import (
	"context"
	"os"

	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/services/ingest"
)

const help = `webhook-ingest receives Zalo's signed callbacks at /webhooks/zalo, keeps them in Kafka (on its disk while Kafka is
away) and publishes deliveries as zns.delivered. Run as many as you like, each with a spool directory of its own. SIGTERM
stops it cleanly: requests are answered and the spool is emptied, at most INGEST_STOP_TIMEOUT.`

func main() {
	var cfg ingest.Config
	os.Exit(service.Main(service.Program{
		Name: "webhook-ingest", Help: help, Settings: []any{&cfg},
		Run: func(ctx context.Context, s *service.Service) error { return ingest.Run(ctx, s, cfg) },
	}))
}
