package notification

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/znshub/znshub/pkg/kafka"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// TestForms decodes a request with every field set from every accepted form.
func TestForms(t *testing.T) {
	want := valid()
	bare := marshal(t, want)
	camel, err := protojson.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	snake, err := protojson.MarshalOptions{UseProtoNames: true, Multiline: true}.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	numbers, err := protojson.MarshalOptions{UseEnumNumbers: true}.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	shortEnums := snake
	for _, prefix := range []string{"CHANNEL_", "CATEGORY_", "ON_UNKNOWN_", "MODE_"} {
		shortEnums = bytes.ReplaceAll(shortEnums, []byte(`"`+prefix), []byte(`"`))
	}
	lowerEnums := bytes.ReplaceAll(shortEnums, []byte("CUSTOMER_CARE"), []byte("customer-care"))

	for name, value := range map[string][]byte{
		"bare":                 bare,
		"frame, index 0":       framed(bare, 0),
		"frame, index [0]":     framed(bare, []int64{0}...),
		"JSON, camelCase":      camel,
		"JSON, snake_case":     snake,
		"JSON, enum numbers":   numbers,
		"JSON, enums short":    shortEnums,
		"JSON, enums in lower": lowerEnums,
		"JSON, white space":    append([]byte("\r\n\t "), camel...),
		"JSON, BOM":            append([]byte("\xef\xbb\xbf"), camel...),
		"JSON, line feed":      append(slices.Clip(camel), '\n'),
		"JSON in a frame":      append([]byte{0, 0, 0, 0, 9}, camel...),
		"long index form":      append([]byte{0, 0, 0, 0, 9, 2, 0}, bare...),
	} {
		got, err := Decode(record(value))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if unset := unsetFields(want.ProtoReflect()); len(unset) != 1 || unset[0] != "notification_id" {
		t.Errorf("the request under test leaves %v unset; only notification_id may be", unset)
	}
}

func unsetFields(m protoreflect.Message) (names []string) {
	for _, fd := range byNumber[m.Descriptor().FullName()] {
		if !m.Has(fd) {
			names = append(names, string(fd.Name()))
		}
	}
	return names
}

func TestHeaders(t *testing.T) {
	r := record(marshal(t, valid()))
	for _, accepted := range []string{Type, ""} {
		r.Headers = []kafka.Header{{Key: "ce_type", Value: []byte(accepted)}}
		if _, err := Decode(r); err != nil {
			t.Errorf("ce_type %q: %v", accepted, err)
		}
	}
	r.Headers = []kafka.Header{{Key: "ce_type", Value: []byte("com.example.OrderShipped")}}
	if e := decodeError(t, r); e.Reason != UnknownType || e.Partial != nil {
		t.Errorf("got %v with partial %v", e.Reason, e.Partial)
	} else {
		contains(t, e.Error(), "com.example.OrderShipped", Type)
	}
}

func TestNumbersAsWritten(t *testing.T) {
	if _, err := Decode(record([]byte(`{"template_data": {"f": null}}`))); err == nil {
		t.Error("null in template_data was accepted")
	}
	req, err := Decode(record([]byte(`{"template_data": {"a": 1e3, "b": 12345678901234567890, "c": 1.50, "d": -0, "e": "007"}, "labels": {"n": 1.0}}`)))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"a": "1e3", "b": "12345678901234567890", "c": "1.50", "d": "-0", "e": "007"}
	if diff := cmp.Diff(want, req.TemplateData); diff != "" {
		t.Error(diff)
	}
	if req.Labels["n"] != "1.0" {
		t.Errorf("labels: got %q", req.Labels["n"])
	}
}

func TestEscapes(t *testing.T) {
	req, err := Decode(record([]byte(`{"text": "\ud83d\ude00 \u0041 \\ud83d \"\/\n", "reference": "` + "\U0001F600" + `"}`)))
	if err != nil {
		t.Fatal(err)
	}
	if want := "\U0001F600 A \\ud83d \"/\n"; req.Text != want || req.Reference != "\U0001F600" {
		t.Errorf("got %q, %q, want %q", req.Text, req.Reference, want)
	}
}

func TestUnknownProtobufFieldsAreKept(t *testing.T) {
	value := protowire.AppendTag(marshal(t, valid()), 99, protowire.BytesType)
	value = protowire.AppendString(value, "from a newer publisher")
	req, err := Decode(record(value))
	if err != nil {
		t.Fatal(err)
	}
	if again := marshal(t, req); !bytes.Contains(again, []byte("from a newer publisher")) {
		t.Error("the unknown field was dropped")
	}
}

