package harness

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecretsAreFoundInLogs(t *testing.T) {
	s, err := NewSystem(Config{Brokers: "localhost:1", Bin: t.TempDir(), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	write := func(line string) {
		t.Helper()
		if err := os.WriteFile(s.Ingest.LogFile, []byte("{\"msg\":\"a good line\"}\n"+line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []string{
		`{"phone":"+84910000042"}`, `to 84910000042`, `call 0910000042 now`, `{"access_token":"` + AccessToken + `"}`, OASecret,
		`{"customer_name":"Nguyễn Văn An"}`,
	} {
		write(line)
		if err := s.Secrets(); err == nil {
			t.Errorf("not found: %s", line)
		} else if strings.Contains(err.Error(), "0000042") || strings.Contains(err.Error(), AccessToken) {
			t.Errorf("the report repeats it: %v", err)
		}
	}
	for _, line := range []string{
		`{"time":"2026-11-22T05:00:00.091123456Z"}`, `84*****042`, `{"offset":1849100000421}`, `{"id":"0919090909a"}`,
	} {
		write(line)
		if err := s.Secrets(); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	if filepath.Base(s.Ingest.LogFile) != "webhook-ingest.log" {
		t.Errorf("log file %s", s.Ingest.LogFile)
	}
}
