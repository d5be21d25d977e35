package notification

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

const testdata = "../../proto/testdata/"

// idVectors is the form of proto/testdata/ids.json.
type idVectors struct {
	About     string     `json:"about"`
	Namespace string     `json:"namespace"`
	Vectors   []idVector `json:"vectors"`
}

type idVector struct {
	Source         string `json:"source"`
	IdempotencyKey string `json:"idempotency_key"`
	NotificationID string `json:"notification_id"`
}

func TestGoldenIDs(t *testing.T) {
	if *update {
		v := idVectors{About: "notification_id = UUIDv5(namespace, source + \"\\n\" + idempotency_key), all in UTF-8", Namespace: Namespace.String()}
		for _, key := range [][2]string{
			{"order-service", "order-1042/shipped"}, {"order-service", "order-1042/delivered"}, {"order-servic", "e\norder-1042/shipped"},
			{"a", "b"}, {"đơn-hàng", "Đơn 1042 ✓"}, {"shop", "\U0001F4E6 \"quoted\" \\ and \t"}, {"shop", strings.Repeat("k", MaxKeyBytes)},
		} {
			v.Vectors = append(v.Vectors, idVector{key[0], key[1], DeriveID(key[0], key[1]).String()})
		}
		writeJSON(t, "ids.json", v)
	}
	var file idVectors
	readJSON(t, "ids.json", &file)
	if file.Namespace != Namespace.String() || len(file.Vectors) < 5 {
		t.Fatalf("namespace %s, %d vectors", file.Namespace, len(file.Vectors))
	}
	for _, v := range file.Vectors {
		req := &notificationv1.NotificationRequested{Source: v.Source, IdempotencyKey: v.IdempotencyKey}
		if id, ok := ID(req); !ok || id.String() != v.NotificationID {
			t.Errorf("ID(%q, %q) = %v, want %v", v.Source, v.IdempotencyKey, id, v.NotificationID)
		}
	}
}

// TestOtherLanguages has independent programs derive the golden ids.
func TestOtherLanguages(t *testing.T) {
	for _, cmd := range [][]string{{"python3", "check_ids.py"}, {"java", "CheckIds.java"}} {
		t.Run(cmd[0], func(t *testing.T) {
			if _, err := exec.LookPath(cmd[0]); err != nil {
				t.Skipf("%s is not installed", cmd[0])
			}
			out, err := exec.CommandContext(t.Context(), cmd[0], testdata+cmd[1], testdata+"ids.json").CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%s", out)
		})
	}
}

// requestVectors is the form of proto/testdata/requests.json: requests, each in forms that are all the same to the hub.
type requestVectors struct {
	About    string          `json:"about"`
	Requests []requestVector `json:"requests"`
}

type requestVector struct {
	Name           string   `json:"name"`
	NotificationID string   `json:"notification_id"`
	PayloadHash    string   `json:"payload_hash"`
	PartitionKey   string   `json:"partition_key"`
	JSON           []string `json:"json"`
	Base64         []string `json:"base64"` // protobuf, bare and in schema-registry frames
}

func TestGoldenRequests(t *testing.T) {
	if *update {
		writeRequests(t)
	}
	var file requestVectors
	readJSON(t, "requests.json", &file)
	if len(file.Requests) < 3 {
		t.Fatalf("%d requests", len(file.Requests))
	}
	for _, v := range file.Requests {
		var values [][]byte
		for _, s := range v.JSON {
			values = append(values, []byte(s))
		}
		for _, s := range v.Base64 {
			b, err := base64.StdEncoding.DecodeString(s)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, b)
		}
		var first *notificationv1.NotificationRequested
		for i, value := range values {
			req, err := Decode(record(value))
			if err != nil {
				t.Fatalf("%s, form %d: %v", v.Name, i, err)
			}
			if violations := Validate(req, recordTime); violations != nil {
				t.Errorf("%s, form %d: %v", v.Name, i, violations)
			}
			id, _ := ID(req)
			hash := PayloadHash(req)
			got := requestVector{v.Name, id.String(), hex.EncodeToString(hash[:]), PartitionKey(req), v.JSON, v.Base64}
			if diff := cmp.Diff(v, got); diff != "" {
				t.Errorf("%s, form %d (-want +got):\n%s", v.Name, i, diff)
			}
			Normalise(req)
			if first == nil {
				first = req
			}
			if diff := cmp.Diff(first, req, protocmp.Transform()); diff != "" {
				t.Errorf("%s, form %d differs from the first:\n%s", v.Name, i, diff)
			}
		}
	}
}

