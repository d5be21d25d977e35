package control

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	controlv1 "github.com/znshub/znshub/proto/control/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

var (
	someID = uuid.MustParse("93c1a1a0-6f8b-4d3e-8b6e-0c9a2f7d4e11")
	noon   = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
)

// command is a valid command.
func command(action controlv1.Action, s Scope) *controlv1.Command {
	return &controlv1.Command{
		CommandId: uuid.NewString(), Time: timestamppb.New(noon), Actor: "an", Reason: "wrong price", Scope: s.Proto(), Action: action,
	}
}

// record is c as it stands in the topic.
func record(t testing.TB, c *controlv1.Command, offset int64, at time.Time) kafka.Record {
	t.Helper()
	r, err := Record(c, "/znshub/test/operator")
	if err != nil {
		t.Fatal(err)
	}
	r.Partition, r.Offset, r.Time = 0, offset, at
	return r
}

func TestDecode(t *testing.T) {
	for _, s := range []Scope{All(), OA("579"), Template("300200"), Campaign("tet/2027#a"), ID(someID)} {
		for action := controlv1.Action_ACTION_HOLD; action <= controlv1.Action_ACTION_FAIL_UNKNOWN; action++ {
			c := command(action, s)
			r := record(t, c, 7, noon)
			got, err := Decode(r)
			if err != nil {
				t.Fatalf("%s %s: %v", action, s, err)
			}
			if got.Scope != s || got.Action != action || got.ID.String() != c.CommandId || got.Offset != 7 || !got.At.Equal(noon) {
				t.Errorf("%s %s: got %+v", action, s, got)
			}
			if standing := string(r.Key) == s.String(); standing != (action <= controlv1.Action_ACTION_RELEASE) {
				t.Errorf("%s stands under %q", action, r.Key)
			}
			// Whoever has no zns at hand writes JSON, without headers.
			r.Headers = nil
			if r.Value, err = protojson.Marshal(c); err != nil {
				t.Fatal(err)
			}
			if _, err := Decode(r); err != nil {
				t.Errorf("%s %s as JSON: %v", action, s, err)
			}
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	remarshal := func(f func(*controlv1.Command)) func(*kafka.Record, *controlv1.Command) {
		return func(r *kafka.Record, c *controlv1.Command) {
			f(c)
			r.Value, _ = proto.Marshal(c)
		}
	}
	for name, breakIt := range map[string]func(*kafka.Record, *controlv1.Command){
		"another key":   func(r *kafka.Record, _ *controlv1.Command) { r.Key = []byte("campaign/other") },
		"key of a rule": func(r *kafka.Record, _ *controlv1.Command) { r.Key = []byte("campaign/tet") },
		"no key":        func(r *kafka.Record, _ *controlv1.Command) { r.Key = nil },
		"garbage":       func(r *kafka.Record, _ *controlv1.Command) { r.Value = []byte("\xff\xfehold everything") },
		"empty":         func(r *kafka.Record, _ *controlv1.Command) { r.Value = []byte{} },
		"broken JSON":   func(r *kafka.Record, _ *controlv1.Command) { r.Value = []byte(`{"action":"ACTION_CANCEL"`) },
		"unknown JSON":  func(r *kafka.Record, _ *controlv1.Command) { r.Value = []byte(`{"onlyFor":"x"}`) },
		"huge":          func(r *kafka.Record, _ *controlv1.Command) { r.Value = append(r.Value, make([]byte, maxValue)...) },
		"another type": func(r *kafka.Record, _ *controlv1.Command) {
			r.Headers = []kafka.Header{{Key: kafka.HeaderType, Value: []byte("zns.v1.Sent")}}
		},
		"newer field": func(r *kafka.Record, _ *controlv1.Command) {
			r.Value = protowire.AppendVarint(protowire.AppendTag(r.Value, 900, protowire.VarintType), 1)
		},
		"no command_id":  remarshal(func(c *controlv1.Command) { c.CommandId = "" }),
		"no scope":       remarshal(func(c *controlv1.Command) { c.Scope = nil }),
		"empty campaign": remarshal(func(c *controlv1.Command) { c.Scope = Campaign("").Proto() }),
		"all is false":   remarshal(func(c *controlv1.Command) { c.Scope = &controlv1.Scope{Target: &controlv1.Scope_All{}} }),
		"bad id":         remarshal(func(c *controlv1.Command) { c.Scope = Scope{scopeID, "42"}.Proto() }),
		"no action":      remarshal(func(c *controlv1.Command) { c.Action = 0 }),
		"newer action":   remarshal(func(c *controlv1.Command) { c.Action = 99 }),
		"newer cause": remarshal(func(c *controlv1.Command) {
			c.Action, c.Unknown = controlv1.Action_ACTION_FAIL_UNKNOWN, &controlv1.UnknownFilter{Causes: []controlv1.UnknownCause{99}}
		}),
		"newer filter": remarshal(func(c *controlv1.Command) {
			c.Action, c.Unknown = controlv1.Action_ACTION_FAIL_UNKNOWN, &controlv1.UnknownFilter{}
			c.Unknown.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 900, protowire.VarintType), 1))
		}),
		"filter for a cancel": remarshal(func(c *controlv1.Command) { c.Unknown = &controlv1.UnknownFilter{TemplateId: "1"} }),
		"no time":             remarshal(func(c *controlv1.Command) { c.ExpireTime = &timestamppb.Timestamp{Nanos: -1} }),
		"long reason":         remarshal(func(c *controlv1.Command) { c.Reason = strings.Repeat("x", maxReason+1) }),
	} {
		t.Run(name, func(t *testing.T) {
			c := command(controlv1.Action_ACTION_CANCEL, Campaign("tet"))
			r := record(t, c, 1, noon)
			breakIt(&r, c)
			if got, err := Decode(r); err == nil {
				t.Errorf("taken: %+v", got)
			} else if strings.Contains(err.Error(), "hold everything") {
				t.Errorf("the error repeats the value: %v", err)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range []*controlv1.Command{command(controlv1.Action_ACTION_HOLD, All()), command(controlv1.Action_ACTION_RESEND_UNKNOWN, OA("1"))} {
		r := record(f, c, 0, noon)
		f.Add(r.Key, r.Value)
		js, _ := protojson.Marshal(c)
		f.Add(r.Key, js)
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		c, err := Decode(kafka.Record{Key: key, Value: value})
		if err == nil && (c.Action == 0 || c.Scope == Scope{} || c.ID == uuid.Nil) {
			t.Errorf("taken without action, scope or id: %+v", c)
		}
	})
}

func TestScopeMatches(t *testing.T) {
	f := limit.Flow{OA: "579", Template: "300200", Campaign: "tet"}
	for s, want := range map[Scope]bool{
		All(): true, OA("579"): true, OA("57"): false, Template("300200"): true, Template("tet"): false,
		Campaign("tet"): true, Campaign(""): false, ID(someID): true, ID(uuid.Max): false,
	} {
		if got := s.Matches(someID, f); got != want {
			t.Errorf("%s matches: %v, want %v", s, got, want)
		}
	}
}

func TestFitsUnknown(t *testing.T) {
	c := command(controlv1.Action_ACTION_RESEND_UNKNOWN, All())
	c.Unknown = &controlv1.UnknownFilter{
		Causes: []controlv1.UnknownCause{controlv1.UnknownCause_UNKNOWN_CAUSE_TIMEOUT, controlv1.UnknownCause_UNKNOWN_CAUSE_RESET},
		Since:  timestamppb.New(noon.Add(-time.Hour)), Until: timestamppb.New(noon.Add(-time.Minute)), TemplateId: "300200",
	}
	got, err := Decode(record(t, c, 1, noon))
	if err != nil {
		t.Fatal(err)
	}
	const timeout, died = controlv1.UnknownCause_UNKNOWN_CAUSE_TIMEOUT, controlv1.UnknownCause_UNKNOWN_CAUSE_OWNER_DIED
	for name, tc := range map[string]struct {
		cause    controlv1.UnknownCause
		since    time.Duration // before noon
		template string
		want     bool
	}{
		"fits":             {timeout, 30 * time.Minute, "300200", true},
		"at since":         {timeout, time.Hour, "300200", true},
		"before since":     {timeout, time.Hour + 1, "300200", false},
		"at until":         {timeout, time.Minute, "300200", false},
		"another cause":    {died, 30 * time.Minute, "300200", false},
		"another template": {timeout, 30 * time.Minute, "300201", false},
	} {
		if fits := got.FitsUnknown(tc.cause, noon.Add(-tc.since), tc.template); fits != tc.want {
			t.Errorf("%s: %v", name, fits)
		}
	}
	plain, _ := Decode(record(t, command(controlv1.Action_ACTION_RESEND_UNKNOWN, All()), 1, noon))
	if !plain.FitsUnknown(died, noon, "x") || plain.FitsUnknown(died, noon.Add(time.Millisecond), "x") {
		t.Error("a command speaks of what was unknown when it was given, and of nothing later")
	}
}

// TestCausesAreThoseOfTheResults: both enums have the same names and numbers, so that either is the other's.
func TestCausesAreThoseOfTheResults(t *testing.T) {
	for n, name := range znsv1.UnknownCause_name {
		if got := controlv1.UnknownCause_name[n]; got != name {
			t.Errorf("%d is %q here and %q there", n, got, name)
		}
	}
	if len(znsv1.UnknownCause_name) != len(controlv1.UnknownCause_name) {
		t.Error("the lists differ in length")
	}
}
