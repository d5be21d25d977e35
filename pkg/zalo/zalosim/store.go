package zalosim

import (
	"encoding/hex"
	"iter"
	"maps"
	"time"
)

// Message is what the audit knows about one accepted message.
type Message struct {
	Seq         int               `json:"seq"` // order of acceptance, from 0
	MsgID       string            `json:"msg_id"`
	OAID        string            `json:"oa_id"`
	Phone       string            `json:"phone"` // "84…", or the hash when it was sent to a hash
	TemplateID  string            `json:"template_id"`
	TrackingID  string            `json:"tracking_id"`
	AcceptedAt  time.Time         `json:"accepted_at"`
	Answer      FaultKind         `json:"answer,omitempty"`      // the fault that the answer met
	DeliveredAt time.Time         `json:"delivered_at,omitzero"` // when the phone got it
	Callbacks   int               `json:"callbacks"`             // posts of its callback, forged ones left out
	CallbacksOK int               `json:"callbacks_ok"`          // those answered 200
	Billed      int               `json:"billed"`                // VND
	Params      map[string]string `json:"params,omitempty"`      // those of Config.AuditParams
}

// Totals are the sums over everything since New or Reset.
type Totals struct {
	Requests          int               `json:"requests"` // posts to the send endpoints
	Accepted          int               `json:"accepted"`
	Rejected          map[int]int       `json:"rejected"` // by error code
	Faults            map[FaultKind]int `json:"faults"`   // requests that a fault touched
	Delivered         int               `json:"delivered"`
	Phones            int               `json:"phones"` // distinct ones that a message was accepted for
	Callbacks         int               `json:"callbacks"`
	CallbacksOK       int               `json:"callbacks_ok"`
	CallbacksFailed   int               `json:"callbacks_failed"`    // posts not answered 200 in time; they are resent
	CallbacksDropped  int               `json:"callbacks_dropped"`   // given up, lost by a fault, or the webhook was disabled
	Forged            int               `json:"forged"`              // forged callbacks posted
	ForgedAccepted    int               `json:"forged_accepted"`     // those answered 200: a receiver that does not verify
	BilledMessages    int               `json:"billed_messages"`     // delivered within the template's window
	BilledVND         int               `json:"billed_vnd"`          //
	Pending           int               `json:"pending"`             // deliveries and callbacks still to come
	WebhookDisabled   bool              `json:"webhook_disabled"`    // after the last resend
	RemainingQuota    int               `json:"remaining_quota"`     // messages of the first OA today
	LastAcceptedAt    time.Time         `json:"last_accepted_at"`    //
	AcceptedPerSecond float64           `json:"accepted_per_second"` // between the first and the last acceptance
}

// Copies says how often the same key was accepted.
type Copies struct {
	Messages int            `json:"messages"`
	Distinct int            `json:"distinct"`
	ByCopies map[int]int    `json:"by_copies"` // copies -> how many keys
	Repeated map[string]int `json:"repeated"`  // the keys with more than one, at most 100 of them
}

// Order says whether messages of one group came in the order of their sequence numbers.
type Order struct {
	Messages   int      `json:"messages"`
	Groups     int      `json:"groups"`
	Inversions int      `json:"inversions"` // a number below the group's last one
	Repeats    int      `json:"repeats"`    // a number equal to the group's last one
	Examples   []string `json:"examples"`   // at most 20 groups with inversions
}

const chunkSize = 4096

// stored is a Message in less memory. Everything in the store is guarded by Sim.mu.
type stored struct {
	oa              *account
	phone, tracking string
	template        *Template
	params          []string // values of Config.AuditParams, nil when there are none
	accepted        int64    // Unix nanoseconds
	delivered       int64    // 0: not
	samePhone       int32    // the previous message for this phone, -1: none
	sameTracking    int32
	billed          int32
	callbacks       uint16
	callbacksOK     uint16
	answer          FaultKind
}

// store holds messages in chunks, so that growing never copies and never moves one.
type store struct {
	chunks     [][]stored
	n          int
	byPhone    map[string]int32 // the latest one
	byTracking map[string]int32
}

func newStore() store {
	return store{byPhone: map[string]int32{}, byTracking: map[string]int32{}}
}

func (st *store) at(i int) *stored { return &st.chunks[i/chunkSize][i%chunkSize] }

func (st *store) add(m stored) int {
	if st.n == len(st.chunks)*chunkSize {
		st.chunks = append(st.chunks, make([]stored, chunkSize))
	}
	link := func(index map[string]int32, key string) int32 {
		previous, ok := index[key]
		if !ok {
			previous = -1
		}
		index[key] = int32(st.n)
		return previous
	}
	m.samePhone, m.sameTracking = link(st.byPhone, m.phone), link(st.byTracking, m.tracking)
	*st.at(st.n) = m
	st.n++
	return st.n - 1
}

