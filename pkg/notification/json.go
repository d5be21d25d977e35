package notification

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/nearest"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

const (
	maxDepth      = 16
	maxViolations = 20 // of one record: enough to mend it, and bounded for hostile input
)

// decodeJSON reads the JSON form. encoding/json's tokens are used rather than protojson because numbers are to be kept
// as written, every violation is wanted at once, and protojson's errors quote values.
func decodeJSON(value []byte) (*notificationv1.NotificationRequested, error) {
	req := &notificationv1.NotificationRequested{}
	r := jsonReader{dec: json.NewDecoder(bytes.NewReader(value))}
	r.dec.UseNumber()

	err := r.document(req.ProtoReflect())
	if pos, ok := badText(value); ok {
		dropReplaced(req)
		err = fmt.Errorf("a string at byte %d is not valid Unicode: send UTF-8", pos)
	}
	if err != nil {
		return nil, &Error{Reason: Malformed, Message: err.Error(), Partial: req}
	}
	if len(r.violations) > 0 {
		return nil, invalid(req, r.violations...)
	}
	return req, nil
}

// jsonReader walks one JSON document. Its methods return an error only when the document is not JSON.
type jsonReader struct {
	dec        *json.Decoder
	violations []Violation
}

func (r *jsonReader) violation(field, rule, format string, args ...any) {
	if len(r.violations) < maxViolations {
		r.violations = append(r.violations, Violation{field, rule, fmt.Sprintf(format, args...)})
	}
}

func (r *jsonReader) token() (json.Token, error) {
	tok, err := r.dec.Token()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("broken JSON: it breaks off at byte %d", r.dec.InputOffset())
	}
	if err != nil { // the text of encoding/json's errors quotes the input
		return nil, fmt.Errorf("broken JSON near byte %d", r.dec.InputOffset())
	}
	return tok, nil
}

func (r *jsonReader) document(m protoreflect.Message) error {
	if _, err := r.token(); err != nil { // the brace that made it JSON
		return err
	}
	if err := r.object(m, ""); err != nil {
		return err
	}
	if _, err := r.dec.Token(); err != io.EOF {
		return fmt.Errorf("something follows the JSON object at byte %d: send one object in each record", r.dec.InputOffset())
	}
	return nil
}

// object reads the members of an object up to its closing brace.
func (r *jsonReader) object(m protoreflect.Message, path string) error {
	seen := map[protoreflect.FieldNumber]bool{}
	for {
		tok, err := r.token()
		if err != nil {
			return err
		}
		key, ok := tok.(string)
		if !ok { // the closing brace: the decoder lets nothing else through
			return nil
		}
		fields := m.Descriptor().Fields()
		fd := fields.ByJSONName(key)
		if fd == nil {
			fd = fields.ByName(protoreflect.Name(key))
		}
		switch {
		case fd == nil:
			r.violation(path+name(key), "unknown_field", "%s", unknownField(key, path, fields))
			err = r.skip()
		case seen[fd.Number()]:
			r.violation(path+string(fd.Name()), "repeated_field", "stands twice in the JSON object; give it once")
			err = r.skip()
		default:
			seen[fd.Number()] = true
			err = r.field(m, fd, path+string(fd.Name()))
		}
		if err != nil {
			return err
		}
	}
}

func (r *jsonReader) field(m protoreflect.Message, fd protoreflect.FieldDescriptor, path string) error {
	tok, err := r.token()
	if err != nil || tok == nil { // null: not set
		return err
	}
	switch {
	case fd.IsMap():
		if tok != json.Delim('{') {
			return r.mismatch(path, "an object of strings", tok)
		}
		return r.stringMap(m.Mutable(fd).Map(), path)
	case fd.IsList():
		if tok != json.Delim('[') {
			return r.mismatch(path, "a list", tok)
		}
		return r.list(m.Mutable(fd).List(), fd, path)
	case fd.Kind() == protoreflect.MessageKind && !wellKnown(fd.Message()):
		if tok != json.Delim('{') {
			return r.mismatch(path, "an object", tok)
		}
		return r.object(m.Mutable(fd).Message(), path+".")
	}
	v, err := r.scalar(fd, path, tok)
	if err == nil && v.IsValid() {
		m.Set(fd, v)
	}
	return err
}

