package sender

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/znshub/znshub/pkg/stream"
	"github.com/znshub/znshub/pkg/zalo"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

// Reasons for which live entries wait, as indexes of partition.waiting: ready, the hold reasons, and what is not a
// wait for a turn.
const (
	waitReady   = 0
	waitHolds   = 1 // + hold reason - 1
	waitSending = waitHolds + int(ledgerv1.HoldReason_HOLD_REASON_OPERATOR)
	waitUnknown = waitSending + 1
	waitWatched = waitSending + 2
	waitReasons = waitSending + 3
)

func waitIndex(e *entry) int {
	switch e.state {
	case stateHeld:
		if r := int(e.reason); r >= 1 && r < waitSending {
			return waitHolds + r - 1
		}
	case stateSending:
		return waitSending
	case stateUnknown:
		return waitUnknown
	case stateFailed:
		return waitWatched
	}
	return waitReady
}

func waitName(index int) string {
	switch {
	case index == waitReady:
		return "ready"
	case index < waitSending:
		return holdName(ledgerv1.HoldReason(index - waitHolds + 1))
	case index == waitSending:
		return "sending"
	case index == waitUnknown:
		return "unknown"
	}
	return "watched"
}

func holdName(r ledgerv1.HoldReason) string { return enumLabel(r.String(), "HOLD_REASON_") }

// enumLabel turns a protobuf enum's name into a metric label.
func enumLabel(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }

// metrics are the sender's. Labels come from enums only, never from what a caller wrote.
type metrics struct {
	requests    *prometheus.CounterVec
	finished    *prometheus.CounterVec
	attempts    *prometheus.CounterVec
	unknowns    *prometheus.CounterVec
	deadLetters *prometheus.CounterVec
	duplicates  prometheus.Counter
	reused      prometheus.Counter
	moved       prometheus.Counter
	unresolved  prometheus.Counter
	resent      prometheus.Counter
	toSent      *prometheus.HistogramVec
	callTime    prometheus.Histogram
	commitTime  prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "znshub", Subsystem: "sender", Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "znshub", Subsystem: "sender", Name: name, Help: help}, labels)
		reg.MustRegister(c)
		return c
	}
	m := &metrics{
		requests:    vec("notifications_accepted_total", "Requests taken into the ledger, by category.", "category"),
		finished:    vec("notifications_finished_total", "Notifications that ended, by state (sent, failed), by reason of failure or source of the outcome.", "state", "reason"),
		attempts:    vec("attempts_total", "Calls to Zalo that ended, by outcome and class of Zalo's code.", "outcome", "class"),
		unknowns:    vec("unknown_total", "Attempts of which nobody knows whether Zalo took them, by cause.", "cause"),
		deadLetters: vec("dead_letters_total", "Records sent to the dead letter topic, by reason.", "reason"),
		duplicates:  counter("duplicates_total", "Repeated requests that were ignored."),
		reused:      counter("ids_reused_total", "Requests whose notification_id was used before with other content."),
		moved:       counter("moved_total", "Requests published again on the partition that they belong to."),
		unresolved:  counter("unresolved_total", "Events on zns.unresolved."),
		resent:      counter("resent_total", "Notifications sent again although the outcome before is unknown, by policy RESEND."),
		toSent: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "znshub", Subsystem: "sender", Name: "request_to_sent_seconds",
			Help:    "Time from the request's record, or its later not_before, to Zalo's acceptance, by category.",
			Buckets: []float64{.02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200, 86400},
		}, []string{"category"}),
		callTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "znshub", Subsystem: "sender", Name: "call_seconds", Help: "Duration of calls to Zalo.",
			Buckets: []float64{.005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10},
		}),
		commitTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "znshub", Subsystem: "sender", Name: "commit_seconds",
			Help:    "Duration of committed transactions, from the first record's way to Kafka to the confirmation.",
			Buckets: prometheus.ExponentialBuckets(.001, 1.5, 20), // to 2.2 s
		}),
	}
	reg.MustRegister(m.toSent, m.callTime, m.commitTime)
	return m
}

