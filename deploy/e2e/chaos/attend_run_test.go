package chaos

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/pause"
)

// A run in which the groups of all programs are moved while they are well: nothing is lost, nothing sent twice, and
// everything goes on in the other groups.
func TestMovedRun(t *testing.T) {
	attendedRun(t, Config{Seed: 2, provoke: map[string]time.Duration{"SENDER_GROUP": 20 * time.Second, "INGEST_GROUP": 35 * time.Second}})
}

// The same when the groups are really damaged, so that the broker cannot load them any more: the attendant sees it in the
// log and in the answers.
func TestDamagedRun(t *testing.T) {
	attendedRun(t, Config{Seed: 3, during: func(ctx context.Context, s *Stage) {
		for _, group := range []string{"zns-ingest", "zns-sender"} { // one that waits for the other commits nothing
			if !pause.For(ctx, 12*time.Second) {
				return
			}
			if err := damage(ctx, s, group); err != nil {
				t.Error(err)
			}
		}
	}})
}

// attendedRun makes a run of a minute in which both groups of the hub are moved. It takes three minutes, or five.
func attendedRun(t *testing.T, cfg Config) {
	t.Helper()
	if os.Getenv("ZNS_TEST_LONG") == "" {
		t.Skip("takes minutes: ZNS_TEST_LONG=1")
	}
	cfg.Length, cfg.PerSecond, cfg.Bin, cfg.Dir, cfg.Out = time.Minute, 60, t.TempDir(), filepath.Join(t.ArtifactDir(), "run"), t.Output()
	if err := Build(t.Context(), cfg.Bin); err != nil {
		t.Fatal(err)
	}
	v, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + v.Table())
	if err := v.Err(); err != nil {
		t.Error(err)
	}
	if !strings.HasPrefix(v.Attended, "2 groups moved") {
		t.Errorf("attended: %q", v.Attended)
	}
	for name, group := range map[string]string{"sender-0.log": `"zns-sender-`, "webhook-ingest.log": `"zns-ingest-`} {
		log, err := os.ReadFile(filepath.Join(cfg.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		all, later := 0, 0
		for line := range strings.SplitSeq(string(log), "\n") {
			if strings.Contains(line, `"msg":"partition restored"`) {
				all++
				if strings.Contains(line, `"group":`+group) {
					later++
				}
			}
		}
		t.Logf("%s: %d partitions restored, %d of these in another group", name, all, later)
		if later == 0 || later == all {
			t.Errorf("%s has not worked in two groups", name)
		}
	}
}

// damage writes what no broker can read among the records of a group, until the coordinator has noticed that records
// are there which it did not write, and has tried to load them: it looks when it writes there itself.
func damage(ctx context.Context, s *Stage, group string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.Brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ClientID("__admin_client")) // who else writes to an internal topic is refused
	if err != nil {
		return err
	}
	defer client.Close()
	details, err := kadm.NewClient(client).ListTopicsWithInternal(ctx, kafka.ConsumerOffsets)
	if err != nil {
		return err
	}
	partition := kafka.GroupPartition(group, int32(len(details[kafka.ConsumerOffsets].Partitions)))
	const kind = 3 // ConsumerGroupMetadataKey: the group's name
	key := binary.BigEndian.AppendUint16(nil, kind)
	key = append(binary.BigEndian.AppendUint16(key, uint16(len(group))), group...)
	for range 20 {
		if err := client.ProduceSync(ctx, &kgo.Record{
			Topic: kafka.ConsumerOffsets, Partition: partition, Key: key,
			Value: []byte{0, 0}, // version 0, and no group epoch behind it
		}).FirstErr(); err != nil {
			return err
		}
		pause.For(ctx, 500*time.Millisecond)
		log, err := os.ReadFile(s.broker.LogFile())
		if err != nil {
			return err
		}
		if strings.Contains(string(log), fmt.Sprintf("Failed to load metadata from %s-%d ", kafka.ConsumerOffsets, partition)) {
			return nil
		}
	}
	return fmt.Errorf("the broker goes on serving %s", group)
}
