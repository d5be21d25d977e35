package cli

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/znshub/znshub/pkg/config"
)

var update = flag.Bool("update", false, "write docs/configuration.md")

// TestConfigurationPage keeps docs/configuration.md equal to what the programs read.
func TestConfigurationPage(t *testing.T) {
	var page strings.Builder
	page.WriteString(`# Configuration

Generated from the programs' settings by ` + "`go test ./services/cli -run TestConfigurationPage -update`" + `.

Settings are environment variables. A secret may also stand in a file that ` + "`NAME_FILE`" + ` names. ` + "`ZNS_CONFIG`" + ` names a
YAML file for what is structured; the environment wins over it. Traces follow the standard ` + "`OTEL_`" + ` variables.
` + "`zns config show`" + ` prints every value with its origin, ` + "`zns config check`" + ` says what is wrong.
`)
	for _, p := range programs() {
		page.WriteString("\n## " + p.name + "\n\n" + config.Markdown(once(config.Describe(p.settings...))))
	}
	path := filepath.Join("..", "..", "docs", "configuration.md")
	if *update {
		if err := os.WriteFile(path, []byte(page.String()), 0o644); err != nil { //nolint:gosec // G306: a page for everybody
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(page.String(), string(got)); diff != "" {
		t.Errorf("docs/configuration.md is stale: run this test with -update (-want +got):\n%s", diff)
	}
}
