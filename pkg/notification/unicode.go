package notification

import (
	"maps"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// badText finds bytes that are not UTF-8 and escapes that are half a surrogate pair. encoding/json would put U+FFFD in
// their place and so change what the person reads, or the id of the notification.
func badText(value []byte) (pos int, found bool) {
	if !utf8.Valid(value) {
		for pos < len(value) {
			r, size := utf8.DecodeRune(value[pos:])
			if r == utf8.RuneError && size == 1 {
				return pos, true
			}
			pos += size
		}
	}
	for pos = 0; pos < len(value); pos++ {
		if value[pos] != '\\' {
			continue
		}
		high, ok := escaped(value[pos:])
		if !ok { // \n, \" and the like; what is no JSON at all was found before
			pos++
			continue
		}
		if high&0xf800 != 0xd800 {
			continue
		}
		low, ok := escaped(value[min(pos+6, len(value)):])
		if high >= 0xdc00 || !ok || low&0xfc00 != 0xdc00 {
			return pos, true
		}
		pos += 6
	}
	return 0, false
}

// escaped reads an escape of the form \u1234.
func escaped(b []byte) (uint64, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	v, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	return v, err == nil
}

// dropReplaced clears the strings in which encoding/json replaced something, so that no id is derived from them.
func dropReplaced(req *notificationv1.NotificationRequested) {
	m := req.ProtoReflect()
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if fd.Kind() == protoreflect.StringKind && !fd.IsList() && !fd.IsMap() && strings.ContainsRune(v.String(), utf8.RuneError) {
			m.Clear(fd)
		}
		return true
	})
	replaced := func(k, v string) bool { return strings.ContainsRune(k+v, utf8.RuneError) }
	maps.DeleteFunc(req.Labels, replaced)
	maps.DeleteFunc(req.Fallback, replaced)
}