func (r *jsonReader) stringMap(m protoreflect.Map, path string) error {
	for {
		tok, err := r.token()
		if err != nil {
			return err
		}
		key, ok := tok.(string)
		if !ok {
			return nil
		}
		path := path + "[" + strconv.Quote(name(key)) + "]"
		if tok, err = r.token(); err != nil {
			return err
		}
		if m.Has(protoreflect.ValueOfString(key).MapKey()) {
			r.violation(path, "repeated_field", "stands twice in the JSON object; give it once")
		}
		switch v := tok.(type) {
		case string:
			m.Set(protoreflect.ValueOfString(key).MapKey(), protoreflect.ValueOfString(v))
		case json.Number:
			m.Set(protoreflect.ValueOfString(key).MapKey(), protoreflect.ValueOfString(v.String()))
		default:
			if err := r.mismatch(path, "a string", tok); err != nil {
				return err
			}
		}
	}
}

func (r *jsonReader) list(l protoreflect.List, fd protoreflect.FieldDescriptor, path string) error {
	for i := 0; ; i++ {
		tok, err := r.token()
		if err != nil {
			return err
		}
		if tok == json.Delim(']') {
			return nil
		}
		v, err := r.scalar(fd, fmt.Sprintf("%s[%d]", path, i), tok)
		if err != nil {
			return err
		}
		if v.IsValid() {
			l.Append(v)
		}
	}
}

// scalar reads a value that is one token. The value is not valid when there was a violation.
func (r *jsonReader) scalar(fd protoreflect.FieldDescriptor, path string, tok json.Token) (v protoreflect.Value, err error) {
	s, isString := tok.(string)
	switch fd.Kind() {
	case protoreflect.StringKind:
		if !isString {
			return v, r.mismatch(path, "a string in quotes", tok)
		}
		return protoreflect.ValueOfString(s), nil

	case protoreflect.BoolKind:
		b, ok := tok.(bool)
		if !ok {
			return v, r.mismatch(path, "true or false without quotes", tok)
		}
		return protoreflect.ValueOfBool(b), nil

	case protoreflect.EnumKind:
		values := fd.Enum().Values()
		if number, ok := tok.(json.Number); ok {
			n, err := strconv.ParseInt(number.String(), 10, 32)
			if err != nil {
				return v, r.mismatch(path, enumNames(values), tok)
			}
			return protoreflect.ValueOfEnum(protoreflect.EnumNumber(n)), nil // Validate knows which numbers there are
		}
		if !isString {
			return v, r.mismatch(path, enumNames(values), tok)
		}
		if value := enumByName(values, s); value != nil {
			return protoreflect.ValueOfEnum(value.Number()), nil
		}
		r.violation(path, "enum", "not one of %s", enumNames(values))
		return v, nil

	case protoreflect.MessageKind:
		if !isString {
			return v, r.mismatch(path, "a string in quotes such as "+wellKnownExample(fd.Message()), tok)
		}
		message := parseWellKnown(fd.Message(), s)
		if message == nil {
			r.violation(path, "format", "%s is not of the form %s", shape(s), wellKnownExample(fd.Message()))
			return v, nil
		}
		return protoreflect.ValueOfMessage(message.ProtoReflect()), nil
	}
	panic("notification: no JSON form for " + string(fd.FullName())) // a test walks every field of the schema
}

// mismatch notes that tok is of the wrong JSON type and reads it to its end.
func (r *jsonReader) mismatch(path, want string, tok json.Token) error {
	got := "null"
	switch v := tok.(type) {
	case string:
		got = "a string"
	case json.Number:
		got = "a number"
	case bool:
		got = "true or false"
	case json.Delim:
		got = "an object"
		if v == '[' {
			got = "a list"
		}
	}
	r.violation(path, "type", "wants %s, this is %s", want, got)
	if _, ok := tok.(json.Delim); ok {
		return r.skipRest(1)
	}
	return nil
}

func (r *jsonReader) skip() error { return r.skipRest(0) }

