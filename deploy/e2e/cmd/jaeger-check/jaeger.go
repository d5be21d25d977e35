package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
)

// jaegerVersion is the last line of Jaeger 1 whose all-in-one builds from the module proxy alone.
const jaegerVersion = "v1.57.0"

const jaegerPackage = "github.com/jaegertracing/jaeger/cmd/all-in-one"

// buildJaeger returns the path of Jaeger's all-in-one program, and builds it in a module of its own when the cache has
// none. Its user interface is not part of the Go module: it has the query API only.
func buildJaeger(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the folder for the Jaeger program: %w", err)
	}
	dir := filepath.Join(cache, "znshub", "jaeger", jaegerVersion)
	binary := filepath.Join(dir, "all-in-one")
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	module, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(module) }() // a leftover folder in the cache harms nobody
	begin := time.Now()
	fmt.Println("building Jaeger", jaegerVersion, "from the Go module proxy; once, some minutes")
	for _, args := range [][]string{
		{"mod", "init", "scratch"},
		{"get", "-tool", jaegerPackage + "@" + jaegerVersion},
		{"build", "-o", "all-in-one", jaegerPackage},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = module
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	// Renamed when it is whole: an interrupted build leaves nothing that looks like a program.
	if err := os.Rename(filepath.Join(module, "all-in-one"), binary); err != nil {
		return "", err
	}
	fmt.Println("built in", time.Since(begin).Round(time.Second))
	return binary, nil
}

// jaeger is a Jaeger that keeps its traces in memory.
type jaeger struct {
	process *harness.Process
	otlp    string // base URL of the OTLP receiver over HTTP
	query   string // base URL of the query API
}

// newJaeger gives Jaeger free ports of the loopback interface; it does not start it.
func newJaeger(binary, dir string) (*jaeger, error) {
	flags := []string{
		"collector.otlp.http.host-port", "query.http-server.host-port", "admin.http.host-port",
		"collector.otlp.grpc.host-port", "query.grpc-server.host-port", "collector.grpc-server.host-port",
		"collector.http-server.host-port", "http-server.host-port", "processor.jaeger-binary.server-host-port",
		"processor.jaeger-compact.server-host-port", "processor.zipkin-compact.server-host-port",
	}
	ports, err := local.FreePorts(len(flags))
	if err != nil {
		return nil, err
	}
	args := []string{"--log-level=warn"}
	for i, flag := range flags {
		args = append(args, "--"+flag+"="+ports[i])
	}
	args = append(args, "--reporter.grpc.host-port="+ports[5]) // the agent inside asks the collector inside
	return &jaeger{
		process: &harness.Process{
			Name: "jaeger", Path: binary, Args: args, Env: []string{"SPAN_STORAGE_TYPE=memory"},
			LogFile: filepath.Join(dir, "jaeger.log"), ReadyURL: "http://" + ports[1] + "/api/services",
		},
		otlp: "http://" + ports[0], query: "http://" + ports[1],
	}, nil
}

// span is what the check looks at of one span.
type span struct {
	Trace, ID, Parent string
	Service, Name     string
	Tags              map[string]string
	Start, Duration   time.Duration // since 1970
}

// spansOf returns the spans of the one trace in which the sender handled the notification, in order of their start.
func (j *jaeger) spansOf(ctx context.Context, notificationID string) ([]span, error) {
	query := url.Values{"service": {"sender"}, "tags": {fmt.Sprintf(`{"znshub.notification_id":%q}`, notificationID)}}
	var found answer
	if err := j.get(ctx, "/api/traces?"+query.Encode(), &found); err != nil {
		return nil, err
	}
	if len(found.Data) != 1 {
		return nil, fmt.Errorf("the query API knows %d traces with spans of the notification, want 1", len(found.Data))
	}
	return found.Data[0].list(), nil
}

// answer is the query API's JSON, as far as it is needed.
type answer struct{ Data []jaegerTrace }

type jaegerTrace struct {
	Spans []struct {
		TraceID, SpanID, OperationName, ProcessID string
		References                                []struct{ RefType, SpanID string }
		Tags                                      []struct {
			Key   string
			Value any
		}
		StartTime int64  // µs
		Duration  uint64 // µs; what ended before it began is a huge one
	}
	Processes map[string]struct{ ServiceName string }
}

func (t *jaegerTrace) list() []span {
	list := make([]span, 0, len(t.Spans))
	for _, s := range t.Spans {
		out := span{
			Trace: s.TraceID, ID: s.SpanID, Name: s.OperationName, Service: t.Processes[s.ProcessID].ServiceName, Tags: map[string]string{},
			Start: time.Duration(s.StartTime) * time.Microsecond, Duration: time.Duration(int64(s.Duration)) * time.Microsecond,
		}
		for _, r := range s.References {
			if r.RefType == "CHILD_OF" {
				out.Parent = r.SpanID
			}
		}
		for _, tag := range s.Tags {
			out.Tags[tag.Key] = fmt.Sprint(tag.Value)
		}
		list = append(list, out)
	}
	slices.SortStableFunc(list, func(a, b span) int { return int(a.Start - b.Start) })
	return list
}

func (j *jaeger) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, j.query+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask Jaeger: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	if err != nil {
		return fmt.Errorf("ask Jaeger: %w", err)
	}
	return nil
}
