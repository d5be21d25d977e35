package notification

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

func TestValidateTakesAValidRequest(t *testing.T) {
	for name, change := range map[string]func(*notificationv1.NotificationRequested){
		"as it is": func(*notificationv1.NotificationRequested) {},
		"UUID in upper case": func(r *notificationv1.NotificationRequested) {
			r.NotificationId, r.IdempotencyKey = strings.ToUpper(someID), ""
		},
		"by hash": func(r *notificationv1.NotificationRequested) {
			r.Recipient.Phone, r.Recipient.PhoneSha256 = "", strings.Repeat("aB", 32)
		},
		"no OA":       func(r *notificationv1.NotificationRequested) { r.OaId = "" },
		"no channels": func(r *notificationv1.NotificationRequested) { r.Channels = nil },
		"expired": func(r *notificationv1.NotificationRequested) {
			r.NotBefore, r.ExpireTime = nil, timestamppb.New(recordTime.Add(-time.Hour))
		},
		"long text in accent": func(r *notificationv1.NotificationRequested) { r.Text = strings.Repeat("ệ", MaxText) },
		"limits reached": func(r *notificationv1.NotificationRequested) {
			r.IdempotencyKey, r.Source = strings.Repeat("k", MaxKeyBytes), strings.Repeat("s", MaxSourceBytes)
			r.Labels = map[string]string{"l": strings.Repeat("x", MaxLabelBytes-1)}
			r.NotBefore, r.ExpireTime = timestamppb.New(recordTime.Add(MaxNotBefore)), timestamppb.New(recordTime.Add(MaxExpire))
			r.Ttl, r.DeliverWithin = durationpb.New(MaxTTL), durationpb.New(MinTTL)
		},
	} {
		req := valid()
		change(req)
		if v := Validate(req, recordTime); v != nil {
			t.Errorf("%s: %v", name, v)
		}
	}
}

