package screen

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	controlv1 "github.com/znshub/znshub/proto/control/v1"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	oav1 "github.com/znshub/znshub/proto/oa/v1"
	"github.com/znshub/znshub/services/cli/render"
	"github.com/znshub/znshub/services/sender/control"
)

var now = time.Date(2026, 11, 22, 4, 0, 0, 0, time.UTC)

// healthy is a screen of which nothing is to be said.
func healthy() *Screen {
	return &Screen{
		Time: now, Brokers: 3, Version: "v4.3",
		Groups:  []Group{{Name: "zns-sender", Topic: "notification.requested", State: "Stable", Members: 3, Partitions: 12}},
		Ledger:  &Ledger{Held: map[string]int{"HOURS": 3, "NOT_BEFORE": 1}, Accepted: 2, Unknown: 1, OldestUnknown: new(now.Add(-time.Minute)), HeldUntil: new(now.Add(time.Hour))},
		Quotas:  []Quota{{OA: "9", Daily: new(int32(5000)), Remaining: new(int32(1200))}},
		Ingests: []Ingest{{URL: "http://i", Translates: true}},
	}
}

// Each case takes the healthy screen and breaks one thing.
func TestJudge(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Screen)
		red    bool
		says   string
	}{
		"healthy":              {func(*Screen) {}, false, ""},
		"a topic":              {func(s *Screen) { s.Topics = []string{"topic zns.sent: it does not exist"} }, true, "zns.sent"},
		"nobody":               {func(s *Screen) { s.Groups[0].Members = 0 }, true, "nobody works in group zns-sender"},
		"rebalancing":          {func(s *Screen) { s.Groups[0].State = "PreparingRebalance"; s.Groups[0].Unowned = []int32{1} }, false, "PreparingRebalance"},
		"without owner":        {func(s *Screen) { s.Groups[0].Unowned = []int32{3, 4} }, true, "2 partitions of notification.requested without an owner in group zns-sender: 3, 4"},
		"lag":                  {func(s *Screen) { s.Groups[0].Lag = 20_000 }, false, "20000 records behind"},
		"token":                {func(s *Screen) { s.Ledger.Held["TOKEN"] = 1 }, true, "1 notification held for TOKEN"},
		"circuit":              {func(s *Screen) { s.Ledger.Held["CIRCUIT"] = 7 }, true, "7 notifications held for CIRCUIT"},
		"operator":             {func(s *Screen) { s.Ledger.Held["OPERATOR"] = 1 }, false, "OPERATOR"},
		"policy late":          {func(s *Screen) { s.Ledger.Overdue = 2 }, true, "of 2 unknown notifications the policy should have decided"},
		"quota used up":        {func(s *Screen) { s.Quotas[0].Remaining = new(int32(0)) }, false, "quota of OA 9 is used up"},
		"quota will be":        {func(s *Screen) { s.Quotas[0].Exhausted = new(now) }, false, "2026-11-22 11:00:00 (Vietnam)"},
		"refused":              {func(s *Screen) { s.Quotas[0].Refused, s.Quotas[0].Code = new(now), -115 }, true, "refuses everything of OA 9 since 2026-11-22 11:00:00 (Vietnam) with code -115"},
		"no translation":       {func(s *Screen) { s.Ingests[0].Translates = false }, true, "does not translate"},
		"spool":                {func(s *Screen) { s.Ingests[0].Spooled = 5 }, false, "5 callbacks are on the disk"},
		"ledger not complete":  {func(s *Screen) { s.Ledger.Incomplete = "an open transaction" }, false, "an open transaction"},
		"without ledger":       {func(s *Screen) { s.Ledger = nil }, false, ""},
		"ingest not reachable": {func(s *Screen) { s.Ingests[0].Error = "refused" }, true, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			s := healthy()
			tt.change(s)
			s.Judge()
			text := strings.Join(append(s.Problems, s.Notes...), "\n")
			if s.Red != tt.red || tt.says == "" && text != "" || !strings.Contains(text, tt.says) {
				t.Errorf("red %v, says %q", s.Red, text)
			}
			if s.Red != (len(s.Problems) > 0) {
				t.Error("red without a reason, or the other way round")
			}
		})
	}
}

func TestText(t *testing.T) {
	s := healthy()
	s.Judge()
	want := `state       green
Kafka       3 brokers, v4.3
zns-sender  Stable, 3 members, 12 of 12 partitions owned, lag 0 on notification.requested
waiting     6: 2 for their turn, 3 HOURS, 1 NOT_BEFORE; the first until 2026-11-22 12:00:00 (Vietnam)
in flight   0
unknown     1, the oldest for 1 min
quota       OA 9: 1200 of 5000 left today
spool       0 callbacks on the disk of http://i, 0 receipts wait for their send
`
	if diff := cmp.Diff(want, s.Text(render.Style{})); diff != "" {
		t.Errorf("screen (-want +got):\n%s", diff)
	}
}

