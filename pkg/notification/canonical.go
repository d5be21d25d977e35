package notification

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// appendCanonical appends the canonical encoding that PayloadHash describes. It covers the kinds of field that the
// contract uses, which a test checks.
func appendCanonical(b []byte, m protoreflect.Message) []byte {
	for _, fd := range byNumber[m.Descriptor().FullName()] {
		if !m.Has(fd) {
			continue
		}
		switch v := m.Get(fd); {
		case fd.IsMap():
			b = appendMap(b, fd, v.Map())
		case fd.IsList(): // of an enum: packed
			var packed []byte
			for i := range v.List().Len() {
				packed = protowire.AppendVarint(packed, uint64(v.List().Get(i).Enum()))
			}
			b = protowire.AppendTag(b, fd.Number(), protowire.BytesType)
			b = protowire.AppendBytes(b, packed)
		default:
			b = appendSingular(b, fd, v)
		}
	}
	return appendUnknown(b, m.GetUnknown())
}

func appendSingular(b []byte, fd protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch fd.Kind() {
	case protoreflect.StringKind:
		b = protowire.AppendTag(b, fd.Number(), protowire.BytesType)
		return protowire.AppendString(b, oneSpelling(fd, v.String()))
	case protoreflect.MessageKind:
		var buf [128]byte
		b = protowire.AppendTag(b, fd.Number(), protowire.BytesType)
		return protowire.AppendBytes(b, appendCanonical(buf[:0], v.Message()))
	}
	var n uint64
	switch fd.Kind() {
	case protoreflect.BoolKind:
		n = protowire.EncodeBool(v.Bool())
	case protoreflect.EnumKind:
		n = uint64(v.Enum())
	case protoreflect.Int32Kind, protoreflect.Int64Kind:
		n = uint64(v.Int())
	default:
		panic("notification: no canonical form for " + string(fd.FullName())) // a test walks every field of the schema
	}
	b = protowire.AppendTag(b, fd.Number(), protowire.VarintType)
	return protowire.AppendVarint(b, n)
}

func appendMap(b []byte, fd protoreflect.FieldDescriptor, m protoreflect.Map) []byte {
	entries := make([][2]string, 0, m.Len())
	for k, v := range m.Range {
		entries = append(entries, [2]string{k.String(), v.String()})
	}
	slices.SortFunc(entries, func(x, y [2]string) int { return strings.Compare(x[0], y[0]) })
	for _, e := range entries {
		size := 2 + protowire.SizeBytes(len(e[0])) + protowire.SizeBytes(len(e[1])) // two tags of one byte
		b = protowire.AppendTag(b, fd.Number(), protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(size))
		b = protowire.AppendTag(b, 1, protowire.BytesType)
		b = protowire.AppendString(b, e[0])
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendString(b, e[1])
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

// oneSpelling returns the string as Normalise would leave it.
func oneSpelling(fd protoreflect.FieldDescriptor, s string) string {
	switch fd {
	case idField:
		if id, ok := parseUUID(s); ok {
			return id.String()
		}
	case phoneField:
		if phone, ok := ParsePhone(s); ok {
			return phone
		}
	case phoneHashField:
		return strings.ToLower(s)
	}
	return s
}

var (
	requestFields  = (*notificationv1.NotificationRequested)(nil).ProtoReflect().Descriptor().Fields()
	idField        = requestFields.ByName("notification_id")
	recipientField = requestFields.ByName("recipient")
	phoneField     = recipientField.Message().Fields().ByName("phone")
	phoneHashField = recipientField.Message().Fields().ByName("phone_sha256")

	// byNumber has the fields of the request and of the messages in it, in the order of their numbers.
	byNumber = collect(map[protoreflect.FullName][]protoreflect.FieldDescriptor{}, requestFields.Get(0).ContainingMessage())
)

func collect(into map[protoreflect.FullName][]protoreflect.FieldDescriptor, md protoreflect.MessageDescriptor) map[protoreflect.FullName][]protoreflect.FieldDescriptor {
	fields := make([]protoreflect.FieldDescriptor, 0, md.Fields().Len())
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		fields = append(fields, fd)
		if fd.Message() != nil && !fd.IsMap() {
			collect(into, fd.Message())
		}
	}
	slices.SortFunc(fields, func(x, y protoreflect.FieldDescriptor) int { return int(x.Number() - y.Number()) })
	into[md.FullName()] = fields
	return into
}
