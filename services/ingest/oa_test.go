package ingest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	oav1 "github.com/znshub/znshub/proto/oa/v1"
)

// table returns the latest record under each key of a compacted topic.
func table[M proto.Message](w *world, topic string, empty func() M) map[string]M {
	w.tb.Helper()
	rows := map[string]M{}
	for _, r := range w.read(topic) {
		m := empty()
		if err := kafka.Decode(r, m); err != nil {
			w.tb.Fatal(err)
		}
		rows[string(r.Key)] = m
	}
	return rows
}

// TestTemplateAndQuota: what callbacks tell is merged into what others have learnt, in Zalo's order, over restarts.
func TestTemplateAndQuota(t *testing.T) {
	w := newWorld(t, kafkatest.Broker(t), 2)
	put := func(topic, key string, m proto.Message) {
		t.Helper()
		r, err := kafka.NewRecord(topic, []byte(key), kafka.Event{ID: "catalogue", Source: "/znshub/test/oa-control", Time: time.Now(), Data: m}, "", "")
		if err != nil {
			t.Fatal(err)
		}
		w.write(r)
	}
	learnt := &oav1.Template{
		OaId: testOA, TemplateId: "31239", Name: "Mã xác thực", Tag: "TRANSACTION", DeliveryWindowMs: 15000, PricePhoneVnd: 300,
		Parameters: []*oav1.TemplateParameter{{Name: "otp", Required: true}},
	}
	key := testOA + "/31239"
	put(w.topics.Template, key, learnt)
	r := w.start(w.config())
	change := func(body, result string) {
		t.Helper()
		before := r.count("translated_total", result)
		w.mustPost(r.url, []byte(body))
		eventually(t, body+" is "+result, func() bool { return r.count("translated_total", result) == before+1 })
	}
	status := func(to string, ms int64) string {
		return fmt.Sprintf(`{"event_name":"change_template_status","oa_id":%q,"app_id":%q,"template_id":"31239","status":{"prev_status":"ENABLE","new_status":%q},"reason":"r-%s","timestamp":"1787209817225","x":%d}`, testOA, testApp, to, to, ms)
	}
	// Every body has the rig's timestamp, which is signed; other times come through the table below.
	change(status("REJECT", 1), "tabled")
	change(status("ENABLE", 2), "known") // of the same moment: not newer
	change(fmt.Sprintf(`{"event_name":"change_template_quality","oa_id":%q,"template_id":"31239","quality":"LOW","timestamp":"1787209817225"}`, testOA), "tabled")
	change(fmt.Sprintf(`{"event_name":"change_template_status","oa_id":%q,"template_id":"new","status":{"new_status":"ENABLE"},"timestamp":"1787209817225"}`, testOA), "tabled")
	change(fmt.Sprintf(`{"event_name":"change_template_status","oa_id":%q,"template_id":"31239","status":{"new_status":"NEVER_SEEN"},"timestamp":"1787209817225"}`, testOA), "raw")
	change(fmt.Sprintf(`{"event_name":"change_template_quota","oa_id":%q,"template_id":"31239","timestamp":"1787209817225"}`, testOA), "raw")
	change(fmt.Sprintf(`{"event_name":"change_oa_daily_quota","oaId":%q,"quota":{"prev_value":1000,"new_value":2000},"timestamp":"1787209817225"}`, testOA), "tabled")

	zaloTime := timestamppb.New(time.UnixMilli(1787209817225))
	want := proto.CloneOf(learnt)
	want.Status, want.Reason, want.StatusTime = oav1.TemplateStatus_TEMPLATE_STATUS_REJECT, "r-REJECT", zaloTime
	want.Quality, want.QualityTime = "LOW", zaloTime
	check := func() {
		t.Helper()
		rows := table(w, w.topics.Template, func() *oav1.Template { return &oav1.Template{} })
		if diff := cmp.Diff(want, rows[key], protocmp.Transform(), protocmp.IgnoreFields(&oav1.Template{}, "event_id", "event_time")); diff != "" {
			t.Errorf("oa.template (-want +got):\n%s", diff)
		}
		if got := rows[testOA+"/new"]; got.GetStatus() != oav1.TemplateStatus_TEMPLATE_STATUS_ENABLE || got.GetOaId() != testOA {
			t.Errorf("a template of which nothing was known: %v", got)
		}
		if got := table(w, w.topics.Quota, func() *oav1.Quota { return &oav1.Quota{} })[testOA]; got.GetDailyQuota() != 2000 || !proto.Equal(got.GetDailyQuotaTime(), zaloTime) {
			t.Errorf("oa.quota %v", got)
		}
	}
	check()

	// What is known of a later status wins over one that comes late, also after a restart.
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	want.Status, want.Reason, want.StatusTime, want.Name = oav1.TemplateStatus_TEMPLATE_STATUS_DISABLE, "", timestamppb.New(zaloTime.AsTime().Add(time.Minute)), "another name"
	put(w.topics.Template, key, want)
	r = w.start(w.config())
	change(status("ENABLE", 3), "known")
	check()
	if n := r.count("translated_total", "tabled"); n != 0 {
		t.Errorf("%v changes after the restart", n)
	}
}