// What was true yesterday is not told as today's.
func TestOver(t *testing.T) {
	rule := func(offset int64, campaign string, until time.Time) kafka.Record {
		c := &controlv1.Command{CommandId: uuid.NewString(), Time: timestamppb.New(now), Scope: control.Campaign(campaign).Proto(), Action: controlv1.Action_ACTION_HOLD, ExpireTime: timestamppb.New(until)}
		r, err := control.Record(c, "/test")
		if err != nil {
			t.Fatal(err)
		}
		r.Offset, r.Time = offset, now.Add(-time.Hour)
		return r
	}
	view := control.ViewOf(control.Position{}, rule(0, "over", now.Add(-time.Second)), rule(1, "stands", now.Add(time.Second)))
	if holds := holdsOf(view, now); len(holds) != 1 || !strings.Contains(holds[0], "stands") {
		t.Errorf("held: %q", holds)
	}
	midnight := time.Date(2026, 11, 21, 17, 0, 0, 0, time.UTC) // in Vietnam
	for at, want := range map[time.Time]bool{midnight: true, midnight.Add(-time.Second): false} {
		q := quotaOf(&oav1.Quota{OaId: "9", EventTime: timestamppb.New(at), DailyQuota: new(int32(500)), RemainingQuota: new(int32(0))}, now)
		if (q.Remaining != nil) != want || q.Daily == nil {
			t.Errorf("told at %s: %s", at, q.text())
		}
	}
}

// What was not told is not shown as if it had been.
func TestTextOfWhatIsNotKnown(t *testing.T) {
	s := healthy()
	s.Groups[0] = Group{Name: "zns-sender", Topic: "notification.requested"} // its topic does not exist
	s.Ingests[0] = Ingest{URL: "http://i", Error: "refused"}
	s.Judge()
	text := s.Text(render.Style{})
	for _, want := range []string{"zns-sender  not looked at, 0 members", "spool       not known of http://i: it did not tell"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "0 callbacks") {
		t.Errorf("a spool that nobody told of is empty:\n%s", text)
	}
}

func TestCount(t *testing.T) {
	l := &Ledger{Held: map[string]int{}}
	ms := func(d time.Duration) int64 { return now.Add(d).UnixMilli() }
	for _, e := range []standing{
		{state: ledgerv1.State_STATE_ACCEPTED},
		{state: ledgerv1.State_STATE_SENDING},
		{state: ledgerv1.State_STATE_HELD, hold: ledgerv1.HoldReason_HOLD_REASON_QUOTA, until: ms(2 * time.Hour)},
		{state: ledgerv1.State_STATE_HELD, hold: ledgerv1.HoldReason_HOLD_REASON_QUOTA, until: ms(time.Hour)},
		{state: ledgerv1.State_STATE_HELD, hold: ledgerv1.HoldReason_HOLD_REASON_TOKEN},
		{state: ledgerv1.State_STATE_UNKNOWN, since: ms(-time.Hour), decide: ms(-6 * time.Minute)},
		{state: ledgerv1.State_STATE_UNKNOWN, since: ms(-time.Minute), decide: ms(-time.Minute)},
	} {
		l.count(e, now)
	}
	want := &Ledger{
		Accepted: 1, InFlight: 1, Held: map[string]int{"QUOTA": 2, "TOKEN": 1}, HeldUntil: new(now.Add(time.Hour)), Unknown: 2,
		OldestUnknown: new(now.Add(-time.Hour)), Overdue: 1,
	}
	if diff := cmp.Diff(want, l); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestIngest(t *testing.T) {
	page := "# HELP x\nznshub_ingest_translator_up 1\nznshub_ingest_spool_records 12\nznshub_ingest_receipts_waiting 3\nznshub_ingest_appends_total{route=\"direct\"} 7\n"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write([]byte(page))
	}))
	defer server.Close()
	got := ingest(t.Context(), strings.TrimPrefix(server.URL, "http://"))
	if got.Error != "" || !got.Translates || got.Spooled != 12 || got.Waiting != 3 {
		t.Errorf("%+v", got)
	}
	page = "go_goroutines 3\n"
	if got := ingest(t.Context(), server.URL); got.Error == "" {
		t.Errorf("another program's metrics: %+v", got)
	}
	if got := ingest(t.Context(), server.URL+"/x"); got.Error == "" {
		t.Errorf("no metrics: %+v", got)
	}
}
