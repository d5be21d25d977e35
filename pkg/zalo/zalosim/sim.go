package zalosim

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Defaults of what identifies app and OA. The ids are above 2^53, as Zalo's are.
const (
	DefaultAppID       = "2074138120372622546"
	DefaultOAID        = "2893352839501541173"
	DefaultOASecret    = "sim-oa-secret"
	DefaultAccessToken = "sim-access-token"
)

// Config is what a Sim can be told. The zero value works: no latency, no callbacks.
type Config struct {
	Seed        uint64
	AppID       string // DefaultAppID
	OAID        string // DefaultOAID
	OASecret    string // signs callbacks; DefaultOASecret
	AppSecret   string // when set, appsecret_proof is demanded
	AccessToken string // DefaultAccessToken; SetAccessToken changes it
	// OtherOAs are further Official Accounts of the same app. A message is of the OA whose access token it carries.
	OtherOAs []OA

	// CallbackURL is where callbacks are posted; empty: nowhere. SetCallbackURL changes it.
	CallbackURL string
	// CallbackWorkers is how many callbacks may be under way at once (32).
	CallbackWorkers int
	// TimestampHeader adds X-ZEvent-Timestamp, which Zalo sends to some apps.
	TimestampHeader bool
	// KeepWebhook keeps the webhook enabled after the last resend has failed; Zalo disables it.
	KeepWebhook bool
	// Dial opens connections for callbacks; a net.Dialer by default.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	Latency  Range // of answers
	Delivery Range // from the answer to the phone
	// TimeScale divides Zalo's own waiting times (resends, offline, delayed callbacks). 60: a minute is a second.
	TimeScale float64

	Templates       []Template // DefaultTemplates
	DailyQuota      int        // messages of each OA a day; 1,000,000
	Wallet          int        // VND; 0: never empty
	PromotionsADay  int        // promotions for one person a day; 0: any number
	PromotionHours  bool       // refuse promotions from 22:00 to 06:00 in Vietnam
	Admins          []string   // phones that mode=development reaches
	AuditParams     []string   // parameters of template_data that the audit keeps
	Logger          *slog.Logger
	vietnam         *time.Location
	callbackTimeout time.Duration
}

// OA is an Official Account.
type OA struct {
	ID, Secret, AccessToken string
	DailyQuota              int // messages a day; 0: Config.DailyQuota
}

// account is an OA with what it has sent today.
type account struct {
	OA
	sentToday int
}

func (a *account) remaining() int { return max(0, a.DailyQuota-a.sentToday) }

// Sim is the fake Zalo. It is an http.Handler, safe for concurrent use.
type Sim struct {
	cfg    Config
	mux    *http.ServeMux
	admins map[string]bool
	client *http.Transport // of callbacks
	done   chan struct{}   // closed by Close
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // dispatcher and workers
	queue  *queue

	mu          sync.Mutex // guards everything below; taken before queue.mu, never held over I/O
	epoch       int        // grows with Reset: jobs of an earlier one are void
	store       store
	totals      Totals
	pending     int
	templates   map[string]*Template
	faults      []*Fault            // without a phone
	phoneFaults map[string][]*Fault // by phone and by its hash
	lastFault   int
	accounts    []*account // the first is that of Config.OAID
	callbackURL string
	disabled    bool
	dayY, dayD  int // today in Vietnam
	dayM        time.Month
	promotions  map[string]int // today, by phone
	spent       int            // VND
}

