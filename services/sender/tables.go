package sender

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/pause"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	oav1 "github.com/znshub/znshub/proto/oa/v1"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/sender/limit"
)

// tables follow oa.template and oa.quota from their start: what Zalo says about templates and quotas. They are read
// with clients of their own, and the program works without them: a topic that does not exist yet is looked for again.
type tables struct {
	client []kgo.Opt
	exist  func(ctx context.Context, names ...string) (map[string]kafka.TopicInfo, error)
	limits *limit.Limits
	source string // of this program's own events
	log    *slog.Logger

	loaded sync.WaitGroup // until each was read to its end once, or does not exist

	mu        sync.RWMutex // guards what follows
	templates map[templateKey]templateFacts
	quotas    map[string]*oav1.Quota // by record key
}

type templateKey struct{ oa, template string }

type templateFacts struct {
	category notificationv1.Category // UNSPECIFIED: the catalogue does not say
	enabled  bool
}

func newTables(client []kgo.Opt, exist func(context.Context, ...string) (map[string]kafka.TopicInfo, error), limits *limit.Limits, source string, log *slog.Logger) *tables {
	t := &tables{
		client: client, exist: exist, limits: limits, source: source, log: log,
		templates: map[templateKey]templateFacts{}, quotas: map[string]*oav1.Quota{},
	}
	t.loaded.Add(2)
	return t
}

const (
	lookAgain = 15 * time.Second // for a topic that does not exist
	loadFor   = 5 * time.Second  // how long the start waits for what is in the tables already
)

// run follows both topics until ctx ends.
func (t *tables) run(ctx context.Context) {
	var following sync.WaitGroup
	following.Go(func() { t.follow(ctx, topic.OATemplate, t.takeTemplate) })
	following.Go(func() { t.follow(ctx, topic.OAQuota, t.takeQuota) })
	following.Wait()
}

// ready waits until the tables are read, a bounded time: a template's category decides the lane of its requests.
func (t *tables) ready(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		t.loaded.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	case <-time.After(loadFor):
		t.log.Warn("what Zalo said about templates and quotas is not read yet, going on without", "topics", topic.OATemplate+", "+topic.OAQuota)
	}
}

func (t *tables) follow(ctx context.Context, name string, take func(kafka.Record)) {
	loaded := sync.OnceFunc(t.loaded.Done)
	defer loaded()
	missing := false
	for ctx.Err() == nil {
		found, err := t.exist(ctx, name)
		if _, ok := found[name]; err == nil && !ok {
			loaded()
			if !missing {
				t.log.Info("topic does not exist yet, going on without what it would tell", "topic", name)
			}
			missing = true
			pause.For(ctx, lookAgain)
			continue
		}
		if err == nil {
			err = t.read(ctx, name, take, loaded)
		}
		if ctx.Err() == nil {
			t.log.Warn("topic cannot be read, trying again", "topic", name, "err", err)
			pause.For(ctx, time.Second)
		}
	}
}

// read takes every record of a topic, from its start, until ctx ends or it cannot be read.
func (t *tables) read(ctx context.Context, name string, take func(kafka.Record), loaded func()) error {
	r, err := kafka.NewReader(ctx, kafka.ReaderConfig{Client: t.client, Topic: name})
	if err != nil {
		return err
	}
	defer r.Close()
	end, err := r.Watermark(ctx)
	if err != nil {
		return err
	}
	each := func(records []kafka.Record) error {
		for _, rec := range records {
			take(rec)
		}
		return nil
	}
	if err := r.ReadTo(ctx, end, each); err != nil {
		return err
	}
	loaded()
	return r.ReadOn(ctx, each)
}

func (t *tables) takeTemplate(r kafka.Record) {
	oa, template, ok := strings.Cut(string(r.Key), "/")
	if !ok {
		return
	}
	key := templateKey{oa, template}
	if r.Value == nil {
		t.mu.Lock()
		delete(t.templates, key)
		t.mu.Unlock()
		return
	}
	m := &oav1.Template{}
	if err := kafka.Decode(r, m); err != nil {
		t.log.Warn("template cannot be read", "oa_id", oa, "template_id", template, "err", err)
		return
	}
	facts := templateFacts{category: categoryOf(m), enabled: m.GetStatus() == oav1.TemplateStatus_TEMPLATE_STATUS_ENABLE}
	t.mu.Lock()
	before := t.templates[key]
	if facts.category == notificationv1.Category_CATEGORY_UNSPECIFIED {
		facts.category = before.category // a callback tells what changed, not the rest
	}
	t.templates[key] = facts
	t.mu.Unlock()
	if facts.enabled {
		t.limits.TemplateEnabled(oa, template, m.GetEventTime().AsTime())
	}
}

// otpWindow is the longest delivery window of one-time passwords.
const otpWindow = 15 * time.Second

