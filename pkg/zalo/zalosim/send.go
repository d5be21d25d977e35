package zalosim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/znshub/znshub/pkg/zalo"
)

const maxBody = 1 << 20

type sendBody struct {
	Phone        string                     `json:"phone"`
	HashPhone    string                     `json:"hash_phone"`
	TemplateID   string                     `json:"template_id"`
	TemplateData map[string]json.RawMessage `json:"template_data"`
	TrackingID   string                     `json:"tracking_id"`
	SendingMode  string                     `json:"sending_mode"`
	Mode         string                     `json:"mode"`
}

// send answers the two send endpoints. Order of checks: token, body, template, phone, parameters, hours, quotas,
// wallet, recipient; Zalo's own is not documented.
func (s *Sim) send(w http.ResponseWriter, r *http.Request, hashed bool) {
	if r.Method != http.MethodPost {
		s.refuse(w, -106)
		return
	}
	oa := s.authorised(r)
	if oa == nil {
		s.refuse(w, -124)
		return
	}
	if s.cfg.AppSecret != "" && r.Header.Get("appsecret_proof") != zalo.AppSecretProof(s.cfg.AppSecret, r.Header.Get("access_token")) {
		s.refuse(w, -1241)
		return
	}
	raw, err := readBody(r)
	if err != nil {
		return // the client is gone
	}
	var body sendBody
	if len(bytes.TrimSpace(raw)) == 0 {
		s.refuse(w, -121)
		return
	}
	if json.Unmarshal(raw, &body) != nil {
		s.refuse(w, -122)
		return
	}
	phone, phoneOK := recipient(&body, hashed)
	now := time.Now()
	s.mu.Lock()
	s.totals.Requests++
	p := s.planLocked(oa.ID, phone, body.TemplateID, body.TrackingID)
	if p.refuse {
		s.mu.Unlock()
		s.finish(w, r, p, nil)
		return
	}
	t, code := s.checkLocked(oa, &body, phone, phoneOK, now)
	if code == 0 {
		code = p.code
	}
	if code != 0 {
		s.totals.Rejected[code]++
		s.mu.Unlock()
		s.finish(w, r, plan{answer: onlyQuoted(p.answer), latency: p.latency}, refusal(code))
		return
	}
	seq := s.acceptLocked(oa, t, &body, phone, p, now)
	quota, remaining := oa.DailyQuota, oa.remaining()
	epoch := s.epoch
	s.mu.Unlock()
	if p.before {
		// Not under r's context: Zalo posts callbacks whether or not the client is still there
		s.callback(job{msg: int32(seq), epoch: epoch, at: now.UnixNano(), plan: p})
	}
	s.finish(w, r, p, s.success(seq, now, quota, remaining, &body, p.answer))
}

// onlyQuoted keeps the fault that changes how a refusal is written; the others are about accepted messages.
func onlyQuoted(k FaultKind) FaultKind {
	if k == FaultQuoted {
		return k
	}
	return ""
}

func readBody(r *http.Request) ([]byte, error) {
	if r.ContentLength > 0 && r.ContentLength <= maxBody {
		raw := make([]byte, r.ContentLength)
		_, err := io.ReadFull(r.Body, raw)
		if err == nil {
			_, err = r.Body.Read(make([]byte, 1)) // sees the end, so that a client's going away is noticed
			if err == io.EOF {
				err = nil
			}
		}
		return raw, err
	}
	return io.ReadAll(io.LimitReader(r.Body, maxBody))
}

// recipient returns the phone as "84…", or the hash.
func recipient(b *sendBody, hashed bool) (string, bool) {
	if !hashed {
		return normalise(b.Phone)
	}
	for i := range len(b.HashPhone) {
		if c := b.HashPhone[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", false
		}
	}
	return b.HashPhone, len(b.HashPhone) == 64
}

// normalise brings a Vietnamese mobile number in one of Zalo's spellings ("84…", "+84…", "0…" or without any) to "84…".
func normalise(phone string) (string, bool) {
	p := strings.TrimPrefix(phone, "+")
	switch {
	case strings.HasPrefix(p, "84") && len(p) == 11:
	case strings.HasPrefix(p, "0") && len(p) == 10:
		p = "84" + p[1:]
	case len(p) == 9:
		p = "84" + p
	default:
		return "", false
	}
	for i := range len(p) {
		if p[i] < '0' || p[i] > '9' {
			return "", false
		}
	}
	switch p[2] {
	case '3', '5', '7', '8', '9':
		return p, true
	}
	return "", false
}

