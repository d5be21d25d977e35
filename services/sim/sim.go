// Package sim runs the Zalo simulator as a program: its settings and its HTTP server. What it does is told by package
// zalosim.
package sim

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/znshub/znshub/pkg/zalo/zalosim"
)

// Config is what can be set.
type Config struct {
	Addr        string `env:"SIM_ADDR" envDefault:":9090" help:"where the simulator listens: Zalo's API and its own below /sim/"`
	CallbackURL string `env:"SIM_CALLBACK_URL" example:"http://127.0.0.1:8080/webhooks/zalo" help:"where signed callbacks are posted; empty: nowhere"`
	Seed        uint64 `env:"SIM_SEED" envDefault:"1" help:"the same seed meets the same requests with the same faults and delays"`

	AppID       string `env:"SIM_APP_ID" help:"id of the app; default: ZALO_APP_ID, else a made-up one"`
	OAID        string `env:"SIM_OA_ID" help:"id of the OA; default: ZALO_OA_ID, else a made-up one"`
	OASecret    string `env:"SIM_OA_SECRET" secret:"true" help:"OA secret key that signs callbacks; default: ZALO_OA_SECRET, else sim-oa-secret"`
	AppSecret   string `env:"SIM_APP_SECRET" secret:"true" help:"when set, calls must carry appsecret_proof"`
	AccessToken string `env:"SIM_ACCESS_TOKEN" secret:"true" help:"the only valid access token; default: ZALO_ACCESS_TOKEN, else sim-access-token"`
	Zalo        ZaloConfig

	Latency   zalosim.Range `env:"SIM_LATENCY" envDefault:"40ms~150ms" help:"how long an answer takes: 50ms always, 10ms..80ms even, 40ms~150ms lognormal by median and 99th percentile"`
	Delivery  zalosim.Range `env:"SIM_DELIVERY" envDefault:"300ms..900ms" help:"how long from the answer to the phone"`
	TimeScale float64       `env:"SIM_TIME_SCALE" envDefault:"1" help:"divides Zalo's own waiting times (resends of callbacks, phones offline): 60 makes a minute a second"`

	CallbackWorkers int  `env:"SIM_CALLBACK_WORKERS" envDefault:"32" help:"callbacks under way at a time"`
	TimestampHeader bool `env:"SIM_TIMESTAMP_HEADER" envDefault:"false" help:"callbacks carry X-ZEvent-Timestamp too"`
	KeepWebhook     bool `env:"SIM_KEEP_WEBHOOK" envDefault:"false" help:"do not disable the webhook when the last resend of a callback has failed"`

	Templates      string   `env:"SIM_TEMPLATES" help:"JSON file with a list of templates instead of the built-in ones; form as GET /sim/templates"`
	DailyQuota     int      `env:"SIM_DAILY_QUOTA" envDefault:"1000000" help:"messages a day"`
	Wallet         int      `env:"SIM_WALLET" envDefault:"0" help:"VND that can be spent; 0: any amount"`
	PromotionsADay int      `env:"SIM_PROMOTIONS_A_DAY" envDefault:"0" help:"promotions for one person a day; 0: any number"`
	PromotionHours bool     `env:"SIM_PROMOTION_HOURS" envDefault:"false" help:"refuse promotions from 22:00 to 06:00 in Vietnam"`
	Admins         []string `env:"SIM_ADMINS" example:"0987654321" help:"phones that mode=development reaches"`
	AuditParams    []string `env:"SIM_AUDIT_PARAMS" envDefault:"key,seq,order_code" help:"parameters of template_data that the audit keeps"`
}

// ZaloConfig are the variables of the other programs, so that one environment serves all of them. Where ZALO_OA_SECRET
// and ZALO_ACCESS_TOKEN name several OAs ("oa_id=value,..."), the simulator plays each of them.
type ZaloConfig struct {
	AppID       string `env:"ZALO_APP_ID" help:"see SIM_APP_ID"`
	OAID        string `env:"ZALO_OA_ID" help:"see SIM_OA_ID"`
	OASecret    string `env:"ZALO_OA_SECRET" secret:"true" help:"see SIM_OA_SECRET"`
	AccessToken string `env:"ZALO_ACCESS_TOKEN" secret:"true" help:"see SIM_ACCESS_TOKEN"`
}

// otherOAs are the OAs of ZALO_OA_SECRET and ZALO_ACCESS_TOKEN, both as "oa_id=value,...", besides the first.
func (c Config) otherOAs(first string) []zalosim.OA {
	secrets := byOA(c.Zalo.OASecret)
	var list []zalosim.OA
	for pair := range strings.SplitSeq(c.Zalo.AccessToken, ",") {
		if id, token, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && id != first && secrets[id] != "" {
			list = append(list, zalosim.OA{ID: id, Secret: secrets[id], AccessToken: token})
		}
	}
	return list
}