// commits returns a function for the engine's steps that measures transactions and hands each step on to next. Steps
// come from several goroutines, those of a transaction from one.
func (m *metrics) commits(next func(stream.Step)) func(stream.Step) {
	var began time.Time
	return func(s stream.Step) {
		switch s {
		case stream.StepBuilt:
			began = time.Now()
		case stream.StepCommitted:
			m.commitTime.Observe(time.Since(began).Seconds())
		}
		if next != nil {
			next(s)
		}
	}
}

// watch lets the collector see what waits; each scrape reads the counters of the partitions.
func (m *metrics) watch(reg prometheus.Registerer, h *handler) {
	reg.MustRegister(newLimitCollector(func() *limit.Limits { return h.limits }))
	reg.MustRegister(waitingCollector{h, prometheus.NewDesc("znshub_sender_waiting",
		"Notifications that are not finished, by why they wait.", []string{"reason"}, nil)})
	reg.MustRegister(memoryCollector{
		h,
		prometheus.NewDesc("znshub_sender_memory_bytes", "What SENDER_MEMORY counts, by use: index is what must stay in memory, payload what can be read from the ledger again.", []string{"use"}, nil),
		prometheus.NewDesc("znshub_sender_memory_full", "1 while no request is accepted because the index fills SENDER_MEMORY.", nil, nil),
	})
}

type waitingCollector struct {
	h    *handler
	desc *prometheus.Desc
}

func (c waitingCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

func (c waitingCollector) Collect(ch chan<- prometheus.Metric) {
	for i, n := range c.h.waiting() {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(n), waitName(i))
	}
}

// memoryCollector tells how SENDER_MEMORY is used.
type memoryCollector struct {
	h     *handler
	bytes *prometheus.Desc
	full  *prometheus.Desc
}

func (c memoryCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.bytes; ch <- c.full }

func (c memoryCollector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(c.bytes, prometheus.GaugeValue, float64(c.h.fixedSeen.Load()), "index")
	ch <- prometheus.MustNewConstMetric(c.bytes, prometheus.GaugeValue, float64(c.h.payloadSeen.Load()), "payload")
	full := 0.0
	if c.h.fullSeen.Load() {
		full = 1
	}
	ch <- prometheus.MustNewConstMetric(c.full, prometheus.GaugeValue, full)
}

// waiting counts the live entries by why they wait. It may be called from any goroutine.
func (h *handler) waiting() (n [waitReasons]int64) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, p := range h.parts {
		for i := range p.waiting {
			n[i] += p.waiting[i].Load()
		}
	}
	return n
}

func category(c notificationv1.Category) string { return enumLabel(c.String(), "CATEGORY_") }

func (m *metrics) accepted(c notificationv1.Category) { m.requests.WithLabelValues(category(c)).Inc() }

func (m *metrics) attempt(r *zalo.Result) {
	m.attempts.WithLabelValues(r.Outcome.String(), r.Class.String()).Inc()
	m.callTime.Observe(r.Duration.Seconds())
}

func (m *metrics) unknown(cause znsv1.UnknownCause) {
	m.unknowns.WithLabelValues(enumLabel(cause.String(), "UNKNOWN_CAUSE_")).Inc()
}

func (m *metrics) sent(e *entry, source znsv1.OutcomeSource, now time.Time) {
	m.finished.WithLabelValues("sent", enumLabel(source.String(), "OUTCOME_SOURCE_")).Inc()
	from := e.requested
	if e.due > e.accepted {
		from = e.due
	}
	m.toSent.WithLabelValues(category(e.category)).Observe(float64(ms(now)-from) / 1000)
}

func (m *metrics) failed(reason znsv1.FailureReason) {
	m.finished.WithLabelValues("failed", enumLabel(reason.String(), "FAILURE_REASON_")).Inc()
}
