package notification

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// appendCanonical appends the canonical encoding that PayloadHash describes. It names the fields one by one, which takes
// a fifth of the time that reflection does; a test compares it with a walk over every field of the schema.
func appendCanonical(b []byte, m *notificationv1.NotificationRequested) []byte {
	id := m.GetNotificationId()
	if parsed, ok := parseUUID(id); ok {
		id = parsed.String()
	}
	b = appendText(b, 1, id)
	b = appendText(b, 2, m.GetIdempotencyKey())
	b = appendText(b, 3, m.GetSource())
	b = appendText(b, 4, m.GetOaId())
	if r := m.GetRecipient(); r != nil {
		b = appendNested(b, 5, func(b []byte) []byte { return appendRecipient(b, r) })
	}
	b = appendText(b, 6, m.GetTemplateId())
	b = appendMap(b, 7, m.GetTemplateData())
	b = appendText(b, 8, m.GetText())
	if len(m.GetChannels()) > 0 {
		b = appendNested(b, 9, func(b []byte) []byte {
			for _, c := range m.GetChannels() {
				b = protowire.AppendVarint(b, uint64(c)) //nolint:gosec // G115: as on the wire
			}
			return b
		})
	}
	b = appendNumber(b, 10, int64(m.GetCategory()))
	b = appendTime(b, 11, m.GetNotBefore())
	b = appendTime(b, 12, m.GetExpireTime())
	b = appendDuration(b, 13, m.GetTtl())
	b = appendDuration(b, 14, m.GetDeliverWithin())
	b = appendNumber(b, 16, int64(m.GetOnUnknown()))
	b = appendText(b, 17, m.GetOrderingKey())
	b = appendText(b, 18, m.GetCollapseKey())
	b = appendText(b, 19, m.GetJourneyKey())
	b = appendText(b, 20, m.GetCampaignId())
	b = appendText(b, 21, m.GetReference())
	b = appendText(b, 22, m.GetCustomerId())
	b = appendMap(b, 23, m.GetLabels())
	b = appendMap(b, 24, m.GetFallback())
	b = appendNumber(b, 25, int64(m.GetMode()))
	if m.GetIgnoreSuppression() {
		b = appendNumber(b, 26, 1)
	}
	return appendUnknown(b, m.ProtoReflect().GetUnknown())
}

func appendRecipient(b []byte, r *notificationv1.Recipient) []byte {
	phone := r.GetPhone()
	if e164, ok := ParsePhone(phone); ok {
		phone = e164
	}
	b = appendText(b, 1, phone)
	b = appendText(b, 2, strings.ToLower(r.GetPhoneSha256()))
	b = appendText(b, 3, r.GetUserId())
	return appendUnknown(b, r.ProtoReflect().GetUnknown())
}

func appendTime(b []byte, field protowire.Number, t *timestamppb.Timestamp) []byte {
	if t == nil {
		return b
	}
	return appendNested(b, field, func(b []byte) []byte {
		return appendUnknown(appendNumber(appendNumber(b, 1, t.Seconds), 2, int64(t.Nanos)), t.ProtoReflect().GetUnknown())
	})
}

func appendDuration(b []byte, field protowire.Number, d *durationpb.Duration) []byte {
	if d == nil {
		return b
	}
	return appendNested(b, field, func(b []byte) []byte {
		return appendUnknown(appendNumber(appendNumber(b, 1, d.Seconds), 2, int64(d.Nanos)), d.ProtoReflect().GetUnknown())
	})
}

func appendText(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func appendNumber(b []byte, field protowire.Number, n int64) []byte {
	if n == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(n)) //nolint:gosec // G115: as on the wire
}

func appendNested(b []byte, field protowire.Number, content func([]byte) []byte) []byte {
	var buf [128]byte
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), content(buf[:0]))
}

func appendMap(b []byte, field protowire.Number, m map[string]string) []byte {
	if len(m) == 0 {
		return b
	}
	var buf [16]string
	keys := buf[:0]
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		v := m[k]
		size := 2 + protowire.SizeBytes(len(k)) + protowire.SizeBytes(len(v)) // two tags of one byte
		b = protowire.AppendTag(b, field, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(size)) //nolint:gosec // G115: a length
		b = protowire.AppendString(append(b, 1<<3|byte(protowire.BytesType)), k)
		b = protowire.AppendString(append(b, 2<<3|byte(protowire.BytesType)), v)
	}
	return b
}

// appendUnknown appends unknown fields in the order of their numbers. Those of one number keep their order: they may be
// elements of a list.
func appendUnknown(b []byte, unknown protoreflect.RawFields) []byte {
	if len(unknown) == 0 {
		return b
	}
	fields := map[protowire.Number][]byte{}
	for len(unknown) > 0 {
		number, _, n := protowire.ConsumeField(unknown)
		if n < 0 {
			break // Unmarshal keeps whole fields only
		}
		fields[number] = append(fields[number], unknown[:n]...)
		unknown = unknown[n:]
	}
	for _, number := range slices.Sorted(maps.Keys(fields)) {
		b = append(b, fields[number]...)
	}
	return b
}

var (
	requestFields  = (*notificationv1.NotificationRequested)(nil).ProtoReflect().Descriptor().Fields()
	recipientField = requestFields.ByName("recipient")
)
