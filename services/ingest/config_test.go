package ingest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/znshub/znshub/pkg/config"
	"github.com/znshub/znshub/pkg/service"
)

// TestUnusableSettings: what only the machine can refuse is told with the variable's name and a valid example too.
func TestUnusableSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ setting, says string }{
		"spool in a file": {"INGEST_SPOOL_DIR=" + filepath.Join(file, "spool"), "for example /var/lib/zns"},
		"no port":         {"INGEST_ADDR=nowhere", "for example INGEST_ADDR=:8080"},
	} {
		t.Run(name, func(t *testing.T) {
			var cfg Config
			environ := []string{"ZALO_APP_ID=" + testApp, "ZALO_OA_SECRET=" + testSecret, "INGEST_SPOOL_DIR=" + t.TempDir(), "INGEST_ADDR=127.0.0.1:0", tt.setting}
			if _, err := config.LoadFrom(environ, &cfg); err != nil {
				t.Fatal(err)
			}
			_, err := New(service.New("webhook-ingest", "", testCluster, nil, nil), cfg, Extras{})
			variable, _, _ := strings.Cut(tt.setting, "=")
			if err == nil || !strings.HasPrefix(err.Error(), variable+": ") || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v", err)
			}
		})
	}
}