const someID = "018f3c5e-7b1a-7c3e-9c39-5c1f1b9f2a10"

// TestBrokenJSON starts from good JSON and breaks one thing.
func TestBrokenJSON(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000)
	for name, tc := range map[string]struct {
		json   string
		reason Reason
		field  string
		says   []string
	}{
		"breaks off":             {`"reference": "SECRET`, Malformed, "", []string{"breaks off at byte"}},
		"breaks off after colon": {`"reference":`, Malformed, "", []string{"breaks off"}},
		"no comma":               {`"reference": "x" "source": "SECRET"}`, Malformed, "", []string{"broken JSON near byte"}},
		"trailing comma":         {`"reference": "x",}`, Malformed, "", []string{"broken JSON"}},
		"two objects":            {`"reference": "x"} {"reference": "SECRET"}`, Malformed, "", []string{"one object in each record"}},
		"text behind":            {`"reference": "x"} SECRET`, Malformed, "", []string{"follows"}},
		"bad UTF-8":              {`"reference": "` + "\xff" + `"}`, Malformed, "", []string{"not valid Unicode", "byte 74"}},
		"half a surrogate":       {`"reference": "\ud83d x"}`, Malformed, "", []string{"not valid Unicode"}},
		"surrogate, then letter": {`"reference": "\ud83d\u0041"}`, Malformed, "", []string{"not valid Unicode"}},
		"two high surrogates":    {`"reference": "\ud83d\ud83d"}`, Malformed, "", []string{"not valid Unicode"}},
		"low surrogate first":    {`"reference": "\ude00\ud83d"}`, Malformed, "", []string{"not valid Unicode"}},
		"deep":                   {`"labels": ` + deep + `}`, Malformed, "", []string{"deeper than 16"}},
		"deep and unknown":       {`"zzzzz": ` + deep + `}`, Malformed, "", []string{"deeper than 16"}},
		"misspelt expiry":        {`"expiresAt": "2026-01-31T09:00:00Z"}`, Invalid, "expiresAt", []string{"did you mean expire_time"}},
		"misspelt template":      {`"templateld": "643118"}`, Invalid, "templateld", []string{"did you mean template_id"}},
		"phone at the top":       {`"phone": "SECRET"}`, Invalid, "phone", []string{"did you mean recipient.phone"}},
		"misspelt in recipient":  {`"recipient": {"phnoe": "SECRET"}}`, Invalid, "recipient.phnoe", []string{"did you mean phone"}},
		"nothing near":           {`"qqqqqqqq": {"a": ["SECRET", {}]}}`, Invalid, "qqqqqqqq", []string{"known are", "template_id"}},
		"name that is a value":   {`"0987 654 321": 1}`, Invalid, "(12 characters: 10 digits, 2 spaces)", []string{"unknown field"}},
		"CloudEvent":             {`"specversion": "1.0"}`, Invalid, "specversion", []string{"structured mode"}},
		"twice":                  {`"reference": "a", "reference": "SECRET"}`, Invalid, "reference", []string{"twice"}},
		"twice in two spellings": {`"oa_id": "1", "oaId": "2"}`, Invalid, "oa_id", []string{"twice"}},
		"parameter twice":        {`"template_data": {"otp": "1", "otp": "SECRET"}}`, Invalid, `template_data["otp"]`, []string{"twice"}},
		"number for a string":    {`"oa_id": 2893352839501541173}`, Invalid, "oa_id", []string{"string in quotes", "a number"}},
		"string for a bool":      {`"ignore_suppression": "true"}`, Invalid, "ignore_suppression", []string{"true or false without quotes"}},
		"list for an object":     {`"recipient": ["SECRET"]}`, Invalid, "recipient", []string{"wants an object, this is a list"}},
		"string for an object":   {`"recipient": "SECRET"}`, Invalid, "recipient", []string{"wants an object, this is a string"}},
		"string for a list":      {`"channels": "PHONE"}`, Invalid, "channels", []string{"wants a list"}},
		"null in a list":         {`"channels": [null]}`, Invalid, "channels[0]", []string{"this is null"}},
		"nested template data":   {`"template_data": {"a": {"b": "SECRET"}}}`, Invalid, `template_data["a"]`, []string{"this is an object"}},
		"unknown category":       {`"category": "SECRET"}`, Invalid, "category", []string{"OTP, TRANSACTION, CUSTOMER_CARE, PROMOTION"}},
		"fraction for an enum":   {`"category": 1.5}`, Invalid, "category", []string{"OTP"}},
		"huge number":            {`"category": 1` + strings.Repeat("0", 5000) + `}`, Invalid, "category", []string{"OTP"}},
		"ttl in minutes":         {`"ttl": "5m"}`, Invalid, "ttl", []string{"2 characters: 1 digit, 1 letter", `"300s"`}},
		"ttl as number":          {`"ttl": 300}`, Invalid, "ttl", []string{`"300s"`}},
		"local time":             {`"expire_time": "2026-01-31 09:00"}`, Invalid, "expire_time", []string{"2026-01-31T09:00:00+07:00"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := decodeError(t, record([]byte(`{"notification_id": "`+someID+`", `+tc.json)))
			if e.Reason != tc.reason {
				t.Fatalf("reason %v, want %v: %v", e.Reason, tc.reason, e)
			}
			contains(t, e.Error(), tc.says...)
			if strings.Contains(e.Error(), "SECRET") {
				t.Errorf("the error tells a value: %v", e)
			}
			if tc.reason == Invalid && tc.field != "" && e.Violations[0].Field != tc.field {
				t.Errorf("violation of %q, want %q", e.Violations[0].Field, tc.field)
			}
			if id, ok := ID(e.Partial); !ok || id.String() != someID {
				t.Errorf("the id could be read but was not returned: %v", e.Partial)
			}
		})
	}
}

