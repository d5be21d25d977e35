package chaos

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/proto/topic"
)

// witness writes every record about the ids that broke an equation to a file, of all topics, also of transactions that
// were aborted, with the producers that wrote them, and the markers of those producers' transactions: what somebody
// needs who wants to know how it came about. The broker's data is gone after the run.
func (s *Stage) witness(ctx context.Context, v *Verdict) error {
	ids := map[string]bool{}
	for _, b := range v.Broken {
		for _, id := range b.IDs {
			ids[id] = true
		}
	}
	f, err := os.Create(filepath.Join(s.dir, "records.txt"))
	if err != nil {
		return err
	}
	defer f.Close()
	for _, name := range []string{
		topic.Requested, topic.RequestedLedger, topic.Sent, topic.Failed, topic.Unresolved, topic.Callback, topic.CallbackLedger, topic.Delivered, topic.Status,
	} {
		if err := s.witnessOf(ctx, f, name, ids); err != nil {
			return fmt.Errorf("read %s for the failed ids: %w", name, err)
		}
	}
	return nil
}

// mark is an end of a transaction.
type mark struct {
	partition int32
	offset    int64
	commit    bool
	at        time.Time
}

func (s *Stage) witnessOf(ctx context.Context, w io.Writer, name string, ids map[string]bool) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.Brokers...), kgo.ConsumeTopics(name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadUncommitted()), kgo.KeepControlRecords())
	if err != nil {
		return err
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, name)
	if err != nil {
		return err
	}
	left := 0
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left++
		}
	})
	type producer struct {
		id        int64
		partition int32
	}
	waiting := map[producer][]*kgo.Record{}
	for left > 0 && ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		fetches.EachRecord(func(r *kgo.Record) {
			if end, ok := ends.Lookup(name, r.Partition); ok && r.Offset == end.Offset-1 {
				left--
			}
			from := producer{r.ProducerID, r.Partition}
			if r.Attrs.IsControl() && len(r.Key) >= 4 {
				m := mark{r.Partition, r.Offset, r.Key[3] == 1, r.Timestamp}
				for _, x := range waiting[from] {
					told(w, x, &m)
				}
				delete(waiting, from)
				return
			}
			key := string(r.Key)
			switch {
			case !ids[key[:min(36, len(key))]]:
			case r.Attrs.IsTransactional():
				waiting[from] = append(waiting[from], r)
			default:
				told(w, r, nil)
			}
		})
	}
	for _, records := range waiting {
		for _, r := range records {
			told(w, r, &mark{offset: -1})
		}
	}
	return ctx.Err()
}

// told writes one record; m is the end of its transaction, nil when it has none.
func told(w io.Writer, r *kgo.Record, m *mark) {
	fmt.Fprintf(w, "%s %d/%d %s key %s, %d bytes, producer %d epoch %d", r.Topic, r.Partition, r.Offset, r.Timestamp.Format("15:04:05.000"),
		r.Key, len(r.Value), r.ProducerID, r.ProducerEpoch)
	for _, h := range r.Headers {
		if h.Key == "ce_id" || h.Key == "ce_time" {
			fmt.Fprintf(w, ", %s %s", h.Key, h.Value)
		}
	}
	switch {
	case m == nil:
	case m.offset < 0:
		fmt.Fprint(w, ", its transaction is open")
	default:
		fmt.Fprintf(w, ", commit=%t at %d %s", m.commit, m.offset, m.at.Format("15:04:05.000"))
	}
	fmt.Fprintln(w)
}
