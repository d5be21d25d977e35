package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/kafka/kafkatest/local"
)

// composeFile is what the tests look at of deploy/compose.yaml.
type composeFile struct {
	Services map[string]struct {
		Image       string
		Environment map[string]string
		Grace       string `yaml:"stop_grace_period"`
		ReadOnly    bool   `yaml:"read_only"`
		Volumes     []string
	}
}

// reference is ${NAME:-default}.
var reference = regexp.MustCompile(`\$\{[A-Z_]+:-([^}]*)\}`)

func readCompose(t *testing.T) composeFile {
	t.Helper()
	text, err := os.ReadFile("../compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file composeFile
	if err := yaml.Unmarshal(reference.ReplaceAll(text, []byte("$1")), &file); err != nil {
		t.Fatal(err)
	}
	return file
}

// The compose file runs the Kafka that the other tests run, and gives it the sessions that a quick takeover needs.
func TestComposeKafka(t *testing.T) {
	kafka := readCompose(t).Services["kafka"]
	if want := "apache/kafka:" + local.Version; kafka.Image != want {
		t.Errorf("image %s, want %s", kafka.Image, want)
	}
	for name, want := range map[string]string{
		"KAFKA_GROUP_CONSUMER_SESSION_TIMEOUT_MS": "6000", "KAFKA_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS": "1000",
	} {
		if got := kafka.Environment[name]; got != want {
			t.Errorf("%s=%s, want %s", name, got, want)
		}
		// The broker refuses to start with a value below its own bound, whose default is higher.
		bound := strings.Replace(name, "CONSUMER_", "CONSUMER_MIN_", 1)
		value, _ := strconv.Atoi(want)
		if least, err := strconv.Atoi(kafka.Environment[bound]); err != nil || least > value {
			t.Errorf("%s=%s, want at most %s", bound, kafka.Environment[bound], want)
		}
	}
}

// What the compose file sets is known to the programs, and they start with it.
func TestComposeSettings(t *testing.T) {
	dir := t.TempDir()
	if err := harness.Build(t.Context(), dir, "zns"); err != nil {
		t.Fatal(err)
	}
	file := readCompose(t)
	for _, program := range []string{"sender", "webhook-ingest", "zalo-sim"} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "zns"), "config", "check", "--json", "--program", program)
		for name, value := range file.Services[program].Environment {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
		out, err := cmd.Output()
		var said struct {
			OK       bool
			Warnings []string
			Problems []map[string]string
		}
		if jsonErr := json.Unmarshal(out, &said); err != nil || jsonErr != nil || !said.OK || len(said.Warnings) > 0 {
			t.Errorf("%s: %v %v\n%s", program, err, jsonErr, out)
		}
		if instance := file.Services[program].Environment["INSTANCE_ID"]; instance != "hostname" {
			t.Errorf("%s: INSTANCE_ID=%s: replicas would share it", program, instance)
		}
	}
}

// A program gets the time that it needs to stop cleanly, and keeps nothing in its container but what is on a volume.
func TestComposeStopsCleanly(t *testing.T) {
	file := readCompose(t)
	for program, setting := range map[string]string{"sender": "SENDER_REQUEST_TIMEOUT", "webhook-ingest": "INGEST_STOP_TIMEOUT"} {
		service := file.Services[program]
		timeout, err := time.ParseDuration(service.Environment[setting])
		if err != nil {
			t.Errorf("%s: %s: %v", program, setting, err)
		}
		grace, err := time.ParseDuration(service.Grace)
		if err != nil || grace <= timeout+10*time.Second {
			t.Errorf("%s: stop_grace_period %s, %v; want more than %s + 10 s", program, service.Grace, err, timeout)
		}
		if !service.ReadOnly {
			t.Errorf("%s: its file system is not read-only", program)
		}
	}
	if volumes := file.Services["webhook-ingest"].Volumes; !slices.Contains(volumes, "spool:/var/lib/zns") {
		t.Errorf("webhook-ingest: volumes %v: its spool would not outlive the container", volumes)
	}
}
