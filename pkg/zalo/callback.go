package zalo

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Names of events that this package reads further than their common fields. There are more, and Zalo adds some
// without notice.
const (
	EventReceived        = "user_received_message" // a receipt; two flavours, see Callback.Kind
	EventSeen            = "user_seen_message"
	EventFeedback        = "user_feedback"
	EventResponseButton  = "user_click_response_button"
	EventTemplateStatus  = "change_template_status"
	EventTemplateQuality = "change_template_quality"
	EventDailyQuota      = "change_oa_daily_quota"
	EventUserSendText    = "user_send_text"
)

// Kind says which fields of a Callback are filled.
type Kind int

const (
	// KindOther is an event with the common fields only.
	KindOther Kind = iota
	// KindDelivery is the receipt of a template message by phone: the phone got it. MsgID, TrackingID, DeliveryTime;
	// RecipientID is the phone ("84…") or its SHA-256.
	KindDelivery
	// KindReceipt is the event of the same name for a chat message: RecipientID is a user id, or SenderID is, for
	// sources disagree; see Callback.OA.
	KindReceipt
	// KindSeen carries MsgIDs.
	KindSeen
	// KindFeedback carries Feedback.
	KindFeedback
	// KindReply is a tap on a quick-reply button and carries Reply.
	KindReply
	// KindTemplate carries Template.
	KindTemplate
	// KindQuota carries DailyQuota.
	KindQuota
)

// Callback is an event as Zalo posts it to the webhook.
type Callback struct {
	Event string // event_name as Zalo wrote it; empty when there is none
	Kind  Kind

	AppID       string
	OAID        string // oa_id, oaId, or the side of the message that is the OA; empty when the body does not say
	SenderID    string
	RecipientID string
	UserID      string // the person at the OA, where the event names one as such
	MsgID       string
	MsgIDs      []string // all of them; more than one in KindSeen only
	TrackingID  string
	Text        string // what a person wrote. Personal data

	Timestamp    string    // root timestamp as written
	Time         time.Time // the same as a time; zero when it is none
	DeliveryTime time.Time // when the phone got the message, by Zalo's clock
	SubmitTime   time.Time

	Feedback   *Feedback
	Reply      *Reply
	Template   *TemplateChange
	DailyQuota *QuotaChange

	body [sha256.Size]byte
}

// Feedback is a customer's rating.
type Feedback struct {
	Rate       int // stars, 1 to 5; 0 when Zalo did not say
	Note       string
	Feedbacks  []string
	RatingType string
	Option     string
}

// Reply is a tap on a quick-reply button.
type Reply struct {
	ButtonType string
	Data       string // the button's label
}

// TemplateChange is a template's new status or quality.
type TemplateChange struct {
	TemplateID  string
	Status      string // PENDING_REVIEW, ENABLE, REJECT, DISABLE, DELETE
	PrevStatus  string
	Reason      string
	NewQuality  string // HIGH, MEDIUM, LOW, UNDEFINED
	PrevQuality string
}

// QuotaChange is a new limit of messages per day. Nil: Zalo did not say.
type QuotaChange struct{ Prev, New *int32 }

type party struct {
	ID text `json:"id"`
}