// TestValidate starts from a valid request and breaks one rule. Every rule of the table must be broken by some case.
func TestValidate(t *testing.T) {
	entries := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprint("k", i)] = "v"
		}
		return m
	}
	unbroken := map[string]bool{}
	for _, rule := range Rules() {
		if rule.Says == "" {
			t.Errorf("%s/%s says nothing", rule.Field, rule.Name)
		}
		unbroken[rule.Field+"/"+rule.Name] = true
	}
	long := strings.Repeat("x", MaxKeyBytes+1)
	for name, tc := range map[string]struct {
		change      func(*notificationv1.NotificationRequested)
		field, rule string
		says        string
	}{
		"no identity":    {func(r *notificationv1.NotificationRequested) { r.IdempotencyKey = "" }, "notification_id", "exactly_one", "set one of them"},
		"two identities": {func(r *notificationv1.NotificationRequested) { r.NotificationId = someID }, "notification_id", "exactly_one", "set one of them"},
		"not a UUID":     {func(r *notificationv1.NotificationRequested) { r.NotificationId, r.IdempotencyKey = "order-1042", "" }, "notification_id", "uuid", "10 characters: 4 digits, 5 letters, 1 other"},
		"UUID in braces": {func(r *notificationv1.NotificationRequested) { r.NotificationId, r.IdempotencyKey = "{"+someID+"}", "" }, "notification_id", "uuid", "38 characters"},
		"UUID of zeros": {func(r *notificationv1.NotificationRequested) {
			r.NotificationId, r.IdempotencyKey = "00000000-0000-0000-0000-000000000000", ""
		}, "notification_id", "uuid", "not a UUID"},
		"long key":            {func(r *notificationv1.NotificationRequested) { r.IdempotencyKey = long }, "idempotency_key", "size", "201 bytes; at most 200"},
		"key without source":  {func(r *notificationv1.NotificationRequested) { r.Source, r.CollapseKey = "", "" }, "source", "required", "missing"},
		"long source":         {func(r *notificationv1.NotificationRequested) { r.Source = strings.Repeat("s", 101) }, "source", "size", "at most 100"},
		"two lines of source": {func(r *notificationv1.NotificationRequested) { r.Source = "a\nb" }, "source", "one_line", "control characters"},
		"oa_id of letters":    {func(r *notificationv1.NotificationRequested) { r.OaId = "my-oa" }, "oa_id", "digits", "5 characters"},
		"no recipient":        {func(r *notificationv1.NotificationRequested) { r.Recipient = nil }, "recipient", "required", "recipient.phone"},
		"empty recipient":     {func(r *notificationv1.NotificationRequested) { r.Recipient = &notificationv1.Recipient{} }, "recipient", "required", "recipient.phone"},
		"only a user id":      {func(r *notificationv1.NotificationRequested) { r.Recipient.Phone = "" }, "recipient.phone", "required", "channel PHONE"},
		"half a phone":        {func(r *notificationv1.NotificationRequested) { r.Recipient.Phone = "09x" }, "recipient.phone", "phone", "not a phone number: 3 characters: 2 digits, 1 letter"},
		"phone and hash":      {func(r *notificationv1.NotificationRequested) { r.Recipient.PhoneSha256 = strings.Repeat("a", 64) }, "recipient.phone_sha256", "exclusive", "set one"},
		"short hash":          {func(r *notificationv1.NotificationRequested) { r.Recipient.Phone, r.Recipient.PhoneSha256 = "", "abc" }, "recipient.phone_sha256", "sha256", "3 characters"},
		"hash of letters": {func(r *notificationv1.NotificationRequested) {
			r.Recipient.Phone, r.Recipient.PhoneSha256 = "", strings.Repeat("g", 64)
		}, "recipient.phone_sha256", "sha256", "64 letters"},
		"user id of letters":  {func(r *notificationv1.NotificationRequested) { r.Recipient.UserId = "u1" }, "recipient.user_id", "digits", "2 characters"},
		"no template":         {func(r *notificationv1.NotificationRequested) { r.TemplateId = "" }, "template_id", "required", "643118"},
		"long template":       {func(r *notificationv1.NotificationRequested) { r.TemplateId = long }, "template_id", "size", "at most 100"},
		"template with space": {func(r *notificationv1.NotificationRequested) { r.TemplateId = "643118 " }, "template_id", "one_line", "7 characters: 6 digits, 1 space"},
		"65 parameters":       {func(r *notificationv1.NotificationRequested) { r.TemplateData = entries(65) }, "template_data", "size", "65 entries"},
		"nameless parameter":  {func(r *notificationv1.NotificationRequested) { r.TemplateData = map[string]string{"": "x"} }, "template_data", "size", "without name"},
		"long text":           {func(r *notificationv1.NotificationRequested) { r.Text = strings.Repeat("ệ", 2001) }, "text", "size", "2001 characters"},
		"by user id": {func(r *notificationv1.NotificationRequested) {
			r.Channels = append(r.Channels, notificationv1.Channel_CHANNEL_USER_CONSULT)
		}, "channels[1]", "channel", "USER_CONSULT is not delivered"},
		"channel not said":  {func(r *notificationv1.NotificationRequested) { r.Channels = append(r.Channels, 0) }, "channels[1]", "channel", "PHONE"},
		"channel 9":         {func(r *notificationv1.NotificationRequested) { r.Channels = append(r.Channels, 9) }, "channels[1]", "channel", "value 9"},
		"channel twice":     {func(r *notificationv1.NotificationRequested) { r.Channels = append(r.Channels, 1) }, "channels[1]", "channel", "twice"},
		"category 9":        {func(r *notificationv1.NotificationRequested) { r.Category = 9 }, "category", "enum", "OTP"},
		"negative category": {func(r *notificationv1.NotificationRequested) { r.Category = -1 }, "category", "enum", "value -1"},
		"far not_before": {func(r *notificationv1.NotificationRequested) {
			r.NotBefore, r.ExpireTime = timestamppb.New(recordTime.Add(31*24*time.Hour)), nil
		}, "not_before", "range", "31 days ahead"},
		"wild not_before": {func(r *notificationv1.NotificationRequested) { r.NotBefore = &timestamppb.Timestamp{Seconds: 1 << 60} }, "not_before", "range", "years 1 and 9999"},
		"far expiry": {func(r *notificationv1.NotificationRequested) {
			r.ExpireTime = timestamppb.New(recordTime.Add(61 * 24 * time.Hour))
		}, "expire_time", "range", "61 days ahead"},
		"wild expiry":       {func(r *notificationv1.NotificationRequested) { r.ExpireTime = &timestamppb.Timestamp{Nanos: -1} }, "expire_time", "range", "years 1 and 9999"},
		"expiry too early":  {func(r *notificationv1.NotificationRequested) { r.ExpireTime = r.NotBefore }, "expire_time", "range", "never be sent"},
		"no life":           {func(r *notificationv1.NotificationRequested) { r.Ttl = durationpb.New(0) }, "ttl", "range", "between 1 second and 30 days"},
		"wild life":         {func(r *notificationv1.NotificationRequested) { r.Ttl = &durationpb.Duration{Seconds: 1, Nanos: -1} }, "ttl", "range", "between"},
		"long delivery":     {func(r *notificationv1.NotificationRequested) { r.DeliverWithin = durationpb.New(31 * 24 * time.Hour) }, "deliver_within", "range", "between"},
		"on_unknown 7":      {func(r *notificationv1.NotificationRequested) { r.OnUnknown = 7 }, "on_unknown", "enum", "RESEND"},
		"long ordering key": {func(r *notificationv1.NotificationRequested) { r.OrderingKey = long }, "ordering_key", "size", "201"},
		"long collapse key": {func(r *notificationv1.NotificationRequested) { r.CollapseKey = long }, "collapse_key", "size", "201"},
		"long journey key":  {func(r *notificationv1.NotificationRequested) { r.JourneyKey = long }, "journey_key", "size", "201"},
		"long campaign":     {func(r *notificationv1.NotificationRequested) { r.CampaignId = long }, "campaign_id", "size", "201"},
		"long reference":    {func(r *notificationv1.NotificationRequested) { r.Reference = long }, "reference", "size", "201"},
		"long customer id":  {func(r *notificationv1.NotificationRequested) { r.CustomerId = long }, "customer_id", "size", "201"},
		"17 labels":         {func(r *notificationv1.NotificationRequested) { r.Labels = entries(17) }, "labels", "size", "17 entries"},
		"labels of 5 KiB": {func(r *notificationv1.NotificationRequested) {
			r.Labels = map[string]string{"a": strings.Repeat("x", 5<<10)}
		}, "labels", "size", "5121 bytes"},
		"fallback of 5 KiB": {func(r *notificationv1.NotificationRequested) {
			r.Fallback = map[string]string{"a": strings.Repeat("x", 5<<10)}
		}, "fallback", "size", "5121 bytes"},
		"mode 3": {func(r *notificationv1.NotificationRequested) { r.Mode = 3 }, "mode", "enum", "LIVE, DEVELOPMENT"},
	} {
		req := valid()
		tc.change(req)
		violations := Validate(req, recordTime)
		if len(violations) != 1 {
			t.Errorf("%s: %d violations, want 1: %v", name, len(violations), violations)
			continue
		}
		v := violations[0]
		if v.Field != tc.field || v.Rule != tc.rule || !strings.Contains(v.Message, tc.says) {
			t.Errorf("%s: got %+v, want field %q, rule %q, %q", name, v, tc.field, tc.rule, tc.says)
		}
		delete(unbroken, v.Field+"/"+v.Rule)
	}
	for rule := range unbroken {
		t.Errorf("no case breaks %s", rule)
	}
}