// New starts a Sim, or names every problem of cfg. Close it.
func New(cfg Config) (*Sim, error) {
	setDefault(&cfg.AppID, DefaultAppID)
	setDefault(&cfg.OAID, DefaultOAID)
	setDefault(&cfg.OASecret, DefaultOASecret)
	setDefault(&cfg.AccessToken, DefaultAccessToken)
	setDefault(&cfg.CallbackWorkers, 32)
	setDefault(&cfg.TimeScale, 1)
	setDefault(&cfg.DailyQuota, 1_000_000)
	if cfg.Templates == nil {
		cfg.Templates = DefaultTemplates()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: 2 * time.Second}).DialContext
	}
	// No daylight saving since 1975, and the container may have no zone files.
	cfg.vietnam = time.FixedZone("+07", 7*60*60)
	cfg.callbackTimeout = 2 * time.Second
	s := &Sim{
		cfg: cfg, mux: http.NewServeMux(), admins: map[string]bool{}, done: make(chan struct{}), queue: newQueue(),
		store: newStore(), totals: newTotals(), templates: map[string]*Template{}, phoneFaults: map[string][]*Fault{},
		callbackURL: cfg.CallbackURL, promotions: map[string]int{},
		client: &http.Transport{
			DialContext: cfg.Dial, DisableCompression: true, MaxIdleConns: cfg.CallbackWorkers, MaxIdleConnsPerHost: cfg.CallbackWorkers,
			IdleConnTimeout: 30 * time.Second,
		},
	}
	var problems []error
	for _, oa := range append([]OA{{ID: cfg.OAID, Secret: cfg.OASecret, AccessToken: cfg.AccessToken}}, cfg.OtherOAs...) {
		setDefault(&oa.DailyQuota, cfg.DailyQuota)
		if oa.ID == "" || oa.Secret == "" || oa.AccessToken == "" || oa.DailyQuota < 0 {
			problems = append(problems, errors.New("simulator: each OA needs an id, a secret and an access token of its own"))
		}
		s.accounts = append(s.accounts, &account{OA: oa})
	}
	if cfg.TimeScale <= 0 || cfg.CallbackWorkers < 0 || cfg.DailyQuota < 0 || cfg.Wallet < 0 || cfg.PromotionsADay < 0 {
		problems = append(problems, errors.New("simulator: time scale, workers, quota, wallet and promotions must be positive"))
	}
	problems = append(problems, checkURL(cfg.CallbackURL))
	for _, t := range cfg.Templates {
		problems = append(problems, s.AddTemplate(t))
	}
	for _, phone := range cfg.Admins {
		p, ok := normalise(phone)
		if !ok {
			problems = append(problems, errors.New("simulator: an admin's phone is not a Vietnamese mobile number"))
		}
		s.admins[p] = true
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	s.addConvention()
	s.routes()
	s.ctx, s.cancel = context.WithCancel(context.Background())
	work := make(chan job)
	s.wg.Go(func() { s.dispatch(work) })
	for range cfg.CallbackWorkers {
		s.wg.Go(func() {
			for j := range work {
				s.callback(j)
			}
		})
	}
	return s, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func checkURL(text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("simulator callback URL: want something like http://127.0.0.1:8080/webhooks/zalo")
	}
	return nil
}

// Close ends all answers that hang and all callbacks, and waits for them. What was to be delivered later is not.
func (s *Sim) Close() {
	s.mu.Lock()
	select {
	case <-s.done:
	default:
		close(s.done)
	}
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
	s.client.CloseIdleConnections()
}

// ServeHTTP answers Zalo's paths and, below /sim/, those of the simulator itself.
func (s *Sim) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path { // the busy ones first, past the mux
	case "/message/template":
		s.send(w, r, false)
	case "/message/template/hashphone":
		s.send(w, r, true)
	default:
		s.mux.ServeHTTP(w, r)
	}
}

// SetAccessToken makes this the only valid access token of the first OA, as a refresh at Zalo does.
func (s *Sim) SetAccessToken(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accounts[0].AccessToken = token
}

// SetCallbackURL says where callbacks go from now on and enables the webhook again.
func (s *Sim) SetCallbackURL(text string) error {
	if err := checkURL(text); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.callbackURL, s.disabled = text, false
	return nil
}

// Idle tells whether no delivery and no callback is still to come.
func (s *Sim) Idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending == 0
}

func (s *Sim) scaled(d time.Duration) time.Duration {
	return time.Duration(float64(d) / s.cfg.TimeScale)
}

// authorised returns the OA whose access token a request carries, as Zalo wants it, in the header access_token; nil
// when it is nobody's.
func (s *Sim) authorised(r *http.Request) *account {
	given := []byte(r.Header.Get("access_token"))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.accounts {
		if subtle.ConstantTimeCompare(given, []byte(a.AccessToken)) == 1 {
			return a
		}
	}
	return nil
}

// sleep waits, and returns false when the Sim was closed meanwhile.
func (s *Sim) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.done:
		return false
	}
}
