package zalosim

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/text/unicode/norm"
)

// Tag is a template's kind in Zalo's numbers.
const (
	TagTransaction  = 1
	TagCustomerCare = 2
	TagPromotion    = 3
)

// Template is a registered template. The JSON names are the simulator's own.
type Template struct {
	ID         string        `json:"id"`
	Name       string        `json:"name"`
	Tag        int           `json:"tag"`
	Status     string        `json:"status,omitempty"` // ENABLE (default), PENDING_REVIEW, REJECT, DISABLE
	Params     []Param       `json:"params,omitempty"`
	TimeoutMS  int64         `json:"timeout_ms,omitempty"` // delivery window, outside of which nothing is billed; 7200000, OTP 15000
	Price      int           `json:"price,omitempty"`      // VND
	DailyQuota int           `json:"daily_quota,omitempty"`
	timeout    time.Duration // of TimeoutMS
	sentToday  int
}

// Param is a registered parameter. Lengths are in characters after Unicode normalisation (NFC).
type Param struct {
	Name      string `json:"name"`
	Required  bool   `json:"require"`
	MaxLength int    `json:"max_length,omitempty"` // 0: 200
	MinLength int    `json:"min_length,omitempty"`
}

// DefaultTemplates are there unless Config.Templates says otherwise.
func DefaultTemplates() []Template {
	return []Template{
		{ID: "300100", Name: "Mã xác thực", Tag: TagTransaction, TimeoutMS: 15000, Price: 300, Params: []Param{{Name: "otp", Required: true, MaxLength: 10}}},
		{ID: "300200", Name: "Trạng thái đơn hàng", Tag: TagTransaction, Price: 200, Params: []Param{
			{Name: "customer_name", Required: true, MaxLength: 30}, {Name: "order_code", Required: true, MaxLength: 30},
			{Name: "status", MaxLength: 30}, {Name: "date", MaxLength: 20}, {Name: "amount", MaxLength: 20},
		}},
		{ID: "300250", Name: "Chăm sóc khách hàng", Tag: TagCustomerCare, Price: 200, Params: []Param{{Name: "customer_name", Required: true, MaxLength: 30}}},
		{ID: "300300", Name: "Khuyến mãi", Tag: TagPromotion, Price: 300, Params: []Param{
			{Name: "customer_name", Required: true, MaxLength: 30}, {Name: "voucher", MaxLength: 30},
		}},
		{ID: "300400", Name: "Chờ duyệt", Tag: TagTransaction, Status: "PENDING_REVIEW", Price: 200},
		{ID: "300900", Name: "Load test", Tag: TagTransaction, Price: 200, Params: []Param{{Name: "key"}, {Name: "seq"}, {Name: "order_code"}}},
	}
}

// AddTemplate registers a template or replaces the one with its id.
func (s *Sim) AddTemplate(t Template) error {
	if t.ID == "" {
		return errors.New("template id: required")
	}
	if t.Tag == 0 {
		t.Tag = TagTransaction
	}
	if t.Tag < TagTransaction || t.Tag > TagPromotion {
		return fmt.Errorf("template %s: tag %d: want 1 (transaction), 2 (customer care) or 3 (promotion)", t.ID, t.Tag)
	}
	if t.Status == "" {
		t.Status = "ENABLE"
	}
	if t.TimeoutMS == 0 {
		t.TimeoutMS = 7_200_000
	}
	t.timeout = time.Duration(t.TimeoutMS) * time.Millisecond
	s.mu.Lock()
	defer s.mu.Unlock()
	s.templates[t.ID] = &t
	return nil
}

// Templates returns the registered templates by id.
func (s *Sim) Templates() []Template {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Template, 0, len(s.templates))
	for _, t := range s.templates {
		list = append(list, *t)
	}
	slices.SortFunc(list, func(a, b Template) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// check returns Zalo's code for template_data, or 0.
func (t *Template) check(data map[string]json.RawMessage) int {
	required := 0
	for i := range t.Params {
		p := &t.Params[i]
		if p.Required {
			required++
		}
		value, ok := data[p.Name]
		if !ok || string(value) == "null" {
			if p.Required && len(data) > 0 {
				return -1122
			}
			continue
		}
		text, ok := paramText(value)
		if !ok {
			return -112
		}
		// Never more characters than bytes: counting them is seldom needed.
		if len(text) > p.max() && runes(text) > p.max() {
			return -1121
		}
		if p.MinLength > 0 && runes(text) < p.MinLength || p.Required && text == "" {
			return -1124
		}
	}
	if required > 0 && len(data) == 0 {
		return -111
	}
	return 0
}

func runes(s string) int { return len([]rune(norm.NFC.String(s))) }

func (p *Param) max() int {
	if p.MaxLength == 0 {
		return 200
	}
	return p.MaxLength
}

// paramText returns a parameter as text: Zalo's samples have strings, and numbers in places.
func paramText(raw json.RawMessage) (string, bool) {
	if len(raw) == 0 || raw[0] == '{' || raw[0] == '[' {
		return "", false
	}
	if raw[0] != '"' {
		return string(raw), true
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err == nil
}
