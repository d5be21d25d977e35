package config

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type common struct {
	Brokers []string `env:"KAFKA_BROKERS" envDefault:"localhost:9092" help:"brokers to begin with"`
	Cluster string   `env:"ZNS_CLUSTER" help:"name of this installation"`
}

type zalo struct {
	AppID    string  `env:"ZALO_APP_ID" example:"2912345678901234567" help:"the app"`
	OAID     string  `env:"ZALO_OA_ID" help:"the OA"`
	OASecret string  `env:"ZALO_OA_SECRET" secret:"true" help:"signs callbacks"`
	Token    string  `env:"ZALO_ACCESS_TOKEN" secret:"true" help:"access token"`
	API      url.URL `env:"ZALO_API_URL" envDefault:"https://business.openapi.zalo.me" help:"the API"`
}

type sender struct {
	common
	Kafka    common
	Zalo     zalo
	InFlight int           `env:"SENDER_MAX_IN_FLIGHT" envDefault:"256" help:"calls at a time | at most"`
	Timeout  time.Duration `env:"SENDER_REQUEST_TIMEOUT" envDefault:"10s" help:"of a call"`
	Window   time.Duration `env:"SENDER_DEDUPE_WINDOW" envDefault:"72h" help:"how long ids are remembered"`
	Memory   Bytes         `env:"SENDER_MEMORY" envDefault:"512MiB" help:"for waiting requests"`
	Topic    string        `env:"SENDER_TOPIC,notEmpty" help:"to read"`
	Key      int           `env:"SENDER_KEY" secret:"true" help:"a secret number"`

	Derived string // no variable
}

