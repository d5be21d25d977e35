package zalosim

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// Usage tells how to use the simulator over HTTP.
const Usage = `Zalo simulator

Zalo's API, header access_token:
  POST /message/template            POST /message/template/hashphone
  GET  /message/status?message_id=  GET  /message/quota
  GET  /template/all?offset=&limit= GET  /template/info/v2?template_id=

The simulator's own, JSON:
  GET    /sim/totals                what was accepted, refused, delivered, called back, billed
  GET    /sim/audit                 accepted messages in order, one JSON a line; ?phone= ?tracking_id= ?msg_id= ?from=N ?limit=N
  GET    /sim/copies?by=phone       how often each was accepted; by phone, tracking_id, template_id or an audit parameter
  GET    /sim/order?group=key&seq=seq   whether each group's messages came in order; audit parameters
  GET    /sim/faults                POST a fault (or a list) to switch it on, DELETE [?id=] to switch off
  GET    /sim/templates             POST a template (or a list) to register it
  POST   /sim/webhook               {"url":"http://..."} says where callbacks go and enables them again
  POST   /sim/event?signature=good  posts any event, signed: good, wrong_secret, other_app, none
  POST   /sim/token                 {"access_token":"..."} replaces the only valid token
  POST   /sim/reset                 forgets messages and sums; faults and templates stay

Faults: {"kind":"lost_answer","count":1}  {"kind":"code","code":-144,"template_id":"300300"}
        {"kind":"html","status":502,"accept":true,"probability":0.01}  {"kind":"slow","phone":"0987654321","delay":"3s"}
`

func (s *Sim) routes() {
	s.mux.HandleFunc("GET /{$}", s.usage)
	s.mux.HandleFunc("GET /sim/{$}", s.usage)
	s.mux.HandleFunc("GET /sim", s.usage)
	s.mux.HandleFunc("GET /sim/totals", func(w http.ResponseWriter, _ *http.Request) { reply(w, s.Totals()) })
	s.mux.HandleFunc("GET /sim/audit", s.audit)
	s.mux.HandleFunc("GET /sim/copies", func(w http.ResponseWriter, r *http.Request) {
		by := r.FormValue("by")
		if by == "" {
			by = "phone"
		}
		reply(w, s.Copies(by))
	})
	s.mux.HandleFunc("GET /sim/order", func(w http.ResponseWriter, r *http.Request) {
		reply(w, s.Order(r.FormValue("group"), r.FormValue("seq")))
	})
	s.mux.HandleFunc("GET /sim/faults", func(w http.ResponseWriter, _ *http.Request) { reply(w, s.Faults()) })
	s.mux.HandleFunc("POST /sim/faults", s.postFaults)
	s.mux.HandleFunc("DELETE /sim/faults", func(w http.ResponseWriter, r *http.Request) {
		s.ClearFaults(r.FormValue("id"))
		reply(w, s.Faults())
	})
	s.mux.HandleFunc("GET /sim/templates", func(w http.ResponseWriter, _ *http.Request) { reply(w, s.Templates()) })
	s.mux.HandleFunc("POST /sim/templates", s.postTemplates)
	s.mux.HandleFunc("POST /sim/webhook", s.postWebhook)
	s.mux.HandleFunc("POST /sim/token", s.postToken)
	s.mux.HandleFunc("POST /sim/event", s.postEvent)
	s.mux.HandleFunc("POST /sim/reset", func(w http.ResponseWriter, _ *http.Request) {
		s.Reset()
		reply(w, s.Totals())
	})
	s.mux.HandleFunc("GET /message/status", s.zalo(s.messageStatus))
	s.mux.HandleFunc("GET /message/quota", s.zalo(s.messageQuota))
	s.mux.HandleFunc("GET /template/all", s.zalo(s.templateAll))
	s.mux.HandleFunc("GET /template/info/v2", s.zalo(s.templateInfo))
	s.mux.HandleFunc("GET /template/info", s.zalo(s.templateInfo))
}

