package ingest

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/znshub/znshub/services/ingest/intake"
	"github.com/znshub/znshub/services/ingest/sends"
	"github.com/znshub/znshub/services/ingest/spool"
	"github.com/znshub/znshub/services/ingest/status"
	"github.com/znshub/znshub/services/ingest/translate"
	"github.com/znshub/znshub/services/ingest/webhook"
)

// metrics are what an operator sees. Labels come from fixed sets only.
type metrics struct {
	requests  *prometheus.CounterVec
	latency   prometheus.Histogram
	appends   *prometheus.CounterVec
	events    *prometheus.CounterVec
	results   *prometheus.CounterVec
	folded    *prometheus.CounterVec
	replayed  prometheus.Counter
	refused   prometheus.Counter
	damaged   prometheus.Counter
	up        prometheus.Gauge
	collected []prometheus.Collector
}

func newMetrics(stats func() spool.Stats) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "znshub", Subsystem: "ingest", Name: name, Help: help}, labels)
	}
	one := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "znshub", Subsystem: "ingest", Name: name, Help: help})
	}
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "znshub", Subsystem: "ingest", Name: name, Help: help}, f)
	}
	m := &metrics{
		requests: counter("requests_total", "Requests to the webhook by how they ended and the HTTP status.", "outcome", "code"),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "znshub", Subsystem: "ingest", Name: "request_seconds", Help: "Time from a callback's arrival to its answer 200. Zalo gives up after 2 s.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 1.5, 2, 3},
		}),
		appends:  counter("appends_total", "Callbacks made durable, by route: direct (Kafka) or spooled (local disk first).", "route"),
		events:   counter("events_total", "Callbacks stored, by Zalo's event name; names that Zalo does not document are other.", "event"),
		results:  counter("translated_total", "Callbacks read from zalo.callback by event and what became of them.", "event", "result"),
		folded:   counter("status_events_total", "Events read for zns.status and what became of them.", "result"),
		replayed: one("spool_replayed_total", "Callbacks that went from the local disk to Kafka."),
		refused:  one("spool_refused_total", "Callbacks that Kafka will not take; they are kept in the spool's directory refused."),
		damaged:  one("spool_damaged_bytes_total", "Bytes of the spool that are no record; they are kept in the spool's directory damaged."),
		up:       prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "znshub", Subsystem: "ingest", Name: "translator_up", Help: "1 while raw callbacks are being translated, 0 after an error that is in the log."}),
	}
	for _, o := range webhook.Outcomes {
		m.requests.WithLabelValues(string(o), strconv.Itoa(o.Code()))
	}
	for _, r := range []intake.Route{intake.Direct, intake.Spooled} {
		m.appends.WithLabelValues(string(r))
	}
	for _, r := range status.Results {
		m.folded.WithLabelValues(string(r))
	}
	m.collected = []prometheus.Collector{
		m.requests, m.latency, m.appends, m.events, m.results, m.folded, m.replayed, m.refused, m.damaged, m.up,
		gauge("spool_records", "Callbacks on the local disk that wait for Kafka.", func() float64 { return float64(stats().Records) }),
		gauge("spool_bytes", "Size of the spool on the local disk.", func() float64 { return float64(stats().Bytes) }),
	}
	return m
}

func (m *metrics) answered(o webhook.Outcome, code int, took time.Duration) {
	m.requests.WithLabelValues(string(o), strconv.Itoa(code)).Inc()
	if o == webhook.Stored {
		m.latency.Observe(took.Seconds())
	}
}

// translator returns the collectors of one run of the translation.
func (m *metrics) translator(t *translate.Translator, s *sends.Sends, f *status.Folder) []prometheus.Collector {
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "znshub", Subsystem: "ingest", Name: name, Help: help}, f)
	}
	return []prometheus.Collector{
		gauge("receipts_waiting", "Receipts that wait for the outcome of their send.", func() float64 { return float64(t.WaitingReceipts()) }),
		gauge("sends_indexed", "Sends whose receipts can be joined.", func() float64 { return float64(s.Stats().Indexed) }),
		gauge("sends_cached_bytes", "Outcomes of sends in memory.", func() float64 { return float64(s.Stats().CachedBytes) }),
		gauge("status_queued", "Events that wait to be folded into zns.status.", func() float64 { return float64(f.Stats().Queued) }),
		gauge("status_queued_bytes", "Events that wait to be folded into zns.status, in bytes of memory.", func() float64 { return float64(f.Stats().QueuedBytes) }),
		gauge("status_indexed", "Notifications whose latest snapshot can be found.", func() float64 { return float64(f.Stats().Indexed) }),
		gauge("status_cached_bytes", "Snapshots of notifications in memory.", func() float64 { return float64(f.Stats().CachedBytes) }),
		gauge("receipts_awaited", "Notifications with deliver_within whose receipt has not come.", func() float64 { return float64(f.Stats().Awaited) }),
		gauge("status_loading", "Partitions whose snapshots are being loaded: nothing of them is folded yet.", func() float64 { return float64(f.Stats().Loading) }),
	}
}