func TestBrokenProtobuf(t *testing.T) {
	good := marshal(t, &notificationv1.NotificationRequested{NotificationId: someID, Reference: "DH-1042"})
	with := func(tail ...byte) []byte { return append(slices.Clip(good), tail...) }
	for name, tc := range map[string]struct {
		value  []byte
		reason Reason
		hasID  bool
		says   []string
	}{
		"no value":               {nil, Empty, false, []string{"no value"}},
		"empty value":            {[]byte{}, Empty, false, []string{"no value"}},
		"truncated":              {good[:len(good)-2], Malformed, true, []string{"field reference breaks off at byte 38"}},
		"truncated in the id":    {good[:20], Malformed, false, []string{"notification_id breaks off at byte 0"}},
		"text":                   {[]byte("hello"), Malformed, false, []string{"neither JSON nor protobuf"}},
		"JSON array":             {[]byte(`[{"oa_id": "1"}]`), Malformed, false, []string{"JSON array"}},
		"bad UTF-8":              {with(protowireString(20, "\xff\xfe")...), Malformed, true, []string{"field campaign_id at byte"}},
		"bad UTF-8 in recipient": {with(protowireString(5, "\x0a\x01\xff")...), Malformed, true, []string{"field recipient"}},
		"oa_id as a number":      {with(4<<3, 42), Invalid, true, []string{"oa_id: field number 4 came with wire type 0"}},
		"phone as a number":      {with(protowireString(5, "\x08\x2a")...), Invalid, true, []string{"recipient.phone: field number 1"}},
		"frame breaks off":       {[]byte{0, 0, 0, 0, 1}, Malformed, false, []string{"breaks off"}},
		"frame of Recipient":     {framed(good, 1), UnknownType, false, []string{"message [1]"}},
		"frame, nested message":  {framed(good, 0, 2), UnknownType, false, []string{"message [0 2]"}},
		"frame, wild index":      {append([]byte{0, 0, 0, 0, 1}, 0xff, 0xff, 0xff, 0xff), Malformed, false, []string{"message index"}},
		"frame, huge count":      {append([]byte{0, 0, 0, 0, 1}, 0xfe, 0xff, 0xff, 0x0f), Malformed, false, []string{"message index"}},
		"too large":              {with(protowireString(8, strings.Repeat("x", MaxSize))...), Invalid, true, []string{"262144"}},
		"too large and broken":   {with(protowireString(8, strings.Repeat("x", MaxSize)+"\xff")...), Invalid, true, []string{"262144"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := decodeError(t, record(tc.value))
			if e.Reason != tc.reason {
				t.Fatalf("reason %v, want %v: %v", e.Reason, tc.reason, e)
			}
			contains(t, e.Error(), tc.says...)
			if id, ok := ID(e.Partial); ok != tc.hasID || ok && id.String() != someID {
				t.Errorf("partial request %v, want an id: %t", e.Partial, tc.hasID)
			}
		})
	}
}

