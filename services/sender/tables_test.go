package sender

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/config"
	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/service"
	controlv1 "github.com/znshub/znshub/proto/control/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	oav1 "github.com/znshub/znshub/proto/oa/v1"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/sender/control"
)

// put writes a record of a table as another program does; nil is a tombstone.
func (w *world) put(name, key string, m proto.Message) {
	w.t.Helper()
	r := kafka.Record{Topic: name, Partition: -1, Key: []byte(key)}
	if m != nil {
		var err error
		if r, err = kafka.NewRecord(name, []byte(key), kafka.Event{ID: key, Source: "/znshub/test/other", Time: time.Now(), Data: m}, "", ""); err != nil {
			w.t.Fatal(err)
		}
	}
	w.write(r)
}

// read returns what stands in a topic.
func (w *world) read(name string) (all []kafka.Record) {
	w.t.Helper()
	err := kafka.ReadToEnd(w.t.Context(), kafka.ReaderConfig{Client: w.extras.Client, Topic: name}, func(r kafka.Record) error {
		all = append(all, r)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

// TestVirtualTemplates: what oa.template says of a template's use decides the lane of its requests, as long as it says so;
// and one that was not approved starts as soon as it is.
func TestVirtualTemplates(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world, s *Sender) {
		template := func(id string, m *oav1.Template) {
			t.Helper()
			if m != nil {
				m.OaId, m.TemplateId, m.EventTime = testOA, id, timestamppb.Now()
				w.put(topic.OATemplate, testOA+"/"+id, m)
			} else {
				w.put(topic.OATemplate, testOA+"/"+id, nil)
			}
			time.Sleep(5 * time.Second)
		}
		wantCategory := func(id string, want notificationv1.Category) {
			t.Helper()
			got, known := s.tables.category(testOA, id)
			if got != want || known != (want != notificationv1.Category_CATEGORY_UNSPECIFIED) {
				t.Errorf("template %s is for %s, known %v; want %s", id, got, known, want)
			}
		}
		template("1", &oav1.Template{Tag: "PROMOTION"})
		template("2", &oav1.Template{Tag: "TRANSACTION", DeliveryWindowMs: 15_000})
		wantCategory("1", promotion)
		wantCategory("2", otp)
		wantCategory("3", notificationv1.Category_CATEGORY_UNSPECIFIED)
		later := w.publish(request("known", ofTemplate("1")))[0]
		unknown := w.publish(request("unknown", ofTemplate("3")))[0]
		time.Sleep(time.Minute)
		if len(w.sent(later)) != 0 || len(w.sent(unknown)) != 1 {
			t.Errorf("outside the hours %d of a template for promotions were sent, %d of one that nobody knows; want 0 and 1", len(w.sent(later)), len(w.sent(unknown)))
		}
		template("1", &oav1.Template{Quality: "HIGH"}) // as a callback tells it
		wantCategory("1", promotion)
		template("1", nil)
		wantCategory("1", notificationv1.Category_CATEGORY_UNSPECIFIED)

		w.provider.respond(func(post) answer { return answer{code: -131} })
		id := w.publish(request("review", ofTemplate("4")))[0]
		time.Sleep(time.Minute)
		w.provider.respond(func(post) answer { return answer{} })
		template("4", &oav1.Template{Status: oav1.TemplateStatus_TEMPLATE_STATUS_PENDING_REVIEW})
		if n := len(w.provider.got("review")); n != 1 {
			t.Errorf("%d calls while Zalo reviews the template", n)
		}
		template("4", &oav1.Template{Status: oav1.TemplateStatus_TEMPLATE_STATUS_ENABLE})
		if len(w.sent(id)) != 1 {
			t.Errorf("%d zns.sent 5 s after Zalo approved the template", len(w.sent(id)))
		}
	}, "SENDER_HOURS=promotion=20:00-21:59") // virtual time begins at seven in the morning
}

// TestVirtualQuota: what oa.quota says counts as if Zalo had said it here.
func TestVirtualQuota(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world, _ *Sender) {
		quota := func(left int32) {
			t.Helper()
			w.put(topic.OAQuota, testOA, &oav1.Quota{OaId: testOA, EventTime: timestamppb.Now(), DailyQuota: new(int32(500)), RemainingQuota: new(left)})
			time.Sleep(5 * time.Second)
		}
		quota(0)
		id := w.publish(request("x"))[0]
		time.Sleep(time.Minute)
		if n := len(w.provider.got("")); n != 0 {
			t.Errorf("%d calls over the quota", n)
		}
		quota(100)
		if len(w.sent(id)) != 1 {
			t.Errorf("%d zns.sent 5 s after the quota was raised", len(w.sent(id)))
		}
		// What a callback tells of the quota stands beside what was left of the one before.
		told := timestamppb.Now()
		w.put(topic.OAQuota, testOA, &oav1.Quota{OaId: testOA, EventTime: told, DailyQuota: new(int32(1000)), DailyQuotaTime: told, RemainingQuota: new(int32(0))})
		time.Sleep(5 * time.Second)
		id = w.publish(request("y"))[0]
		time.Sleep(5 * time.Second)
		if len(w.sent(id)) != 1 {
			t.Errorf("%d zns.sent 10 s after a callback told a greater quota", len(w.sent(id)))
		}
		// So does one that raises a quota which is used up.
		quota(0)
		otps, plain := w.publish(request("otp", ofCategory(otp)))[0], w.publish(request("z", ofCategory(promotion)))[0]
		time.Sleep(5 * time.Second)
		if len(w.sent(otps)) != 0 {
			t.Error("sent over the quota")
		}
		told = timestamppb.Now()
		w.put(topic.OAQuota, testOA, &oav1.Quota{OaId: testOA, EventTime: told, DailyQuota: new(int32(1500)), DailyQuotaTime: told, RemainingQuota: new(int32(0))})
		time.Sleep(10 * time.Second)
		if len(w.sent(otps)) != 1 || len(w.sent(plain)) != 1 {
			t.Errorf("%d and %d zns.sent 10 s after a quota that was used up was raised", len(w.sent(otps)), len(w.sent(plain)))
		}
	})
}