func writeRequests(t *testing.T) {
	otp := &notificationv1.NotificationRequested{
		NotificationId: "018f3c5e-7b1a-7c3e-9c39-5c1f1b9f2a10", Recipient: &notificationv1.Recipient{Phone: "+84987654321"},
		TemplateId: "643118", TemplateData: map[string]string{"otp": "077100", "minutes": "5"}, Category: notificationv1.Category_CATEGORY_OTP,
		Ttl: durationpb.New(5 * time.Minute), OnUnknown: notificationv1.OnUnknown_ON_UNKNOWN_FAIL,
	}
	amount := &notificationv1.NotificationRequested{
		IdempotencyKey: "order-1042/paid", Source: "order-service", Recipient: &notificationv1.Recipient{Phone: "+84355123456"},
		TemplateId: "643119", TemplateData: map[string]string{"order": "DH-1042", "rate": "1.50", "amount": "1e3", "code": "12345678901234567890"},
		OrderingKey: "order-1042",
	}
	full := valid()
	v := requestVectors{About: "Every form of a request decodes to the same notification_id, payload_hash and partition_key."}
	add := func(name string, req *notificationv1.NotificationRequested, forms ...string) {
		camel, err := protojson.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		var compact bytes.Buffer // protojson varies its white space on purpose
		if err := json.Compact(&compact, camel); err != nil {
			t.Fatal(err)
		}
		bare, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		id, _ := ID(req)
		hash := PayloadHash(req)
		v.Requests = append(v.Requests, requestVector{name, id.String(), hex.EncodeToString(hash[:]), PartitionKey(req),
			append([]string{compact.String()}, forms...),
			[]string{base64.StdEncoding.EncodeToString(bare), base64.StdEncoding.EncodeToString(framed(bare, 0)), base64.StdEncoding.EncodeToString(framed(bare, []int64{0}...))}})
	}
	add("one-time password", otp,
		`{"notification_id":"018F3C5E-7B1A-7C3E-9C39-5C1F1B9F2A10","recipient":{"phone":"0987 654 321"},"template_id":"643118","template_data":{"minutes":5,"otp":"077100"},"category":"otp","ttl":"300s","on_unknown":"FAIL"}`,
		`{"onUnknown":1,"ttl":"300.000s","category":"CATEGORY_OTP","templateData":{"otp":"077100","minutes":"5"},"templateId":"643118","recipient":{"phone":"84987654321"},"notificationId":"018f3c5e-7b1a-7c3e-9c39-5c1f1b9f2a10","oaId":null}`)
	add("numbers as written", amount,
		`{"source":"order-service","idempotency_key":"order-1042/paid","recipient":{"phone":"0355.123.456"},"template_id":"643119","ordering_key":"order-1042","template_data":{"code":12345678901234567890,"amount":1e3,"rate":1.50,"order":"DH-1042"}}`)
	add("every field", full)
	writeJSON(t, "requests.json", v)
}

