package sender

import (
	"strings"
	"testing"

	"github.com/znshub/znshub/pkg/config"
	"github.com/znshub/znshub/pkg/service"
)

// TestConfigProblems: every problem at once, each with the variable's name, and no secret.
func TestConfigProblems(t *testing.T) {
	var cfg Config
	_, err := config.LoadFrom([]string{
		"SENDER_MODE=loud", "SENDER_MAX_IN_FLIGHT=0", "SENDER_MAX_AGE=100h", "SENDER_RESOLVE_WINDOW=1s", "SENDER_MEMORY=1KiB",
		"SENDER_ALLOW_PHONES=12", "ZALO_ACCESS_TOKEN=hush-hush", "SENDER_REQUEST_TIMEOUT=1m", "ZNS_RESULT_PHONE=some", "ZALO_API_URL=nowhere",
		"SENDER_TOPIC=not a topic",
	}, &cfg)
	if err == nil {
		t.Fatal("no error")
	}
	for _, name := range []string{
		"SENDER_MODE", "SENDER_MAX_IN_FLIGHT", "SENDER_MAX_AGE", "SENDER_RESOLVE_WINDOW", "SENDER_MEMORY", "SENDER_ALLOW_PHONES",
		"ZALO_OA_ID", "SENDER_TOPIC", "SENDER_REQUEST_TIMEOUT", "ZNS_RESULT_PHONE", "ZALO_API_URL",
	} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named in:\n%v", name, err)
		}
	}
	if strings.Contains(err.Error(), "hush") {
		t.Error("the error holds the token")
	}
}

func TestConfigOA(t *testing.T) {
	for id, good := range map[string]bool{"": true, "2893352839501541173": true, "my-oa": false, "289 335": false} {
		var cfg Config
		_, err := config.LoadFrom([]string{"ZALO_OA_ID=" + id}, &cfg)
		if good != (err == nil) || err != nil && (!strings.Contains(err.Error(), "ZALO_OA_ID: not an id of decimal digits") || strings.Contains(err.Error(), id)) {
			t.Errorf("ZALO_OA_ID=%s: %v", id, err)
		}
	}
}

func TestConfigByCategory(t *testing.T) {
	var cfg Config
	if _, err := config.LoadFrom([]string{"SENDER_TTL=otp=1m", "SENDER_ON_UNKNOWN=promotion=resend"}, &cfg); err != nil {
		t.Fatal(err)
	}
	if cfg.TTL[0].Minutes() != 1 || cfg.TTL[1].Hours() != 24 || cfg.OnUnknown[1].Number() != 2 || cfg.OnUnknown[3].Number() != 3 {
		t.Errorf("%v %v", cfg.TTL, cfg.OnUnknown)
	}
	for _, bad := range []string{"SENDER_TTL=otp", "SENDER_TTL=fax=1m", "SENDER_TTL=otp=-1m", "SENDER_ON_UNKNOWN=otp=shrug"} {
		if _, err := config.LoadFrom([]string{bad}, &cfg); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

func TestTokens(t *testing.T) {
	for _, tc := range []struct {
		value, oa string
		want      map[string]string
	}{
		{"", "", map[string]string{}},
		{"abc", "1", map[string]string{"1": "abc"}},
		{"abc==", "1", map[string]string{"1": "abc=="}},
		{"1=a,2=b==", "", map[string]string{"1": "a", "2": "b=="}},
		{"abc", "", nil},
		{"1=a,2", "", nil},
	} {
		got, err := tokens(tc.value, tc.oa)
		if (err != nil) != (tc.want == nil) || len(got) != len(tc.want) {
			t.Errorf("%q: %v, %v", tc.value, got, err)
		}
		for oa, token := range tc.want {
			if got[oa] != token {
				t.Errorf("%q: %v", tc.value, got)
			}
		}
	}
}

func TestNewReportsEverything(t *testing.T) {
	cfg := testConfig(t)
	cfg.Kafka.Brokers = nil
	cfg.Mode = "loud"
	_, err := New(service.New("sender", "i", "c", nil, nil), cfg, Extras{})
	if err == nil || !strings.Contains(err.Error(), "KAFKA_BROKERS") || !strings.Contains(err.Error(), "SENDER_MODE") {
		t.Errorf("error: %v", err)
	}
}
