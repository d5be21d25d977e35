package simtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/zalo/zalosim"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// action is something that happens at a virtual time.
type action struct {
	at   time.Duration // from the beginning
	what string
	do   func(w *world)
}

// calm reports whether a seed is one in which nothing goes wrong: senders come and go cleanly, nights and quotas pass.
// Nothing may be unknown there.
func calm(seed uint64) bool { return seed%8 == 0 }

// plan makes everything that happens in so many days, in order.
func plan(seed uint64, days int, begin time.Time) (actions []action, wishes []*wish, told []*order) {
	r := rand.New(rand.NewPCG(seed, 11))
	add := func(at time.Duration, what string, do func(w *world)) {
		actions = append(actions, action{at, what, do})
	}
	for i := range senders {
		add(time.Duration(i)*time.Minute, "start", func(w *world) { w.start(i) })
	}
	end := time.Duration(days) * 24 * time.Hour
	ranks := map[string]int{}
	// Requests: a day has its rush hours, and a campaign now and then, at any hour.
	publish := func(at time.Duration, category notificationv1.Category) {
		x := newWish(r, len(wishes), begin.Add(at), category)
		wishes = append(wishes, x)
		add(at, "", func(w *world) { w.publish(x) })
		if r.IntN(20) == 0 {
			x.copies++
			add(at+time.Duration(r.IntN(7200))*time.Second, "", func(w *world) { w.publish(x) })
		}
	}
	for day := range days {
		for range 100 + r.IntN(100) {
			at := time.Duration(day)*24*time.Hour + time.Duration(r.Int64N(int64(24*time.Hour)))
			publish(at, notificationv1.Category(1+r.IntN(4)))
		}
		if r.IntN(2) == 0 {
			at := time.Duration(day)*24*time.Hour + time.Duration(r.IntN(24*60))*time.Minute
			for range 50 + r.IntN(100) {
				publish(at+time.Duration(r.IntN(60_000))*time.Millisecond, notificationv1.Category_CATEGORY_PROMOTION)
			}
		}
	}
	// Where something goes wrong there is much to do.
	actions = append(actions, troubles(r, seed, end, func(at time.Duration) {
		for range 20 + r.IntN(60) {
			publish(max(0, at+time.Duration(r.NormFloat64()*float64(time.Second))), notificationv1.Category(1+r.IntN(4)))
		}
	})...)
	var orders []action
	orders, told = operators(r, days)
	actions = append(actions, orders...)
	slices.SortStableFunc(actions, func(a, b action) int { return int(a.at - b.at) })
	// The place in the order is that of publishing.
	order := slices.Clone(wishes)
	slices.SortStableFunc(order, func(a, b *wish) int { return a.at.Compare(b.at) })
	for _, x := range order {
		if x.key != "" {
			x.rank = ranks[x.key]
			ranks[x.key]++
		}
	}
	return actions, wishes, told
}

// wish is one notification as it was asked for.
type wish struct {
	id     string
	m      *notificationv1.NotificationRequested
	at     time.Time
	key    string // OA and ordering key
	rank   int
	copies int
	resend bool
}

// longestDelay is how far in the future a not_before may be.
const longestDelay = 10 * time.Hour

// templates of the simulator by category.
var templates = map[notificationv1.Category]string{
	notificationv1.Category_CATEGORY_OTP: "300100", notificationv1.Category_CATEGORY_TRANSACTION: "300200",
	notificationv1.Category_CATEGORY_CUSTOMER_CARE: "300250", notificationv1.Category_CATEGORY_PROMOTION: "300300",
}