func writeJSON(t *testing.T, name string, v any) {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(testdata+name, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readJSON(t *testing.T, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(testdata + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

func TestID(t *testing.T) {
	for name, tc := range map[string]struct {
		req  *notificationv1.NotificationRequested
		want string
	}{
		"nil":                    {nil, ""},
		"nothing":                {&notificationv1.NotificationRequested{}, ""},
		"given":                  {&notificationv1.NotificationRequested{NotificationId: strings.ToUpper(someID)}, someID},
		"given goes first":       {&notificationv1.NotificationRequested{NotificationId: someID, Source: "a", IdempotencyKey: "b"}, someID},
		"not a UUID":             {&notificationv1.NotificationRequested{NotificationId: "x", Source: "a", IdempotencyKey: "b"}, ""},
		"URN":                    {&notificationv1.NotificationRequested{NotificationId: "urn:uuid:" + someID}, ""},
		"key without source":     {&notificationv1.NotificationRequested{IdempotencyKey: "b"}, ""},
		"source of two lines":    {&notificationv1.NotificationRequested{Source: "a\nb", IdempotencyKey: "c"}, ""},
		"key that is too long":   {&notificationv1.NotificationRequested{Source: "a", IdempotencyKey: strings.Repeat("k", 201)}, ""},
		"same key, same id":      {&notificationv1.NotificationRequested{Source: "a", IdempotencyKey: "b", OaId: "1"}, DeriveID("a", "b").String()},
		"another source differs": {&notificationv1.NotificationRequested{Source: "c", IdempotencyKey: "b"}, DeriveID("c", "b").String()},
	} {
		id, ok := ID(tc.req)
		if ok != (tc.want != "") || ok && id.String() != tc.want {
			t.Errorf("%s: ID = %v, %t, want %q", name, id, ok, tc.want)
		}
	}
	if DeriveID("a", "b") == DeriveID("c", "b") || DeriveID("a", "bc") == DeriveID("ab", "c") {
		t.Error("two keys give one id")
	}
}

func TestPartitionKey(t *testing.T) {
	req := valid()
	if got := PartitionKey(req); got != "order-1042" {
		t.Errorf("with ordering_key: %q", got)
	}
	req.OrderingKey = ""
	if got := PartitionKey(req); got != DeriveID("order-service", "order-1042/shipped").String() {
		t.Errorf("without: %q", got)
	}
	if got := PartitionKey(&notificationv1.NotificationRequested{NotificationId: strings.ToUpper(someID)}); got != someID {
		t.Errorf("of a given id: %q", got)
	}
	if got := PartitionKey(&notificationv1.NotificationRequested{}); got != "" {
		t.Errorf("without id: %q", got)
	}
}

// TestPayloadHashSeesEveryField changes or clears one field at a time.
func TestPayloadHashSeesEveryField(t *testing.T) {
	want := PayloadHash(valid())
	if again := PayloadHash(proto.Clone(valid()).(*notificationv1.NotificationRequested)); again != want {
		t.Error("two equal requests have two hashes")
	}
	m := valid().ProtoReflect()
	for _, fd := range byNumber[m.Descriptor().FullName()] {
		if !m.Has(fd) {
			continue
		}
		changed := valid()
		changed.ProtoReflect().Clear(fd)
		if PayloadHash(changed) == want {
			t.Errorf("%s makes no difference", fd.Name())
		}
	}
	for name, change := range map[string]func(*notificationv1.NotificationRequested){
		"phone":         func(r *notificationv1.NotificationRequested) { r.Recipient.Phone = "+84987654322" },
		"user_id":       func(r *notificationv1.NotificationRequested) { r.Recipient.UserId = "5" },
		"template data": func(r *notificationv1.NotificationRequested) { r.TemplateData["amount"] = "125001" },
		"moved between": func(r *notificationv1.NotificationRequested) { r.Reference, r.CustomerId = r.CustomerId, r.Reference },
		"nanosecond":    func(r *notificationv1.NotificationRequested) { r.NotBefore.Nanos++ },
		"unknown field": func(r *notificationv1.NotificationRequested) {
			r.ProtoReflect().SetUnknown([]byte{99<<3&0x7f | 0x80, 6, 1})
		},
	} {
		changed := valid()
		change(changed)
		if PayloadHash(changed) == want {
			t.Errorf("%s makes no difference", name)
		}
	}
}

func TestPayloadHashSeesNoSpelling(t *testing.T) {
	hashes := map[[HashSize]byte]bool{}
	for _, phone := range []string{"0987654321", "+84987654321", "84 987 654 321", "0987.654.321"} {
		req := valid()
		req.Recipient.Phone = phone
		hashes[PayloadHash(req)] = true
		if req.Recipient.Phone != phone {
			t.Error("PayloadHash changed the request")
		}
	}
	if len(hashes) != 1 {
		t.Errorf("one phone in four spellings has %d hashes", len(hashes))
	}

	a, b := valid(), valid()
	var up, down []byte
	for i := range protowire.Number(10) {
		up = append(up, protowireString(90+i, "x")...)
		down = append(down, protowireString(99-i, "x")...)
	}
	a.ProtoReflect().SetUnknown(up)
	b.ProtoReflect().SetUnknown(down)
	if PayloadHash(a) != PayloadHash(b) {
		t.Error("the order of unknown fields makes a difference")
	}
	a.ProtoReflect().SetUnknown(append(protowireString(98, "x"), protowireString(99, "y")...))
	b.ProtoReflect().SetUnknown(append(protowireString(98, "y"), protowireString(99, "x")...))
	if PayloadHash(a) == PayloadHash(b) {
		t.Error("the content of unknown fields makes no difference")
	}

	upper, lower := valid(), valid()
	upper.Recipient = &notificationv1.Recipient{PhoneSha256: strings.Repeat("AB", 32)}
	lower.Recipient = &notificationv1.Recipient{PhoneSha256: strings.Repeat("ab", 32)}
	if PayloadHash(upper) != PayloadHash(lower) {
		t.Error("the case of phone_sha256 makes a difference")
	}
}

// TestCanonicalIsWireFormat: a canonical encoding that reads back as the same message has lost nothing.
func TestCanonicalIsWireFormat(t *testing.T) {
	want := valid()
	var got notificationv1.NotificationRequested
	if err := proto.Unmarshal(appendCanonical(nil, want), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, &got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestExpiry(t *testing.T) {
	at := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(recordTime.Add(d)) }
	ttl := durationpb.New
	defaults := func(c notificationv1.Category) time.Duration {
		return map[notificationv1.Category]time.Duration{notificationv1.Category_CATEGORY_OTP: 5 * time.Minute, notificationv1.Category_CATEGORY_TRANSACTION: 24 * time.Hour}[c]
	}
	type request = notificationv1.NotificationRequested
	for name, tc := range map[string]struct {
		req  *request
		want time.Duration
	}{
		"nothing: the default of TRANSACTION":     {&request{}, 24 * time.Hour},
		"default of the category":                 {&request{Category: notificationv1.Category_CATEGORY_OTP}, 5 * time.Minute},
		"default from not_before":                 {&request{NotBefore: at(time.Hour)}, 25 * time.Hour},
		"default, not_before is past":             {&request{NotBefore: at(-48 * time.Hour)}, 24 * time.Hour},
		"ttl from arrival":                        {&request{Ttl: ttl(time.Minute)}, time.Minute},
		"ttl from not_before":                     {&request{Ttl: ttl(time.Minute), NotBefore: at(time.Hour)}, 61 * time.Minute},
		"ttl, not_before is past":                 {&request{Ttl: ttl(time.Minute), NotBefore: at(-time.Hour)}, time.Minute},
		"expire_time":                             {&request{ExpireTime: at(time.Hour)}, time.Hour},
		"expire_time in the past":                 {&request{ExpireTime: at(-time.Hour)}, -time.Hour},
		"expire_time before ttl":                  {&request{ExpireTime: at(time.Hour), Ttl: ttl(2 * time.Hour)}, time.Hour},
		"ttl before expire_time":                  {&request{ExpireTime: at(3 * time.Hour), Ttl: ttl(2 * time.Hour)}, 2 * time.Hour},
		"expire_time beyond the default's moment": {&request{ExpireTime: at(72 * time.Hour)}, 72 * time.Hour},
	} {
		if got := Expiry(tc.req, recordTime, defaults).Sub(recordTime); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
