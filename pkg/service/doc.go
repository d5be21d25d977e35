// Package service is what every program of the hub does besides its job: command line, settings, logger, traces, the
// admin server, signals and an orderly end.
//
//	func main() {
//		var cfg sender.Config
//		os.Exit(service.Main(service.Program{Name: "sender", Help: "...", Settings: []any{&cfg}, Run: func(ctx context.Context, s *service.Service) error {
//			return sender.Run(ctx, s, cfg)
//		}}))
//	}
//
// # Life
//
// Main loads the settings (every problem at once on stderr, exit code 2), starts the admin server and calls Run. SIGINT or
// SIGTERM cancels Run's context: from then on /readyz answers 503, and Run drains and returns. A second signal kills.
// After Run the cleanups given to [Service.Defer] run, last one first, under one deadline; the admin server stops last,
// so that a program that takes long to stop can be asked why. The exit code is 0 when Run returned nil, or the error of
// its cancelled context after a signal, and 1 otherwise.
//
// # Admin server
//
// On ADMIN_ADDR: /livez, /readyz (200 "ready", or 503 with one line "name: reason" for each check that fails) and
// /metrics for Prometheus. "program --check readyz" (or livez) asks the process that runs with the same settings, prints
// its answer and exits with 0 or 1: a health check for containers that have no shell.
//
// # Several services in one process
//
// Nothing here is global but what Main itself sets up. [New] makes a Service for a program that is part of another.
package service
