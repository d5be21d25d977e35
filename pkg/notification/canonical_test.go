package notification

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// TestCanonicalAgreesWithSchema fills requests at random, every field of the schema among them, and compares the encoding
// with that of a walk over the schema: a field that was added to the contract and not to appendCanonical is found here.
func TestCanonicalAgreesWithSchema(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	filled := map[protoreflect.FullName]bool{}
	for range 3000 {
		req := &notificationv1.NotificationRequested{}
		fill(rng, req.ProtoReflect(), filled)
		if got, want := appendCanonical(nil, req), reference(nil, req.ProtoReflect()); !bytes.Equal(got, want) {
			t.Fatalf("%v\n got %x\nwant %x", req, got, want)
		}
	}
	for message, fields := range byNumber {
		for _, fd := range fields {
			if !filled[fd.FullName()] {
				t.Errorf("%s of %s was never filled", fd.Name(), message)
			}
		}
	}
}

// fill sets some fields of m.
func fill(rng *rand.Rand, m protoreflect.Message, filled map[protoreflect.FullName]bool) {
	text := func() string {
		return []string{"", "x", "0987654321", "+84987654321", "nobody", strings.ToUpper(someID), strings.Repeat("Ab", 32), strings.Repeat("é", 200)}[rng.IntN(8)]
	}
	for _, fd := range byNumber[m.Descriptor().FullName()] {
		if rng.IntN(3) > 0 {
			continue
		}
		filled[fd.FullName()] = true
		switch {
		case fd.IsMap():
			for range rng.IntN(20) {
				m.Mutable(fd).Map().Set(protoreflect.ValueOfString(text()+text()).MapKey(), protoreflect.ValueOfString(text()))
			}
		case fd.IsList():
			for range rng.IntN(4) {
				m.Mutable(fd).List().Append(protoreflect.ValueOfEnum(protoreflect.EnumNumber(rng.Int32N(9) - 2)))
			}
		case fd.Kind() == protoreflect.MessageKind:
			fill(rng, m.Mutable(fd).Message(), filled)
		case fd.Kind() == protoreflect.StringKind:
			m.Set(fd, protoreflect.ValueOfString(text()))
		case fd.Kind() == protoreflect.EnumKind:
			m.Set(fd, protoreflect.ValueOfEnum(protoreflect.EnumNumber(rng.Int32N(9)-2)))
		case fd.Kind() == protoreflect.BoolKind:
			m.Set(fd, protoreflect.ValueOfBool(rng.IntN(2) == 0))
		case fd.Kind() == protoreflect.Int32Kind:
			m.Set(fd, protoreflect.ValueOfInt32(rng.Int32()-1<<30))
		case fd.Kind() == protoreflect.Int64Kind:
			m.Set(fd, protoreflect.ValueOfInt64(rng.Int64()-1<<62))
		}
	}
	if rng.IntN(4) == 0 {
		m.SetUnknown(slices.Concat(protowireString(60+protowire.Number(rng.IntN(40)), text()), protowireString(60, text())))
	}
}

// reference is appendCanonical by a walk over the schema's fields.
func reference(b []byte, m protoreflect.Message) []byte {
	for _, fd := range byNumber[m.Descriptor().FullName()] {
		if !m.Has(fd) {
			continue
		}
		switch v := m.Get(fd); {
		case fd.IsMap():
			b = referenceMap(b, fd, v.Map())
		case fd.IsList(): // of an enum: packed
			var packed []byte
			for i := range v.List().Len() {
				packed = protowire.AppendVarint(packed, uint64(v.List().Get(i).Enum()))
			}
			b = protowire.AppendTag(b, fd.Number(), protowire.BytesType)
			b = protowire.AppendBytes(b, packed)
		default:
			b = referenceSingular(b, fd, v)
		}
	}
	return appendUnknown(b, m.GetUnknown())
}

func referenceSingular(b []byte, fd protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch fd.Kind() {
	case protoreflect.StringKind:
		b = protowire.AppendTag(b, fd.Number(), protowire.BytesType)
		return protowire.AppendString(b, oneSpelling(fd, v.String()))
	case protoreflect.MessageKind:
		var buf [128]byte
		b = protowire.AppendTag(b, fd.Number(), protowire.BytesType)
		return protowire.AppendBytes(b, reference(buf[:0], v.Message()))
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

func referenceMap(b []byte, fd protoreflect.FieldDescriptor, m protoreflect.Map) []byte {
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
	idField        = requestFields.ByName("notification_id")
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
