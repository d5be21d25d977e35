package sim

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/config"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
)

func TestRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "templates.json")
	if err := os.WriteFile(file, []byte(`[{"id":"643118","name":"Đơn hàng","params":[{"name":"order_code","require":true}]}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	var cfg Config
	if _, err := config.LoadFrom([]string{
		"SIM_ADDR=127.0.0.1:0", "SIM_LATENCY=1ms", "SIM_DELIVERY=1ms..2ms", "SIM_TEMPLATES=" + file, "ZALO_ACCESS_TOKEN=2893352839501541173=tok=en,1=other",
	}, &cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cfg, slog.New(slog.DiscardHandler), in) }()
	lines := bufio.NewScanner(out)
	address, text := "", ""
	for address == "" && lines.Scan() {
		text += lines.Text() + "\n"
		if rest, ok := strings.CutPrefix(lines.Text(), "listening on "); ok {
			address, _, _ = strings.Cut(rest, " ")
		}
	}
	for _, want := range []string{"POST /message/template", "+84900000118", "643118 Đơn hàng {order_code}", "latency 1ms", "SIM_CALLBACK_URL"} {
		if !strings.Contains(text, want) {
			t.Errorf("what Run prints does not tell of %q:\n%s", want, text)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/message/template",
		strings.NewReader(`{"phone":"0987654321","template_id":"643118","template_data":{"order_code":"DH-1"},"tracking_id":"1"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("access_token", "tok=en")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Error int }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Error != 0 {
		t.Errorf("answer %+v, %v", answer, err)
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Run = %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Run does not end")
	}
}

func TestFallsBackToZaloVariables(t *testing.T) {
	zc := ZaloConfig{AppID: "a", OAID: "o", OASecret: "123=secret,old", AccessToken: "bare"}
	sc, err := Config{Zalo: zc}.simulator(nil)
	if err != nil || sc.AppID != "a" || sc.OAID != "o" || sc.OASecret != "secret" || sc.AccessToken != "bare" {
		t.Errorf("%+v, %v", sc, err)
	}
	sc, err = Config{AppID: "x", OASecret: "s", Zalo: zc}.simulator(nil)
	if err != nil || sc.AppID != "x" || sc.OASecret != "s" {
		t.Errorf("%+v, %v", sc, err)
	}
}

func TestBadSettings(t *testing.T) {
	for _, cfg := range []Config{
		{Addr: "127.0.0.1:0", CallbackURL: "localhost:8080"},
		{Addr: "127.0.0.1:0", Templates: "does-not-exist.json"},
		{Addr: "not an address"},
		{Addr: "127.0.0.1:0", TimeScale: -1},
	} {
		if err := Run(t.Context(), cfg, slog.New(slog.DiscardHandler), io.Discard); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
	if _, err := zalosim.ParseRange("10ms..5ms"); err == nil {
		t.Error("a range that falls was taken")
	}
}