// another runs a second sender, as large as the first, until the function that it returns is called.
func another(t *testing.T, w *world, s *Sender) (stop func()) {
	t.Helper()
	other, err := New(service.New("sender", "virtual-2", "test", nil, nil), s.cfg, w.extras)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := other.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	time.Sleep(3 * time.Minute)
	if mine, its := len(s.Status().Partitions), len(other.Status().Partitions); mine == 0 || its == 0 {
		t.Errorf("the senders have %d and %d partitions: the test does not test", mine, its)
	}
	return func() {
		cancel()
		running.Wait()
	}
}

// told is what senders have written to oa.quota.
func (w *world) told() (all []*oav1.Quota) {
	w.t.Helper()
	for _, r := range w.read(topic.OAQuota) {
		m := &oav1.Quota{}
		if err := kafka.Decode(r, m); err != nil {
			w.t.Fatal(err)
		}
		if kafka.DecodeHeaders(r).Source != "/znshub/test/other" {
			all = append(all, m)
		}
	}
	return all
}

// TestVirtualForecast: a quota that will be used up before its reset is told on oa.quota, beside what others know of it, and
// not twice though there are two senders who foresee it.
func TestVirtualForecast(t *testing.T) {
	inVirtualDays(t, 20*time.Second, func(t *testing.T, w *world, s *Sender) {
		defer another(t, w, s)()
		w.put(topic.OAQuota, testOA, &oav1.Quota{
			OaId: testOA, EventTime: timestamppb.Now(), DailyQuota: new(int32(2000)), RemainingQuota: new(int32(2000)), Quality: "HIGH",
			MonthlyPromotionQuota: new(int32(70)),
		})
		for range 40 { // 10 a minute use up 2000 in 200 minutes
			for range 10 {
				w.publish(request("x"))
			}
			time.Sleep(time.Minute)
		}
		told := w.told()
		if len(told) == 0 || len(told) > 2 {
			t.Errorf("told %d times: %v", len(told), told)
			return
		}
		if len(told) == 2 && told[1].ExhaustedTime.AsTime().Sub(told[0].ExhaustedTime.AsTime()).Abs() < time.Hour {
			t.Errorf("told again though it hardly changed: %v", told) // the first is from a few minutes of requests
		}
		if f := told[0]; f.Quality != "HIGH" || f.GetMonthlyPromotionQuota() != 70 || f.GetDailyQuota() != 2000 || f.OaId != testOA {
			t.Errorf("others had told more: %v", f)
		}
		if in := told[0].ExhaustedTime.AsTime().Sub(told[0].EventTime.AsTime()); in < 2*time.Hour || in > 5*time.Hour {
			t.Errorf("used up in %s, want about 3 h", in)
		}
	})
}

