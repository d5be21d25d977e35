package sender

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	controlv1 "github.com/znshub/znshub/proto/control/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/sender/control"
)

// operatorMetrics are those of what operators say. A nil one counts nothing.
type operatorMetrics struct {
	commands *prometheus.CounterVec
	invalid  prometheus.Counter
	redrives *prometheus.CounterVec
}

func newOperatorMetrics(reg prometheus.Registerer, rules *control.Rules) *operatorMetrics {
	m := &operatorMetrics{
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "znshub", Subsystem: "sender", Name: "operator_commands_total",
			Help: "Operators' commands that were obeyed, once for each partition of the ledger, by action.",
		}, []string{"action"}),
		invalid: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "znshub", Subsystem: "sender", Name: "operator_commands_invalid_total",
			Help: "Records of zns.control that cannot be obeyed and were skipped.",
		}),
		redrives: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "znshub", Subsystem: "sender", Name: "redrives_total",
			Help: "Redriven requests of known notifications, by result: reopened, or refused because it is not FAILED, perhaps sent, or was reopened before.",
		}, []string{"result"}),
	}
	reg.MustRegister(m.commands, m.invalid, m.redrives,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "znshub", Subsystem: "sender", Name: "operator_rules",
			Help: "Standing HOLD rules of operators.",
		}, func() float64 { return float64(len(rules.View().Holding(time.Now()))) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "znshub", Subsystem: "sender", Name: "operator_commands_behind_seconds",
			Help: "How long ago everything in zns.control was known: more than a few seconds mean that commands do not arrive.",
		}, func() float64 { return rules.Behind(time.Now()).Seconds() }))
	return m
}

func (m *operatorMetrics) obeyed(a controlv1.Action) {
	if m != nil {
		m.commands.WithLabelValues(enumLabel(a.String(), "ACTION_")).Inc()
	}
}

func (m *operatorMetrics) redriven(reopened bool) {
	if m == nil {
		return
	}
	result := "refused"
	if reopened {
		result = "reopened"
	}
	m.redrives.WithLabelValues(result).Inc()
}

// unknownCollector measures what is unknown at the moment.
type unknownCollector struct {
	callbacks *reconciler
	count     *prometheus.Desc
	age       *prometheus.Desc
}

func newUnknownCollector(r *reconciler) *unknownCollector {
	return &unknownCollector{
		callbacks: r,
		count: prometheus.NewDesc("znshub_sender_unknown",
			"Notifications of which nobody knows whether Zalo took them, by cause.", []string{"cause"}, nil),
		age: prometheus.NewDesc("znshub_sender_unknown_oldest_seconds",
			"How long the oldest of them has been unknown, by cause; 0: there is none.", []string{"cause"}, nil),
	}
}

func (c *unknownCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.count
	ch <- c.age
}

func (c *unknownCollector) Collect(ch chan<- prometheus.Metric) {
	n, oldest := map[znsv1.UnknownCause]int{}, map[znsv1.UnknownCause]int64{}
	c.callbacks.unknowns(func(w watch) {
		n[w.cause]++
		if at, seen := oldest[w.cause]; !seen || w.since < at {
			oldest[w.cause] = w.since
		}
	})
	now := ms(time.Now())
	for number := range znsv1.UnknownCause_name {
		cause := znsv1.UnknownCause(number)
		if cause == 0 {
			continue
		}
		age := 0.0
		if at, unknown := oldest[cause]; unknown {
			age = float64(max(0, now-at)) / 1000
		}
		label := enumLabel(cause.String(), "UNKNOWN_CAUSE_")
		ch <- prometheus.MustNewConstMetric(c.count, prometheus.GaugeValue, float64(n[cause]), label)
		ch <- prometheus.MustNewConstMetric(c.age, prometheus.GaugeValue, age, label)
	}
}
