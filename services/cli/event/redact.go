package event

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/znshub/znshub/services/cli/render"
)

// Fields that hold a person's data, by the names that the contract's messages use.
const hidden = "*****"

// Redact returns a copy of m that is safe to print: phone numbers are masked, the values of template data, fallback
// texts and what people wrote are replaced. Names of parameters stay.
func Redact(m proto.Message) proto.Message {
	if m == nil {
		return nil
	}
	c := proto.Clone(m)
	redact(c.ProtoReflect())
	c.ProtoReflect().SetUnknown(nil) // nobody knows what stands there
	return c
}

func redact(m protoreflect.Message) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch field.Name() {
		case "phone":
			m.Set(field, protoreflect.ValueOfString(render.Phone(value.String())))
		case "phone_sha256":
			m.Set(field, protoreflect.ValueOfString(render.Short(value.String(), 8)))
		case "user_id", "zalo_recipient_id", "text", "note":
			m.Set(field, protoreflect.ValueOfString(hidden))
		case "template_data", "fallback":
			fields := value.Map()
			fields.Range(func(key protoreflect.MapKey, _ protoreflect.Value) bool {
				fields.Set(key, protoreflect.ValueOfString(hidden))
				return true
			})
		default:
			redactNested(field, value)
		}
		return true
	})
}

func redactNested(field protoreflect.FieldDescriptor, value protoreflect.Value) {
	if field.Message() == nil || field.IsMap() {
		return
	}
	if !field.IsList() {
		redact(value.Message())
		return
	}
	list := value.List()
	for i := range list.Len() {
		redact(list.Get(i).Message())
	}
}