func byOA(list string) map[string]string {
	m := map[string]string{}
	for pair := range strings.SplitSeq(list, ",") {
		if id, value, ok := strings.Cut(strings.TrimSpace(pair), "="); ok {
			m[id] = value
		}
	}
	return m
}

// of returns what "oa_id=value,..." says of the first OA that is named, else its first value.
func of(list string, named ...string) string {
	all := byOA(list)
	for _, oa := range named {
		if v := all[oa]; oa != "" && v != "" {
			return v
		}
	}
	return firstOf(list)
}

// firstOf returns the first value of "oa_id=value,..." or of "value,...".
func firstOf(list string) string {
	one, _, _ := strings.Cut(list, ",")
	if id, value, ok := strings.Cut(one, "="); ok && id != "" && strings.Trim(id, "0123456789") == "" {
		return value
	}
	return one
}

func (c Config) simulator(log *slog.Logger) (zalosim.Config, error) {
	sc := zalosim.Config{
		Seed: c.Seed, AppID: cmp.Or(c.AppID, c.Zalo.AppID), OAID: cmp.Or(c.OAID, c.Zalo.OAID),
		OASecret: cmp.Or(c.OASecret, of(c.Zalo.OASecret, c.OAID, c.Zalo.OAID)), AppSecret: c.AppSecret,
		AccessToken: cmp.Or(c.AccessToken, of(c.Zalo.AccessToken, c.OAID, c.Zalo.OAID)),
		CallbackURL: c.CallbackURL, CallbackWorkers: c.CallbackWorkers, TimestampHeader: c.TimestampHeader, KeepWebhook: c.KeepWebhook,
		Latency: c.Latency, Delivery: c.Delivery, TimeScale: c.TimeScale, DailyQuota: c.DailyQuota, Wallet: c.Wallet,
		PromotionsADay: c.PromotionsADay, PromotionHours: c.PromotionHours, Admins: c.Admins, AuditParams: c.AuditParams, Logger: log,
	}
	// The first OA is the one that is named, or the first that has a token of its own.
	first, _, _ := strings.Cut(strings.TrimSpace(c.Zalo.AccessToken), "=")
	sc.OtherOAs = c.otherOAs(cmp.Or(sc.OAID, first, zalosim.DefaultOAID))
	if c.Templates == "" {
		return sc, nil
	}
	raw, err := os.ReadFile(c.Templates)
	if err == nil {
		err = json.Unmarshal(raw, &sc.Templates)
	}
	if err != nil {
		return sc, fmt.Errorf("SIM_TEMPLATES: %w", err)
	}
	return sc, nil
}

// Run serves until ctx ends, and returns nil then. It tells on out how to use the simulator.
func Run(ctx context.Context, cfg Config, log *slog.Logger, out io.Writer) error {
	sc, err := cfg.simulator(log)
	if err != nil {
		return err
	}
	sim, err := zalosim.New(sc)
	if err != nil {
		return err
	}
	defer sim.Close()
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Addr)
	if err != nil {
		return fmt.Errorf("SIM_ADDR: %w", err)
	}
	server := &http.Server{Handler: sim, ReadHeaderTimeout: 10 * time.Second}
	fmt.Fprintf(out, "%s\n%s\n", zalosim.Usage, zalosim.Convention)
	fmt.Fprintf(out, "templates: %s\n", templates(sim))
	fmt.Fprintf(out, "listening on %s · seed %d · latency %s · delivery %s · callbacks to %s\n",
		ln.Addr(), cfg.Seed, cfg.Latency, cfg.Delivery, cmp.Or(cfg.CallbackURL, "nowhere (set SIM_CALLBACK_URL)"))
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	// Frees answers that hang, which Shutdown would wait for.
	sim.Close()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err = server.Shutdown(stop)
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return err
}

// templates lists the templates in one line, with the parameters that a message must have.
func templates(sim *zalosim.Sim) string {
	all := sim.Templates()
	list := make([]string, 0, len(all))
	for _, t := range all {
		text := t.ID + " " + t.Name
		var params []string
		for _, p := range t.Params {
			if p.Required {
				params = append(params, p.Name)
			}
		}
		if len(params) > 0 {
			text += " {" + strings.Join(params, ", ") + "}"
		}
		list = append(list, text)
	}
	return strings.Join(list, " · ")
}