type callbackJSON struct {
	EventName text          `json:"event_name"`
	AppID     text          `json:"app_id"`
	OAID      text          `json:"oa_id"`
	OAIDCamel text          `json:"oaId"`
	Sender    object[party] `json:"sender"`
	Recipient object[party] `json:"recipient"`
	Follower  object[party] `json:"follower"`
	UserID    text          `json:"user_id"`
	MsgID     text          `json:"msg_id"`
	Tracking  text          `json:"tracking_id"`
	Timestamp text          `json:"timestamp"`
	Message   object[struct {
		MsgID        text    `json:"msg_id"`
		MsgIDs       texts   `json:"msg_ids"`
		Tracking     text    `json:"tracking_id"`
		DeliveryTime text    `json:"delivery_time"`
		SubmitTime   text    `json:"submit_time"`
		Text         text    `json:"text"`
		RatingType   text    `json:"rating_type"`
		Option       text    `json:"option"`
		Note         text    `json:"note"`
		Rate         integer `json:"rate"`
		Feedbacks    texts   `json:"feedbacks"`
		ButtonType   text    `json:"button_type"`
		Data         text    `json:"data"`
	}] `json:"message"`
	TemplateID text `json:"template_id"`
	Status     object[struct {
		Prev text `json:"prev_status"`
		New  text `json:"new_status"`
	}] `json:"status"`
	Reason      text `json:"reason"`
	Quality     text `json:"quality"`
	PrevQuality text `json:"prev_quality"`
	Quota       object[struct {
		Prev integer `json:"prev_value"`
		New  integer `json:"new_value"`
	}] `json:"quota"`
}

// ParseCallback reads the body of a callback whose signature was verified. It fails only when body is not one JSON
// object; fields of an unexpected type are as if they were absent, ids keep every digit, and an event that this
// package does not know is KindOther with the fields that all events share.
func ParseCallback(body []byte) (Callback, error) {
	var w callbackJSON
	if trimmed := bytes.TrimLeft(body, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return Callback{}, fmt.Errorf("parse callback: not a JSON object")
	}
	if err := json.Unmarshal(body, &w); err != nil {
		// encoding/json quotes a byte of the input at most.
		return Callback{}, fmt.Errorf("parse callback: %w", err)
	}
	m := &w.Message.v
	c := Callback{
		Event:        string(w.EventName),
		AppID:        string(w.AppID),
		OAID:         first(w.OAID, w.OAIDCamel),
		SenderID:     string(w.Sender.v.ID),
		RecipientID:  string(w.Recipient.v.ID),
		UserID:       first(w.UserID, w.Follower.v.ID),
		MsgID:        first(m.MsgID, w.MsgID),
		MsgIDs:       m.MsgIDs,
		TrackingID:   first(m.Tracking, w.Tracking),
		Text:         string(m.Text),
		Timestamp:    string(w.Timestamp),
		Time:         epoch(w.Timestamp),
		DeliveryTime: epoch(m.DeliveryTime),
		SubmitTime:   epoch(m.SubmitTime),
		body:         sha256.Sum256(body),
	}
	if c.MsgID == "" && len(c.MsgIDs) > 0 {
		c.MsgID = c.MsgIDs[0]
	} else if c.MsgID != "" && len(c.MsgIDs) == 0 {
		c.MsgIDs = []string{c.MsgID}
	}
	switch c.Event {
	case EventReceived:
		c.Kind = KindReceipt
		if m.DeliveryTime != "" || c.TrackingID != "" {
			c.Kind = KindDelivery
		}
	case EventSeen:
		c.Kind = KindSeen
	case EventFeedback:
		c.Kind = KindFeedback
		c.Feedback = &Feedback{
			Note: string(m.Note), Feedbacks: m.Feedbacks, RatingType: string(m.RatingType), Option: string(m.Option),
		}
		if m.Rate.ok && m.Rate.n >= 1 && m.Rate.n <= 5 {
			c.Feedback.Rate = int(m.Rate.n)
		}
	case EventResponseButton:
		c.Kind = KindReply
		c.Reply = &Reply{ButtonType: string(m.ButtonType), Data: string(m.Data)}
	case EventTemplateStatus, EventTemplateQuality:
		c.Kind = KindTemplate
		c.Template = &TemplateChange{
			TemplateID: string(w.TemplateID), Status: string(w.Status.v.New), PrevStatus: string(w.Status.v.Prev),
			Reason: string(w.Reason), NewQuality: string(w.Quality), PrevQuality: string(w.PrevQuality),
		}
	case EventDailyQuota:
		c.Kind = KindQuota
		c.DailyQuota = &QuotaChange{Prev: w.Quota.v.Prev.int32(), New: w.Quota.v.New.int32()}
	}
	if c.OAID == "" {
		c.OAID = c.oaBySide()
	}
	return c, nil
}