// skipRest reads up to the end of the value at the given depth.
func (r *jsonReader) skipRest(depth int) error {
	for {
		tok, err := r.token()
		if err != nil {
			return err
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			if depth++; depth > maxDepth {
				return fmt.Errorf("JSON nested deeper than %d levels at byte %d", maxDepth, r.dec.InputOffset())
			}
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

// synonyms are names from other systems' notification APIs that no edit distance finds.
var synonyms = map[string]string{
	"id": "notification_id", "uuid": "notification_id", "requestid": "notification_id", "key": "idempotency_key",
	"to": "recipient.phone", "phone": "recipient.phone", "phonenumber": "recipient.phone", "userid": "recipient.user_id",
	"template": "template_id", "data": "template_data", "params": "template_data", "parameters": "template_data", "variables": "template_data",
	"expiresat": "expire_time", "expiry": "expire_time", "expires": "expire_time", "deadline": "expire_time", "validuntil": "expire_time",
	"sendat": "not_before", "sendtime": "not_before", "schedule": "not_before", "scheduledat": "not_before", "delayuntil": "not_before",
	"priority": "category", "type": "category", "tags": "labels", "metadata": "labels", "trackingid": "reference", "orderid": "reference",
	"oa": "oa_id", "body": "text", "message": "text", "channel": "channels", "campaign": "campaign_id",
}

func unknownField(key, path string, fields protoreflect.FieldDescriptors) string {
	if path == "" && key == "specversion" {
		return "this is a CloudEvent in structured mode; send its data alone as the record's value, attributes as ce_ headers"
	}
	names := make([]string, fields.Len())
	for i := range names {
		names[i] = string(fields.Get(i).Name())
	}
	if path == "" {
		if synonym, ok := synonyms[strings.ToLower(strings.ReplaceAll(key, "_", ""))]; ok {
			return "unknown field; did you mean " + synonym + "?"
		}
	}
	if near, ok := nearest.Name(key, names); ok {
		return "unknown field; did you mean " + near + "?"
	}
	return "unknown field; known are " + strings.Join(names, ", ")
}

func enumByName(values protoreflect.EnumValueDescriptors, s string) protoreflect.EnumValueDescriptor {
	s = strings.ToUpper(strings.NewReplacer("-", "_", " ", "_").Replace(s))
	if v := values.ByName(protoreflect.Name(s)); v != nil {
		return v
	}
	return values.ByName(protoreflect.Name(enumPrefix(values) + s))
}

func enumPrefix(values protoreflect.EnumValueDescriptors) string {
	return strings.TrimSuffix(string(values.ByNumber(0).Name()), "UNSPECIFIED")
}

// enumNames lists the short names of an enum's values, without the one for "not said".
func enumNames(values protoreflect.EnumValueDescriptors) string {
	var names []string
	for i := range values.Len() {
		if v := values.Get(i); v.Number() != 0 {
			names = append(names, strings.TrimPrefix(string(v.Name()), enumPrefix(values)))
		}
	}
	return strings.Join(names, ", ")
}

func wellKnown(md protoreflect.MessageDescriptor) bool {
	return md.FullName() == "google.protobuf.Timestamp" || md.FullName() == "google.protobuf.Duration"
}

func wellKnownExample(md protoreflect.MessageDescriptor) string {
	if md.Name() == "Duration" {
		return `"300s"`
	}
	return `"2026-01-31T09:00:00+07:00"`
}

// parseWellKnown reads a timestamp (RFC 3339) or a duration (decimal seconds and "s"); nil when s is neither.
func parseWellKnown(md protoreflect.MessageDescriptor, s string) protoreflect.ProtoMessage {
	if md.Name() == "Duration" {
		digits, ok := strings.CutSuffix(s, "s")
		if !ok || digits == "" || strings.Trim(digits, "0123456789.-") != "" {
			return nil // ParseDuration alone would take "5m", which the JSON form of protobuf does not know
		}
		d, err := time.ParseDuration(s)
		if err != nil {
			return nil
		}
		return durationpb.New(d)
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return nil
	}
	return timestamppb.New(t)
}
