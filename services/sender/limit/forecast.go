package limit

import (
	"math"
	"time"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// arrivals is the rate at which requests arrive, with the recent past counting most.
type arrivals struct {
	weight float64 // requests, each fading with time
	at     time.Time
	since  time.Time
	n      int
	told   Forecast
	toldAt time.Time
}

const (
	memory       = time.Hour // what counts as recent
	enoughTime   = 5 * time.Minute
	enoughToTell = 20
	tellAgain    = 10 * time.Minute // at most so often
	moved        = time.Hour        // a forecast that changed by less is not told again
)

func (a *arrivals) add(now time.Time) {
	if a.since.IsZero() {
		a.since, a.at = now, now
	}
	a.fade(now)
	a.weight++
	a.n++
}

func (a *arrivals) fade(now time.Time) {
	if d := now.Sub(a.at); d > 0 {
		a.weight *= math.Exp(-d.Seconds() / memory.Seconds())
		a.at = now
	}
}

// rate is requests per second; 0: too few to tell.
func (a *arrivals) rate(now time.Time) float64 {
	age := now.Sub(a.since)
	if a.n < enoughToTell || age < enoughTime {
		return 0
	}
	a.fade(now)
	return a.weight / memory.Seconds() / (1 - math.Exp(-age.Seconds()/memory.Seconds()))
}

// Forecast is when a quota will be used up at the rate at which requests arrive.
type Forecast struct {
	OA        string
	Template  string    // empty: the OA's
	Exhausted time.Time // zero: not before its reset
	Day, Left *int32    // as known: the quota per day and what is left of it
	Month     *int32
	MonthLeft *int32
}

// Arrived counts a request of f for the forecast.
func (l *Limits) Arrived(now time.Time, f Flow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tokens != nil && l.tokens[f.OA] == 0 {
		return // nobody knows this OA: it gets no state
	}
	o := l.oa(f.OA, now)
	o.arrivals.add(now)
	if f.Category == notificationv1.Category_CATEGORY_PROMOTION {
		o.promotions.add(now)
	}
	if t := o.templates[f.Template]; t != nil && t.day.known {
		t.arrivals.add(now)
	}
}

// exhausted is when q will be used up; zero: not before its reset.
func (l *Limits) exhausted(q *quota, a *arrivals, inFlight int, now time.Time) time.Time {
	if !q.known {
		return time.Time{}
	}
	part := l.share.owned()
	left := q.left(inFlight, part)
	if left <= 0 {
		return wall(now)
	}
	rate := a.rate(now) / part
	if rate == 0 {
		return time.Time{}
	}
	seconds := float64(left) / rate
	if seconds >= q.resets.Sub(now).Seconds() {
		return time.Time{}
	}
	return wall(now).Add(time.Duration(seconds * float64(time.Second)))
}

// Forecasts returns those that are news: made, withdrawn, or moved by an hour and by a quarter of the time that is left.
func (l *Limits) Forecasts(now time.Time) (news []Forecast) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.oas {
		f := Forecast{OA: o.id, Exhausted: earlier(
			l.exhausted(&o.day, &o.arrivals, o.guard.inFlight, now), l.exhausted(&o.month, &o.promotions, 0, now))}
		f.Day, f.Left = o.day.words()
		f.Month, f.MonthLeft = o.month.words()
		if (o.day.known || o.month.known) && o.arrivals.news(f, now) {
			news = append(news, f)
		}
		for _, t := range o.templates {
			f := Forecast{OA: o.id, Template: t.id, Exhausted: l.exhausted(&t.day, &t.arrivals, t.inFlight, now)}
			f.Day, f.Left = t.day.words()
			if t.day.known && t.arrivals.news(f, now) {
				news = append(news, f)
			}
		}
	}
	return news
}

// words are what Zalo said last, for those who read it elsewhere.
func (q *quota) words() (total, left *int32) {
	if !q.known {
		return nil, nil
	}
	if q.total > 0 {
		total = new(int32(min(q.total, math.MaxInt32)))
	}
	if q.remaining < math.MaxInt32 {
		left = new(int32(q.remaining))
	}
	return total, left
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// news reports whether f is to be told, and takes it for told.
func (a *arrivals) news(f Forecast, now time.Time) bool {
	before := a.told.Exhausted
	if !a.toldAt.IsZero() && now.Sub(a.toldAt) < tellAgain && now.After(a.toldAt) {
		return false
	}
	switch {
	case before.IsZero() && f.Exhausted.IsZero():
		return false
	case !before.IsZero() && !before.After(now) && !f.Exhausted.IsZero() && !f.Exhausted.After(now):
		return false // it is used up, as was told
	case !before.IsZero() && !f.Exhausted.IsZero():
		change := f.Exhausted.Sub(before).Abs()
		if change < moved || change < f.Exhausted.Sub(now)/4 {
			return false
		}
	}
	a.told, a.toldAt = f, wall(now)
	return true
}

// Told says what forecast stands in oa.quota, whoever made it.
func (l *Limits) Told(oaID, templateID string, exhausted, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.oas[oaID]
	if o == nil && templateID == "" && !exhausted.IsZero() {
		o = l.oa(oaID, at) // made before this process began: it is to be withdrawn all the same
	}
	if o == nil {
		return
	}
	a := &o.arrivals
	if templateID != "" {
		t := o.templates[templateID]
		if t == nil {
			return
		}
		a = &t.arrivals
	}
	if !exhausted.IsZero() || !a.told.Exhausted.IsZero() {
		a.told.Exhausted, a.toldAt = exhausted, at
	}
}

// Quota takes what oa.quota says: messages per day of the OA, or of one of its templates.
func (l *Limits) Quota(oaID, templateID string, w Word, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stale(w, midnight(now).Add(-day)) {
		w.Remaining = nil // yesterday's: how many there are a day still holds
	}
	o := l.oa(oaID, now)
	if templateID == "" {
		l.word(o, nil, &o.day, kindDay, w, now)
	} else if t := l.template(o, templateID); t != nil {
		l.word(o, t, &t.day, kindDay, w, now)
	}
}

// Month takes what oa.quota says about promotions per month.
func (l *Limits) Month(oaID string, w Word, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	y, m, _ := now.In(vietnam).Date()
	if l.stale(w, time.Date(y, m, 1, 0, 0, 0, 0, vietnam)) {
		w = Word{} // it is set anew each month
	}
	o := l.oa(oaID, now)
	l.word(o, nil, &o.month, kindMonth, w, now)
}

// stale reports whether a word is from before the present period began.
func (l *Limits) stale(w Word, began time.Time) bool { return w.At.Before(began) }