func (s *sender) Validate() error {
	if s.InFlight < 1 {
		return errors.Join(errors.New("SENDER_MAX_IN_FLIGHT: must be at least 1; for example SENDER_MAX_IN_FLIGHT=256"))
	}
	return nil
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func find(t *testing.T, l *Loaded, name string) Setting {
	t.Helper()
	for _, s := range l.Settings {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no setting %s", name)
	return Setting{}
}

func TestOrigins(t *testing.T) {
	secret := write(t, "token", "123=tok\n")
	file := write(t, "zns.yaml", `
app: {id: "42"}
variables:
  SENDER_MAX_IN_FLIGHT: 10
  SENDER_REQUEST_TIMEOUT: 5s
  ZNS_CLUSTER: from-file
`)
	c := sender{Derived: "kept"}
	l, err := LoadFrom([]string{
		"SENDER_TOPIC=first", "SENDER_TOPIC=requests", "SENDER_REQUEST_TIMEOUT=2s", "SENDER_DEDUPE_WINDOW=7d", "SENDER_MEMORY=1.5GiB",
		"KAFKA_BROKERS=a:1,b:2", "ZALO_ACCESS_TOKEN_FILE=" + secret, "ZNS_CONFIG=" + file, "ZALO_OA_ID=",
	}, &c)
	if err != nil {
		t.Fatal(err)
	}
	want := sender{
		common: common{Brokers: []string{"a:1", "b:2"}, Cluster: "from-file"}, Kafka: common{Brokers: []string{"a:1", "b:2"}, Cluster: "from-file"},
		Zalo:     zalo{AppID: "42", Token: "123=tok", API: url.URL{Scheme: "https", Host: "business.openapi.zalo.me"}},
		InFlight: 10, Timeout: 2 * time.Second, Window: 7 * 24 * time.Hour, Memory: 3 << 29, Topic: "requests", Derived: "kept",
	}
	// An embedded struct that is not exported is not a setting: reflect cannot set it.
	want.common = common{}
	if diff := cmp.Diff(want, c, cmp.AllowUnexported(sender{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, want := range map[string]Setting{
		"SENDER_REQUEST_TIMEOUT": {Value: "2s", Default: "10s", Origin: Environment},
		"SENDER_MAX_IN_FLIGHT":   {Value: "10", Default: "256", Origin: ConfigFile},
		"ZALO_ACCESS_TOKEN":      {Value: "********", Origin: SecretFile, Secret: true},
		"ZALO_OA_SECRET":         {Origin: Default, Secret: true},
		"ZALO_API_URL":           {Value: "https://business.openapi.zalo.me", Default: "https://business.openapi.zalo.me", Origin: Default},
	} {
		got := find(t, l, name)
		got.Name, got.Help, got.Example = "", "", ""
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if len(l.Warnings) > 0 {
		t.Errorf("warnings: %q", l.Warnings)
	}
}

func TestEveryProblemAtOnce(t *testing.T) {
	var c sender
	l, err := LoadFrom([]string{
		"SENDER_MAX_IN_FLIGHT=many", "SENDER_REQUEST_TIMEOUT=10", "SENDER_MEMORY=lots", "SENDER_KEY=s3cret", "ZALO_API_URL=:bad",
		"ZALO_OA_SECRET=s3cret", "ZALO_OA_SECRET_FILE=/nowhere", "ZALO_ACCESS_TOKEN_FILE=/nowhere/token",
	}, &c)
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{
		"SENDER_MAX_IN_FLIGHT: \"many\" is not valid", "; for example SENDER_MAX_IN_FLIGHT=256",
		"SENDER_REQUEST_TIMEOUT: \"10\" is not valid: not a duration such as", "; for example SENDER_REQUEST_TIMEOUT=10s",
		"SENDER_MEMORY: \"lots\" is not valid: not a size such as", "; for example SENDER_MEMORY=512MiB",
		"SENDER_TOPIC: missing; for example SENDER_TOPIC=",
		"SENDER_KEY: not valid; for example SENDER_KEY=100",
		"ZALO_API_URL: \":bad\" is not valid",
		"ZALO_OA_SECRET: set, and ZALO_OA_SECRET_FILE too",
		"ZALO_ACCESS_TOKEN: ZALO_ACCESS_TOKEN_FILE: open /nowhere/token",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got\n%v\nwant %q in it", err, want)
		}
	}
	if len(e.Problems) != 8 {
		t.Errorf("%d problems, want 8:\n%v", len(e.Problems), err)
	}
	if strings.Contains(err.Error(), "s3cret") {
		t.Errorf("the error tells a secret:\n%v", err)
	}
	if got := find(t, l, "SENDER_TOPIC"); got.Value != "" {
		t.Errorf("settings are there beside the problems: %+v", got)
	}
}

func TestValidateIsAsked(t *testing.T) {
	_, err := LoadFrom([]string{"SENDER_TOPIC=x", "SENDER_MAX_IN_FLIGHT=0"}, new(sender))
	if want := "SENDER_MAX_IN_FLIGHT: must be at least 1; for example SENDER_MAX_IN_FLIGHT=256"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

type checked struct {
	A       int           `env:"SENDER_A" help:"without a default"`
	AB      int           `env:"SENDER_AB" help:"another"`
	Timeout time.Duration `env:"SENDER_TIMEOUT" envDefault:"10s" help:"with a default"`
}

func (c checked) Validate() error {
	var problems []error
	if c.A < 1 {
		problems = append(problems, errors.New("SENDER_A: must be at least 1"))
	}
	if c.AB < 1 {
		problems = append(problems, errors.New("SENDER_AB: must be at least 1"))
	}
	if c.Timeout != 10*time.Second {
		problems = append(problems, errors.New("the default does not stand in what could not be read"))
	}
	return errors.Join(problems...)
}

// One look tells everything: a value that cannot be read hides no other complaint, and gets one itself.
func TestValidateBesideWhatCannotBeRead(t *testing.T) {
	_, err := LoadFrom([]string{"SENDER_A=many", "SENDER_TIMEOUT=soon"}, new(checked))
	var problems *Error
	if !errors.As(err, &problems) || len(problems.Problems) != 3 {
		t.Fatalf("got\n%v\nwant three problems", err)
	}
	for i, want := range []string{`SENDER_A: "many" is not valid`, `SENDER_TIMEOUT: "soon" is not valid`, "SENDER_AB: must be at least 1"} {
		if line := strings.Split(err.Error(), "\n")[i]; !strings.HasPrefix(line, want) {
			t.Errorf("problem %d: %q, want %q", i+1, line, want)
		}
	}
}

func TestUnknownVariables(t *testing.T) {
	l, err := LoadFrom([]string{
		"SENDER_TOPIC=x", "SENDER_MAX_INFLIGHT=3", "KAFKA_BROKER=a:1", "SENDER_COLOUR=red", "ZALO_OA_SECERT_FILE=x",
		"ZNS_CLUSTR=staging", "ZNS_RESULT_PHONE=none", "INGEST_ADDR=:1", "HOME=/", "OTEL_X=1", "ZALO_OAUTH_URL=http://x", "KAFKA_PORT_9092_TCP_ADDR=1", "SENDER_SERVICE_HOST=1",
	}, new(sender))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"nothing reads KAFKA_BROKER; did you mean KAFKA_BROKERS?",
		"nothing reads SENDER_COLOUR",
		"nothing reads SENDER_MAX_INFLIGHT; did you mean SENDER_MAX_IN_FLIGHT?",
		"nothing reads ZALO_OA_SECERT_FILE; did you mean ZALO_OA_SECRET_FILE?",
		"nothing reads ZNS_CLUSTR; did you mean ZNS_CLUSTER?",
	}
	if diff := cmp.Diff(want, l.Warnings); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"app": "app-secret\n", "oa1": "oa-secret-1", "tok1": "token-1\r\n", "empty": "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		yaml string
		want map[string]string
		says []string
	}{
		"nothing":          {"", map[string]string{}, nil},
		"only a comment":   {"# later\n", map[string]string{}, nil},
		"one OA":           {"app: {id: \"42\", secret_file: app}\noas: [{id: \"11\", secret_file: oa1, access_token_file: tok1}]", map[string]string{"ZALO_APP_ID": "42", "ZALO_APP_SECRET": "app-secret", "ZALO_OA_ID": "11", "ZALO_OA_SECRET": "11=oa-secret-1", "ZALO_ACCESS_TOKEN": "11=token-1"}, nil},
		"two OAs":          {"oas:\n- {id: \"11\", secret: a}\n- {id: \"12\", secret: b, access_token: t}", map[string]string{"ZALO_OA_SECRET": "11=a,12=b", "ZALO_ACCESS_TOKEN": "12=t"}, nil},
		"scalars":          {"variables:\n  SENDER_A: 1.50\n  SENDER_B: true\n  SENDER_C: \"0x10\"\n  SENDER_D: 10s\n  SENDER_E:\n", map[string]string{"SENDER_A": "1.50", "SENDER_B": "true", "SENDER_C": "0x10", "SENDER_D": "10s", "SENDER_E": ""}, nil},
		"numeric ids":      {"oas: [{id: 2893352839501541173}]", map[string]string{"ZALO_OA_ID": "2893352839501541173"}, nil},
		"unknown section":  {"oa: [{id: \"11\"}]", nil, []string{`unknown field "oa"`}},
		"unknown field":    {"oas: [{id: \"11\", secrte: s3cret}]", nil, []string{`unknown field "secrte"`}},
		"list as variable": {"variables: {SENDER_A: [1, 2]}", nil, []string{"single value"}},
		"broken":           {"oas: [{secret: s3cret", nil, []string{"["}},
		"problems": {"app: {secret: x, secret_file: app}\noas: [{id: my-oa}, {id: \"1\", secret_file: nowhere}, {id: \"1\", secret_file: empty}]\nvariables: {ZALO_APP_SECRET: y}", nil,
			[]string{"app.secret and app.secret_file are both set", "app.secret and variables.ZALO_APP_SECRET say the same", "oas[0].id: not an OA id", "oas[1].secret_file: open", "oas[2].id: stands twice", "oas[2].secret_file: ", "is empty"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, "zns.yaml")
			if err := os.WriteFile(path, []byte(tc.yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := readFile(path)
			if (err != nil) != (tc.says != nil) {
				t.Fatalf("got %v, error %v", got, err)
			}
			if diff := cmp.Diff(tc.want, got); err == nil && diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, want := range tc.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q in it", err, want)
				}
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
}

func TestFileProblemsAndWarnings(t *testing.T) {
	if _, err := LoadFrom([]string{"SENDER_TOPIC=x", "ZNS_CONFIG=/nowhere.yaml"}, new(sender)); err == nil || !strings.Contains(err.Error(), "ZNS_CONFIG: open /nowhere.yaml") {
		t.Errorf("a file that is not there: %v", err)
	}
	file := write(t, "zns.yaml", "variables: {SENDER_TOPICS: x, INGEST_ADDR: \":1\", SENDER_TOPIC: y}")
	l, err := LoadFrom([]string{"ZNS_CONFIG=" + file}, new(sender))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{file + ": nothing reads SENDER_TOPICS; did you mean SENDER_TOPIC?"}; !cmp.Equal(want, l.Warnings) {
		t.Errorf("warnings %q, want %q", l.Warnings, want)
	}
}

func TestDescribe(t *testing.T) {
	c := sender{Topic: "mine"}
	settings := Describe(&c)
	if c.Topic != "mine" {
		t.Error("Describe changed the target")
	}
	table := Markdown(settings)
	for _, want := range []string{
		"| `SENDER_MAX_IN_FLIGHT` | `256` | calls at a time \\| at most |",
		"| `ZALO_OA_SECRET`, `ZALO_OA_SECRET_FILE` |  | signs callbacks |",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("got\n%s\nwant %s in it", table, want)
		}
	}
}

func TestBytes(t *testing.T) {
	for in, want := range map[string]Bytes{"0": 0, "1048576": 1 << 20, "64KiB": 64 << 10, "512 MiB": 512 << 20, "1.5GiB": 3 << 29, "2GB": 2e9, "3kB": 3000, "7B": 7} {
		var b Bytes
		if err := b.UnmarshalText([]byte(in)); err != nil || b != want {
			t.Errorf("%q: %d, %v, want %d", in, b, err, want)
		}
		var again Bytes
		if err := again.UnmarshalText([]byte(b.String())); err != nil || again != b {
			t.Errorf("%q: String() is %q, which reads as %d, %v", in, b, again, err)
		}
	}
	for _, in := range []string{"", "MiB", "-1", "NaN", "Inf", "1e30", "9EiB", "10 monkeys"} {
		if b := Bytes(5); b.UnmarshalText([]byte(in)) == nil || b != 5 {
			t.Errorf("%q was taken as %d", in, b)
		}
	}
}

func TestDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{"10s": 10 * time.Second, "7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "0s": 0, "-5s": -5 * time.Second} {
		if got, err := ParseDuration(in); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "10", "d", "1.5d", "-1d", "1d-2h", "99999d", "1d2d", "soon"} {
		if got, err := ParseDuration(in); err == nil {
			t.Errorf("%q was taken as %v", in, got)
		}
	}
}
