package stream

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The search isolates every culprit, whichever of the two sources it is in, while both sources keep flowing.
func TestSearchFindsEveryCulprit(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		input, work := make([]bool, rng.IntN(300)+1), make([]bool, rng.IntN(300)+1) // true: refused
		culprits := 0
		for range rng.IntN(4) + 1 {
			queue := input
			if rng.IntN(2) == 0 {
				queue = work
			}
			if i := rng.IntN(len(queue)); !queue[i] {
				queue[i] = true
				culprits++
			}
		}
		var s search
		ticks, found := 0, 0
		for found < culprits {
			if ticks++; ticks > 2000 {
				t.Fatalf("seed %d: %d of %d found after %d ticks", seed, found, culprits, ticks)
			}
			input, work = append(input, false, false), append(work, false)
			in, out := 0, 0
			if s.takesInput() {
				in = min(len(input), s.limit())
			}
			if s.takesWork() {
				out = min(len(work), s.limit()-in)
			}
			refused := false
			for _, bad := range input[:in] {
				refused = refused || bad
			}
			for _, bad := range work[:out] {
				refused = refused || bad
			}
			switch {
			case in+out == 0:
				s.idle()
			case !refused:
				s.succeeded(in + out)
				input, work = input[in:], work[out:]
			case in+out > 1:
				s.failed(in + out)
			default: // alone: next time it writes something smaller
				found++
				if in == 1 {
					input[0] = false
				} else {
					work[0] = false
				}
				s = search{}
			}
		}
	}
}

func TestMetadataRoundTrip(t *testing.T) {
	e := &Engine{}
	e.ledgerParts.Store(12)
	e.guard.input[0], e.guard.ledger[15] = 0xa1, 0xb2
	tx := &Tx{meta: "INC/42"}
	m := e.metadata(tx, &part{id: 3, ledgered: true, ledgerEnd: 77})
	want := storedOffset{
		offset: 9, tick: "INC/42", input: "a1000000000000000000000000000000",
		ledger: "000000000000000000000000000000b2", end: 77, parts: 12,
	}
	if got := parseMetadata(9, &m); got != want {
		t.Errorf("%q is read as %+v, want %+v", m, got, want)
	}
	m = e.metadata(tx, &part{id: 30})
	if got := parseMetadata(9, &m); got.ledger != "" || got.tick != "INC/42" || got.input != want.input {
		t.Errorf("front door: %q is read as %+v", m, got)
	}
	for _, foreign := range []string{"", "someone's note", "x in", "x ledger=@/", "x ledger=zz@9999999999999999999999/-"} {
		if got := parseMetadata(5, &foreign); got.offset != 5 {
			t.Errorf("%q is read as %+v", foreign, got)
		}
	}
	if got := parseMetadata(-1, nil); got != (storedOffset{offset: -1}) {
		t.Errorf("nothing is read as %+v", got)
	}
}

// A clock that is wrong makes no record a bad one: what is refused for its time of now is written when the clock is right.
func TestRefusedForItsTime(t *testing.T) {
	for ahead, own := range map[time.Duration]bool{-25 * time.Hour: false, 0: false, 30 * time.Second: false, 2 * time.Hour: true} {
		if got := isRecordsOwn(&kgo.Record{Timestamp: time.Now().Add(ahead)}, kerr.InvalidTimestamp); got != own {
			t.Errorf("%s ahead: its own fault %v, want %v", ahead, got, own)
		}
	}
	if !isRecordsOwn(&kgo.Record{Timestamp: time.Now()}, kerr.MessageTooLarge) || isRecordsOwn(&kgo.Record{}, kerr.NotLeaderForPartition) {
		t.Error("a large record is its own fault, a broker that moved is not")
	}
}
