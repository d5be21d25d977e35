package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
)

// kafkaImage is the official image, of the version that the other tests run.
var kafkaImage = "apache/kafka:" + local.Version

// The whole path on a broker in a container, as a team that has Docker runs it.
func TestBrokerInAContainer(t *testing.T) {
	in := install(t, options{brokers: startContainer(t)})
	load := &harness.Load{Seed: 5, Total: 500, Keys: 50, Duplicates: 0.05}
	_, err := load.Publish(in.within(2*time.Minute), in.brokers)
	in.must(err)
	in.wait(4*time.Minute, "a delivery of every request", func(n harness.Counts) bool {
		return n.Ended == load.Total && n.Delivered == load.Total
	})
	in.check("broker in a container", load.Requests(), harness.Expect{Delivered: true})
}

// requireEnv makes a lack of Docker a failure: whoever has prepared it wants to know that the test ran.
const requireEnv = "ZNS_TEST_REQUIRE_DOCKER"

// unable skips the test with the reason, or fails it where Docker was promised.
func unable(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv(requireEnv) != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// requireImage looks for the engine and the image.
func requireImage(ctx context.Context, t *testing.T) {
	t.Helper()
	// testcontainers panics where it finds no trace of an engine.
	defer func() {
		if r := recover(); r != nil {
			unable(t, "needs Docker, which is not here: %v", r)
		}
	}()
	docker, err := testcontainers.NewDockerClientWithOpts(ctx)
	if err != nil {
		unable(t, "needs Docker, which is not here: %v", err)
	}
	defer docker.Close()
	if _, err := docker.Ping(ctx, client.PingOptions{}); err != nil {
		unable(t, "needs Docker, which does not answer: %v", err)
	}
	if _, err := docker.ImageInspect(ctx, kafkaImage); err != nil {
		unable(t, "no image %s here: docker pull it, or build one with deploy/docker/kafka-image.sh", kafkaImage)
	}
}

// startContainer starts a broker in Docker, or skips the test with the reason.
func startContainer(t *testing.T) (addr string) {
	t.Helper()
	// Ryuk is one more image to fetch; the container ends with the test all the same.
	for name, value := range map[string]string{"TESTCONTAINERS_RYUK_DISABLED": "true"} {
		if os.Getenv(name) == "" {
			t.Setenv(name, value)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	requireImage(ctx, t)

	ports, err := local.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	addr = ports[0]
	_, port, _ := net.SplitHostPort(addr)
	inside := network.MustParsePort("9092/tcp")
	broker, err := testcontainers.Run(ctx, kafkaImage,
		testcontainers.WithExposedPorts("9092/tcp"),
		// The broker advertises its port, so that it must be known before the start.
		testcontainers.WithHostConfigModifier(func(c *container.HostConfig) {
			c.PortBindings = network.PortMap{inside: {{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: port}}}
		}),
		testcontainers.WithEnv(map[string]string{
			"KAFKA_NODE_ID":                   "1",
			"KAFKA_PROCESS_ROLES":             "broker,controller",
			"KAFKA_CONTROLLER_QUORUM_VOTERS":  "1@localhost:9093",
			"KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
			// A broker checks transactions with their coordinator over its own inter-broker address, which must be one
			// that it can reach from inside.
			"KAFKA_LISTENERS":                                "PLAINTEXT://0.0.0.0:9092,INTERNAL://localhost:9094,CONTROLLER://localhost:9093",
			"KAFKA_ADVERTISED_LISTENERS":                     "PLAINTEXT://" + addr + ",INTERNAL://localhost:9094",
			"KAFKA_LISTENER_SECURITY_PROTOCOL_MAP":           "PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
			"KAFKA_INTER_BROKER_LISTENER_NAME":               "INTERNAL",
			"KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR":         "1",
			"KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS":             "5",
			"KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
			"KAFKA_TRANSACTION_STATE_LOG_MIN_ISR":            "1",
			"KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS":     "5",
			"KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS":         "0",
			"KAFKA_AUTO_CREATE_TOPICS_ENABLE":                "false",
			"KAFKA_HEAP_OPTS":                                "-Xmx512m -Xms64m",
		}),
		testcontainers.WithWaitStrategyAndDeadline(time.Minute, wait.ForLog("Kafka Server started")),
	)
	testcontainers.CleanupContainer(t, broker)
	if err != nil {
		t.Fatalf("start %s: %v", kafkaImage, err)
	}
	kafka, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer kafka.Close()
	if err := waitUntil(ctx, func() bool { return kafka.Ping(ctx) == nil }); err != nil {
		t.Fatalf("the broker in the container does not answer on %s: %v", addr, err)
	}
	fmt.Fprintln(os.Stderr, "e2e: broker", kafkaImage, "in Docker")
	return addr
}