func first(values ...text) string {
	for _, v := range values {
		if v != "" {
			return string(v)
		}
	}
	return ""
}

// oaBySide finds the OA among sender and recipient by what the event's name says about the direction. Receipts are
// read as sent by the OA, which is certain for KindDelivery only.
func (c *Callback) oaBySide() string {
	switch {
	case c.Event == EventReceived, c.Event == EventSeen, strings.HasPrefix(c.Event, "oa_"):
		return c.SenderID
	case strings.HasPrefix(c.Event, "user_"), strings.HasPrefix(c.Event, "anonymous_"):
		return c.RecipientID
	}
	return ""
}

// OA returns the id among OAID, SenderID and RecipientID that is one of ours, or "". Sources disagree on the
// direction of chat receipts, so the caller's own list of OAs decides.
func (c *Callback) OA(ours func(oaID string) bool) string {
	for _, id := range []string{c.OAID, c.SenderID, c.RecipientID} {
		if id != "" && ours(id) {
			return id
		}
	}
	return ""
}

// IsTest tells whether this is the event that the "Test" button of Zalo's console sends: signed like a real one, but
// about nobody. It is to be answered 200 and not ingested.
func (c *Callback) IsTest() bool {
	// Not by the text: a person may write the same.
	return c.Event == EventUserSendText && c.MsgID == "This is message id"
}

// IsProbe tells whether a request is the one that Zalo's console makes when a webhook URL is saved: unsigned, and about
// no OA. The console refuses to save unless it is answered 200; nothing of it is to be ingested. An unsigned request
// that names an OA, a person or a message is not a probe but a forgery.
func IsProbe(body []byte, header http.Header) bool {
	if header.Get(HeaderSignature) != "" {
		return false
	}
	body = bytes.TrimSpace(body)
	if len(body) == 0 {
		return true
	}
	c, err := ParseCallback(body)
	return err == nil && c.OAID == "" && c.SenderID == "" && c.RecipientID == "" && c.UserID == "" && c.MsgID == ""
}

// DedupeKeys returns what makes this event the same as another one: one key, or one for each message of KindSeen.
// Zalo delivers at least once. A key holds no personal data.
func (c *Callback) DedupeKeys() []string {
	switch {
	case c.Kind == KindSeen && len(c.MsgIDs) > 0:
		keys := make([]string, len(c.MsgIDs))
		for i, id := range c.MsgIDs {
			keys[i] = c.Event + "/" + id
		}
		return keys
	case c.Kind == KindReply:
		return []string{c.Event + "/" + digest(c.MsgID, c.TrackingID, strconv.FormatInt(c.SubmitTime.UnixMilli(), 10), c.Reply.Data)}
	case c.MsgID != "" && strings.HasSuffix(c.Event, "_reacted_message"):
		// A person may change a reaction, so the message alone does not name the event.
		return []string{c.Event + "/" + c.MsgID + "/" + c.Timestamp}
	case c.MsgID != "" && c.Event != "":
		return []string{c.Event + "/" + c.MsgID}
	}
	subject := ""
	if c.Template != nil {
		subject = c.Template.TemplateID
	}
	if c.Timestamp != "" && c.Event != "" && (c.UserID != "" || c.SenderID != "" || subject != "") {
		return []string{c.Event + "/" + c.Timestamp + "/" + digest(c.OAID, c.UserID, c.SenderID, c.RecipientID, subject)}
	}
	return []string{"body/" + hex.EncodeToString(c.body[:])}
}

// digest hashes values that may be personal data or contain any character.
func digest(values ...string) string {
	h := sha256.New()
	for _, v := range values {
		fmt.Fprintf(h, "%d:%s", len(v), v)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
