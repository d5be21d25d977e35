package cli

import (
	"strings"
	"testing"
)

func TestDoctor(t *testing.T) {
	environ := append(hub(t), "SENDER_MAX_AGE=96h", "SENDER_DEDUPE_WINDOW=72h", "SENDER_MAX_INFLIGHT=3",
		"ZALO_API_URL=http://127.0.0.1:1", "ZALO_ACCESS_TOKEN=2893352839501541173=very-secret-token", "SENDER_ALLOW_PHONES=0987654321")
	r := run(t, environ, "", "doctor").want(t, exitFailed)
	r.contains(t,
		"check", "state", "finding",
		"problem settings: sender: ", "SENDER_MAX_AGE: 96h0m0s is longer than SENDER_DEDUPE_WINDOW",
		"warning settings: nothing reads SENDER_MAX_INFLIGHT; did you mean SENDER_MAX_IN_FLIGHT?",
		"problem zalo: OA 2893352839501541173: Zalo cannot be asked from here",
		"why:  ", "mend: ", " problems, ")
	asJSON := run(t, environ, "", "doctor", "--json").want(t, exitFailed)
	for _, secret := range []string{"very-secret-token", "0987654321"} {
		if strings.Contains(r.out+r.err+asJSON.out+asJSON.err, secret) {
			t.Errorf("doctor shows %s", secret)
		}
	}
	problems := 0
	for _, f := range asJSON.lines(t) {
		if f["check"] == "" || f["level"] == "" || f["what"] == "" {
			t.Errorf("finding %v", f)
		}
		if f["level"] == "problem" {
			problems++
			if f["why"] == nil || f["mend"] == nil {
				t.Errorf("a problem without why or mend: %v", f)
			}
		}
	}
	if problems < 2 {
		t.Errorf("%d problems", problems)
	}
}

func TestDoctorWithoutABroker(t *testing.T) {
	r := run(t, []string{"SENDER_MODE=simulate"}, "", "doctor", "--brokers", "127.0.0.1:1").want(t, exitFailed)
	r.contains(t, "no broker answers at 127.0.0.1:1", "SENDER_MODE is simulate")
}

// Nothing is wrong with the cluster that the other tests use.
func TestDoctorFindsNoProblemWhereThereIsNone(t *testing.T) {
	environ := append(hub(t), "SENDER_MODE=development")
	for _, f := range run(t, environ, "", "doctor", "--json").lines(t) {
		switch f["check"] {
		case "topics", "sender group", "ingest group": // others on this cluster may have left something
		default:
			if f["level"] == "problem" {
				t.Errorf("a problem on a cluster that works: %v", f)
			}
		}
	}
}
