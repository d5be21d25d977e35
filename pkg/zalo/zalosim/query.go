package zalosim

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/znshub/znshub/pkg/zalo"
)

// object is a JSON object whose shape is Zalo's and nobody else's.
type object = map[string]any

// zalo wraps one of Zalo's queries: the access token, the envelope, HTTP 200 also for errors.
func (s *Sim) zalo(query func(*http.Request) (data any, extra object, code int)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.authorised(r) == nil {
			writeJSON(w, refusal(-124))
			return
		}
		data, extra, code := query(r)
		if code != 0 {
			writeJSON(w, refusal(code))
			return
		}
		answer := object{"error": 0, "message": "Success", "data": data}
		maps.Copy(answer, extra)
		body, err := json.Marshal(answer)
		if err != nil {
			writeJSON(w, refusal(-100))
			return
		}
		writeJSON(w, body)
	}
}

func (s *Sim) messageStatus(r *http.Request) (any, object, int) {
	m, ok := s.ByMsgID(r.FormValue("message_id"))
	switch {
	case !ok:
		return nil, nil, -107
	case m.DeliveredAt.IsZero():
		return object{"status": 0, "message": "The message was pushed to the server, the user's phone has not got it yet"}, nil, 0
	default:
		return object{
			"status": 1, "message": "The message was delivered to the user's phone",
			"delivery_time": strconv.FormatInt(m.DeliveredAt.UnixMilli(), 10),
		}, nil, 0
	}
}

// messageQuota answers with numbers and nulls, as the documentation of 2026 shows; the send answer has strings.
func (s *Sim) messageQuota(r *http.Request) (any, object, int) {
	oa := s.authorised(r)
	if oa == nil { // its token was replaced just now
		return nil, nil, -124
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newDayLocked(time.Now())
	return object{
		"dailyQuota": oa.DailyQuota, "remainingQuota": oa.remaining(),
		"dailyQuotaPromotion": nil, "remainingQuotaPromotion": nil,
	}, object{"message": "success"}, 0
}

func (s *Sim) templateAll(r *http.Request) (any, object, int) {
	offset, err1 := number(r.FormValue("offset"), -1)
	limit, err2 := number(r.FormValue("limit"), -1)
	if err1 != nil || err2 != nil || offset < 0 || limit < 0 || limit > 100 {
		return nil, nil, -132
	}
	statuses := map[string]string{"": "", "1": "ENABLE", "2": "PENDING_REVIEW", "3": "REJECT", "4": "DISABLE"}
	want, ok := statuses[r.FormValue("status")]
	if !ok {
		return nil, nil, -132
	}
	list, total := []object{}, 0
	for _, t := range s.Templates() {
		if want != "" && t.Status != want {
			continue
		}
		if total++; total > offset && len(list) < limit {
			// Here, and only here, Zalo writes the id as a number.
			id := any(t.ID)
			if n, err := strconv.Atoi(t.ID); err == nil {
				id = n
			}
			list = append(list, object{"templateId": id, "templateName": t.Name, "createdTime": 0, "status": t.Status, "templateQuality": "UNDEFINED"})
		}
	}
	return list, object{"metadata": object{"total": total}}, 0
}

func (s *Sim) templateInfo(r *http.Request) (any, object, int) {
	s.mu.Lock()
	stored, ok := s.templates[r.FormValue("template_id")]
	if !ok {
		s.mu.Unlock()
		return nil, nil, -109
	}
	t := *stored
	s.mu.Unlock()
	params := []object{}
	for _, p := range t.Params {
		params = append(params, object{
			"name": p.Name, "require": p.Required, "type": "STRING", "maxLength": p.max(), "minLength": p.MinLength, "acceptNull": !p.Required,
		})
	}
	price := strconv.Itoa(t.Price)
	return object{
		"templateId": t.ID, "templateName": t.Name, "status": t.Status, "listParams": params, "listButtons": []object{},
		"timeout": t.TimeoutMS, "previewUrl": "https://account.zalo.cloud/znspreview/" + zalo.PhoneHash(t.ID)[:16],
		"templateQuality": "UNDEFINED", "templateTag": [...]string{"", "TRANSACTION", "CUSTOMER_CARE", "PROMOTION"}[t.Tag],
		"price_sdt": price, "price_uid": strconv.Itoa(t.Price * 7 / 10), "price": price,
	}, nil, 0
}