func (s *Sim) usage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, Usage+"\n"+Convention)
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func refuseAdmin(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
}

// audit streams accepted messages as one JSON a line.
func (s *Sim) audit(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	q := r.URL.Query()
	var list []Message
	switch {
	case q.Has("phone"):
		list = s.ByPhone(q.Get("phone"))
	case q.Has("tracking_id"):
		list = s.ByTrackingID(q.Get("tracking_id"))
	case q.Has("msg_id"):
		if m, ok := s.ByMsgID(q.Get("msg_id")); ok {
			list = []Message{m}
		}
	default:
		from, err1 := number(q.Get("from"), 0)
		limit, err2 := number(q.Get("limit"), int(^uint(0)>>1))
		if err1 != nil || err2 != nil {
			refuseAdmin(w, fmt.Errorf("from and limit: want numbers"))
			return
		}
		for m := range s.Messages(from) {
			if limit--; limit < 0 || enc.Encode(m) != nil {
				return
			}
		}
		return
	}
	for _, m := range list {
		if enc.Encode(m) != nil {
			return
		}
	}
}

func number(text string, usual int) (int, error) {
	if text == "" {
		return usual, nil
	}
	return strconv.Atoi(text)
}

// readList reads one T or a list of them.
func readList[T any](r *http.Request) ([]T, error) {
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	var list []T
	if json.Unmarshal(raw, &list) == nil {
		return list, nil
	}
	var one T
	if err := json.Unmarshal(raw, &one); err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	return []T{one}, nil
}

func (s *Sim) postFaults(w http.ResponseWriter, r *http.Request) {
	list, err := readList[Fault](r)
	for _, f := range list {
		if err == nil {
			err = f.check()
		}
	}
	ids := []string{}
	for _, f := range list {
		if err != nil {
			break
		}
		var id string
		if id, err = s.AddFault(f); err == nil {
			ids = append(ids, id)
		}
	}
	if err != nil {
		refuseAdmin(w, err)
		return
	}
	reply(w, map[string]any{"ids": ids})
}

func (s *Sim) postTemplates(w http.ResponseWriter, r *http.Request) {
	list, err := readList[Template](r)
	for _, t := range list {
		if err == nil {
			err = s.AddTemplate(t)
		}
	}
	if err != nil {
		refuseAdmin(w, err)
		return
	}
	reply(w, s.Templates())
}

func (s *Sim) postWebhook(w http.ResponseWriter, r *http.Request) {
	list, err := readList[struct {
		URL string `json:"url"`
	}](r)
	if err == nil && len(list) != 1 {
		err = fmt.Errorf("url: required")
	}
	if err == nil {
		err = s.SetCallbackURL(list[0].URL)
	}
	if err != nil {
		refuseAdmin(w, err)
		return
	}
	reply(w, s.Totals())
}

func (s *Sim) postToken(w http.ResponseWriter, r *http.Request) {
	list, err := readList[struct {
		AccessToken string `json:"access_token"`
	}](r)
	if err == nil && (len(list) != 1 || list[0].AccessToken == "") {
		err = fmt.Errorf("access_token: required")
	}
	if err != nil {
		refuseAdmin(w, err)
		return
	}
	s.SetAccessToken(list[0].AccessToken)
	reply(w, struct{}{})
}

func (s *Sim) postEvent(w http.ResponseWriter, r *http.Request) {
	sign := Signature(r.URL.Query().Get("signature"))
	if sign == "" {
		sign = SignGood
	}
	raw, err := io.ReadAll(io.LimitReader(r.Body, 2*maxBody))
	status := 0
	if err == nil {
		status, err = s.PostEvent(r.Context(), raw, sign)
	}
	if err != nil {
		refuseAdmin(w, err)
		return
	}
	reply(w, map[string]int{"status": status})
}
