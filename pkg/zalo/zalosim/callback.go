package zalosim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/znshub/znshub/pkg/zalo"
)

// ladder is when Zalo resends a callback that was not answered with 200 within two seconds. After the last one it
// disables the webhook.
var ladder = [...]time.Duration{30 * time.Second, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour}

// deliver lets the phone get a message that is due.
func (s *Sim) deliver(j job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j.epoch != s.epoch {
		return
	}
	s.deliverLocked(int(j.msg), time.Unix(0, j.at))
	if j.plan.lost || s.callbackURL == "" || s.disabled {
		if s.callbackURL != "" {
			s.totals.CallbacksDropped++
		}
		s.pending--
		return
	}
	j.kind, j.at = jobCallback, j.at+int64(j.plan.callback)
	s.queue.push(j)
}

func (s *Sim) deliverLocked(seq int, at time.Time) {
	m := s.store.at(seq)
	m.delivered = at.UnixNano()
	s.totals.Delivered++
	if m.delivered-m.accepted <= int64(m.template.timeout) {
		m.billed = int32(m.template.Price)
		s.spent += m.template.Price
		s.totals.BilledMessages++
		s.totals.BilledVND += m.template.Price
	}
}

// callback posts a delivered message's callback, with what the plan wants besides, and puts the resend into the queue
// when it fails.
func (s *Sim) callback(j job) {
	if j.stamp == 0 {
		j.stamp = time.Now().UnixMilli()
	}
	s.mu.Lock()
	if j.epoch != s.epoch {
		s.mu.Unlock()
		return
	}
	target, disabled := s.callbackURL, s.disabled
	if target == "" || disabled || j.plan.lost {
		if target != "" {
			s.totals.CallbacksDropped++
		}
		s.pending--
		s.mu.Unlock()
		return
	}
	m := *s.store.at(int(j.msg))
	s.mu.Unlock()

	body := s.deliveryEvent(&m, int(j.msg), s.cfg.AppID, j.stamp)
	stamp := strconv.FormatInt(j.stamp, 10)
	if j.plan.forged && j.try == 0 {
		s.forge(target, body, zalo.Sign(s.cfg.AppID, "not-the-secret", stamp, body), stamp)
	}
	if j.plan.forgedApp && j.try == 0 {
		other := s.deliveryEvent(&m, int(j.msg), "1", j.stamp)
		s.forge(target, other, zalo.Sign("1", m.oa.Secret, stamp, other), stamp)
	}
	mac := zalo.Sign(s.cfg.AppID, m.oa.Secret, stamp, body)
	ok := s.post(s.ctx, target, "ZNS", body, mac, stamp, j.try) == http.StatusOK
	posts, good := 1, 0
	if ok {
		good = 1
		for range j.plan.copies {
			posts++
			if s.post(s.ctx, target, "ZNS", body, mac, stamp, 0) == http.StatusOK {
				good++
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if j.epoch != s.epoch {
		return
	}
	kept := s.store.at(int(j.msg))
	kept.callbacks += uint16(posts)
	kept.callbacksOK += uint16(good)
	s.totals.Callbacks += posts
	s.totals.CallbacksOK += good
	s.totals.CallbacksFailed += posts - good
	if ok {
		s.pending--
		return
	}
	if j.try == len(ladder) {
		s.totals.CallbacksDropped++
		s.pending--
		if !s.cfg.KeepWebhook && !s.disabled && s.ctx.Err() == nil {
			s.disabled = true
			s.cfg.Logger.Warn("webhook disabled: a callback failed after its last resend", "resends", len(ladder))
		}
		return
	}
	j.at = time.Now().Add(s.scaled(ladder[j.try])).UnixNano()
	j.try++
	s.queue.push(j)
}

func (s *Sim) forge(target string, body []byte, mac, stamp string) {
	status := s.post(s.ctx, target, "ZNS", body, mac, stamp, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.totals.Forged++
	if status == http.StatusOK {
		s.totals.ForgedAccepted++
	}
}

// deliveryEvent writes the callback of a delivery by hand: the order of its members, its spaces and its letters beyond
// ASCII are such that a receiver which parses and re-writes it before it verifies the signature fails.
func (s *Sim) deliveryEvent(m *stored, seq int, appID string, stamp int64) []byte {
	b := make([]byte, 0, 384)
	b = append(b, `{"recipient":{ "id":"`...)
	b = append(b, m.phone...)
	b = append(b, `"},"message": {"tracking_id":`...)
	b = appendJSON(b, m.tracking)
	b = append(b, `,"delivery_time":"`...)
	b = strconv.AppendInt(b, m.delivered/int64(time.Millisecond), 10)
	b = append(b, `" ,"receiver_device":"điện thoại <1>","msg_id":"`...)
	b = append(b, s.msgID(seq)...)
	b = append(b, "\"},\n\"event_name\":\"user_received_message\",\"timestamp\" :\""...)
	b = strconv.AppendInt(b, stamp, 10)
	b = append(b, `","sender":{"id":"`...)
	b = append(b, m.oa.ID...)
	b = append(b, `"},"app_id":"`...)
	b = append(b, appID...)
	return append(b, `"}`...)
}

func appendJSON(b []byte, text string) []byte {
	plain := true
	for i := range len(text) {
		if c := text[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
			plain = false
		}
	}
	if plain {
		b = append(b, '"')
		b = append(b, text...)
		return append(b, '"')
	}
	quoted, err := json.Marshal(text)
	if err != nil {
		return append(b, `""`...)
	}
	return append(b, quoted...)
}

// post sends one callback as Zalo does and returns the HTTP status, 0 when there was none within two seconds.
func (s *Sim) post(ctx context.Context, target, server string, body []byte, mac, stamp string, try int) int {
	u, err := url.Parse(target)
	if err != nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.callbackTimeout)
	defer cancel()
	header := make(http.Header, 6)
	header["Content-Type"] = []string{"application/json"}
	header["User-Agent"] = []string{"ZaloWebhook"}
	header["X-ZEvent-Server"] = []string{server}
	if mac != "" {
		header["X-ZEvent-Signature"] = []string{"mac=" + mac}
	}
	if s.cfg.TimestampHeader {
		header["X-ZEvent-Timestamp"] = []string{stamp}
	}
	if try > 0 {
		header["num_retry"] = []string{strconv.Itoa(try)}
	}
	req := &http.Request{
		Method: http.MethodPost, URL: u, Host: u.Host, Header: header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}
	resp, err := s.client.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody)); err != nil {
		return 0
	}
	return resp.StatusCode
}

// Signature says how PostEvent signs.
type Signature string

// How PostEvent signs.
const (
	SignGood        Signature = "good"
	SignWrongSecret Signature = "wrong_secret"
	SignOtherApp    Signature = "other_app"
	SignNone        Signature = "none"
)

// PostEvent posts any event to the webhook, once and now, and returns the HTTP status, 0 when there was none within two
// seconds. body is sent as it is; the signature is over its "timestamp" member.
func (s *Sim) PostEvent(ctx context.Context, body []byte, sign Signature) (int, error) {
	var event struct {
		Timestamp json.RawMessage `json:"timestamp"`
		Name      string          `json:"event_name"`
	}
	if err := json.Unmarshal(body, &event); err != nil && sign != SignNone {
		return 0, fmt.Errorf("event: want a JSON object with a timestamp: %w", err)
	}
	stamp := string(bytes.Trim(event.Timestamp, `"`))
	mac := ""
	switch sign {
	case SignGood:
		mac = zalo.Sign(s.cfg.AppID, s.cfg.OASecret, stamp, body)
	case SignWrongSecret:
		mac = zalo.Sign(s.cfg.AppID, "not-the-secret", stamp, body)
	case SignOtherApp:
		mac = zalo.Sign("1", s.cfg.OASecret, stamp, body)
	case SignNone:
	default:
		return 0, fmt.Errorf("signature %q: want good, wrong_secret, other_app or none", sign)
	}
	s.mu.Lock()
	target := s.callbackURL
	s.mu.Unlock()
	if target == "" {
		return 0, fmt.Errorf("no callback URL is set")
	}
	return s.post(ctx, target, "OA OpenAPI", body, mac, stamp, 0), nil
}
