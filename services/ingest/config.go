package ingest

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/znshub/znshub/pkg/config"
	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/ingest/webhook"
)

// Config is what an operator sets.
type Config struct {
	Kafka kafka.Config

	Addr          string        `env:"INGEST_ADDR" envDefault:":8080" help:"where Zalo's callbacks arrive, at /webhooks/zalo; put TLS in front"`
	SpoolDir      string        `env:"INGEST_SPOOL_DIR" envDefault:"spool" help:"directory that keeps callbacks while Kafka is away; give it a volume of its own that outlives the process"`
	SpoolSize     config.Bytes  `env:"INGEST_SPOOL_SIZE" envDefault:"1GiB" help:"how much the spool may hold; above it callbacks are answered 503 and Zalo sends them again"`
	KafkaBudget   time.Duration `env:"INGEST_KAFKA_BUDGET" envDefault:"500ms" help:"how long a callback waits for Kafka before it goes to the spool; Zalo waits 2s for the answer"`
	MaxConcurrent int           `env:"INGEST_MAX_CONCURRENT" envDefault:"512" help:"callbacks in work at a time; further ones wait for a turn"`
	StopDelay     time.Duration `env:"INGEST_STOP_DELAY" envDefault:"0s" help:"how long a stopping process still takes callbacks, while load balancers learn that it is not ready"`
	StopTimeout   time.Duration `env:"INGEST_STOP_TIMEOUT" envDefault:"20s" help:"how long a stopping process tries to empty its spool"`

	JoinWait   time.Duration `env:"INGEST_JOIN_WAIT" envDefault:"60s" help:"how long a receipt waits for the outcome of its send before it is published without it"`
	JoinWindow time.Duration `env:"INGEST_JOIN_WINDOW" envDefault:"7d" help:"how long after the send a receipt finds it, and how long a repeated receipt is recognised"`
	Foreign    string        `env:"INGEST_FOREIGN" envDefault:"count" help:"receipts of messages that other programs sent through the same OA: count, or publish"`
	Verifier   string        `env:"INGEST_ZALO_VERIFIER" help:"file that Zalo's console gave to verify the domain (zalo_verifier….html); served at its name"`
	Group      string        `env:"INGEST_GROUP" envDefault:"zns-ingest" help:"consumer group of the translation"`

	AppID     string `env:"ZALO_APP_ID" example:"2912345678901234567" help:"id of the app at Zalo"`
	AppSecret string `env:"ZALO_APP_SECRET" secret:"true" help:"secret of the app; here only to warn when ZALO_OA_SECRET is the same"`
	OASecret  string `env:"ZALO_OA_SECRET" secret:"true" example:"2893352839501541173=kq0…" help:"OA secret key of the app's webhook page (not the app secret), or oa_id=key,…; new,old while it is being rotated"`

	// Topics are the contract's unless a test sets others.
	Topics Topics
}

// Topics are the names of the topics.
type Topics struct {
	Callback, Ledger, Delivered, Overdue, Status, Sent, Failed, Unresolved, Template, Quota string
}

// DefaultTopics are the contract's.
func DefaultTopics() Topics {
	return Topics{
		Callback: topic.Callback, Ledger: topic.CallbackLedger, Delivered: topic.Delivered, Overdue: topic.Overdue, Status: topic.Status,
		Sent: topic.Sent, Failed: topic.Failed, Unresolved: topic.Unresolved, Template: topic.OATemplate, Quota: topic.OAQuota,
	}
}

// maxBudget leaves the disk time within the budget of a request.
const maxBudget = webhook.Budget - 500*time.Millisecond

// Validate says everything that is wrong, each with the variable's name and a valid example.
func (c Config) Validate() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Group == "" {
		bad("INGEST_GROUP: empty; for example zns-ingest")
	}
	if c.AppID == "" {
		bad("ZALO_APP_ID: not set; for example 2912345678901234567")
	}
	if _, err := webhook.ParseSecrets(c.OASecret); err != nil {
		bad("ZALO_OA_SECRET: %w; for example 2893352839501541173=kq0…", err)
	}
	if c.SpoolDir == "" {
		bad("INGEST_SPOOL_DIR: empty; for example /var/lib/webhook-ingest")
	}
	if c.SpoolSize < 1<<20 {
		bad("INGEST_SPOOL_SIZE: less than 1MiB; for example 1GiB")
	}
	if c.KafkaBudget <= 0 || c.KafkaBudget > maxBudget {
		bad("INGEST_KAFKA_BUDGET: not above 0 and at most %s, or Zalo's 2s would not suffice; for example 500ms", maxBudget)
	}
	if c.MaxConcurrent < 1 {
		bad("INGEST_MAX_CONCURRENT: less than 1; for example 512")
	}
	if c.JoinWait < 0 {
		bad("INGEST_JOIN_WAIT: negative; for example 60s")
	}
	if c.JoinWindow < time.Hour || c.JoinWindow > 30*24*time.Hour {
		bad("INGEST_JOIN_WINDOW: not between 1h and 30d; for example 7d")
	}
	if c.Foreign != "count" && c.Foreign != "publish" {
		bad("INGEST_FOREIGN: %q is neither count nor publish", c.Foreign)
	}
	if c.Verifier != "" {
		if info, err := os.Stat(c.Verifier); err != nil || !info.Mode().IsRegular() || info.Size() > 64<<10 {
			bad("INGEST_ZALO_VERIFIER: not a readable small file; for example /etc/zns/zalo_verifier1234.html")
		}
	}
	return errors.Join(problems...)
}

// sameSecrets reports whether the OA secret key is the app's secret, which is probably wrong.
func (c Config) sameSecrets() bool {
	secrets, err := webhook.ParseSecrets(c.OASecret)
	return err == nil && c.AppSecret != "" && secrets.Contains(c.AppSecret)
}
