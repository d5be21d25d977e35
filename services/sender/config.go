package sender

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/znshub/znshub/pkg/config"
	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/notification"
	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/pkg/stream"
	"github.com/znshub/znshub/pkg/zalo"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

// Config is the sender's settings. The tags name the variables; [config.Load] fills it.
type Config struct {
	Kafka kafka.Config

	Topic string `env:"SENDER_TOPIC" envDefault:"notification.requested" help:"topic of requests; its ledger and dead letters are named after it"`
	Group string `env:"SENDER_GROUP" envDefault:"zns-sender" help:"consumer group"`

	GroupProtocol string `env:"SENDER_GROUP_PROTOCOL" envDefault:"auto" help:"auto; classic; consumer: the group protocol of KIP-848. auto takes consumer where all brokers are Apache Kafka 4.3 or newer, their session timeout for the group is at most 10 s and no member uses classic"`

	Mode        string   `env:"SENDER_MODE" envDefault:"live" help:"live; development: Zalo's development mode for all; simulate: nothing is sent, everything counts as accepted"`
	AllowPhones []string `env:"SENDER_ALLOW_PHONES" envSeparator:"," example:"0987654321,84912345678" help:"send to these numbers only, others fail as NOT_ALLOWED: for staging on production data"`

	MaxInFlight    int           `env:"SENDER_MAX_IN_FLIGHT" envDefault:"256" help:"calls to Zalo under way at a time"`
	RequestTimeout time.Duration `env:"SENDER_REQUEST_TIMEOUT" envDefault:"10s" help:"bound on one call"`

	Rate         OARate        `env:"SENDER_RATE" envDefault:"0" example:"50,2893352839501541173=10" help:"calls a second to Zalo per OA, over all senders together; 0: no limit; oa_id=rate for those that differ"`
	RateTotal    float64       `env:"SENDER_RATE_TOTAL" envDefault:"0" help:"calls a second to Zalo over all OAs and senders; 0: no limit"`
	QuotaReserve Percent       `env:"SENDER_QUOTA_RESERVE" envDefault:"10%" help:"part of an OA's quota per day that is kept for OTP and TRANSACTION"`
	Hours        CategoryHours `env:"SENDER_HOURS" envDefault:"promotion=06:00-21:59" help:"hours of the day in Vietnam at which messages go out, by category; those not named go at any time"`

	DedupeWindow    time.Duration    `env:"SENDER_DEDUPE_WINDOW" envDefault:"72h" help:"how long a finished notification's id is remembered"`
	MaxAge          time.Duration    `env:"SENDER_MAX_AGE" envDefault:"24h" help:"a request whose record is older when first read is not sent; at most SENDER_DEDUPE_WINDOW"`
	TTL             CategoryDuration `env:"SENDER_TTL" envDefault:"otp=5m,transaction=24h,customer_care=72h,promotion=168h" help:"life of requests that name none, by category"`
	OnUnknown       CategoryPolicy   `env:"SENDER_ON_UNKNOWN" envDefault:"otp=fail,transaction=hold,customer_care=fail,promotion=fail" help:"what happens when an answer is lost and no callback settles it, by category: fail, hold, resend"`
	UnresolvedAfter time.Duration    `env:"SENDER_UNRESOLVED_AFTER" envDefault:"10s" help:"how long an outcome is unknown before zns.unresolved tells"`
	ResolveWindow   time.Duration    `env:"SENDER_RESOLVE_WINDOW" envDefault:"2h" help:"how long a callback is waited for before fail or resend; 15 s for OTPs"`
	OrderWait       time.Duration    `env:"SENDER_ORDER_WAIT" envDefault:"60s" help:"how long an unknown outcome holds back those behind it with the same ordering_key"`
	Memory          config.Bytes     `env:"SENDER_MEMORY" envDefault:"512MiB" help:"memory for what waits and what is remembered; entries above it are read from the ledger again, and the input pauses when the index alone fills it"`
	ResultPhone     string           `env:"ZNS_RESULT_PHONE" envDefault:"full" help:"how much of a phone number stands in results: full, hash, none"`

	APIURL         string `env:"ZALO_API_URL" envDefault:"https://business.openapi.zalo.me" help:"Zalo's host for messages by phone"`
	OAID           string `env:"ZALO_OA_ID" example:"2893352839501541173" help:"the Official Account of requests that name none"`
	AccessToken    string `env:"ZALO_ACCESS_TOKEN" secret:"true" example:"2893352839501541173=eyJ..." help:"access token of the OA, or oa_id=token,... for several"`
	AppSecret      string `env:"ZALO_APP_SECRET" secret:"true" help:"the app's secret, for appsecret_proof"`
	AppSecretProof bool   `env:"ZALO_APPSECRET_PROOF" help:"send appsecret_proof with every call, as the app's settings may demand"`
}

