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

// exampleFile is the YAML file of the page. Relative paths start at the file's directory.
const exampleFile = `app:
  id: "2912345678901234567"              # ZALO_APP_ID
  secret_file: zalo-app                  # ZALO_APP_SECRET
oas:
  - id: "2893352839501541173"            # ZALO_OA_ID, when there is one alone
    secret_file: zalo-oa                 # signs the callbacks: ZALO_OA_SECRET
    access_token_file: zalo-token        # ZALO_ACCESS_TOKEN; read again when it changes
variables:                               # any other setting, by its variable
  SENDER_RATE: 50
`

// TestExampleFile: the file of the page is one that the programs take.
func TestExampleFile(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"zns.yaml": exampleFile, "zalo-app": "app-secret", "zalo-oa": "oa-secret", "zalo-token": "token"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, []string{"ZNS_CONFIG=" + filepath.Join(dir, "zns.yaml")}, "", "config", "check", "--program", "sender,webhook-ingest").
		want(t, 0).contains(t, "sender: ok", "webhook-ingest: ok")
}

// TestConfigurationPage keeps docs/configuration.md equal to what the programs read.
func TestConfigurationPage(t *testing.T) {
	var page strings.Builder
	page.WriteString(`# Configuration

Generated from the programs' settings by ` + "`go test ./services/cli -run TestConfigurationPage -update`" + `.

Settings are environment variables. A secret may also stand in a file that ` + "`NAME_FILE`" + ` names. ` + "`ZNS_CONFIG`" + ` names a
YAML file for what is structured; the environment wins over it. Traces follow the standard ` + "`OTEL_`" + ` variables.
` + "`zns config show`" + ` prints every value with its origin, ` + "`zns config check`" + ` says what is wrong.

The YAML file, of which everything may be left out; paths start at its directory, and each variable that is named here, set in
the environment, wins over its part as a whole:

` + "```yaml\n" + exampleFile + "```\n")
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
