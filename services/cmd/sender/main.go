// Command sender delivers the requests on notification.requested through Zalo.
package main

import (
	"context"
	"os"

	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/services/sender"
)

const help = `sender delivers the requests on notification.requested through Zalo and publishes what became of each on zns.sent,
zns.failed and zns.unresolved. Run as many as you like: they share the partitions. SIGTERM stops it cleanly: calls under
way are waited for, at most SENDER_REQUEST_TIMEOUT + 5 s.`

func main() {
	var cfg sender.Config
	os.Exit(service.Main(service.Program{
		Name: "sender", Help: help, Settings: []any{&cfg},
		Run: func(ctx context.Context, s *service.Service) error { return sender.Run(ctx, s, cfg) },
	}))
}