// Validate reports every problem at once.
func (c *Config) Validate() error {
	_, err := c.settings()
	return err
}

const (
	modeLive        = "live"
	modeDevelopment = "development"
	modeSimulate    = "simulate"

	phoneFull = "full"
	phoneHash = "hash"
	phoneNone = "none"
)

// settings is a Config, checked and in the form in which it is used.
type settings struct {
	inputTopic  string
	dlqTopic    string
	ledgerTopic string
	instance    string
	cluster     string
	ceSource    string
	mode        string
	allow       map[string]bool // E.164; nil: everybody
	dedupe      time.Duration
	maxAge      time.Duration
	ttl         CategoryDuration
	onUnknown   CategoryPolicy
	resolve     time.Duration
	memory      int64
	partitions  func() int32
	resultPhone string
	oaID        string
	tokens      map[string]string
	limits      limit.Config
	url         *url.URL // of the call, for its span
}

func (c *Config) settings() (settings, error) {
	var problems []error
	complain := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	oneOf := func(name, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			complain("%s: %q is not one of %s", name, value, strings.Join(allowed, ", "))
		}
	}
	positive := func(name string, d time.Duration, example string) {
		if d <= 0 {
			complain("%s: must be more than 0; for example %s=%s", name, name, example)
		}
	}
	oneOf("SENDER_MODE", c.Mode, modeLive, modeDevelopment, modeSimulate)
	oneOf("SENDER_GROUP_PROTOCOL", c.GroupProtocol, stream.ProtocolAuto, stream.ProtocolClassic, stream.ProtocolConsumer)
	oneOf("ZNS_RESULT_PHONE", c.ResultPhone, phoneFull, phoneHash, phoneNone)
	if c.Topic == "" || c.Group == "" {
		complain("SENDER_TOPIC, SENDER_GROUP: neither may be empty")
	} else if !kafka.IsTopicName(topic.LedgerOf(c.Topic)) {
		complain("SENDER_TOPIC: %q and the names made of it are no topic names of Kafka: letters, digits, '.', '_' and '-', at most 249 with .ledger; for example SENDER_TOPIC=%s", c.Topic, topic.Requested)
	}
	if c.OAID != "" && !isOA(c.OAID) {
		complain("ZALO_OA_ID: not an id of decimal digits; for example ZALO_OA_ID=2893352839501541173")
	}
	if c.MaxInFlight < 1 || c.MaxInFlight > 10_000 {
		complain("SENDER_MAX_IN_FLIGHT: %d is not between 1 and 10000; for example SENDER_MAX_IN_FLIGHT=256", c.MaxInFlight)
	}
	positive("SENDER_REQUEST_TIMEOUT", c.RequestTimeout, "10s")
	if c.RequestTimeout > minResolve-launchWithin {
		// Else the policy of an unknown outcome could act while the call of a stopped owner still runs.
		complain("SENDER_REQUEST_TIMEOUT: at most %s; for example SENDER_REQUEST_TIMEOUT=10s", minResolve-launchWithin)
	}
	if !(c.RateTotal >= 0 && c.RateTotal <= maxRate) {
		complain("SENDER_RATE_TOTAL: %v is not between 0 and %d; for example SENDER_RATE_TOTAL=200", c.RateTotal, maxRate)
	}
	positive("SENDER_DEDUPE_WINDOW", c.DedupeWindow, "72h")
	positive("SENDER_MAX_AGE", c.MaxAge, "24h")
	if c.MaxAge > c.DedupeWindow {
		complain("SENDER_MAX_AGE: %s is longer than SENDER_DEDUPE_WINDOW, %s: a request could be sent again after it was forgotten", c.MaxAge, c.DedupeWindow)
	}
	positive("SENDER_UNRESOLVED_AFTER", c.UnresolvedAfter, "10s")
	if c.ResolveWindow < minResolve {
		complain("SENDER_RESOLVE_WINDOW: at least %s; for example SENDER_RESOLVE_WINDOW=2h", minResolve)
	}
	if c.OrderWait < 0 {
		complain("SENDER_ORDER_WAIT: must not be negative; for example SENDER_ORDER_WAIT=60s")
	}
	if c.Memory < 1<<20 {
		complain("SENDER_MEMORY: at least 1MiB; for example SENDER_MEMORY=512MiB")
	}
	s := settings{
		inputTopic: c.Topic, dlqTopic: topic.DLQOf(c.Topic), ledgerTopic: topic.LedgerOf(c.Topic),
		mode: c.Mode, dedupe: c.DedupeWindow, maxAge: c.MaxAge, ttl: c.TTL, onUnknown: c.OnUnknown, resolve: c.ResolveWindow,
		memory: int64(c.Memory), resultPhone: c.ResultPhone, oaID: c.OAID,
	}
	s.limits = limit.Config{
		MaxInFlight: c.MaxInFlight, Rate: c.Rate.all, Rates: c.Rate.of, HostRate: c.RateTotal, Reserve: float64(c.QuotaReserve),
		GainWait: max(launchWithin, time.Second), Spread: spreadOver,
	}
	for i, h := range c.Hours {
		s.limits.Hours[i+1] = h
	}
	for _, p := range c.AllowPhones {
		phone, ok := notification.ParsePhone(strings.TrimSpace(p))
		if !ok {
			complain("SENDER_ALLOW_PHONES: one of the numbers is no Vietnamese phone number; for example SENDER_ALLOW_PHONES=0987654321")
			continue
		}
		if s.allow == nil {
			s.allow = map[string]bool{}
		}
		s.allow[phone] = true
	}
	var err error
	if s.tokens, err = tokens(c.AccessToken, c.OAID); err != nil {
		problems = append(problems, err)
	}
	if s.oaID == "" && len(s.tokens) == 1 {
		for oa := range s.tokens {
			s.oaID = oa
		}
	}
	if s.url, err = url.Parse(c.APIURL); err != nil || s.url.Host == "" {
		complain("ZALO_API_URL: not a URL; for example ZALO_API_URL=%s", zalo.DefaultURL)
		s.url = &url.URL{}
	}
	s.url = s.url.JoinPath("message/template")
	if c.AppSecretProof && c.AppSecret == "" {
		complain("ZALO_APPSECRET_PROOF: needs ZALO_APP_SECRET")
	}
	return s, errors.Join(problems...)
}

