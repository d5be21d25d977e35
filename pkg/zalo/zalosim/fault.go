package zalosim

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/znshub/znshub/pkg/zalo"
)

// FaultKind is one way in which a message, its answer or its callback goes wrong.
type FaultKind string

// Faults of the answer. "Accepted" says whether the message is sent to the phone all the same.
const (
	FaultCode         FaultKind = "code"           // answers Fault.Code; not accepted
	FaultSlow         FaultKind = "slow"           // answers Delay later (3s); accepted
	FaultLostAnswer   FaultKind = "lost_answer"    // accepted, never answered: the client runs into its timeout
	FaultHang         FaultKind = "hang"           // not accepted, never answered
	FaultResetBefore  FaultKind = "reset_before"   // not accepted, connection reset
	FaultResetAfter   FaultKind = "reset_after"    // accepted, connection reset without an answer
	FaultResetMidBody FaultKind = "reset_mid_body" // accepted, connection reset in the middle of the answer
	FaultTruncated    FaultKind = "truncated_json" // accepted, the answer's JSON ends too early
	FaultHTML         FaultKind = "html"           // an HTML page with HTTP Status (502); accepted when Fault.Accept says so
	FaultQuoted       FaultKind = "quoted_error"   // as without the fault, with "error" as a string and data null
	FaultNoMsgID      FaultKind = "no_msg_id"      // accepted, success without a msg_id
	FaultRedirect     FaultKind = "redirect"       // not accepted, HTTP 307 to the same place
)

// Faults of the delivery and of its callback. They touch accepted messages only.
const (
	FaultOffline         FaultKind = "offline"                  // the phone gets it Delay later (30s)
	FaultNeverDelivered  FaultKind = "never_delivered"          // the phone never gets it
	FaultCallbackBefore  FaultKind = "callback_before"          // the callback comes before the answer
	FaultCallbackTwice   FaultKind = "callback_duplicate"       // it comes twice
	FaultCallbackSwapped FaultKind = "callback_out_of_order"    // it comes 1 to 5 seconds later, after others
	FaultCallbackDelayed FaultKind = "callback_delayed"         // it comes Delay later (1h)
	FaultCallbackLost    FaultKind = "callback_lost"            // it never comes
	FaultCallbackForged  FaultKind = "callback_wrong_signature" // a forged one comes first
	FaultCallbackApp     FaultKind = "callback_wrong_app"       // one that is signed for another app comes first
)

var faultKinds = []FaultKind{
	FaultCode, FaultSlow, FaultLostAnswer, FaultHang, FaultResetBefore, FaultResetAfter, FaultResetMidBody, FaultTruncated,
	FaultHTML, FaultQuoted, FaultNoMsgID, FaultRedirect, FaultOffline, FaultNeverDelivered, FaultCallbackBefore,
	FaultCallbackTwice, FaultCallbackSwapped, FaultCallbackDelayed, FaultCallbackLost, FaultCallbackForged, FaultCallbackApp,
}

// Fault is a switch. It touches the requests that match all of OAID, Phone and TemplateID (empty: any), the next Count of them
// (0: all), each with Probability (0: always). Several faults may touch one request.
type Fault struct {
	ID          string        `json:"id,omitempty"` // given by AddFault
	Kind        FaultKind     `json:"kind"`
	Phone       string        `json:"phone,omitempty"`
	TemplateID  string        `json:"template_id,omitempty"`
	OAID        string        `json:"oa_id,omitempty"`
	Count       int           `json:"count,omitempty"` // counts down; -1: used up
	Probability float64       `json:"probability,omitempty"`
	Code        int           `json:"code,omitempty"`
	Status      int           `json:"status,omitempty"`
	Accept      bool          `json:"accept,omitempty"`
	Delay       time.Duration `json:"-"`
	Hits        int           `json:"hits"` // how many requests it has touched
}

type faultAlias Fault

