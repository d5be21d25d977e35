package sends

import (
	"errors"
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// Send is what one record of zns.sent, zns.failed or zns.unresolved tells of a notification.
type Send struct {
	Notification uuid.UUID
	Kind         Kind
	Attempt      int32
	MsgID        string
	Event        Event
	SentTime     *timestamppb.Timestamp // of zns.sent
	DeliverBy    *timestamppb.Timestamp // of zns.sent, when the template's window is known
}

// Kind is the topic that a Send comes from.
type Kind uint8

// The kinds.
const (
	KindSent Kind = iota
	KindFailed
	KindUnresolved
)

// Event is what the events of all three topics share.
type Event interface {
	GetNotificationId() string
	GetIdempotencyKey() string
	GetSource() string
	GetOaId() string
	GetTemplateId() string
	GetCategory() znsv1.Category
	GetChannel() znsv1.Channel
	GetRecipient() *znsv1.Recipient
	GetAttempt() int32
	GetMsgId() string
	GetReference() string
	GetCustomerId() string
	GetCampaignId() string
	GetLabels() map[string]string
	GetRequestedTime() *timestamppb.Timestamp
	GetAcceptedTime() *timestamppb.Timestamp
	GetTraceId() string
	GetMode() znsv1.Mode
}

// Decode reads the value of a record of one of the three topics.
func Decode(kind Kind, value []byte) (*Send, error) {
	s := &Send{Kind: kind}
	var err error
	switch kind {
	case KindSent:
		m := &znsv1.Sent{}
		err = proto.Unmarshal(value, m)
		s.Event, s.SentTime, s.DeliverBy = m, m.GetSentTime(), m.GetDeliverBy()
	case KindFailed:
		m := &znsv1.Failed{}
		err = proto.Unmarshal(value, m)
		s.Event = m
	case KindUnresolved:
		m := &znsv1.Unresolved{}
		err = proto.Unmarshal(value, m)
		s.Event = m
	}
	if err != nil {
		return nil, fmt.Errorf("decode outcome: %w", err)
	}
	if s.Notification, err = uuid.Parse(s.Event.GetNotificationId()); err != nil {
		return nil, errors.New("decode outcome: notification_id is not a UUID")
	}
	s.Attempt, s.MsgID = s.Event.GetAttempt(), s.Event.GetMsgId()
	return s, nil
}
