package sender

import (
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// onPartition makes a request whose canonical partition is p of n.
func onPartition(p, n int32, name string, change ...func(*notificationv1.NotificationRequested)) *notificationv1.NotificationRequested {
	for {
		r := request(name, change...)
		if kafka.Murmur2Partition([]byte(r.NotificationId), n) == p {
			return r
		}
	}
}

// flood publishes n promotions that wait until the given time on partition 0 of two.
func (w *world) flood(n int, until time.Time) {
	w.t.Helper()
	const batch = 5000
	records := make([]kafka.Record, 0, batch)
	for i := range n {
		r := onPartition(0, 2, fmt.Sprint("promo-", i), ofCategory(promotion), notBefore(until), func(r *notificationv1.NotificationRequested) { r.CampaignId = "tet" })
		value, err := proto.Marshal(r)
		if err != nil {
			w.t.Fatal(err)
		}
		if records = append(records, kafka.Record{Topic: w.input, Partition: 0, Key: []byte(r.NotificationId), Value: value}); len(records) == batch || i == n-1 {
			w.write(records...)
			records = records[:0]
		}
	}
}

// rss is the resident memory of this process in MiB; 0 where that cannot be read.
func rss() int {
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.SplitSeq(string(status), "\n") {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.Atoi(strings.Fields(kb)[0])
			return n >> 10
		}
	}
	return 0
}

// TestKafkaOTPBehindPromotions: OTPs that come after 20,000 promotions waiting on the same partition reach the provider
// within moments, also after a restart, and what waits takes little memory. With ZNS_TEST_LONG it is a million.
func TestKafkaOTPBehindPromotions(t *testing.T) {
	n := 20_000
	if os.Getenv("ZNS_TEST_LONG") != "" {
		n = 1_000_000
	}
	w := newWorld(t, 2, "SENDER_MEMORY=192MiB")
	s := w.run("a")
	w.publish(onPartition(0, 2, "first"))
	w.eventually("the first one", 40*time.Second, func() bool { return len(w.provider.got("first")) == 1 })
	before := rss()
	began := time.Now()
	w.flood(n, time.Now().Add(20*time.Hour))
	waits := func(s *running) func() bool {
		return func() bool { return s.h.waiting()[waitHolds] == int64(n) }
	}
	w.eventually("all are taken", 10*time.Minute, waits(s))
	t.Logf("%d promotions taken in %s; resident memory %d MiB before, %d MiB with them; index %d MiB, payload %d MiB", n, time.Since(began).Round(time.Millisecond),
		before, rss(), s.h.fixedSeen.Load()>>20, s.h.payloadSeen.Load()>>20)
	otps := func(s *running, when string) {
		t.Helper()
		var took []time.Duration
		for i := range 20 {
			name := fmt.Sprint("otp-", when, i)
			r := onPartition(0, 2, name, ofCategory(otp))
			value := mustMarshal(t, r)
			at := time.Now()
			w.write(kafka.Record{Topic: w.input, Partition: 0, Key: []byte(r.NotificationId), Value: value})
			w.eventually("the OTP", 10*time.Second, func() bool { return len(w.provider.got(name)) == 1 })
			took = append(took, w.provider.got(name)[0].At.Sub(at))
		}
		slices.Sort(took)
		t.Logf("%s: from write to provider: median %s, all but one within %s, all within %s", when, took[10], took[18], took[19])
		// Generous: the machine may be busy with other tests. The goal of 100 ms is for one that is not.
		if took[10] > time.Second {
			t.Errorf("%s: an OTP behind %d promotions takes %s", when, n, took[10])
		}
	}
	otps(s, "waiting")
	s.stop()
	began = time.Now()
	s = w.run("b")
	w.eventually("all are restored", 10*time.Minute, waits(s))
	t.Logf("restored in %s; resident memory %d MiB", time.Since(began).Round(time.Millisecond), rss())
	otps(s, "restored")
}

// TestKafkaReadAgain: entries that were dropped from memory are read from the ledger when their time comes, over a
// restart, and everything that was asked for is sent once.
func TestKafkaReadAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, "SENDER_MEMORY=1MiB", "SENDER_MAX_IN_FLIGHT=64")
	at := time.Now().Add(12 * time.Second)
	s := w.run("a")
	ids := w.many(4000, func(_ int, r *notificationv1.NotificationRequested) {
		notBefore(at)(r)
		r.TemplateData["text"] = strings.Repeat("x", 600)
	})
	w.eventually("all are taken", 40*time.Second, func() bool { return s.h.waiting()[waitHolds] == 4000 })
	time.Sleep(200 * time.Millisecond)
	loaded := 0
	s.engine.Do(func() {
		for _, p := range s.h.parts {
			loaded += len(p.entries)
		}
	})
	if loaded > 2000 {
		t.Errorf("%d of 4000 entries are in memory with SENDER_MEMORY=1MiB", loaded)
	}
	s.stop()
	w.run("b")
	w.wantAllSentOnce(ids, 3*time.Minute)
	for i := range 4000 {
		if p := w.provider.got(fmt.Sprint(i)); len(p[0].TemplateData["text"]) != 600 || p[0].At.Before(at) {
			t.Fatalf("notification %d: %d bytes of text, %s before its time", i, len(p[0].TemplateData["text"]), at.Sub(p[0].At))
		}
	}
}
