package status

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/pause"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// VerifyConfig says what is verified.
type VerifyConfig struct {
	Client   []kgo.Opt
	Topics   Topics
	Wait     time.Duration          // how long events that are not folded yet are waited for; default 10 s
	Progress func(done, all int)    // called after each partition; may be nil
	Found    func(Difference) error // called for each difference; its error ends Verify
}

// Difference is one notification whose snapshot is not what its events say.
type Difference struct {
	NotificationID string `json:"notification_id"`
	Partition      int32  `json:"partition"`
	What           string `json:"what"`
	State          string `json:"state,omitempty"` // that of the snapshot
	Want           string `json:"want,omitempty"`  // that of the events
}

// Report is what Verify has seen.
type Report struct {
	Partitions    int   `json:"partitions"`
	Events        int64 `json:"events"`
	Unreadable    int64 `json:"unreadable"` // records that are no event about a notification, or stand in another partition than their key's
	Notifications int64 `json:"notifications"`
	Snapshots     int64 `json:"snapshots"`      // records of zns.status
	OlderThanLogs int64 `json:"older_than_log"` // notifications of which the topics of events hold less than their snapshot, because retention deletes
	Differences   int64 `json:"differences"`
}

// Verify reads every event that the topics hold, folds them as webhook-ingest does, and compares the result with the
// latest snapshots in zns.status: nothing missing, nothing more, no field different, revisions that only grow, no phone
// in clear. It holds one partition in memory at a time.
func Verify(ctx context.Context, cfg VerifyConfig) (Report, error) {
	admin, err := kafka.NewAdmin(cfg.Client...)
	if err != nil {
		return Report{}, err
	}
	defer admin.Close()
	if cfg.Wait == 0 {
		cfg.Wait = 10 * time.Second
	}
	topics, err := admin.Topics(ctx, cfg.Topics.Status)
	if err != nil {
		return Report{}, err
	}
	v := verifier{cfg: cfg, admin: admin, count: topics[cfg.Topics.Status].Partitions}
	if v.count == 0 {
		return Report{}, fmt.Errorf("there is no topic %s", cfg.Topics.Status)
	}
	for p := range v.count {
		if err := v.partition(ctx, p); err != nil {
			return v.report, err
		}
		v.report.Partitions++
		if cfg.Progress != nil {
			cfg.Progress(int(p)+1, int(v.count))
		}
	}
	return v.report, nil
}

type verifier struct {
	cfg    VerifyConfig
	admin  *kafka.Admin
	count  int32
	report Report
}

func (v *verifier) partition(ctx context.Context, p int32) error {
	want, complete, err := v.events(ctx, p)
	if err != nil {
		return err
	}
	r, err := kafka.NewReader(ctx, kafka.ReaderConfig{Client: v.cfg.Client, Topic: v.cfg.Topics.Status, Partitions: []int32{p}})
	if err != nil {
		return err
	}
	defer r.Close()
	got := map[uuid.UUID]*znsv1.Status{}
	for deadline := time.Now().Add(v.cfg.Wait); ; {
		if err := v.snapshots(ctx, p, r, got); err != nil {
			return err
		}
		if !behind(got, want) || time.Now().After(deadline) {
			break
		}
		if !pause.For(ctx, 200*time.Millisecond) {
			return ctx.Err()
		}
	}
	v.report.Notifications += int64(len(got))
	return v.compare(p, got, want, complete)
}

// events folds what the topics of events hold of a partition. complete: retention has deleted nothing.
func (v *verifier) events(ctx context.Context, p int32) (want map[uuid.UUID]*znsv1.Status, complete bool, err error) {
	want, complete = map[uuid.UUID]*znsv1.Status{}, true
	for _, k := range Kinds {
		starts, err := v.admin.StartOffsets(ctx, v.cfg.Topics.Of(k))
		if err != nil {
			return nil, false, err
		}
		complete = complete && starts[p] == 0
		err = kafka.ReadToEnd(ctx, kafka.ReaderConfig{Client: v.cfg.Client, Topic: v.cfg.Topics.Of(k), Partitions: []int32{p}}, func(r kafka.Record) error {
			fact, err := Decode(k, r)
			switch {
			case errors.Is(err, errNoNotification):
			case err != nil || kafka.Murmur2Partition(r.Key, v.count) != p:
				v.report.Unreadable++
			default:
				v.report.Events++
				want[fact.ID] = Merge(want[fact.ID], fact.Status)
			}
			return nil
		})
		if err != nil {
			return nil, false, err
		}
	}
	return want, complete, nil
}

