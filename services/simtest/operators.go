package simtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/znshub/znshub/proto/control/v1"
	"github.com/znshub/znshub/services/sender/control"
)

// campaign is one of those that promotions belong to.
func campaign(r *rand.Rand) string { return fmt.Sprintf("campaign-%d", r.IntN(5)) }

// order is a command of an operator about a campaign.
type order struct {
	campaign string
	cancel   bool
	given    time.Time
	until    time.Time // of a hold
}

// operators hold a campaign or cancel it, about once a day.
func operators(r *rand.Rand, days int) (actions []action, told []*order) {
	give := func(at time.Duration, a controlv1.Action, campaign string, done func(time.Time)) {
		id, _ := uuid.NewRandomFromReader(source{r})
		actions = append(actions, action{at, fmt.Sprintf("operator: %s %s", a, campaign), func(w *world) {
			done(time.Now())
			w.command(&controlv1.Command{
				CommandId: id.String(), Time: timestamppb.Now(), Actor: "simtest", Scope: control.Campaign(campaign).Proto(), Action: a,
				ExpireTime: expiry(a),
			})
		}})
	}
	for day := range days {
		at := time.Duration(day)*24*time.Hour + time.Duration(r.Int64N(int64(20*time.Hour)))
		o := &order{campaign: campaign(r), cancel: r.IntN(4) == 0}
		told = append(told, o)
		if o.cancel {
			give(at, controlv1.Action_ACTION_CANCEL, o.campaign, func(now time.Time) { o.given = now })
			continue
		}
		give(at, controlv1.Action_ACTION_HOLD, o.campaign, func(now time.Time) { o.given = now })
		give(at+time.Duration(r.Int64N(int64(8*time.Hour))), controlv1.Action_ACTION_RELEASE, o.campaign, func(now time.Time) { o.until = now })
	}
	return actions, told
}

// expiry is until when what is done once is to be obeyed by partitions that nobody owns at first.
func expiry(a controlv1.Action) *timestamppb.Timestamp {
	if a == controlv1.Action_ACTION_CANCEL {
		return timestamppb.New(time.Now().Add(7 * 24 * time.Hour))
	}
	return nil
}

func (w *world) command(c *controlv1.Command) {
	r, err := control.Record(c, "/znshub/"+cluster+"/zns")
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		err := w.writer.Write(ctx, r)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			w.t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
