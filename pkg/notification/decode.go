package notification

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/znshub/znshub/pkg/kafka"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// MaxSize is the greatest length of a record's value, in bytes: what the ledger must hold until the request is done.
const MaxSize = 256 << 10

// Type is the ce_type of a request, its protobuf name.
const Type = "notification.v1.NotificationRequested"

// Reason is the kind of an [Error].
type Reason int

// The reasons, from the outside in.
const (
	Empty       Reason = iota + 1 // the record has no value
	UnknownType                   // ce_type or the frame names another message
	Malformed                     // neither protobuf nor JSON, or broken
	Invalid                       // readable, but breaks rules: see Violations
)

// String returns the reason in lower case, fit for a metric label.
func (r Reason) String() string {
	switch r {
	case Empty:
		return "empty"
	case UnknownType:
		return "unknown_type"
	case Malformed:
		return "malformed"
	case Invalid:
		return "invalid"
	}
	return fmt.Sprintf("Reason(%d)", int(r))
}

// Error says why a record is not a request. It holds no value of the request.
type Error struct {
	Reason  Reason
	Message string
	// Violations is set for Invalid.
	Violations []Violation
	// Partial is what could be read of a broken request: its identity, when ID finds one, and the fields that results
	// echo. Nil when nothing could be read, and for Empty and UnknownType.
	Partial *notificationv1.NotificationRequested
}

func (e *Error) Error() string { return "decode request: " + e.Message }

// Decode reads the request in a record, see the package comment for the forms. It does not check the rules: Validate
// does. The error is an *Error; the request is nil then.
func Decode(r kafka.Record) (*notificationv1.NotificationRequested, error) {
	if ceType, ok := r.Header("ce_type"); ok && len(ceType) > 0 && string(ceType) != Type {
		return nil, &Error{Reason: UnknownType, Message: "header ce_type is " + name(string(ceType)) + ", not " + Type}
	}
	value, isJSON, err := unwrap(r.Value)
	if err != nil {
		return nil, err
	}
	var req *notificationv1.NotificationRequested
	if isJSON {
		req, err = decodeJSON(value)
	} else {
		req, err = decodeProto(value)
	}
	if len(r.Value) <= MaxSize {
		return req, err
	}

	tooLarge := Violation{Rule: "size", Message: fmt.Sprintf("the record's value has %d bytes; at most %d (256 KiB) are taken", len(r.Value), MaxSize)}
	if e, ok := errors.AsType[*Error](err); ok {
		req = e.Partial
	}
	return nil, invalid(shorten(req), tooLarge)
}

// echoLimit is the longest text of an oversized request that results echo. Whole, it would make a result that no broker
// takes, and the refusal would then be told to nobody.
const echoLimit = 1 << 10

// shorten clears in req, which may be nil, what is long or is not echoed.
func shorten(req *notificationv1.NotificationRequested) *notificationv1.NotificationRequested {
	if req == nil {
		return nil
	}
	req.TemplateData, req.Text, req.Channels = nil, "", nil
	req.ProtoReflect().SetUnknown(nil)
	for _, m := range []protoreflect.Message{req.ProtoReflect(), req.GetRecipient().ProtoReflect()} {
		m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch {
			case field.IsMap() && proto.Size(&notificationv1.NotificationRequested{Labels: texts(v.Map())}) > 4*echoLimit,
				field.Kind() == protoreflect.StringKind && !field.IsMap() && len(v.String()) > echoLimit:
				m.Clear(field)
			}
			return true
		})
	}
	return req
}

func texts(m protoreflect.Map) map[string]string {
	out := make(map[string]string, m.Len())
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		out[k.String()] = v.String()
		return true
	})
	return out
}

func invalid(partial *notificationv1.NotificationRequested, violations ...Violation) *Error {
	texts := make([]string, len(violations))
	for i, v := range violations {
		texts[i] = v.String()
	}
	return &Error{Reason: Invalid, Message: strings.Join(texts, "; "), Violations: violations, Partial: partial}
}

// unwrap strips the schema-registry frame and what may stand before a JSON object.
func unwrap(value []byte) (payload []byte, isJSON bool, err error) {
	if len(value) == 0 {
		return nil, false, &Error{Reason: Empty, Message: "the record has no value"}
	}
	if value[0] == 0 { // no protobuf message begins like that: field numbers start at 1
		if value, err = unframe(value); err != nil {
			return nil, false, err
		}
	}
	// White space is no tag of the message's fields in their wire types, but for "\n", the tag of notification_id, and
	// an id of '{' = 123 bytes is none. So nothing valid is lost by looking behind it.
	trimmed := bytes.TrimLeft(bytes.TrimPrefix(value, []byte("\xef\xbb\xbf")), " \t\r\n")
	if len(trimmed) > 0 && trimmed[0] == '{' {
		return trimmed, true, nil
	}
	return value, false, nil
}