func newWish(r *rand.Rand, i int, at time.Time, category notificationv1.Category) *wish {
	id, _ := uuid.NewRandomFromReader(source{r})
	m := &notificationv1.NotificationRequested{
		NotificationId: id.String(), Source: "simtest", OaId: oas[[]int{0, 0, 0, 0, 0, 1, 2}[r.IntN(7)]].ID, TemplateId: templates[category], Category: category,
		Recipient:    &notificationv1.Recipient{Phone: fmt.Sprintf("+8491%07d", i)},
		TemplateData: map[string]string{"customer_name": "A", "order_code": fmt.Sprint(i), "otp": "123456"},
	}
	x := &wish{id: m.NotificationId, m: m, at: at, copies: 1}
	switch category {
	case notificationv1.Category_CATEGORY_OTP:
		m.TemplateData = map[string]string{"otp": "123456"}
	case notificationv1.Category_CATEGORY_TRANSACTION:
		if r.IntN(2) == 0 { // orders of the large OA, which nothing holds for long
			m.OrderingKey, m.OaId = fmt.Sprintf("order-%d", r.IntN(4)), oas[0].ID
			x.key = m.OaId + "/" + m.OrderingKey
			// Those that end soon go first, but for their order.
			m.Ttl = durationpb.New(time.Hour + time.Duration(r.Int64N(int64(11*time.Hour))))
			return x
		}
	case notificationv1.Category_CATEGORY_PROMOTION:
		delete(m.TemplateData, "otp")
		delete(m.TemplateData, "order_code")
		m.CampaignId = campaign(r)
	default:
	}
	if category != notificationv1.Category_CATEGORY_TRANSACTION && category != notificationv1.Category_CATEGORY_OTP {
		m.TemplateData = map[string]string{"customer_name": "A"}
	}
	switch r.IntN(12) {
	case 0:
		m.NotBefore = timestamppb.New(at.Add(time.Duration(r.Int64N(int64(longestDelay)))))
	case 1:
		m.Ttl = durationpb.New(time.Duration(1+r.IntN(3600)) * time.Second)
	case 2:
		m.ExpireTime = timestamppb.New(at.Add(time.Duration(1+r.IntN(24*3600)) * time.Second))
	}
	switch r.IntN(8) {
	case 0:
		m.OnUnknown, x.resend = notificationv1.OnUnknown_ON_UNKNOWN_RESEND, true
	case 1:
		m.OnUnknown = notificationv1.OnUnknown_ON_UNKNOWN_HOLD
	case 2:
		m.OnUnknown = notificationv1.OnUnknown_ON_UNKNOWN_FAIL
	}
	return x
}

type source struct{ r *rand.Rand }

func (s source) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(s.r.Uint32())
	}
	return len(p), nil
}

// troubles are what goes wrong, about six times a day; busy makes a burst of requests around a time.
func troubles(r *rand.Rand, seed uint64, end time.Duration, busy func(at time.Duration)) (actions []action) {
	lasting := func(longest time.Duration) time.Duration {
		return time.Second + time.Duration(r.Float64()*r.Float64()*float64(longest))
	}
	add := func(at time.Duration, what string, do func(w *world)) {
		actions = append(actions, action{at, what, do})
	}
	for at := 10 * time.Minute; at < end; at += time.Duration(r.Float64() * float64(8*time.Hour)) {
		busy(at)
		who := r.IntN(senders)
		name := fmt.Sprintf("sender-%d", who)
		if calm(seed) || r.IntN(4) == 0 {
			away := lasting(3 * time.Hour)
			add(at, name+" SIGTERM", func(w *world) { w.terminate(who) })
			add(at+away, name+" start", func(w *world) { w.start(who) })
			continue
		}
		switch r.IntN(7) {
		case 0:
			away := lasting(3 * time.Hour)
			add(at, name+" kill -9", func(w *world) { w.kill(who) })
			add(at+away, name+" start", func(w *world) { w.start(who) })
		case 1: // shorter and longer than its session; it does not know
			away := lasting(20 * time.Minute)
			add(at, name+" cut from the broker", func(w *world) { w.cut(who, kafkaAddr) })
			add(at+away, name+" can reach the broker", func(w *world) { w.mend(who, kafkaAddr) })
		case 2:
			away := lasting(2 * time.Hour)
			add(at, name+" cut from Zalo", func(w *world) { w.cut(who, zaloAddr) })
			add(at+away, name+" can reach Zalo", func(w *world) { w.mend(who, zaloAddr) })
		case 3: // the broker is away for everybody
			away := lasting(30 * time.Minute)
			add(at, "broker away", func(w *world) {
				for i := range senders {
					w.cut(i, kafkaAddr)
				}
			})
			add(at+away, "broker back", func(w *world) {
				for i := range senders {
					w.mend(i, kafkaAddr)
				}
			})
		case 4:
			f := brokerFaults[r.IntN(len(brokerFaults))]
			f.Count = 1 + r.IntN(5)
			add(at, fmt.Sprintf("broker answers %s %d times to %v", f.Err.Message, f.Count, f.Keys), func(w *world) { w.broker.Fault(f) })
		default:
			f := zaloFaults[r.IntN(len(zaloFaults))]
			f.Probability = []float64{0.05, 0.3, 1}[r.IntN(3)]
			away, id := lasting(5*time.Hour), ""
			add(at, fmt.Sprintf("Zalo: %s %d p=%.2f %s", f.Kind, f.Code+f.Status, f.Probability, f.OAID), func(w *world) {
				var err error
				if id, err = w.zalo.AddFault(f); err != nil {
					w.t.Error(err)
				}
			})
			add(at+away, "Zalo: no more "+string(f.Kind), func(w *world) { w.zalo.ClearFaults(id) })
		}
	}
	return actions
}