// categoryOf is what a template may be used for: a delivery window of at most 15 s is an OTP's, else its tag decides,
// in the names of today or in those of before April 2024.
func categoryOf(m *oav1.Template) notificationv1.Category {
	if w := m.GetDeliveryWindowMs(); w > 0 && time.Duration(w)*time.Millisecond <= otpWindow {
		return notificationv1.Category_CATEGORY_OTP
	}
	switch strings.ToUpper(m.GetTag()) {
	case "OTP":
		return notificationv1.Category_CATEGORY_OTP
	case "TRANSACTION", "IN_TRANSACTION", "POST_TRANSACTION", "1":
		return notificationv1.Category_CATEGORY_TRANSACTION
	case "CUSTOMER_CARE", "ACCOUNT_UPDATE", "GENERAL_UPDATE", "2":
		return notificationv1.Category_CATEGORY_CUSTOMER_CARE
	case "PROMOTION", "FOLLOW_UP", "3":
		return notificationv1.Category_CATEGORY_PROMOTION
	}
	return notificationv1.Category_CATEGORY_UNSPECIFIED
}

// category is the highest one that a template allows; false: nobody said.
func (t *tables) category(oa, template string) (notificationv1.Category, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	c := t.templates[templateKey{oa, template}].category
	return c, c != notificationv1.Category_CATEGORY_UNSPECIFIED
}

func (t *tables) takeQuota(r kafka.Record) {
	key := string(r.Key)
	if r.Value == nil {
		t.mu.Lock()
		delete(t.quotas, key)
		t.mu.Unlock()
		return
	}
	m := &oav1.Quota{}
	if err := kafka.Decode(r, m); err != nil {
		t.log.Warn("quota cannot be read", "oa_id", m.GetOaId(), "err", err)
		return
	}
	t.mu.Lock()
	t.quotas[key] = m
	t.mu.Unlock()
	now, at := time.Now(), m.GetEventTime().AsTime()
	if kafka.DecodeHeaders(r).Source != t.source {
		day := limit.Word{Total: m.DailyQuota, Remaining: m.RemainingQuota, At: at}
		month := limit.Word{Total: m.MonthlyPromotionQuota, Remaining: m.RemainingMonthlyPromotionQuota, At: at}
		if told := m.GetDailyQuotaTime(); told != nil && told.AsTime().Equal(at) {
			day.Remaining, month.Remaining = nil, nil // a callback told the quota alone: what is left is from before it
		}
		t.limits.Quota(m.GetOaId(), m.GetTemplateId(), day, now)
		if m.GetTemplateId() == "" {
			t.limits.Month(m.GetOaId(), month, now)
		}
	}
	exhausted := time.Time{}
	if m.GetExhaustedTime() != nil {
		exhausted = m.GetExhaustedTime().AsTime()
	}
	t.limits.Told(m.GetOaId(), m.GetTemplateId(), exhausted, at)
}

// forecast is the record that tells a forecast.
func (t *tables) forecast(f limit.Forecast, now time.Time) (kafka.Record, error) {
	return t.change(f.OA, f.Template, now, func(m *oav1.Quota) {
		m.DailyQuota, m.RemainingQuota = f.Day, f.Left
		if f.Month != nil || f.MonthLeft != nil {
			m.MonthlyPromotionQuota, m.RemainingMonthlyPromotionQuota = f.Month, f.MonthLeft
		}
		m.ExhaustedTime = timestampOrNil(f.Exhausted)
	})
}

// refusal is the record that tells since when Zalo refuses everything of an OA; a zero time: no longer.
func (t *tables) refusal(oa string, since time.Time, code int, now time.Time) (kafka.Record, error) {
	return t.change(oa, "", now, func(m *oav1.Quota) {
		m.RefusedTime, m.RefusedCode = timestampOrNil(since), int32(code)
	})
}

// refused is since when, by what stands in oa.quota, Zalo refuses everything of an OA; zero: it does not.
func (t *tables) refused(oa string) time.Time {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if since := t.quotas[oa].GetRefusedTime(); since != nil {
		return since.AsTime()
	}
	return time.Time{}
}

// change is the record of oa.quota that tells something beside everything else that is known about the OA, or about a
// template of it.
func (t *tables) change(oa, template string, now time.Time, f func(*oav1.Quota)) (kafka.Record, error) {
	key := oa
	if template != "" {
		key += "/" + template
	}
	t.mu.RLock()
	m := &oav1.Quota{}
	if last := t.quotas[key]; last != nil {
		m = proto.CloneOf(last)
	}
	t.mu.RUnlock()
	m.EventId = key + "/quota/" + now.UTC().Format("20060102T150405.000Z")
	m.EventTime, m.OaId, m.TemplateId = timestamppb.New(now), oa, template
	f(m)
	return kafka.NewRecord(topic.OAQuota, []byte(key), kafka.Event{ID: m.EventId, Source: t.source, Subject: key, Time: now, Data: m}, "", "")
}

func timestampOrNil(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
