package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/deploy/e2e/harness"
	"github.com/znshub/znshub/pkg/trackingid"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// loopEnv makes this program the plain loop: what one writes with franz-go and net/http in an afternoon. Poll up to
// 1,000 records, call the provider for each in a goroutine, bounded, publish zns.sent, wait for all, commit. It keeps no
// order, it checks nothing, and after a kill it repeats what it had not committed.
const loopEnv = "ZNSHUB_BENCH_LOOP"

// loopConfig travels in loopEnv as JSON.
type loopConfig struct {
	Brokers, Topic, Group, URL, Stats string
	InFlight                          int
	Latency                           time.Duration // 0: a provider in the process
}

func (c loopConfig) env() []string {
	b, err := json.Marshal(c)
	if err != nil {
		panic(err) // strings and numbers
	}
	return []string{loopEnv + "=" + string(b)}
}

func loopMain() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c loopConfig
	err := json.Unmarshal([]byte(os.Getenv(loopEnv)), &c)
	if err == nil {
		err = c.run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "loop:", err)
		return 1
	}
	return 0
}

// run works until ctx ends, then writes its statistics.
func (c loopConfig) run(ctx context.Context) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(c.Brokers),
		kgo.ConsumerGroup(c.Group), kgo.ConsumeTopics(c.Topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(),
		kgo.SessionTimeout(6*time.Second), kgo.HeartbeatInterval(time.Second), // as the sender's
		kgo.DefaultProduceTopic(topic.Sent),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	send := c.provider()
	slots := make(chan struct{}, c.InFlight)
	var commits []time.Duration
	for ctx.Err() == nil {
		records := client.PollRecords(ctx, 1000).Records()
		if len(records) == 0 {
			continue
		}
		var batch sync.WaitGroup
		var mu sync.Mutex // guards failed
		var failed error
		fail := func(err error) {
			if err != nil {
				mu.Lock()
				failed = errors.Join(failed, err)
				mu.Unlock()
			}
		}
		for _, r := range records {
			slots <- struct{}{}
			batch.Go(func() {
				event, err := deliver(r, send)
				<-slots
				if fail(err); err == nil {
					client.Produce(context.Background(), event, func(_ *kgo.Record, err error) { fail(err) })
				}
			})
		}
		batch.Wait()
		begin := time.Now()
		err := client.Flush(context.Background())
		mu.Lock()
		err = errors.Join(err, failed)
		mu.Unlock()
		if err == nil {
			err = client.CommitRecords(context.Background(), records...)
		}
		if err != nil {
			return err
		}
		commits = append(commits, time.Since(begin))
	}
	return c.writeStats(commits)
}

// deliver makes the call for one record and returns its event.
func deliver(r *kgo.Record, send func(*notificationv1.NotificationRequested, string) (string, error)) (*kgo.Record, error) {
	var m notificationv1.NotificationRequested
	if err := proto.Unmarshal(r.Value, &m); err != nil {
		return nil, err
	}
	id, err := uuid.Parse(m.GetNotificationId())
	if err != nil {
		return nil, err
	}
	trackingID := trackingid.Encode(harness.Cluster, id, trace.TraceID{}, false, 1)
	msgID, err := send(&m, trackingID)
	if err != nil {
		return nil, err
	}
	now := timestamppb.Now()
	value, err := proto.Marshal(&znsv1.Sent{
		EventTime: now, NotificationId: m.GetNotificationId(), OaId: m.GetOaId(), TemplateId: m.GetTemplateId(), Attempt: 1,
		TrackingId: trackingID, MsgId: msgID, Reference: m.GetReference(), RequestedTime: timestamppb.New(r.Timestamp), AcceptedTime: now,
	})
	return &kgo.Record{Key: []byte(m.GetNotificationId()), Value: value}, err
}

// provider returns what sends one message and returns its msg_id.
func (c loopConfig) provider() func(*notificationv1.NotificationRequested, string) (string, error) {
	if c.Latency == 0 {
		return func(*notificationv1.NotificationRequested, string) (string, error) { return "simulated", nil }
	}
	client := &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			MaxConnsPerHost: c.InFlight, MaxIdleConns: c.InFlight, MaxIdleConnsPerHost: c.InFlight, DisableCompression: true,
		},
	}
	return func(m *notificationv1.NotificationRequested, trackingID string) (string, error) {
		body, err := json.Marshal(map[string]any{
			"phone": m.GetRecipient().GetPhone(), "template_id": m.GetTemplateId(), "template_data": m.GetTemplateData(), "tracking_id": trackingID,
		})
		if err != nil {
			return "", err
		}
		req, err := http.NewRequest(http.MethodPost, c.URL+"/message/template", bytes.NewReader(body)) //nolint:noctx // the client's timeout
		if err != nil {
			return "", err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header["access_token"] = []string{harness.AccessToken}
		resp, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		var answer struct {
			Error   int    `json:"error"`
			Message string `json:"message"`
			Data    struct {
				MsgID string `json:"msg_id"`
			} `json:"data"`
		}
		raw, err := io.ReadAll(resp.Body)
		if err == nil {
			err = json.Unmarshal(raw, &answer)
		}
		if err == nil && answer.Error != 0 {
			err = errors.New("provider: " + strconv.Itoa(answer.Error) + " " + answer.Message)
		}
		return answer.Data.MsgID, err
	}
}

// loopStats is what the loop tells when it ends.
type loopStats struct {
	P50, P99 float64 // of commits, ms
	Commits  int
}

func (c loopConfig) writeStats(commits []time.Duration) error {
	s := loopStats{Commits: len(commits)}
	if len(commits) > 0 {
		slices.Sort(commits)
		s.P50, s.P99 = milliseconds(commits[len(commits)/2]), milliseconds(commits[len(commits)*99/100])
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(c.Stats, b, 0o600)
}

func readStats(file string) (s loopStats, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return s, fmt.Errorf("statistics of the loop: %w", err)
	}
	return s, json.Unmarshal(b, &s)
}
