package notification

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// Limits of the contract. They stand in the comments of notification.proto too.
const (
	MaxKeyBytes      = 200                 // idempotency_key, ordering_key and the other keys
	MaxSourceBytes   = 100                 // source
	MaxTemplateData  = 64                  // entries
	MaxText          = 2000                // characters
	MaxLabels        = 16                  // entries of labels and of fallback
	MaxLabelBytes    = 4 << 10             // keys and values of labels together, and of fallback
	MaxNotBefore     = 30 * 24 * time.Hour // ahead of the record's time
	MinTTL           = time.Second         // ttl and deliver_within
	MaxTTL           = 30 * 24 * time.Hour // ttl and deliver_within
	MaxExpire        = MaxNotBefore + MaxTTL
	maxProviderBytes = 100 // oa_id, user_id, template_id: several times what Zalo uses
)

// Violation is one broken rule. It holds no value of the request.
type Violation struct {
	Field   string // path in the .proto's spelling, "recipient.phone", "channels[1]"; empty: the whole request
	Rule    string // "required", "size", "phone", ...
	Message string // what is wrong with the value's shape, and what to do
}

func (v Violation) String() string {
	if v.Field == "" {
		return v.Message
	}
	return v.Field + ": " + v.Message
}

// Rule is one line of the table that Validate goes by.
type Rule struct {
	Field string
	Name  string
	Says  string // what the rule asks for, for documentation

	check func(in *input, fail func(format string, args ...any))
}

// input is what the rules look at.
type input struct {
	*notificationv1.NotificationRequested
	at      time.Time // of the record
	byPhone bool      // a message by phone number is asked for: channels has PHONE or is empty
}

// Rules returns the table, in the order of the fields.
func Rules() []Rule { return slices.Clone(rules) }

// Validate returns every rule that the request breaks, in the order of the fields, at most 20. The time is the record's:
// not_before and expire_time are limited relative to it. An expire_time in the past breaks no rule: such a request has
// expired. What depends on the hub's configuration (an empty oa_id, an unknown template) is not checked here.
func Validate(req *notificationv1.NotificationRequested, at time.Time) []Violation {
	in := &input{req, at, len(req.GetChannels()) == 0 || slices.Contains(req.GetChannels(), notificationv1.Channel_CHANNEL_PHONE)}
	var violations []Violation
	var rule *Rule
	fail := func(format string, args ...any) {
		violations = append(violations, Violation{rule.Field, rule.Name, fmt.Sprintf(format, args...)})
	}
	for i := range rules {
		rule = &rules[i]
		rule.check(in, fail)
	}
	for i, c := range req.GetChannels() {
		if message := checkChannel(req.Channels[:i], c); message != "" {
			violations = append(violations, Violation{fmt.Sprintf("channels[%d]", i), "channel", message})
		}
	}
	return violations[:min(len(violations), maxViolations)]
}