// unframe strips the frame of a schema registry: 0x00, schema id (4 bytes) and, for protobuf, the index of the message
// in its file: a count and as many indexes, zigzag varints, where a single 0 stands for [0].
func unframe(value []byte) ([]byte, error) {
	if len(value) < 6 {
		return nil, &Error{Reason: Malformed, Message: fmt.Sprintf("a schema-registry frame of %d bytes: it breaks off", len(value))}
	}
	value = value[5:]
	if value[0] == '{' { // JSON Schema has no index; as a count '{' would be negative
		return value, nil
	}
	count, n := binary.Varint(value)
	if n <= 0 || count < 0 || count > 8 {
		return nil, &Error{Reason: Malformed, Message: "a schema-registry frame whose message index cannot be read: is the schema of type PROTOBUF or JSON?"}
	}
	value = value[n:]
	path := make([]int64, count)
	for i := range path {
		if path[i], n = binary.Varint(value); n <= 0 {
			return nil, &Error{Reason: Malformed, Message: "a schema-registry frame that breaks off in its message index"}
		}
		value = value[n:]
	}
	if count > 1 || count == 1 && path[0] != 0 {
		return nil, &Error{Reason: UnknownType, Message: fmt.Sprintf("the schema-registry frame names message %v of its file, not the first, NotificationRequested", path)}
	}
	return value, nil
}

func decodeProto(value []byte) (*notificationv1.NotificationRequested, error) {
	req := &notificationv1.NotificationRequested{}
	if err := proto.Unmarshal(value, req); err != nil {
		return nil, brokenProto(value)
	}
	if v := misread(req.ProtoReflect(), ""); v != nil {
		return nil, invalid(req, v...)
	}
	return req, nil
}

// brokenProto finds out where a message is broken and keeps every top-level field that is not.
func brokenProto(value []byte) *Error {
	e := &Error{Reason: Malformed, Partial: &notificationv1.NotificationRequested{}}
	if v := bytes.TrimSpace(value); bytes.HasPrefix(v, []byte("[")) && json.Valid(v) {
		e.Message = "a JSON array: send one object in each record"
	}
	fail := func(format string, args ...any) {
		if e.Message == "" {
			e.Message = "neither JSON nor protobuf of " + Type + ": " + fmt.Sprintf(format, args...)
		}
	}
	read := false
	for pos := 0; pos < len(value); {
		number, wireType, n := protowire.ConsumeTag(value[pos:])
		if n < 0 {
			fail("no field starts at byte %d of %d", pos, len(value))
			break
		}
		size := protowire.ConsumeFieldValue(number, wireType, value[pos+n:])
		if size < 0 {
			fail("%s breaks off at byte %d of %d", fieldName(number), pos, len(value))
			break
		}
		field := value[pos : pos+n+size]
		part := &notificationv1.NotificationRequested{}
		if err := proto.Unmarshal(field, part); err != nil {
			fail("%s at byte %d is broken or not UTF-8", fieldName(number), pos)
		} else {
			proto.Merge(e.Partial, part)
			read = true
		}
		pos += len(field)
	}
	fail("it cannot be read")
	if !read {
		e.Partial = nil
	}
	return e
}

func fieldName(number protowire.Number) string {
	if fd := requestFields.ByNumber(number); fd != nil {
		return "field " + string(fd.Name())
	}
	return fmt.Sprintf("field %d", number)
}

// misread finds fields that the schema knows among the unknown ones: they came in another wire type and would be lost.
func misread(m protoreflect.Message, path string) []Violation {
	var violations []Violation
	for rest := m.GetUnknown(); len(rest) > 0; {
		number, wireType, n := protowire.ConsumeTag(rest)
		if fd := m.Descriptor().Fields().ByNumber(number); fd != nil && len(violations) < maxViolations {
			violations = append(violations, Violation{path + string(fd.Name()), "type",
				fmt.Sprintf("field number %d came with wire type %d, which is not that of a %s: compile the publisher with the published .proto", number, wireType, fd.Kind())})
		}
		rest = rest[n+protowire.ConsumeFieldValue(number, wireType, rest[n:]):]
	}
	if path == "" && m.Has(recipientField) {
		violations = append(violations, misread(m.Get(recipientField).Message(), "recipient.")...)
	}
	return violations
}
