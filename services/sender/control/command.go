package control

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	controlv1 "github.com/znshub/znshub/proto/control/v1"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/sender/limit"
)

// Scope is what a command is about. It is comparable; its text is the key of standing rules.
type Scope struct {
	kind  string // "id", "campaign", "template", "oa", "all"
	value string // empty for all
}

// All is the scope of everything.
func All() Scope { return Scope{kind: scopeAll} }

// ID is the scope of one notification.
func ID(id uuid.UUID) Scope { return Scope{scopeID, id.String()} }

// Campaign is the scope of the notifications with this campaign_id.
func Campaign(id string) Scope { return Scope{scopeCampaign, id} }

// Template is the scope of the notifications with this template_id.
func Template(id string) Scope { return Scope{scopeTemplate, id} }

// OA is the scope of one Official Account's notifications.
func OA(id string) Scope { return Scope{scopeOA, id} }

const (
	scopeID       = "id"
	scopeCampaign = "campaign"
	scopeTemplate = "template"
	scopeOA       = "oa"
	scopeAll      = "all"
)

// String is the scope's key in zns.control: "id/<uuid>", "campaign/<id>", "template/<id>", "oa/<id>", "all".
func (s Scope) String() string {
	if s.kind == scopeAll {
		return scopeAll
	}
	return s.kind + "/" + s.value
}

// ID is the notification that the scope names; false when it names none.
func (s Scope) ID() (uuid.UUID, bool) {
	if s.kind != scopeID {
		return uuid.Nil, false
	}
	id, err := uuid.Parse(s.value)
	return id, err == nil
}

// Gates is the OA and the template, each empty for any, whose gates in package limit the scope is about; false: it is
// about none.
func (s Scope) Gates() (oa, template string, ok bool) {
	switch s.kind {
	case scopeAll:
		return "", "", true
	case scopeOA:
		return s.value, "", true
	case scopeTemplate:
		return "", s.value, true
	}
	return "", "", false
}

// Matches reports whether the notification id of flow f belongs to the scope.
func (s Scope) Matches(id uuid.UUID, f limit.Flow) bool {
	switch s.kind {
	case scopeAll:
		return true
	case scopeOA:
		return s.value == f.OA
	case scopeTemplate:
		return s.value == f.Template
	case scopeCampaign:
		return s.value == f.Campaign
	case scopeID:
		return s.value == id.String()
	}
	return false
}

// Proto is the scope as it stands in a command.
func (s Scope) Proto() *controlv1.Scope {
	switch s.kind {
	case scopeID:
		return &controlv1.Scope{Target: &controlv1.Scope_NotificationId{NotificationId: s.value}}
	case scopeCampaign:
		return &controlv1.Scope{Target: &controlv1.Scope_CampaignId{CampaignId: s.value}}
	case scopeTemplate:
		return &controlv1.Scope{Target: &controlv1.Scope_TemplateId{TemplateId: s.value}}
	case scopeOA:
		return &controlv1.Scope{Target: &controlv1.Scope_OaId{OaId: s.value}}
	}
	return &controlv1.Scope{Target: &controlv1.Scope_All{All: true}}
}

func scopeOf(p *controlv1.Scope) (Scope, error) {
	var s Scope
	switch t := p.GetTarget().(type) {
	case *controlv1.Scope_All:
		if !t.All {
			return s, errors.New("scope: all is false: name what is meant")
		}
		return All(), nil
	case *controlv1.Scope_NotificationId:
		id, err := uuid.Parse(t.NotificationId)
		if err != nil || len(t.NotificationId) != 36 {
			return s, errors.New("scope: notification_id is no UUID")
		}
		return ID(id), nil
	case *controlv1.Scope_CampaignId:
		s = Campaign(t.CampaignId)
	case *controlv1.Scope_TemplateId:
		s = Template(t.TemplateId)
	case *controlv1.Scope_OaId:
		s = OA(t.OaId)
	default:
		return s, errors.New("scope: missing: set one of notification_id, campaign_id, template_id, oa_id, all")
	}
	if s.value == "" {
		return s, fmt.Errorf("scope: %s is empty", s.kind)
	}
	return s, nil
}

// Command is a command as it stands in the topic, checked.
type Command struct {
	ID      uuid.UUID
	Action  controlv1.Action
	Scope   Scope
	At      time.Time // when the broker took it: what it is compared with
	Expires time.Time // zero: never
	Actor   string
	Reason  string

	causes       map[controlv1.UnknownCause]bool
	since, until time.Time
	template     string

	Partition int32 // where it stands
	Offset    int64
}

// Standing reports whether the command is a rule that stays until another replaces it.
func (c *Command) Standing() bool { return standing(c.Action) }

func standing(a controlv1.Action) bool {
	return a == controlv1.Action_ACTION_HOLD || a == controlv1.Action_ACTION_RELEASE
}

// FitsUnknown reports whether what is unknown for this cause, since this time and with this template is meant. What
// became unknown after the command never is.
func (c *Command) FitsUnknown(cause controlv1.UnknownCause, since time.Time, template string) bool {
	return !since.After(c.At) &&
		(len(c.causes) == 0 || c.causes[cause]) &&
		(c.since.IsZero() || !since.Before(c.since)) &&
		(c.until.IsZero() || since.Before(c.until)) &&
		(c.template == "" || c.template == template)
}

// Bounds of what people write into a command.
const (
	maxActor  = 100
	maxReason = 500
	maxValue  = 64 << 10
)

