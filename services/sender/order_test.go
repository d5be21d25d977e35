package sender

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/zalo"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

func TestOrderOneAtATime(t *testing.T) {
	c := newCore(t)
	a, ra := c.request(ordered("k"))
	b, rb := c.request(ordered("k"))
	x, rx := c.request(ordered("other"))
	c.tick(true, ra, rb, rx)
	c.want(a, "SENDING(1)")
	c.want(b, "HELD(order)")
	c.want(x, "SENDING(1)")
	c.answer(a, throttled) // waits for its retry and keeps its place
	c.tick(true)
	c.want(a, "HELD(retry)")
	c.want(b, "HELD(order)")
	c.pass(3 * time.Second)
	c.tick(true)
	c.want(a, "SENDING(2)")
	c.want(b, "HELD(order)")
	c.answer(a, accepted("m"))
	c.tick(true)
	c.want(b, "SENDING(1)")
}

// A head that waits for a person, or for Zalo's approval of its template, lets those behind it pass; one that waits for
// a time does not. Where the whole OA is held nobody passes, whatever the order says.
func TestOrderHoldsThatDoNotBlock(t *testing.T) {
	for code, want := range map[int]string{
		-129: "HELD(order)", -32: "HELD(order)", -124: "HELD(order)", -144: "HELD(order)", -133: "HELD(order)",
		-131: "SENDING(1)", -121: "SENDING(1)", -115: "HELD(account)", -101: "HELD(operator)",
	} {
		c := newCore(t)
		a, ra := c.request(ordered("k"))
		b, rb := c.request(ordered("k"), ofTemplate("other"))
		c.tick(true, ra, rb)
		c.answer(a, rejected(code))
		c.tick(true)
		c.pass(2 * tellAfter) // the ledger is told of a closed flow in the background
		c.tick(true)
		if got := c.state(b); got != want {
			t.Errorf("behind a head refused with %d: %s, want %s", code, got, want)
		}
		if code != -131 {
			continue
		}
		// When the head's wait is over it goes before those that came later, but not beside one under way.
		d, rd := c.request(ordered("k"), ofTemplate("other"))
		c.tick(true, rd)
		c.pass(40 * time.Minute)
		c.tick(true)
		c.want(a, "HELD(template_review)")
		c.answer(b, accepted("m"))
		c.tick(true)
		c.want(a, "SENDING(2)")
		c.want(d, "HELD(order)")
	}
}

func TestOrderUnknownBlocksForAWhile(t *testing.T) {
	for policy, blocks := range map[notificationv1.OnUnknown]bool{
		notificationv1.OnUnknown_ON_UNKNOWN_FAIL: false, notificationv1.OnUnknown_ON_UNKNOWN_HOLD: true, notificationv1.OnUnknown_ON_UNKNOWN_RESEND: true,
	} {
		c := newCore(t)
		a, ra := c.request(ordered("k"), onUnknown(policy))
		b, rb := c.request(ordered("k"))
		c.tick(true, ra, rb)
		c.answer(a, lost)
		c.tick(true)
		c.want(a, "UNKNOWN")
		if !blocks {
			c.want(b, "SENDING(1)")
			continue
		}
		c.want(b, "HELD(order)")
		c.pass(59 * time.Second)
		c.tick(true)
		c.want(b, "HELD(order)")
		c.pass(2 * time.Second)
		c.tick(true)
		c.want(b, "SENDING(1)")
	}
}

func TestOrderPlaceIsTakenWhenDue(t *testing.T) {
	c := newCore(t)
	late, r1 := c.request(ordered("k"), notBefore(c.now.Add(time.Minute)))
	a, r2 := c.request(ordered("k"))
	b, r3 := c.request(ordered("k"))
	c.tick(true, r1, r2, r3)
	c.want(late, "HELD(not_before)")
	c.want(a, "SENDING(1)")
	c.pass(2 * time.Minute)
	after, r4 := c.request(ordered("k"))
	c.tick(true, r4)
	for _, id := range []uuid.UUID{a, b, late, after} {
		c.want(id, "SENDING(1)")
		c.answer(id, accepted("m"))
		c.tick(true)
	}
}

func TestOrderSurvivesRestart(t *testing.T) {
	c := newCore(t)
	var ids []uuid.UUID
	var records []kafka.Record
	for range 5 {
		id, r := c.request(ordered("k"))
		ids = append(ids, id)
		records = append(records, r)
	}
	c.tick(true, records...)
	c.answer(ids[0], throttled)
	c.tick(true)
	c = c.successor()
	c.pass(3 * time.Second)
	c.tick(true)
	c.tick(true) // what was restored is read from the ledger first
	for i, id := range ids {
		want := "SENDING(1)"
		if i == 0 {
			want = "SENDING(2)"
		}
		c.want(id, want)
		for _, later := range ids[i+1:] {
			c.want(later, "HELD(order)")
		}
		c.answer(id, accepted("m"))
		c.tick(true)
	}
}

// TestOrderAtRandom drives many keys through random answers, aborts and restarts: of one key never two are under way,
// and their first attempts come in the order of arrival.
func TestOrderAtRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	c := newCore(t, func(cfg *Config) { cfg.MaxInFlight = 64 })
	type item struct {
		id  uuid.UUID
		key string
		n   int
	}
	var all []item
	of := map[uuid.UUID]item{}
	started := map[string][]int{}
	seen := map[uuid.UUID]bool{}
	count := map[string]int{}
	done := 0
	check := func() {
		busy := map[string]uuid.UUID{}
		for _, x := range c.calls {
			it := of[x.e.id]
			if other, ok := busy[it.key]; ok && other != it.id {
				t.Fatalf("two of key %s are under way", it.key)
			}
			busy[it.key] = it.id
			if !seen[it.id] {
				seen[it.id] = true
				started[it.key] = append(started[it.key], it.n)
			}
		}
	}
	for round := range 600 {
		var input []kafka.Record
		if round < 300 {
			for range rng.IntN(6) {
				key := string(rune('a' + rng.IntN(8)))
				id, r := c.request(ordered(key), ttl(24*time.Hour))
				it := item{id, key, count[key]}
				count[key]++
				all = append(all, it)
				of[id] = it
				input = append(input, r)
			}
		}
		for rng.IntN(8) == 0 { // undone, then done again
			c.tick(false, input...)
		}
		c.tick(true, input...)
		check()
		for _, x := range append([]*call(nil), c.calls...) {
			if rng.IntN(3) > 0 {
				continue
			}
			answers := []zalo.Result{accepted("m"), accepted("m"), throttled, notSent}
			a := answers[rng.IntN(len(answers))]
			if a.Outcome == zalo.Accepted {
				done++
			}
			c.answer(x.e.id, a)
		}
		c.pass(time.Duration(rng.IntN(4000)) * time.Millisecond)
		if rng.IntN(50) == 0 && len(c.calls) == 0 {
			c.tick(true)
			if len(c.calls) == 0 {
				c = c.successor()
			}
		}
	}
	for key, ns := range started {
		for i, n := range ns {
			if n != i {
				t.Fatalf("key %s began in the order %v", key, ns)
			}
		}
	}
	if done < len(all)/2 || len(all) < 300 {
		t.Fatalf("only %d of %d were sent: the test does not test", done, len(all))
	}
}
