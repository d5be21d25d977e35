package operate

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
	"github.com/znshub/znshub/services/cli/explain"
	"github.com/znshub/znshub/services/sender/limit"
)

// Item is where one notification stands, without anything about the person.
type Item struct {
	ID          uuid.UUID
	Partition   int32 // of the ledger
	State       ledgerv1.State
	Hold        ledgerv1.HoldReason
	HoldUntil   time.Time
	Attempt     int32
	Open        int // attempts whose outcome is not known, the one under way included
	Cause       znsv1.UnknownCause
	Since       time.Time // unknown since
	DecideBy    time.Time
	Policy      notificationv1.OnUnknown // as requested; unset: the sender's setting
	OA          string
	Template    string
	Campaign    string
	Category    notificationv1.Category
	Finished    time.Time
	Failure     znsv1.FailureReason
	Code        int32 // Zalo's
	InputOffset int64
	Hash        []byte
	// Unlisted reports whether it waits for an operator because Zalo answered with a code that is in no table: it may have
	// been sent.
	Unlisted bool
}

// Flow is what commands match.
func (i *Item) Flow() limit.Flow {
	return limit.Flow{OA: i.OA, Template: i.Template, Campaign: i.Campaign, Category: i.Category}
}

// unlisted tells it by what the sender tells it by. Its rules too hold those that may have been sent.
func unlisted(e *ledgerv1.Entry) bool {
	open := e.GetOpenAttempts()
	return e.GetState() == ledgerv1.State_STATE_HELD && e.GetHoldReason() == ledgerv1.HoldReason_HOLD_REASON_OPERATOR && !e.GetFlowHold() &&
		len(open) > 0 && open[len(open)-1].GetNumber() == e.GetAttempt() && e.GetRetries() > 0
}

// Unknown reports whether nobody knows whether it was sent, and a person may decide.
func (i *Item) Unknown() bool { return i.State == ledgerv1.State_STATE_UNKNOWN || i.Unlisted }

// Log reads topics. [explain.KafkaLog] is one.
type Log interface {
	Partitions(ctx context.Context, topicName string) (int32, error)
	Read(ctx context.Context, topicName string, partitions []int32, start kafka.Start, f func(kafka.Record)) ([]explain.Range, error)
}

// Scan reads the whole ledger of an input topic and returns the items that keep accepts as they stand at the end, ordered
// by partition and input offset. What is in memory is what keep accepts. It fails when an open transaction holds the
// reading back: the end would be an old one.
func Scan(ctx context.Context, log Log, input string, keep func(*Item) bool) ([]*Item, error) {
	found := map[uuid.UUID]*Item{}
	var broken error
	ranges, err := log.Read(ctx, topic.LedgerOf(input), nil, kafka.FromStart(), func(r kafka.Record) {
		id, err := uuid.ParseBytes(r.Key)
		if err != nil {
			return // the engine's own records
		}
		if r.Value == nil {
			delete(found, id)
			return
		}
		item, err := read(r, id)
		if err != nil {
			broken = cmp.Or(broken, err)
			return
		}
		if before := found[id]; before != nil && item.OA == "" {
			// Terminal entries of older versions do not tell.
			item.OA, item.Template, item.Campaign = before.OA, before.Template, before.Campaign
		}
		if keep(item) {
			found[id] = item
		} else {
			delete(found, id)
		}
	})
	if err != nil {
		return nil, err
	}
	for _, r := range ranges {
		if r.Incomplete != "" {
			return nil, fmt.Errorf("read %s[%d]: %s; try again in a moment", r.Topic, r.Partition, r.Incomplete)
		}
	}
	items := make([]*Item, 0, len(found))
	for _, i := range found {
		items = append(items, i)
	}
	slices.SortFunc(items, func(a, b *Item) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.InputOffset, b.InputOffset), bytes.Compare(a.ID[:], b.ID[:]))
	})
	return items, broken
}

func read(r kafka.Record, id uuid.UUID) (*Item, error) {
	var e ledgerv1.Entry
	if err := proto.Unmarshal(r.Value, &e); err != nil {
		return nil, fmt.Errorf("read %s[%d]@%d: %w", r.Topic, r.Partition, r.Offset, err)
	}
	i := &Item{
		ID: id, Partition: r.Partition, State: e.GetState(), Hold: e.GetHoldReason(), HoldUntil: fromMs(e.GetHoldUntilMs()),
		Attempt: e.GetAttempt(), Open: len(e.GetOpenAttempts()), Cause: znsv1.UnknownCause(e.GetUnknownCause()), Since: fromMs(e.GetUnknownSinceMs()),
		DecideBy: fromMs(e.GetDecideByMs()), Policy: e.GetRequest().GetOnUnknown(), Category: e.GetCategory(), Finished: fromMs(e.GetFinishedMs()),
		Failure: znsv1.FailureReason(e.GetFailureReason()), Code: e.GetProviderCode(), InputOffset: e.GetInputOffset(), Hash: e.GetPayloadHash(),
		OA:       cmp.Or(e.GetRequest().GetOaId(), e.GetOaId()),
		Template: cmp.Or(e.GetRequest().GetTemplateId(), e.GetTemplateId()),
		Campaign: cmp.Or(e.GetRequest().GetCampaignId(), e.GetCampaignId()), Unlisted: unlisted(&e),
	}
	if i.Unlisted {
		i.Cause = znsv1.UnknownCause_UNKNOWN_CAUSE_AMBIGUOUS_CODE
		i.Since = fromMs(e.GetOpenAttempts()[len(e.GetOpenAttempts())-1].GetIntentMs())
	}
	return i, nil
}

func fromMs(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// Counts is how many notifications stand where.
type Counts struct {
	Waiting  int `json:"waiting"` // not begun, held or not
	InFlight int `json:"in_flight"`
	Unknown  int `json:"unknown"`
	Sent     int `json:"sent"`
	Failed   int `json:"failed"`
}

// Count sums items up.
func Count(items []*Item) (c Counts) {
	for _, i := range items {
		switch {
		case i.Unknown():
			c.Unknown++
		case i.State == ledgerv1.State_STATE_SENDING:
			c.InFlight++
		case i.State == ledgerv1.State_STATE_SENT:
			c.Sent++
		case i.State == ledgerv1.State_STATE_FAILED:
			c.Failed++
		default:
			c.Waiting++
		}
	}
	return c
}