var rules = []Rule{
	{"notification_id", "exactly_one", "Exactly one of notification_id and idempotency_key is set.", func(in *input, fail failer) {
		switch {
		case in.NotificationId == "" && in.IdempotencyKey == "":
			fail("missing, and idempotency_key too: set one of them")
		case in.NotificationId != "" && in.IdempotencyKey != "":
			fail("set together with idempotency_key: set one of them")
		}
	}},
	{"notification_id", "uuid", "A UUID in its canonical form of 36 characters, not all zero.", func(in *input, fail failer) {
		if _, ok := parseUUID(in.NotificationId); in.NotificationId != "" && !ok {
			fail("not a UUID of the form 018f3c5e-7b1a-7c3e-9c39-5c1f1b9f2a10: %s", shape(in.NotificationId))
		}
	}},
	maxBytes("idempotency_key", MaxKeyBytes, (*message).GetIdempotencyKey),
	{"source", "required", "Set when idempotency_key or collapse_key is.", func(in *input, fail failer) {
		if in.Source == "" && (in.IdempotencyKey != "" || in.CollapseKey != "") {
			fail("missing: idempotency_key and collapse_key belong to a source such as order-service")
		}
	}},
	maxBytes("source", MaxSourceBytes, (*message).GetSource),
	{"source", "one_line", "No line breaks or other control characters.", func(in *input, fail failer) {
		if strings.ContainsFunc(in.Source, unicode.IsControl) {
			fail("has control characters; give the service's name")
		}
	}},
	digits("oa_id", (*message).GetOaId),
	{"recipient", "required", "A recipient with phone, phone_sha256 or user_id.", func(in *input, fail failer) {
		if r := in.Recipient; r.GetPhone() == "" && r.GetPhoneSha256() == "" && r.GetUserId() == "" {
			fail("missing: set recipient.phone, for example 0987654321")
		}
	}},
	{"recipient.phone", "required", "phone or phone_sha256, when PHONE is among the channels.", func(in *input, fail failer) {
		if r := in.Recipient; in.byPhone && r.GetUserId() != "" && r.GetPhone() == "" && r.GetPhoneSha256() == "" {
			fail("missing: the channel PHONE needs phone or phone_sha256")
		}
	}},
	{"recipient.phone", "phone", "A Vietnamese phone number that exists, in any usual form.", func(in *input, fail failer) {
		if s := in.Recipient.GetPhone(); s != "" {
			if _, ok := ParsePhone(s); !ok {
				fail("not a phone number: %s; give a Vietnamese number like 0987654321 or +84987654321", shape(s))
			}
		}
	}},
	{"recipient.phone_sha256", "exclusive", "Not together with phone.", func(in *input, fail failer) {
		if in.Recipient.GetPhone() != "" && in.Recipient.GetPhoneSha256() != "" {
			fail("set together with phone: set one of them")
		}
	}},
	{"recipient.phone_sha256", "sha256", "64 hexadecimal characters.", func(in *input, fail failer) {
		if s := in.Recipient.GetPhoneSha256(); s != "" && (len(s) != 64 || strings.Trim(s, "0123456789abcdefABCDEF") != "") {
			fail("not a SHA-256 of 64 hexadecimal characters: %s; hash the number as 84987654321", shape(s))
		}
	}},
	digits("recipient.user_id", func(r *message) string { return r.GetRecipient().GetUserId() }),
	{"template_id", "required", "Set for the channels PHONE and USER_TEMPLATE.", func(in *input, fail failer) {
		if in.TemplateId == "" && (in.byPhone || slices.Contains(in.Channels, notificationv1.Channel_CHANNEL_USER_TEMPLATE)) {
			fail("missing: give Zalo's id of the template, for example 643118")
		}
	}},
	maxBytes("template_id", maxProviderBytes, (*message).GetTemplateId),
	{"template_id", "one_line", "No white space or control characters.", func(in *input, fail failer) {
		if strings.ContainsFunc(in.TemplateId, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
			fail("has white space: %s; give Zalo's id of the template, for example 643118", shape(in.TemplateId))
		}
	}},
	{"template_data", "size", "At most 64 entries, none with an empty name.", func(in *input, fail failer) {
		if len(in.TemplateData) > MaxTemplateData {
			fail("has %d entries; at most %d are taken", len(in.TemplateData), MaxTemplateData)
		}
		if _, ok := in.TemplateData[""]; ok {
			fail("has an entry without name; name it as the template's parameter")
		}
	}},
	{"text", "size", "At most 2000 characters.", func(in *input, fail failer) {
		if len(in.Text) > MaxText && utf8.RuneCountInString(in.Text) > MaxText {
			fail("has %d characters; at most %d are taken", utf8.RuneCountInString(in.Text), MaxText)
		}
	}},
	enum("category", (*message).GetCategory),
	{"not_before", "range", "A valid time, at most 30 days after the record's.", func(in *input, fail failer) {
		if checkTime(in.NotBefore, fail) && in.NotBefore.AsTime().After(in.at.Add(MaxNotBefore)) {
			fail("%s ahead; at most 30 days are taken", ahead(in.NotBefore, in.at))
		}
	}},
	{"expire_time", "range", "A valid time after not_before, at most 60 days after the record's.", func(in *input, fail failer) {
		if !checkTime(in.ExpireTime, fail) {
			return
		}
		if in.ExpireTime.AsTime().After(in.at.Add(MaxExpire)) {
			fail("%s ahead; at most 60 days are taken", ahead(in.ExpireTime, in.at))
		}
		if in.NotBefore.IsValid() && !in.ExpireTime.AsTime().After(in.NotBefore.AsTime()) {
			fail("not after not_before: the request could never be sent")
		}
	}},
	life("ttl", (*message).GetTtl),
	life("deliver_within", (*message).GetDeliverWithin),
	enum("on_unknown", (*message).GetOnUnknown),
	maxBytes("ordering_key", MaxKeyBytes, (*message).GetOrderingKey),
	maxBytes("collapse_key", MaxKeyBytes, (*message).GetCollapseKey),
	maxBytes("journey_key", MaxKeyBytes, (*message).GetJourneyKey),
	maxBytes("campaign_id", MaxKeyBytes, (*message).GetCampaignId),
	maxBytes("reference", MaxKeyBytes, (*message).GetReference),
	maxBytes("customer_id", MaxKeyBytes, (*message).GetCustomerId),
	bag("labels", (*message).GetLabels),
	bag("fallback", (*message).GetFallback),
	enum("mode", (*message).GetMode),
}