// MarshalJSON writes Delay as text: "3s".
func (f Fault) MarshalJSON() ([]byte, error) {
	out := struct {
		faultAlias
		Delay string `json:"delay,omitempty"`
	}{faultAlias: faultAlias(f)}
	if f.Delay != 0 {
		out.Delay = f.Delay.String()
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads Delay as text: "3s".
func (f *Fault) UnmarshalJSON(b []byte) error {
	var in struct {
		faultAlias
		Delay string `json:"delay"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*f = Fault(in.faultAlias)
	if in.Delay != "" {
		d, err := time.ParseDuration(in.Delay)
		if err != nil {
			return fmt.Errorf("delay: want something like 3s or 250ms: %w", err)
		}
		f.Delay = d
	}
	return nil
}

func (f *Fault) check() error {
	switch {
	case !slices.Contains(faultKinds, f.Kind):
		return fmt.Errorf("fault kind %q: want one of %v", f.Kind, faultKinds)
	case f.Kind == FaultCode && f.Code == 0:
		return fmt.Errorf("fault %s needs a code, for example -118", f.Kind)
	case f.Probability < 0 || f.Probability > 1:
		return fmt.Errorf("fault probability %v: want 0 to 1", f.Probability)
	case f.Count < 0 || f.Delay < 0:
		return fmt.Errorf("fault count and delay must not be negative")
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return fmt.Errorf("fault status %d: want 200 to 599", f.Status)
	}
	return nil
}

// AddFault switches a fault on and returns its id, or says what is wrong with it.
func (s *Sim) AddFault(f Fault) (string, error) {
	if err := f.check(); err != nil {
		return "", err
	}
	if f.Phone != "" {
		phone, ok := normalise(f.Phone)
		if !ok {
			return "", fmt.Errorf("fault phone: not a Vietnamese mobile number")
		}
		f.Phone = phone
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastFault++
	f.ID, f.Hits = fmt.Sprintf("f%d", s.lastFault), 0
	s.addFaultLocked(&f)
	return f.ID, nil
}

func (s *Sim) addFaultLocked(f *Fault) {
	if f.Phone == "" {
		s.faults = append(s.faults, f)
		return
	}
	s.phoneFaults[f.Phone] = append(s.phoneFaults[f.Phone], f)
	hash := zalo.PhoneHash(f.Phone)
	s.phoneFaults[hash] = append(s.phoneFaults[hash], f)
}

// Faults returns the faults that are switched on, those of the phone convention left out.
func (s *Sim) Faults() []Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Fault
	for _, f := range s.faults {
		list = append(list, *f)
	}
	for phone, faults := range s.phoneFaults {
		for _, f := range faults {
			if phone == f.Phone && f.ID != "" {
				list = append(list, *f)
			}
		}
	}
	slices.SortFunc(list, func(a, b Fault) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// ClearFaults switches all faults off, or the one with this id. What the phone convention says stays.
func (s *Sim) ClearFaults(id string) {
	gone := func(f *Fault) bool { return f.ID != "" && (id == "" || f.ID == id) }
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = slices.DeleteFunc(s.faults, gone)
	for phone, faults := range s.phoneFaults {
		if rest := slices.DeleteFunc(faults, gone); len(rest) == 0 {
			delete(s.phoneFaults, phone)
		} else {
			s.phoneFaults[phone] = rest
		}
	}
}

// Convention describes the phone numbers that behave in their own way without any switch. They are valid numbers, so
// that a request with one passes the hub's checks.
const Convention = `phones that behave in their own way (others are delivered):
  +8490000NNNN   refused with error -NNN: +84900000118 has no Zalo account (-118), +84900000139 refused
                 this type (-139), +84900001471 is over its monthly limit (-1471), any code of the table
  +84900009001   answers after 3 s                     +84900009002   offline for 30 s, then delivered
  +84900009003   never gets anything                   +84900009004   its callback comes twice
  +84900009005   accepted, the answer is lost          +84900009006   accepted, reset in mid-answer
  +84900009007   accepted, answer is truncated JSON    +84900009008   accepted, answer is HTTP 502 with HTML
  +84900009009   not accepted, answer is HTTP 503      +84900009010   callback comes before the answer
  +84900009011   a forged callback comes first         +84900009012   its callback is lost
`

func (s *Sim) addConvention() {
	for _, info := range zalo.Codes(zalo.HostBusiness) {
		if n := -info.Code; n >= 100 && n < 9000 {
			s.addFaultLocked(&Fault{Kind: FaultCode, Code: info.Code, Phone: fmt.Sprintf("8490000%04d", n)})
		}
	}
	for i, f := range []Fault{
		{Kind: FaultSlow}, {Kind: FaultOffline}, {Kind: FaultNeverDelivered}, {Kind: FaultCallbackTwice},
		{Kind: FaultLostAnswer}, {Kind: FaultResetMidBody}, {Kind: FaultTruncated}, {Kind: FaultHTML, Status: 502, Accept: true},
		{Kind: FaultHTML, Status: 503}, {Kind: FaultCallbackBefore}, {Kind: FaultCallbackForged}, {Kind: FaultCallbackLost},
	} {
		f.Phone = fmt.Sprintf("8490000%04d", 9001+i)
		s.addFaultLocked(&f)
	}
}

// plan is what will happen to one request.
type plan struct {
	code      int       // answered instead of accepting
	answer    FaultKind // at most one fault of the answer; empty: as Zalo would
	status    int
	refuse    bool // not accepted, whatever the checks say
	latency   time.Duration
	delivery  time.Duration
	never     bool
	before    bool
	copies    int // callbacks beyond the first
	lost      bool
	callback  time.Duration // beyond delivery
	forged    bool
	forgedApp bool
}

// planLocked decides the faults of a request. Chance hangs on the seed, the fault's kind and the request alone.
func (s *Sim) planLocked(oaID, phone, templateID, trackingID string) plan {
	chance := newDice(s.cfg.Seed, phone, trackingID)
	p := plan{latency: s.cfg.Latency.pick(chance.roll("latency")), delivery: s.cfg.Delivery.pick(chance.roll("delivery"))}
	if len(s.faults) == 0 && len(s.phoneFaults) == 0 {
		return p
	}
	apply := func(f *Fault) {
		if f.TemplateID != "" && f.TemplateID != templateID || f.OAID != "" && f.OAID != oaID || f.Count < 0 ||
			f.Probability > 0 && chance.roll(string(f.Kind)+f.ID) >= f.Probability {
			return
		}
		f.Hits++
		if f.Count > 0 {
			if f.Count--; f.Count == 0 {
				f.Count = -1 // used up
			}
		}
		s.totals.Faults[f.Kind]++
		p.add(f, s, chance)
	}
	for _, f := range s.phoneFaults[phone] {
		apply(f)
	}
	for _, f := range s.faults {
		apply(f)
	}
	return p
}

func (p *plan) add(f *Fault, s *Sim, chance dice) {
	delay := func(usual time.Duration) time.Duration {
		if f.Delay > 0 {
			return f.Delay
		}
		return s.scaled(usual)
	}
	switch f.Kind {
	case FaultCode:
		p.code = f.Code
	case FaultSlow:
		p.latency += delay(3 * time.Second)
	case FaultHTML, FaultHang, FaultResetBefore, FaultRedirect,
		FaultLostAnswer, FaultResetAfter, FaultResetMidBody, FaultTruncated, FaultQuoted, FaultNoMsgID:
		if p.answer != "" {
			return // an answer goes wrong in one way only: the first
		}
		p.answer, p.status = f.Kind, f.Status
		switch f.Kind {
		case FaultHTML:
			p.refuse = !f.Accept
			if p.status == 0 {
				p.status = 502
			}
		case FaultHang, FaultResetBefore, FaultRedirect:
			p.refuse = true
		}
	case FaultOffline:
		p.delivery += delay(30 * time.Second)
	case FaultNeverDelivered:
		p.never = true
	case FaultCallbackBefore:
		p.before = true
	case FaultCallbackTwice:
		p.copies++
	case FaultCallbackSwapped:
		p.callback += time.Duration((1 + 4*chance.roll("swap")) * float64(s.scaled(time.Second)))
	case FaultCallbackDelayed:
		p.callback += delay(time.Hour)
	case FaultCallbackLost:
		p.lost = true
	case FaultCallbackForged:
		p.forged = true
	case FaultCallbackApp:
		p.forgedApp = true
	}
}