// snapshots reads on in zns.status to where it ends now.
func (v *verifier) snapshots(ctx context.Context, p int32, r *kafka.Reader, got map[uuid.UUID]*znsv1.Status) error {
	end, err := r.Watermark(ctx)
	if err != nil {
		return err
	}
	return r.ReadTo(ctx, end, func(records []kafka.Record) error {
		for _, rec := range records {
			if err := v.snapshot(p, rec, got); err != nil {
				return err
			}
		}
		return nil
	})
}

func (v *verifier) snapshot(p int32, rec kafka.Record, got map[uuid.UUID]*znsv1.Status) error {
	id, err := uuid.ParseBytes(rec.Key)
	if err != nil {
		return v.found(Difference{NotificationID: fmt.Sprintf("%.60q", rec.Key), Partition: p, What: "the key is no notification_id"})
	}
	if rec.Value == nil {
		delete(got, id)
		return nil
	}
	v.report.Snapshots++
	s := &znsv1.Status{}
	if err := kafka.Decode(rec, s); err != nil {
		return v.found(Difference{NotificationID: id.String(), Partition: p, What: "a snapshot cannot be decoded"})
	}
	d := Difference{NotificationID: id.String(), Partition: p, State: state(s)}
	before := got[id]
	got[id] = s
	switch {
	case s.GetNotificationId() != id.String():
		d.What = "the snapshot is of another notification"
	case s.GetRecipient().GetPhone() != "":
		d.What = "the phone stands in clear"
	case before != nil && s.GetRevision() <= before.GetRevision():
		d.What = fmt.Sprintf("revision %d follows %d", s.GetRevision(), before.GetRevision())
	case before != nil && !Same(Merge(before, s), s):
		d.What = "a snapshot holds less than the one before it"
	default:
		return nil
	}
	return v.found(d)
}

// behind reports whether a snapshot lacks an event.
func behind(got, want map[uuid.UUID]*znsv1.Status) bool {
	for id, w := range want {
		if !Same(Merge(got[id], w), got[id]) {
			return true
		}
	}
	return false
}

func (v *verifier) compare(p int32, got, want map[uuid.UUID]*znsv1.Status, complete bool) error {
	for id, w := range want {
		g := got[id]
		d := Difference{NotificationID: id.String(), Partition: p, State: state(g), Want: state(w)}
		switch {
		case g == nil:
			d.What = "there is no snapshot"
		case !Same(Merge(g, w), g):
			d.What = "the snapshot lacks an event"
		case Same(g, w):
			if bare := proto.CloneOf(g); !equal(bare, w) {
				d.What = "a field differs"
			}
		case complete:
			d.What = "the snapshot holds an event that there is not"
		default:
			v.report.OlderThanLogs++
		}
		if d.What == "" {
			continue
		}
		if err := v.found(d); err != nil {
			return err
		}
	}
	for id, g := range got {
		if want[id] != nil {
			continue
		}
		if !complete {
			v.report.OlderThanLogs++
			continue
		}
		if err := v.found(Difference{NotificationID: id.String(), Partition: p, What: "there is no event", State: state(g)}); err != nil {
			return err
		}
	}
	return nil
}

// equal compares a snapshot, which it may change, with a status that was folded.
func equal(snapshot, folded *znsv1.Status) bool {
	snapshot.Revision, snapshot.EventId = 0, ""
	return proto.Equal(snapshot, folded)
}

func (v *verifier) found(d Difference) error {
	v.report.Differences++
	if v.cfg.Found == nil {
		return nil
	}
	return v.cfg.Found(d)
}

func state(s *znsv1.Status) string {
	if s == nil {
		return ""
	}
	const prefix = "NOTIFICATION_STATE_"
	return s.GetState().String()[len(prefix):]
}