func TestValidateTellsEverythingAtOnce(t *testing.T) {
	violations := Validate(&notificationv1.NotificationRequested{CollapseKey: "x", Mode: 9}, recordTime)
	var fields []string
	for _, v := range violations {
		fields = append(fields, v.Field)
	}
	if got, want := strings.Join(fields, " "), "notification_id source recipient template_id mode"; got != want {
		t.Errorf("violations of %s, want %s", got, want)
	}
}

// TestViolationsTellNoValue gives every field a value that breaks rules and can be recognised.
func TestViolationsTellNoValue(t *testing.T) {
	const secret = "SECRET0355123456"
	long := strings.Repeat(secret, 20)
	req := &notificationv1.NotificationRequested{
		NotificationId: secret, IdempotencyKey: long, Source: long + "\n", OaId: secret,
		Recipient:  &notificationv1.Recipient{Phone: secret, PhoneSha256: secret, UserId: secret},
		TemplateId: secret + " ", TemplateData: map[string]string{"": secret}, Text: strings.Repeat(secret, 200),
		OrderingKey: long, CollapseKey: long, JourneyKey: long, CampaignId: long, Reference: long, CustomerId: long,
		Labels: map[string]string{secret: strings.Repeat(secret, 500)}, Fallback: map[string]string{secret: strings.Repeat(secret, 500)},
	}
	violations := Validate(req, recordTime)
	if len(violations) < 15 {
		t.Fatalf("only %d violations", len(violations))
	}
	for _, v := range violations {
		if s := v.String(); strings.Contains(s, "SECRET") || strings.Contains(s, "55123456") {
			t.Errorf("tells the value: %s", s)
		}
	}
}