// of takes what the service around the sender knows.
func (s *settings) of(svc *service.Service) {
	s.instance, s.cluster, s.ceSource = svc.Instance, svc.Cluster, "/znshub/"+svc.Cluster+"/sender"
}

// tokens reads "token" or "oa_id=token,oa_id=token".
func tokens(value, oaID string) (map[string]string, error) {
	out := map[string]string{}
	if value == "" {
		return out, nil
	}
	if isOA(strings.SplitN(value, "=", 2)[0]) && strings.Contains(value, "=") {
		for pair := range strings.SplitSeq(value, ",") {
			oa, token, _ := strings.Cut(strings.TrimSpace(pair), "=")
			if !isOA(oa) || token == "" {
				return nil, errors.New("ZALO_ACCESS_TOKEN: want one token, or oa_id=token,oa_id=token; for example ZALO_ACCESS_TOKEN=2893352839501541173=eyJhbGciOi")
			}
			out[oa] = token
		}
		return out, nil
	}
	if oaID == "" {
		return nil, errors.New("ZALO_OA_ID: a bare ZALO_ACCESS_TOKEN needs it; for example ZALO_OA_ID=2893352839501541173")
	}
	out[oaID] = value
	return out, nil
}

func isOA(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// allows reports whether SENDER_ALLOW_PHONES lets a message go to phone. A recipient without a number is not let
// through: it cannot be compared.
func (s *settings) allows(phone string) bool { return s.allow == nil || s.allow[phone] }

func (s *settings) defaultTTL(c notificationv1.Category) time.Duration { return s.ttl.get(c) }

// policy is what happens to an unknown outcome.
func (s *settings) policy(asked notificationv1.OnUnknown, c notificationv1.Category) znsv1.UnknownPolicy {
	if asked != notificationv1.OnUnknown_ON_UNKNOWN_UNSPECIFIED {
		return znsv1.UnknownPolicy(asked) // the numbers are equal
	}
	return s.onUnknown.get(c)
}

// window is how long a callback is waited for, in milliseconds.
func (s *settings) window(c notificationv1.Category) int64 {
	if c == notificationv1.Category_CATEGORY_OTP {
		return minResolve.Milliseconds()
	}
	return s.resolve.Milliseconds()
}
