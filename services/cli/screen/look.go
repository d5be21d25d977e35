package screen

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	oav1 "github.com/znshub/znshub/proto/oa/v1"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/cli/explain"
	"github.com/znshub/znshub/services/cli/render"
	"github.com/znshub/znshub/services/sender/control"
)

func vietnam(t time.Time) string { return render.Vietnam(t) + " (Vietnam)" }

// Config says what is looked at.
type Config struct {
	Admin       *kafka.Admin
	Client      []kgo.Opt
	Input       string // the sender's input topic
	SenderGroup string
	IngestGroup string
	NoLedger    bool     // do not read the ledger
	Ingests     []string // URLs of the ADMIN_ADDR of webhook-ingests
	Read        func(records int64)
}

// Look asks the cluster and judges what it says. An error means that it could not be asked.
func Look(ctx context.Context, cfg Config) (*Screen, error) {
	s := &Screen{Time: time.Now(), Problems: []string{}, Notes: []string{}, Topics: []string{}, Groups: []Group{}, Quotas: []Quota{}, Holds: []string{}, Ingests: []Ingest{}}
	info, err := cfg.Admin.Broker(ctx)
	if err != nil {
		return nil, err
	}
	s.Brokers, s.Version = info.Brokers, info.Version
	specs := topic.Table()
	if cfg.Input != topic.Requested {
		specs = append(topic.ForInput(cfg.Input), specs...)
	}
	wrong, err := cfg.Admin.Check(ctx, specs)
	if err != nil {
		return nil, err
	}
	for _, p := range wrong {
		if !p.Warning {
			s.Topics = append(s.Topics, p.String())
		}
	}
	for _, g := range [][2]string{{cfg.SenderGroup, cfg.Input}, {cfg.IngestGroup, topic.Callback}} {
		group, err := cfg.group(ctx, g[0], g[1])
		if err != nil {
			return nil, err
		}
		s.Groups = append(s.Groups, group)
	}
	if !cfg.NoLedger && !missing(wrong, topic.LedgerOf(cfg.Input)) {
		if s.Ledger, err = cfg.ledger(ctx, s.Time); err != nil {
			return nil, err
		}
	}
	if !missing(wrong, topic.OAQuota) {
		if s.Quotas, err = cfg.quotas(ctx, s.Time); err != nil {
			return nil, err
		}
	}
	if !missing(wrong, topic.Control) {
		if s.Holds, err = cfg.holds(ctx, s.Time); err != nil {
			return nil, err
		}
	}
	for _, url := range cfg.Ingests {
		s.Ingests = append(s.Ingests, ingest(ctx, url))
	}
	s.Judge()
	return s, nil
}

func missing(problems []kafka.Problem, name string) bool {
	return slices.ContainsFunc(problems, func(p kafka.Problem) bool { return p.Topic == name && strings.Contains(p.What, "does not exist") })
}

func (cfg *Config) group(ctx context.Context, name, input string) (Group, error) {
	g := Group{Name: name, Topic: input, Unowned: []int32{}}
	found, err := cfg.Admin.Topics(ctx, input)
	if err != nil || found[input].Partitions == 0 {
		return g, err
	}
	g.Partitions = int(found[input].Partitions)
	group, err := cfg.Admin.Group(ctx, name)
	if err != nil {
		return g, err
	}
	g.State, g.Members = group.State, len(group.Members)
	starts, err := cfg.Admin.StartOffsets(ctx, input)
	if err != nil {
		return g, err
	}
	ends, err := cfg.Admin.EndOffsets(ctx, input)
	if err != nil {
		return g, err
	}
	for p := range int32(g.Partitions) {
		owned := slices.ContainsFunc(group.Members, func(m kafka.Member) bool { return slices.Contains(m.Partitions[input], p) })
		if !owned {
			g.Unowned = append(g.Unowned, p)
		}
		at, ok := group.Committed[input][p]
		if !ok {
			at = starts[p]
		}
		g.Lag += max(0, ends[p]-max(at, starts[p]))
	}
	return g, nil
}

// standing is what is kept of a notification that is not done.
type standing struct {
	state  ledgerv1.State
	hold   ledgerv1.HoldReason
	until  int64
	since  int64
	decide int64
}