type (
	message = notificationv1.NotificationRequested
	failer  = func(format string, args ...any)
)

func maxBytes(field string, limit int, get func(*message) string) Rule {
	return Rule{field, "size", fmt.Sprintf("At most %d bytes of UTF-8.", limit), func(in *input, fail failer) {
		if n := len(get(in.NotificationRequested)); n > limit {
			fail("has %d bytes; at most %d are taken", n, limit)
		}
	}}
}

func digits(field string, get func(*message) string) Rule {
	return Rule{field, "digits", fmt.Sprintf("Decimal digits, at most %d.", maxProviderBytes), func(in *input, fail failer) {
		if s := get(in.NotificationRequested); len(s) > maxProviderBytes || strings.Trim(s, "0123456789") != "" {
			fail("not an id of decimal digits: %s", shape(s))
		}
	}}
}

func enum[E protoreflect.Enum](field string, get func(*message) E) Rule {
	values := (*new(E)).Descriptor().Values()
	return Rule{field, "enum", "One of " + enumNames(values) + ".", func(in *input, fail failer) {
		if n := get(in.NotificationRequested).Number(); n != 0 && values.ByNumber(n) == nil {
			fail("value %d is not known to this version; known are %s", n, enumNames(values))
		}
	}}
}

func life(field string, get func(*message) *durationpb.Duration) Rule {
	return Rule{field, "range", "Between 1 second and 30 days.", func(in *input, fail failer) {
		d := get(in.NotificationRequested)
		if d != nil && (!d.IsValid() || d.AsDuration() < MinTTL || d.AsDuration() > MaxTTL) {
			fail("not between 1 second and 30 days: %d s", d.GetSeconds())
		}
	}}
}

func bag(field string, get func(*message) map[string]string) Rule {
	return Rule{field, "size", "At most 16 entries, names and values together at most 4 KiB.", func(in *input, fail failer) {
		entries, size := get(in.NotificationRequested), 0
		for k, v := range entries {
			size += len(k) + len(v)
		}
		if len(entries) > MaxLabels {
			fail("has %d entries; at most %d are taken", len(entries), MaxLabels)
		}
		if size > MaxLabelBytes {
			fail("has %d bytes of names and values; at most %d are taken", size, MaxLabelBytes)
		}
	}}
}

// checkTime reports whether t is set and valid.
func checkTime(t *timestamppb.Timestamp, fail failer) bool {
	if t != nil && !t.IsValid() {
		fail("not a time between the years 1 and 9999")
		return false
	}
	return t != nil
}

func ahead(t *timestamppb.Timestamp, at time.Time) string {
	return count(int((t.GetSeconds()-at.Unix())/(24*3600)), "day", "days")
}

func checkChannel(before []notificationv1.Channel, c notificationv1.Channel) string {
	values := c.Descriptor().Values()
	switch {
	case c == notificationv1.Channel_CHANNEL_UNSPECIFIED:
		return "says nothing; give PHONE or leave channels empty"
	case values.ByNumber(c.Number()) == nil:
		return fmt.Sprintf("value %d is not known to this version; known are %s", c, enumNames(values))
	case c != notificationv1.Channel_CHANNEL_PHONE:
		return strings.TrimPrefix(c.String(), "CHANNEL_") + " is not delivered by this version of the hub; give PHONE or leave channels empty"
	case slices.Contains(before, c):
		return "names a channel twice"
	}
	return ""
}
