package zalosim

import "strconv"

// Order compares the order of acceptance with sequence numbers: group is a key as in Copies, seq the name of a parameter
// of Config.AuditParams that holds a whole number. Messages without either are left out.
func (s *Sim) Order(group, seq string) Order {
	last := map[string]int64{}
	var o Order
	for m := range s.Messages(0) {
		key := m.key(group)
		n, err := strconv.ParseInt(m.Params[seq], 10, 64)
		if key == "" || err != nil {
			continue
		}
		o.Messages++
		before, ok := last[key]
		switch {
		case ok && n < before:
			o.Inversions++
			if len(o.Examples) < 20 {
				o.Examples = append(o.Examples, key)
			}
		case ok && n == before:
			o.Repeats++
		default:
			last[key] = n
		}
	}
	o.Groups = len(last)
	return o
}

// Reset forgets all messages and sums, and renews the day's quota and the webhook. Deliveries and callbacks still to
// come are dropped. Faults and templates stay.
func (s *Sim) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
	s.store, s.totals, s.pending = newStore(), newTotals(), 0
	s.promotions, s.disabled, s.spent = map[string]int{}, false, 0
	for _, oa := range s.accounts {
		oa.sentToday = 0
	}
	for _, t := range s.templates {
		t.sentToday = 0
	}
	s.queue.clear()
}

func newTotals() Totals {
	return Totals{Rejected: map[int]int{}, Faults: map[FaultKind]int{}}
}
