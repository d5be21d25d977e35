package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/znshub/znshub/pkg/trackingid"
	"github.com/znshub/znshub/pkg/zalo/zalosim"
)

// Simulator is a client of the simulator's own API: what each phone got, and the faults to come.
type Simulator struct{ url string }

// Simulator returns the client.
func (s *System) Simulator() *Simulator { return &Simulator{url: s.SimURL} }

// Totals are the simulator's sums.
func (s *Simulator) Totals(ctx context.Context) (zalosim.Totals, error) {
	var t zalosim.Totals
	return t, s.do(ctx, http.MethodGet, "/sim/totals", nil, func(r io.Reader) error { return json.NewDecoder(r).Decode(&t) })
}

// lostAnswers are the faults by which a caller cannot know that its message was accepted.
var lostAnswers = map[zalosim.FaultKind]bool{
	zalosim.FaultLostAnswer: true, zalosim.FaultResetAfter: true, zalosim.FaultResetMidBody: true,
	zalosim.FaultTruncated: true, zalosim.FaultHTML: true, zalosim.FaultNoMsgID: true,
}

// Calls returns every message that was accepted, in order.
func (s *Simulator) Calls(ctx context.Context) ([]Call, error) {
	var calls []Call
	err := s.do(ctx, http.MethodGet, "/sim/audit", nil, func(r io.Reader) error {
		decoder := json.NewDecoder(r)
		for {
			var m zalosim.Message
			if err := decoder.Decode(&m); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			c := Call{
				TrackingID: m.TrackingID, MsgID: m.MsgID, Sequence: int64(m.Seq), Time: m.AcceptedAt,
				Fault: string(m.Answer), Lost: lostAnswers[m.Answer], Callbacks: m.Callbacks, CallbacksOK: m.CallbacksOK,
			}
			if id, err := trackingid.Decode(Cluster, m.TrackingID); err == nil {
				c.ID, c.Attempt = id.Notification.String(), id.Attempt
			}
			calls = append(calls, c)
		}
	})
	return calls, err
}

// Fault switches a fault on.
func (s *Simulator) Fault(ctx context.Context, f zalosim.Fault) error {
	return s.do(ctx, http.MethodPost, "/sim/faults", f, nil)
}

// AddFault switches a fault on and returns its id, for ClearFault.
func (s *Simulator) AddFault(ctx context.Context, f zalosim.Fault) (string, error) {
	var ids []string
	err := s.do(ctx, http.MethodPost, "/sim/faults", f, func(r io.Reader) error {
		var answer struct {
			IDs []string `json:"ids"`
		}
		err := json.NewDecoder(r).Decode(&answer)
		ids = answer.IDs
		return err
	})
	if err == nil && len(ids) != 1 {
		err = fmt.Errorf("simulator: %d ids for one fault", len(ids))
	}
	if err != nil {
		return "", err
	}
	return ids[0], nil
}

// ClearFault switches one fault off.
func (s *Simulator) ClearFault(ctx context.Context, id string) error {
	return s.do(ctx, http.MethodDelete, "/sim/faults?id="+id, nil, nil)
}

// Heal switches all faults off.
func (s *Simulator) Heal(ctx context.Context) error {
	return s.do(ctx, http.MethodDelete, "/sim/faults", nil, nil)
}

// AddTemplate registers a template.
func (s *Simulator) AddTemplate(ctx context.Context, t zalosim.Template) error {
	return s.do(ctx, http.MethodPost, "/sim/templates", t, nil)
}

func (s *Simulator) do(ctx context.Context, method, path string, in any, read func(io.Reader) error) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, body)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("simulator: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		return fmt.Errorf("simulator: %s %s: %s: %s", method, path, resp.Status, text)
	}
	if read == nil {
		return nil
	}
	if err := read(resp.Body); err != nil {
		return fmt.Errorf("simulator: %s: %w", path, err)
	}
	return nil
}