// What is left of an oversized request goes into a result, and that must fit.
func TestAnOversizedRequestIsEchoedShort(t *testing.T) {
	e := decodeError(t, record(marshal(t, &notificationv1.NotificationRequested{
		NotificationId: someID, Reference: strings.Repeat("x", MaxSize), CustomerId: "C-1",
		Recipient:    &notificationv1.Recipient{Phone: "0987654321", UserId: strings.Repeat("9", MaxSize)},
		TemplateData: map[string]string{"a": strings.Repeat("x", MaxSize)},
		Labels:       map[string]string{"a": strings.Repeat("x", MaxSize)},
		Fallback:     map[string]string{"sms_text": "short"},
	})))
	want := &notificationv1.NotificationRequested{
		NotificationId: someID, CustomerId: "C-1", Recipient: &notificationv1.Recipient{Phone: "0987654321"},
		Fallback: map[string]string{"sms_text": "short"},
	}
	if diff := cmp.Diff(want, e.Partial, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func protowireString(number protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), s)
}

// TestReplacedTextGivesNoID: an id derived from a key in which bytes were replaced would be that of another request.
func TestReplacedTextGivesNoID(t *testing.T) {
	e := decodeError(t, record([]byte(`{"source": "shop", "idempotency_key": "order-`+"\xff"+`", "labels": {"a": "`+"\xff"+`", "b": "c"}}`)))
	if id, ok := ID(e.Partial); ok {
		t.Errorf("derived %v", id)
	}
	if diff := cmp.Diff(map[string]string{"b": "c"}, e.Partial.Labels); diff != "" {
		t.Error(diff)
	}
}

func TestViolationsAreBounded(t *testing.T) {
	e := decodeError(t, record([]byte(`{`+strings.Repeat(`"zzzzzzzz": 1, `, 1000)+`"reference": "x"}`)))
	if len(e.Violations) != maxViolations {
		t.Errorf("%d violations, want %d", len(e.Violations), maxViolations)
	}
}

// FuzzDecode checks what holds for any bytes: a typed error or a request whose hash does not depend on its form.
func FuzzDecode(f *testing.F) {
	bare := marshal(f, valid())
	camel, err := protojson.Marshal(valid())
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{bare, camel, framed(bare, 0), framed(bare, 1), bare[:len(bare)-3],
		[]byte(`{"recipient":{"phone":"0987 654 321"},"template_data":{"a":1e3,"a":null},"x":[{}]}`), []byte("\xef\xbb\xbf{}"), {0, 0, 0, 0, 1}} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		req, err := Decode(record(value))
		if err != nil {
			e, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("%T", err)
			}
			if e.Message == "" || (e.Reason == Invalid) != (len(e.Violations) > 0) {
				t.Fatalf("%#v", e)
			}
			ID(e.Partial)
			return
		}
		violations := Validate(req, recordTime)
		hash, key := PayloadHash(req), PartitionKey(req)
		if _, ok := ID(req); !ok && len(violations) == 0 {
			t.Fatal("valid, but without id")
		}
		if Normalise(req); PayloadHash(req) != hash || PartitionKey(req) != key {
			t.Fatal("Normalise changed the hash or the key")
		}
		if got := len(Validate(req, recordTime)); got != len(violations) {
			t.Fatalf("%d violations before Normalise, %d after", len(violations), got)
		}
		wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		if len(wire) == 0 {
			return
		}
		again, err := Decode(record(wire))
		if err != nil {
			t.Fatalf("what was decoded cannot be decoded again: %v", err)
		}
		if PayloadHash(again) != hash {
			t.Fatal("hash changed on the way through protobuf")
		}
	})
}

func BenchmarkDecodeProtobuf(b *testing.B) { benchmark(b, marshal(b, typical())) }

func BenchmarkDecodeJSON(b *testing.B) {
	value, err := protojson.Marshal(typical())
	if err != nil {
		b.Fatal(err)
	}
	benchmark(b, value)
}

func typical() *notificationv1.NotificationRequested {
	return &notificationv1.NotificationRequested{
		IdempotencyKey: "order-1042/shipped", Source: "order-service", OaId: "2893352839501541173",
		Recipient: &notificationv1.Recipient{Phone: "0987654321"}, TemplateId: "643118",
		TemplateData: map[string]string{"order_code": "DH-1042", "amount": "125000", "name": "Nguyễn Văn A"},
		Category:     notificationv1.Category_CATEGORY_TRANSACTION, OrderingKey: "order-1042",
		Labels: map[string]string{"team": "logistics"},
	}
}

// benchmark runs all that the sender does with a request before it enters the ledger.
func benchmark(b *testing.B, value []byte) {
	r := record(value)
	b.ReportAllocs()
	for b.Loop() {
		req, err := Decode(r)
		if err != nil {
			b.Fatal(err)
		}
		if v := Validate(req, r.Time); v != nil {
			b.Fatal(v)
		}
		Normalise(req)
		ID(req)
		PayloadHash(req)
		PartitionKey(req)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}