// TestVirtualRefusal: that Zalo refuses everything of an OA is told on oa.quota at once and once, beside what others know,
// though two senders hear it; and that it is over with the first message that is taken.
func TestVirtualRefusal(t *testing.T) {
	inVirtualDays(t, 20*time.Second, func(t *testing.T, w *world, s *Sender) {
		defer another(t, w, s)()
		w.put(topic.OAQuota, testOA, &oav1.Quota{OaId: testOA, EventTime: timestamppb.Now(), Quality: "HIGH"})
		w.provider.respond(func(post) answer { return answer{code: -115} })
		refused := time.Now()
		for i := range 40 {
			w.publish(request(string(rune('a' + i))))
		}
		time.Sleep(30 * time.Second)
		told := w.told()
		if len(told) != 1 || told[0].GetRefusedCode() != -115 || told[0].Quality != "HIGH" || told[0].RefusedTime.AsTime().Sub(refused) > 25*time.Second {
			t.Errorf("told %v", told)
			return
		}
		time.Sleep(3 * time.Hour)
		if told := w.told(); len(told) != 1 {
			t.Errorf("told again at a probe: %v", told[1:])
		}
		w.provider.respond(func(post) answer { return answer{} })
		time.Sleep(80 * time.Minute)
		if told := w.told(); len(told) != 2 || told[1].RefusedTime != nil || told[1].RefusedCode != 0 || told[1].Quality != "HIGH" {
			t.Errorf("after a message was taken: %v", told[1:])
		}
	})
}

// TestVirtualTokenFile: a token that is renewed in its file is used without a restart; a file that is half written, or
// away for a moment, leaves the present one.
func TestVirtualTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(testOA + "=old\n")
	reload := func() (cfg Config, err error) {
		_, err = config.LoadFrom([]string{"ZALO_ACCESS_TOKEN_FILE=" + path, "KAFKA_BROKERS=localhost:19092"}, &cfg)
		return cfg, err
	}
	inVirtualWorld(t, Extras{Pulse: 2 * time.Second, Reload: reload}, func(t *testing.T, w *world, _ *Sender) {
		w.provider.respond(func(p post) answer {
			if p.Token == "old" {
				return answer{code: -124}
			}
			return answer{}
		})
		id := w.publish(request("x"))[0]
		time.Sleep(time.Minute)
		if got := w.provider.got(""); len(got) != 1 || got[0].Token != "old" {
			t.Errorf("calls before there is a newer token: %+v", got)
			return
		}
		write(testOA + "=new\n")
		time.Sleep(tokensEvery + time.Second)
		if got := w.provider.got(""); len(got) != 2 || got[1].Token != "new" || len(w.sent(id)) != 1 {
			t.Errorf("%d zns.sent, calls %+v", len(w.sent(id)), got)
		}
		for name, spoil := range map[string]func(){"half written": func() { write("half") }, "away": func() { _ = os.Remove(path) }} {
			spoil()
			time.Sleep(10 * time.Second)
			id := w.publish(request("y"))[0]
			time.Sleep(10 * time.Second)
			if len(w.sent(id)) != 1 {
				t.Errorf("%d zns.sent while the file is %s", len(w.sent(id)), name)
			}
		}
	}, "ZALO_ACCESS_TOKEN="+testOA+"=old")
}

// TestVirtualHold: what operators write to zns.control is obeyed by a whole sender.
func TestVirtualHold(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world, _ *Sender) {
		say := func(action controlv1.Action) {
			t.Helper()
			r, err := control.Record(&controlv1.Command{
				CommandId: uuid.NewString(), Time: timestamppb.Now(), Scope: control.Campaign("tet").Proto(), Action: action,
			}, "/znshub/test/operator")
			if err != nil {
				t.Fatal(err)
			}
			w.write(r)
			time.Sleep(5 * time.Second)
		}
		say(holdIt)
		held := w.publish(request("held", ofCampaign("tet")))[0]
		other := w.publish(request("other"))[0]
		time.Sleep(time.Minute)
		if len(w.provider.got("held")) != 0 || len(w.sent(other)) != 1 {
			t.Errorf("%d calls of the held campaign, %d zns.sent of another", len(w.provider.got("held")), len(w.sent(other)))
		}
		say(release)
		if len(w.sent(held)) != 1 {
			t.Errorf("%d zns.sent after the release", len(w.sent(held)))
		}
	})
}