// brokerFaults are errors that brokers give although all is well a moment later. After REQUEST_TIMED_OUT the work was
// done all the same.
var brokerFaults = []kfake.Fault{
	{Keys: []kmsg.Key{kmsg.EndTxn}, Err: kerr.NotCoordinator, TopLevel: true},
	{Keys: []kmsg.Key{kmsg.EndTxn}, Err: kerr.CoordinatorLoadInProgress, TopLevel: true},
	{Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Err: kerr.CoordinatorLoadInProgress},
	{Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Err: kerr.NotCoordinator},
	{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotLeaderForPartition},
	{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas},
	{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.NotCoordinator, TopLevel: true},
	{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.RebalanceInProgress, TopLevel: true},
	{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.UnknownMemberID, TopLevel: true},
	{Keys: []kmsg.Key{kmsg.OffsetFetch}, Err: kerr.UnstableOffsetCommit},
	{Keys: []kmsg.Key{kmsg.InitProducerID}, Err: kerr.ConcurrentTransactions, TopLevel: true},
}

// zaloFaults are those of answers, refusals and callbacks. What holds for long goes to OAs without ordering keys.
var zaloFaults = []zalosim.Fault{
	{Kind: zalosim.FaultHTML, Status: 503}, {Kind: zalosim.FaultHTML, Status: 502, Accept: true}, {Kind: zalosim.FaultHTML, Status: 429},
	{Kind: zalosim.FaultLostAnswer}, {Kind: zalosim.FaultHang}, {Kind: zalosim.FaultResetBefore}, {Kind: zalosim.FaultResetAfter},
	{Kind: zalosim.FaultResetMidBody}, {Kind: zalosim.FaultTruncated}, {Kind: zalosim.FaultNoMsgID}, {Kind: zalosim.FaultSlow, Delay: 8 * time.Second},
	{Kind: zalosim.FaultRedirect}, {Kind: zalosim.FaultCode, Code: -124, OAID: oas[2].ID}, {Kind: zalosim.FaultCode, Code: -115, OAID: oas[2].ID},
	{Kind: zalosim.FaultCode, Code: -131, OAID: oas[1].ID}, {Kind: zalosim.FaultCode, Code: -98765, OAID: oas[1].ID},
	{Kind: zalosim.FaultCode, Code: -32, OAID: oas[1].ID}, {Kind: zalosim.FaultCode, Code: -100, OAID: oas[2].ID},
	{Kind: zalosim.FaultCode, Code: -118, OAID: oas[2].ID}, {Kind: zalosim.FaultCode, Code: -1471, OAID: oas[2].ID},
	{Kind: zalosim.FaultCallbackLost}, {Kind: zalosim.FaultCallbackDelayed, Delay: 3 * time.Hour}, {Kind: zalosim.FaultCallbackDelayed, Delay: 40 * time.Second},
	{Kind: zalosim.FaultCallbackBefore}, {Kind: zalosim.FaultCallbackTwice}, {Kind: zalosim.FaultCallbackForged}, {Kind: zalosim.FaultNeverDelivered},
}
