package telemetry

import (
	"cmp"
	"context"
	"fmt"
	"os"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// Service names the program in traces.
type Service struct {
	Name     string // service.name unless OTEL_SERVICE_NAME says otherwise, "sender"
	Version  string // service.version
	Instance string // service.instance.id
	Cluster  string // deployment.environment.name: ZNS_CLUSTER
}

// Setup returns the service's tracer as the OTEL_ variables want it, and a function that sends what is left and stops.
// The error names a variable's value that the SDK does not know.
func Setup(ctx context.Context, service Service) (tracer *Tracer, shutdown func(context.Context) error, err error) {
	if !wanted() {
		return nil, func(context.Context) error { return nil }, nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("trace exporter (OTEL_TRACES_EXPORTER=%s): %w", os.Getenv("OTEL_TRACES_EXPORTER"), err)
	}
	attributes := []resource.Option{resource.WithAttributes(semconv.ServiceName(service.Name), semconv.ServiceNamespace("znshub"))}
	if service.Version != "" {
		attributes = append(attributes, resource.WithAttributes(semconv.ServiceVersion(service.Version)))
	}
	if service.Instance != "" {
		attributes = append(attributes, resource.WithAttributes(semconv.ServiceInstanceID(service.Instance)))
	}
	if service.Cluster != "" {
		attributes = append(attributes, resource.WithAttributes(semconv.DeploymentEnvironmentNameKey.String(service.Cluster)))
	}
	res, err := resource.New(ctx, append(attributes, resource.WithTelemetrySDK(), resource.WithFromEnv())...)
	if err != nil {
		return nil, nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	provider := NewProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(res))
	return NewTracer(provider), provider.Shutdown, nil
}

// wanted reports whether the environment asks for traces. The specification's default is to export to localhost; a
// program that was told nothing should not fill its log with failed connections.
func wanted() bool {
	if os.Getenv("OTEL_SDK_DISABLED") == "true" || os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return false
	}
	return cmp.Or(os.Getenv("OTEL_TRACES_EXPORTER"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")) != ""
}

// NewProvider returns a provider whose spans can be given an id: what Setup uses, and tests with an exporter in memory.
func NewProvider(opts ...sdktrace.TracerProviderOption) *sdktrace.TracerProvider {
	return sdktrace.NewTracerProvider(append(opts, sdktrace.WithIDGenerator(idGenerator{}))...)
}
