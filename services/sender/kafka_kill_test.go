package sender

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/znshub/znshub/pkg/config"
	"github.com/znshub/znshub/pkg/kafka/kafkatest"
	"github.com/znshub/znshub/pkg/service"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// childEnv makes the test binary a sender program: its value is the instance's name.
const childEnv = "ZNS_SENDER_TEST_CHILD"

func runChild(instance string) int {
	var cfg Config
	if _, err := config.Load(&cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if err := Run(context.Background(), service.New("sender", instance, "test", nil, nil), cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// child starts a sender process.
func (w *world) child(instance string) *exec.Cmd {
	w.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), w.env...), childEnv+"="+instance)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = &bytes.Buffer{}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// TestKafkaKill: after kill -9 in the middle of calls nobody gets a second message, nothing is lost, and what was
// under way is unknown until its callback settles it.
func TestKafkaKill(t *testing.T) {
	t.Parallel()
	kafkatest.Real(t, "kill -9 and takeover")
	w := newWorld(t, 4, "SENDER_MAX_IN_FLIGHT=32", "SENDER_UNRESOLVED_AFTER=1s")
	w.provider.respond(func(post) answer { return answer{after: 150 * time.Millisecond} })
	ids := w.many(600, nil)
	for n := range 3 {
		c := w.child(fmt.Sprintf("child%d", n))
		before := len(w.provider.got(""))
		w.eventually("calls", 40*time.Second, func() bool { return len(w.provider.got("")) > before+60 })
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait()
	}
	s := w.run("last")
	w.eventually("only the unknown wait", 60*time.Second, func() bool {
		sum := int64(0)
		for i, n := range s.h.waiting() {
			if i != waitUnknown {
				sum += n
			}
		}
		return len(s.Status().Partitions) == 4 && s.ready() && sum == 0 && s.h.waiting()[waitUnknown] > 0
	})
	unknown := 0
	for i, id := range ids {
		posts := w.provider.got(fmt.Sprint(i))
		if len(posts) > 1 {
			t.Fatalf("notification %d was posted %d times", i, len(posts))
		}
		if len(w.sent(id)) > 0 {
			continue
		}
		unknown++
		w.eventually("zns.unresolved", 40*time.Second, func() bool { return len(w.unresolved(id)) > 0 })
		if u := w.unresolved(id)[0]; u.Cause != znsv1.UnknownCause_UNKNOWN_CAUSE_OWNER_DIED {
			t.Errorf("cause %s", u.Cause)
		}
		if len(posts) == 1 {
			w.callback(id, posts[0].TrackingID)
			if e := w.wantSent(id, 40*time.Second); e.OutcomeSource != znsv1.OutcomeSource_OUTCOME_SOURCE_CALLBACK {
				t.Errorf("outcome from %s", e.OutcomeSource)
			}
		}
	}
	if unknown == 0 || unknown > 3*2*32 {
		t.Errorf("%d unknown after three kills with at most 64 intents open", unknown)
	}
	t.Logf("%d of 600 were unknown after three kills", unknown)
	for _, id := range ids {
		if n := len(w.sent(id)) + len(w.failed(id)); n > 1 {
			t.Fatalf("%d ends of one notification", n)
		}
	}
	if strings.Contains(w.logs.String(), "987654321") {
		t.Error("the log holds a phone number")
	}
}