// Check reports everything that is wrong with a command.
func Check(c *controlv1.Command) error {
	var problems []error
	complain := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if id, err := uuid.Parse(c.GetCommandId()); err != nil || len(c.GetCommandId()) != 36 || id == uuid.Nil {
		complain("command_id: no UUID")
	}
	if _, err := scopeOf(c.GetScope()); err != nil {
		problems = append(problems, err)
	}
	if _, known := controlv1.Action_name[int32(c.GetAction())]; !known || c.GetAction() == controlv1.Action_ACTION_UNSPECIFIED {
		complain("action: %d is none that this program knows", c.GetAction())
	}
	if len(c.GetActor()) > maxActor {
		complain("actor: longer than %d bytes", maxActor)
	}
	if len(c.GetReason()) > maxReason {
		complain("reason: longer than %d bytes", maxReason)
	}
	for name, t := range map[string]*timestamppb.Timestamp{
		"time": c.GetTime(), "expire_time": c.GetExpireTime(), "unknown.since": c.GetUnknown().GetSince(), "unknown.until": c.GetUnknown().GetUntil(),
	} {
		if t != nil && t.CheckValid() != nil {
			complain("%s: no time", name)
		}
	}
	if c.GetAction() == controlv1.Action_ACTION_RELEASE && c.GetExpireTime() != nil {
		complain("expire_time: a RELEASE does not expire")
	}
	if c.GetUnknown() != nil && c.GetAction() != controlv1.Action_ACTION_RESEND_UNKNOWN && c.GetAction() != controlv1.Action_ACTION_FAIL_UNKNOWN {
		complain("unknown: only for RESEND_UNKNOWN and FAIL_UNKNOWN")
	}
	for _, cause := range c.GetUnknown().GetCauses() {
		if _, known := controlv1.UnknownCause_name[int32(cause)]; !known || cause == 0 {
			complain("unknown.causes: %d is none that this program knows", cause)
		}
	}
	return errors.Join(problems...)
}

// Key is the record key under which a checked command stands.
func Key(c *controlv1.Command) string {
	scope, _ := scopeOf(c.GetScope())
	if standing(c.GetAction()) {
		return scope.String()
	}
	return scope.String() + "#" + strings.ToLower(c.GetCommandId())
}

// Record makes the record that gives a command. source is the ce_source.
func Record(c *controlv1.Command, source string) (kafka.Record, error) {
	if err := Check(c); err != nil {
		return kafka.Record{}, err
	}
	key := Key(c)
	return kafka.NewRecord(topic.Control, []byte(key), kafka.Event{
		ID: c.GetCommandId(), Source: source, Subject: key, Time: c.GetTime().AsTime(), Data: c,
	}, "", "")
}

// Decode reads a record of zns.control that is no tombstone.
func Decode(r kafka.Record) (*Command, error) {
	c := &controlv1.Command{}
	var err error
	switch {
	case len(r.Value) > maxValue:
		return nil, fmt.Errorf("larger than %d bytes", maxValue)
	case len(r.Value) > 0 && r.Value[0] == '{':
		err = protojson.UnmarshalOptions{DiscardUnknown: false}.Unmarshal(r.Value, c)
	default:
		err = kafka.Decode(r, c)
	}
	if err != nil {
		// What stands in the value may be anything: it is not repeated.
		return nil, cmp.Or(errNotACommand(err), errors.New("cannot be read as control.v1.Command"))
	}
	if len(c.ProtoReflect().GetUnknown())+len(c.GetScope().ProtoReflect().GetUnknown())+len(c.GetUnknown().ProtoReflect().GetUnknown()) > 0 {
		// What this program does not know may narrow the command: obeying the rest of it could do too much.
		return nil, errors.New("it has fields of a newer version: run the newer release")
	}
	if err := Check(c); err != nil {
		return nil, err
	}
	if key := Key(c); key != string(r.Key) {
		return nil, errors.New("its key is not that of its scope: HOLD and RELEASE stand under the scope, all others under the scope, # and the command_id")
	}
	return checked(c, r), nil
}

// Judge makes a checked command of c as if the broker had taken it at the given time: for programs that ask what a
// command would fit before they give it.
func Judge(c *controlv1.Command, at time.Time) (*Command, error) {
	if err := Check(c); err != nil {
		return nil, err
	}
	return checked(c, kafka.Record{Time: at}), nil
}

// errNotACommand tells a record of another type, nil for any other error.
func errNotACommand(err error) error {
	if errors.Is(err, kafka.ErrType) {
		return errors.New("its ce_type is not control.v1.Command")
	}
	return nil
}

func checked(c *controlv1.Command, r kafka.Record) *Command {
	scope, _ := scopeOf(c.GetScope())
	out := &Command{
		ID: uuid.MustParse(c.GetCommandId()), Action: c.GetAction(), Scope: scope, At: r.Time, Expires: asTime(c.GetExpireTime()),
		Actor: c.GetActor(), Reason: c.GetReason(), Partition: r.Partition, Offset: r.Offset,
		since: asTime(c.GetUnknown().GetSince()), until: asTime(c.GetUnknown().GetUntil()), template: c.GetUnknown().GetTemplateId(),
	}
	for _, cause := range c.GetUnknown().GetCauses() {
		if out.causes == nil {
			out.causes = map[controlv1.UnknownCause]bool{}
		}
		out.causes[cause] = true
	}
	return out
}

func asTime(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
