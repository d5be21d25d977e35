package sender

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/znshub/znshub/pkg/virtual"
	"github.com/znshub/znshub/pkg/zalo"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

// testFlow is the flow of permits that a test takes by itself.
var testFlow = limit.Flow{OA: testOA, Template: "643118", Category: notificationv1.Category_CATEGORY_TRANSACTION}

func ofOA(id string) func(*notificationv1.NotificationRequested) {
	return func(r *notificationv1.NotificationRequested) { r.OaId = id }
}

func testLimits(inFlight int) *limit.Limits { return limit.New(limit.Config{MaxInFlight: inFlight}) }

// limited takes a permit for a call that starts about now.
func limited(t *testing.T, l *limit.Limits) *limit.Permit {
	t.Helper()
	p, _, ok := l.Take(time.Now(), testFlow)
	if !ok {
		t.Fatal("the limits let nothing through")
	}
	return p
}

func TestDispatcherBoundsCalls(t *testing.T) {
	virtual.Test(t, func(t *testing.T) {
		var active, most, made atomic.Int32
		l := testLimits(20)
		d := newDispatcher(l, func(*call) zalo.Result {
			most.Store(max(most.Load(), active.Add(1)))
			time.Sleep(50 * time.Millisecond)
			active.Add(-1)
			made.Add(1)
			return accepted("m")
		}, func() {})
		p := &partition{}
		for range 200 {
			p.calls.Add(1)
			d.start(&call{p: p, deadline: time.Now().Add(time.Minute), permit: limited(t, l)})
		}
		d.wait(t.Context())
		if most.Load() != 20 || made.Load() != 200 || p.calls.Load() != 0 || p.ended.Load() != 200 {
			t.Errorf("%d at a time, %d made, %d in flight, %d ended", most.Load(), made.Load(), p.calls.Load(), p.ended.Load())
		}
	})
}

func TestNoCallAfterItsLaunchDeadline(t *testing.T) {
	virtual.Test(t, func(t *testing.T) {
		var made atomic.Int32
		d := newDispatcher(testLimits(1), func(*call) zalo.Result {
			made.Add(1)
			time.Sleep(6 * time.Second)
			return accepted("m")
		}, func() {})
		p := &partition{}
		for range 3 {
			p.calls.Add(1)
			d.start(&call{p: p, deadline: time.Now().Add(launchWithin)})
		}
		d.wait(t.Context())
		if made.Load() != 1 {
			t.Errorf("%d calls, want 1: the others waited past their deadline", made.Load())
		}
		withdrawn := 0
		for c := d.finished(); c != nil; c = d.finished() {
			if c.withdrawn {
				withdrawn++
			}
		}
		if withdrawn != 2 {
			t.Errorf("%d given back, want 2", withdrawn)
		}
	})
}

func TestNoCallForADroppedPartition(t *testing.T) {
	virtual.Test(t, func(t *testing.T) {
		var made atomic.Int32
		d := newDispatcher(testLimits(1), func(*call) zalo.Result {
			made.Add(1)
			time.Sleep(time.Second)
			return accepted("m")
		}, func() {})
		mine, lostPart := &partition{}, &partition{}
		d.start(&call{p: mine, deadline: time.Now().Add(time.Minute)})
		d.start(&call{p: lostPart, deadline: time.Now().Add(time.Minute)})
		lostPart.dropped.Store(true)
		d.forget(lostPart)
		d.wait(t.Context())
		if made.Load() != 1 {
			t.Errorf("%d calls", made.Load())
		}
	})
}

// fakeCallbacks is a callback topic of which the test says what it holds.
type fakeCallbacks struct {
	mu      sync.Mutex
	opened  []time.Time
	readers int
	behind  bool // the watermark is not reached
	fail    error
}

func TestReconcilerReadsOnlyWhileNeeded(t *testing.T) {
	virtual.Test(t, func(t *testing.T) {
		topic := &fakeCallbacks{}
		r := newReconciler(topic.open, func() {}, testLog())
		ctx, stop := contextWithStop(t)
		var wg sync.WaitGroup
		wg.Go(func() { r.run(ctx) })
		time.Sleep(time.Hour)
		if topic.count() != 0 {
			t.Error("reads although nothing is unknown")
		}
		e := &entry{id: uuid.New()}
		r.track(e, true, true)
		began := time.Now()
		r.need(began, false)
		time.Sleep(time.Second)
		if topic.count() != 1 || !topic.begun()[0].Equal(began.Add(-reconcileMargin)) {
			t.Fatalf("reads from %v, want %v", topic.begun(), began.Add(-reconcileMargin))
		}
		if at := r.passed(); ms(time.Now())-at > 1500 {
			t.Errorf("has passed %d", at)
		}
		r.need(began.Add(time.Second), false) // covered already
		time.Sleep(time.Second)
		if len(topic.begun()) != 1 {
			t.Error("began again although it covers the attempt")
		}
		r.need(began.Add(-time.Hour), true) // a partition with an older one was restored
		time.Sleep(time.Second)
		if len(topic.begun()) != 2 || topic.count() != 1 {
			t.Errorf("opened %v", topic.begun())
		}
		topic.set(func() { topic.behind = true })
		time.Sleep(time.Second)
		before := r.passed()
		time.Sleep(30 * time.Second)
		if r.passed() != before {
			t.Error("claims to have passed what it has not read")
		}
		topic.set(func() { topic.behind = false })
		time.Sleep(2 * time.Second)
		if since := r.healthySince(); ms(time.Now())-since > 3000 {
			t.Error("a gap of 30 s does not count as one")
		}
		r.track(e, false, false)
		time.Sleep(2 * time.Minute)
		if topic.count() != 0 || r.passed() != 0 {
			t.Error("still reads after everything is known")
		}
		stop()
		wg.Wait()
	})
}
