package stream

import (
	"errors"
	"testing"
	"time"
)

func withPart(t *testing.T, p *part) *Engine {
	t.Helper()
	e, err := New(Config{Group: "g", Input: "in", Ledger: "l", Handler: struct{ Handler }{}})
	if err != nil {
		t.Fatal(err)
	}
	e.parts[p.id] = p
	e.publish()
	return e
}

// That a partition cannot be restored is told also while no tick ends, as when no producer can be had.
func TestHeldUpIsToldWithoutTicks(t *testing.T) {
	p := &part{id: 2}
	p.held.Store(&holdUp{since: time.Now(), why: errors.New("nobody answers")})
	e := withPart(t, p)
	e.tellHeldUp()
	if err := e.Status().Partitions[0].Err; err != nil {
		t.Errorf("at once: %v", err)
	}
	p.held.Store(&holdUp{since: time.Now().Add(-e.cfg.heldUpFor), why: errors.New("nobody answers")})
	e.tellHeldUp()
	if e.Status().Partitions[0].Err == nil {
		t.Error("not told")
	}
}

// While nobody knows whether a transaction was committed, what it accepted does not count as accepted.
func TestNextWhileUnsettled(t *testing.T) {
	p := &part{id: 2, ready: true, next: 9}
	e := withPart(t, p)
	e.unsettled = &Tx{accepted: map[*part]intake{p: {records: 4, before: 5}}}
	e.publish()
	if next := e.Status().Partitions[0].Next; next != 5 {
		t.Errorf("next %d, want 5", next)
	}
	e.unsettled = nil
	e.publish()
	if next := e.Status().Partitions[0].Next; next != 9 {
		t.Errorf("next %d, want 9", next)
	}
}
