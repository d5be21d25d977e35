package sender

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/znshub/znshub/services/sender/limit"
)

// templateSeries bounds how many templates of an OA have series of their own: those with a quota or something closed.
const templateSeries = 200

// limitCollector shows what the limits hold back, and how much of each quota is left. OAs and templates are
// configuration, not personal data.
type limitCollector struct {
	limits func() *limit.Limits
	slots, window, inFlight, pace, closed, person,
	total, left, exhausted *prometheus.Desc
}

func newLimitCollector(limits func() *limit.Limits) *limitCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("znshub_sender_"+name, help, labels, nil)
	}
	return &limitCollector{
		limits:   limits,
		slots:    desc("slots", "Calls that this sender may have under way at a time; 0: Zalo is failing, one probe at a time."),
		window:   desc("oa_window", "Calls of the OA that this sender may have under way at a time.", "oa_id"),
		inFlight: desc("oa_in_flight", "Calls of the OA that this sender has taken and that have not ended.", "oa_id"),
		pace:     desc("oa_pace", "Calls of the OA per second that this sender may start: its share of SENDER_RATE. 0: no limit, or no share yet.", "oa_id"),
		closed:   desc("closed", "1 while requests are held back: by what, and why. template_id and category are empty when it concerns all.", "oa_id", "template_id", "category", "reason", "cause"),
		person:   desc("needs_person", "1 while requests of the OA are held until somebody acts: token, account, settings, unknown codes. code is Zalo's error code.", "oa_id", "template_id", "cause", "code"),
		total:    desc("quota_total", "Messages that Zalo allows in the period (day, month), as last told. month: promotions.", "oa_id", "template_id", "period"),
		left:     desc("quota_left", "Messages left in the period (day, month), as last told less what was sent since. month: promotions.", "oa_id", "template_id", "period"),
		exhausted: desc("quota_exhausted_timestamp_seconds",
			"When the quota will be used up at the rate at which requests arrive; 0: not before its reset.", "oa_id", "template_id", "period"),
	}
}

func (c *limitCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.slots, c.window, c.inFlight, c.pace, c.closed, c.person, c.total, c.left, c.exhausted} {
		ch <- d
	}
}

func (c *limitCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s := c.limits().State(time.Now(), templateSeries)
	gauge(c.slots, float64(s.Slots))
	for _, oa := range s.OAs {
		gauge(c.window, float64(oa.Window), oa.OA)
		gauge(c.inFlight, float64(oa.InFlight), oa.OA)
		gauge(c.pace, oa.Pace, oa.OA)
		for _, x := range oa.Closed {
			about := ""
			if x.Category != 0 {
				about = category(x.Category)
			}
			gauge(c.closed, 1, oa.OA, x.Template, about, holdName(x.Reason), x.Cause)
			if x.NeedsPerson() && about == "" {
				gauge(c.person, 1, oa.OA, x.Template, x.Cause, codeLabel(x.Code))
			}
		}
		for _, q := range oa.Quotas {
			period := "day"
			if q.Month {
				period = "month"
			}
			at := 0.0
			if !q.Exhausted.IsZero() {
				at = float64(q.Exhausted.Unix())
			}
			gauge(c.total, float64(q.Total), oa.OA, q.Template, period)
			gauge(c.left, float64(q.Left), oa.OA, q.Template, period)
			gauge(c.exhausted, at, oa.OA, q.Template, period)
		}
	}
}