func (cfg *Config) ledger(ctx context.Context, now time.Time) (*Ledger, error) {
	live := map[uuid.UUID]standing{}
	l := &Ledger{Held: map[string]int{}}
	ranges, err := explain.ReadRange(ctx, kafka.ReaderConfig{Client: cfg.Client, Topic: topic.LedgerOf(cfg.Input)}, func(r kafka.Record) {
		if l.Records++; cfg.Read != nil {
			cfg.Read(l.Records)
		}
		id, err := uuid.ParseBytes(r.Key)
		if err != nil {
			return // the engine's own records
		}
		e := &ledgerv1.Entry{}
		if r.Value == nil || proto.Unmarshal(r.Value, e) != nil {
			delete(live, id)
			return
		}
		switch e.GetState() {
		case ledgerv1.State_STATE_SENT, ledgerv1.State_STATE_FAILED:
			delete(live, id)
		default:
			live[id] = standing{
				state: e.GetState(), hold: e.GetHoldReason(), until: e.GetHoldUntilMs(), since: e.GetUnknownSinceMs(), decide: e.GetDecideByMs(),
			}
		}
	})
	if err != nil {
		return nil, err
	}
	for _, r := range ranges {
		l.Incomplete = cmp.Or(l.Incomplete, r.Incomplete)
	}
	for _, e := range live {
		l.count(e, now)
	}
	return l, nil
}

func (l *Ledger) count(e standing, now time.Time) {
	earlier := func(to **time.Time, ms int64) {
		if ms != 0 && (*to == nil || time.UnixMilli(ms).Before(**to)) {
			*to = new(time.UnixMilli(ms))
		}
	}
	switch e.state {
	case ledgerv1.State_STATE_SENDING:
		l.InFlight++
	case ledgerv1.State_STATE_HELD:
		l.Held[hold(e.hold)]++
		earlier(&l.HeldUntil, e.until)
	case ledgerv1.State_STATE_UNKNOWN:
		l.Unknown++
		earlier(&l.OldestUnknown, e.since)
		if e.decide != 0 && now.Sub(time.UnixMilli(e.decide)) > lateDecision {
			l.Overdue++
		}
	default:
		l.Accepted++
	}
}

func (cfg *Config) quotas(ctx context.Context, now time.Time) ([]Quota, error) {
	rows := map[string]*oav1.Quota{}
	_, err := explain.ReadRange(ctx, kafka.ReaderConfig{Client: cfg.Client, Topic: topic.OAQuota}, func(r kafka.Record) {
		q := &oav1.Quota{}
		if r.Value == nil || kafka.Decode(r, q) != nil {
			delete(rows, string(r.Key))
			return
		}
		rows[string(r.Key)] = q
	})
	quotas := make([]Quota, 0, len(rows))
	for _, q := range rows {
		quotas = append(quotas, quotaOf(q, now))
	}
	slices.SortFunc(quotas, func(a, b Quota) int { return cmp.Or(cmp.Compare(a.OA, b.OA), cmp.Compare(a.Template, b.Template)) })
	return quotas, err
}

func quotaOf(q *oav1.Quota, now time.Time) Quota {
	row := Quota{OA: q.GetOaId(), Template: q.GetTemplateId(), Daily: q.DailyQuota, Remaining: q.RemainingQuota}
	if q.GetExhaustedTime() != nil {
		row.Exhausted = new(q.GetExhaustedTime().AsTime())
	}
	if q.GetRefusedTime() != nil {
		row.Refused, row.Code = new(q.GetRefusedTime().AsTime()), q.GetRefusedCode()
	}
	if s := q.GetEventTime(); s != nil && render.Vietnam(s.AsTime())[:len(time.DateOnly)] < render.Vietnam(now)[:len(time.DateOnly)] {
		row.Remaining = nil // that was left on another day
	}
	return row
}

func (cfg *Config) holds(ctx context.Context, now time.Time) ([]string, error) {
	view, err := control.Read(ctx, cfg.Client)
	if err != nil {
		return nil, err
	}
	return holdsOf(view, now), nil
}

// holdsOf are the rules that hold something now.
func holdsOf(view *control.View, now time.Time) []string {
	rules := view.Holding(now)
	holds := make([]string, 0, len(rules))
	for _, c := range rules {
		holds = append(holds, explain.HoldText(c))
	}
	return holds
}

// ingest reads the metrics of one webhook-ingest.
func ingest(ctx context.Context, url string) Ingest {
	i := Ingest{URL: url}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(url, "/")+"/metrics", http.NoBody)
	if err != nil {
		i.Error = err.Error()
		return i
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		i.Error = err.Error()
		return i
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		i.Error = fmt.Sprintf("answered %d", resp.StatusCode)
		return i
	}
	values := metrics(io.LimitReader(resp.Body, 4<<20))
	up, ok := values["znshub_ingest_translator_up"]
	if !ok {
		i.Error = "its metrics are not those of a webhook-ingest"
		return i
	}
	i.Translates = up == 1
	i.Spooled, i.Waiting = values["znshub_ingest_spool_records"], values["znshub_ingest_receipts_waiting"]
	return i
}

// metrics reads those without labels.
func metrics(r io.Reader) map[string]float64 {
	values := map[string]float64{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if !ok || strings.HasPrefix(name, "#") || strings.Contains(name, "{") {
			continue
		}
		if v, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil {
			values[name] = v
		}
	}
	return values
}