// msgID makes the 20 hexadecimal digits of a msg_id: the number hidden by the seed, and a check over it.
func (s *Sim) msgID(seq int) string {
	var b [10]byte
	low := uint32(seq) ^ uint32(mix(s.cfg.Seed))
	high := mix(s.cfg.Seed ^ uint64(seq)<<1)
	for i := range 6 {
		b[i] = byte(high >> (8 * i))
	}
	for i := range 4 {
		b[6+i] = byte(low >> (8 * i))
	}
	return hex.EncodeToString(b[:])
}

// seqOf finds the number of a msg_id; false when it is none of this Sim's.
func (s *Sim) seqOf(msgID string) (int, bool) {
	b, err := hex.DecodeString(msgID)
	if err != nil || len(b) != 10 {
		return 0, false
	}
	low := uint32(b[6]) | uint32(b[7])<<8 | uint32(b[8])<<16 | uint32(b[9])<<24
	seq := int(low ^ uint32(mix(s.cfg.Seed)))
	return seq, s.msgID(seq) == msgID
}

func (s *Sim) messageLocked(i int) Message {
	m := s.store.at(i)
	out := Message{
		Seq: i, MsgID: s.msgID(i), OAID: m.oa.ID, Phone: m.phone, TemplateID: m.template.ID, TrackingID: m.tracking,
		AcceptedAt: time.Unix(0, m.accepted), Answer: m.answer, Callbacks: int(m.callbacks), CallbacksOK: int(m.callbacksOK), Billed: int(m.billed),
	}
	if m.delivered != 0 {
		out.DeliveredAt = time.Unix(0, m.delivered)
	}
	for k, v := range m.params {
		if v != "" {
			if out.Params == nil {
				out.Params = map[string]string{}
			}
			out.Params[s.cfg.AuditParams[k]] = v
		}
	}
	return out
}

// Messages returns the accepted messages in order of acceptance, from number from on. Those accepted during the walk
// are included.
func (s *Sim) Messages(from int) iter.Seq[Message] {
	return func(yield func(Message) bool) {
		// A page at a time, so that nothing is called with the mutex held.
		for i := max(from, 0); ; {
			var page []Message
			s.mu.Lock()
			for ; i < s.store.n && len(page) < 512; i++ {
				page = append(page, s.messageLocked(i))
			}
			s.mu.Unlock()
			if len(page) == 0 {
				return
			}
			for _, m := range page {
				if !yield(m) {
					return
				}
			}
		}
	}
}

// ByPhone returns what was accepted for a phone in any usual spelling (or for a hash), in order of acceptance.
func (s *Sim) ByPhone(phone string) []Message {
	if p, ok := normalise(phone); ok {
		phone = p
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.chainLocked(s.store.byPhone, phone, func(m *stored) int32 { return m.samePhone })
}

// ByTrackingID returns what was accepted with a tracking_id, in order of acceptance.
func (s *Sim) ByTrackingID(id string) []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.chainLocked(s.store.byTracking, id, func(m *stored) int32 { return m.sameTracking })
}

// ByMsgID returns the message with this msg_id.
func (s *Sim) ByMsgID(id string) (Message, bool) {
	seq, ok := s.seqOf(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !ok || seq >= s.store.n {
		return Message{}, false
	}
	return s.messageLocked(seq), true
}

func (s *Sim) chainLocked(index map[string]int32, key string, previous func(*stored) int32) []Message {
	list := []Message{}
	last, ok := index[key]
	for i := last; ok && i >= 0; i = previous(s.store.at(int(i))) {
		list = append(list, s.messageLocked(int(i)))
	}
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
	return list
}

// Totals returns the sums.
func (s *Sim) Totals() Totals {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.totals
	t.Rejected, t.Faults = maps.Clone(t.Rejected), maps.Clone(t.Faults)
	t.Phones, t.Pending, t.WebhookDisabled = len(s.store.byPhone), s.pending, s.disabled
	t.RemainingQuota = s.accounts[0].remaining()
	if s.store.n > 1 {
		first, last := s.store.at(0).accepted, s.store.at(s.store.n-1).accepted
		t.LastAcceptedAt = time.Unix(0, last)
		if last > first {
			t.AcceptedPerSecond = float64(s.store.n-1) / time.Duration(last-first).Seconds()
		}
	}
	return t
}

// Copies counts accepted messages by a key: "phone", "tracking_id", "template_id", or the name of a parameter of
// Config.AuditParams (messages without it are left out).
func (s *Sim) Copies(by string) Copies {
	count := map[string]int{}
	c := Copies{ByCopies: map[int]int{}, Repeated: map[string]int{}}
	for m := range s.Messages(0) {
		if key := m.key(by); key != "" {
			count[key]++
			c.Messages++
		}
	}
	c.Distinct = len(count)
	for key, n := range count {
		c.ByCopies[n]++
		if n > 1 && len(c.Repeated) < 100 {
			c.Repeated[key] = n
		}
	}
	return c
}

func (m *Message) key(by string) string {
	switch by {
	case "phone":
		return m.Phone
	case "tracking_id":
		return m.TrackingID
	case "template_id":
		return m.TemplateID
	default:
		return m.Params[by]
	}
}
