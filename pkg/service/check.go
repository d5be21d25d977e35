package service

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/znshub/znshub/pkg/config"
)

// checkTimeout is below what container engines allow a health check.
const checkTimeout = 3 * time.Second

// checkRunning asks the admin server of the process that runs with the same settings, as a container's health check does: an
// image without a shell has nothing else to ask with. what is livez or readyz.
func checkRunning(what string, environ []string, stdout, stderr io.Writer) int {
	if what != "livez" && what != "readyz" {
		fmt.Fprintf(stderr, "--check takes livez or readyz, not %q\n", what)
		return exitUsage
	}
	var cfg Config
	if _, err := config.LoadFrom(environ, &cfg); err != nil {
		fmt.Fprintf(stderr, "--check: %v\n", err)
		return exitUsage
	}
	addr, err := localAddr(cfg.AdminAddr)
	if err != nil {
		fmt.Fprintf(stderr, "--check: %v\n", err)
		return exitUsage
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/"+what, nil)
	if err != nil {
		fmt.Fprintf(stderr, "--check: %v\n", err)
		return exitUsage
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		fmt.Fprintf(stderr, "%s: nobody answers at %s\n", what, addr)
		return exitFailed
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10)) // the status says all that matters
	fmt.Fprintln(stdout, strings.TrimSpace(string(body)))
	if response.StatusCode != http.StatusOK {
		return exitFailed
	}
	return exitOK
}

// localAddr is where a server that listens on addr is reached from its own machine.
func localAddr(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" || port == "0" {
		return "", fmt.Errorf("ADMIN_ADDR is %q: there is no fixed port to ask; for example ADMIN_ADDR=:8081", addr)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port), nil
}