// checkLocked returns the template and 0, or Zalo's code.
func (s *Sim) checkLocked(oa *account, b *sendBody, phone string, phoneOK bool, now time.Time) (*Template, int) {
	s.newDayLocked(now)
	t, ok := s.templates[b.TemplateID]
	switch {
	case !ok:
		return nil, -109
	case t.Status == "DISABLE":
		return nil, -146
	case t.Status != "ENABLE":
		return nil, -131
	case !phoneOK:
		return nil, -108
	}
	if code := t.check(b.TemplateData); code != 0 {
		return nil, code
	}
	switch {
	case b.SendingMode != "" && b.SendingMode != "1" && b.SendingMode != "3":
		return nil, -161
	case b.SendingMode == "3" && t.Tag != TagPromotion:
		return nil, -162
	case b.Mode == "development" && !s.admins[phone]:
		return nil, -127
	case t.Tag == TagPromotion && s.cfg.PromotionHours && night(now.In(s.cfg.vietnam)):
		return nil, -133
	case oa.sentToday >= oa.DailyQuota:
		return nil, -144
	case t.DailyQuota > 0 && t.sentToday >= t.DailyQuota:
		return nil, -147
	case t.Tag == TagPromotion && s.cfg.PromotionsADay > 0 && s.promotions[phone] >= s.cfg.PromotionsADay:
		return nil, -1472
	case s.cfg.Wallet > 0 && s.spent+t.Price > s.cfg.Wallet:
		return nil, -115
	}
	return t, 0
}

func night(t time.Time) bool { return t.Hour() >= 22 || t.Hour() < 6 }

// newDayLocked renews quotas at midnight in Vietnam, which is when everybody assumes that Zalo does.
func (s *Sim) newDayLocked(now time.Time) {
	y, m, d := now.In(s.cfg.vietnam).Date()
	if y == s.dayY && m == s.dayM && d == s.dayD {
		return
	}
	s.dayY, s.dayM, s.dayD = y, m, d
	for _, oa := range s.accounts {
		oa.sentToday = 0
	}
	clear(s.promotions)
	for _, t := range s.templates {
		t.sentToday = 0
	}
}

// acceptLocked takes the message.
func (s *Sim) acceptLocked(oa *account, t *Template, b *sendBody, phone string, p plan, now time.Time) (seq int) {
	m := stored{oa: oa, phone: phone, tracking: b.TrackingID, template: t, accepted: now.UnixNano(), answer: p.answer}
	for i, name := range s.cfg.AuditParams {
		if value, ok := paramText(b.TemplateData[name]); ok {
			if m.params == nil {
				m.params = make([]string, len(s.cfg.AuditParams))
			}
			m.params[i] = value
		}
	}
	seq = s.store.add(m)
	s.totals.Accepted++
	oa.sentToday++
	t.sentToday++
	if t.Tag == TagPromotion {
		s.promotions[phone]++
	}
	switch {
	case p.before:
		s.pending++
		s.deliverLocked(seq, now)
	case !p.never:
		s.pending++
		s.queue.push(job{msg: int32(seq), epoch: s.epoch, kind: jobDeliver, at: now.Add(p.latency + p.delivery).UnixNano(), plan: p})
	}
	return seq
}

func (s *Sim) success(seq int, now time.Time, quota, remaining int, b *sendBody, fault FaultKind) []byte {
	mode := b.SendingMode
	if mode == "" {
		mode = "1"
	}
	out := make([]byte, 0, 256)
	out = append(out, `{"error":`...)
	if fault == FaultQuoted {
		out = append(out, `"0"`...)
	} else {
		out = append(out, '0')
	}
	out = append(out, `,"message":"Success","data":{`...)
	if fault != FaultNoMsgID {
		out = append(out, `"msg_id":"`...)
		out = append(out, s.msgID(seq)...)
		out = append(out, `",`...)
	}
	out = append(out, `"sent_time":"`...)
	out = strconv.AppendInt(out, now.UnixMilli(), 10)
	if b.Mode != "development" {
		out = append(out, `","sending_mode":"`...)
		out = append(out, mode...)
		out = append(out, `","quota":{"dailyQuota":"`...)
		out = strconv.AppendInt(out, int64(quota), 10)
		out = append(out, `","remainingQuota":"`...)
		out = strconv.AppendInt(out, int64(remaining), 10)
		out = append(out, `"}}}`...)
	} else {
		out = append(out, `"}}`...)
	}
	return out
}

// refuse answers a request that is refused before it is a message.
func (s *Sim) refuse(w http.ResponseWriter, code int) {
	s.mu.Lock()
	s.totals.Requests++
	s.totals.Rejected[code]++
	s.mu.Unlock()
	writeJSON(w, refusal(code))
}

// refusal writes Zalo's answer: HTTP 200 and no data.
func refusal(code int) []byte {
	return fmt.Appendf(nil, `{"error":%d,"message":%q}`, code, zalo.LookupCode(zalo.HostBusiness, code).Text)
}

func writeJSON(w http.ResponseWriter, body []byte) {
	h := w.Header()
	h["Content-Type"] = []string{"application/json;charset=utf-8"}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.Write(body)
}
