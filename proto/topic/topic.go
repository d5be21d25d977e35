// Package topic is the one table of the hub's topics: name, message, ce_type, key rule, cleanup policy and settings.
// Programs create and check their topics by it, decoders find a topic's message in it. It depends on protobuf alone, so
// that any team can import it.
package topic

import (
	"time"

	"google.golang.org/protobuf/proto"

	controlv1 "github.com/znshub/znshub/proto/control/v1"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	oav1 "github.com/znshub/znshub/proto/oa/v1"
	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// The hub's topics.
const (
	Requested       = "notification.requested"
	RequestedLedger = Requested + ledgerSuffix
	RequestedDLQ    = Requested + dlqSuffix

	Sent       = "zns.sent"
	Failed     = "zns.failed"
	Unresolved = "zns.unresolved"
	Delivered  = "zns.delivered"
	Overdue    = "zns.overdue"
	Feedback   = "zns.feedback"
	Reply      = "zns.reply"
	Status     = "zns.status"
	Control    = "zns.control"

	Callback       = "zalo.callback"
	CallbackLedger = Callback + ledgerSuffix

	OAFollow   = "oa.follow"
	OAMessage  = "oa.message"
	OATemplate = "oa.template"
	OAQuota    = "oa.quota"
	OAToken    = "oa.token"
)

const (
	ledgerSuffix = ".ledger"
	dlqSuffix    = ".dlq"
)

// HeaderRequest is the header of a zns.sent that tells where its request stands: "<topic>/<partition>@<offset>". It is there
// when the receipt is watched for, because zns.overdue echoes what zns.sent does not.
const HeaderRequest = "zns-request"

// LedgerOf names the ledger of an input topic.
func LedgerOf(input string) string { return input + ledgerSuffix }

// DLQOf names the dead letter topic of an input topic.
func DLQOf(input string) string { return input + dlqSuffix }

// DefaultPartitions is the partition count of every topic unless an operator chooses another at birth. It cannot be
// changed later: the place of a notification's state depends on it.
const DefaultPartitions = 12

// Policy is a topic's cleanup.policy.
type Policy string

// The policies in use.
const (
	Delete        Policy = "delete"
	Compact       Policy = "compact"
	CompactDelete Policy = "compact,delete"
)

// Forever is the retention of a topic whose records never expire.
const Forever time.Duration = -1

// Spec is what one topic is.
type Spec struct {
	Name string
	// Message is a prototype of what the values are; nil when they are bytes as somebody else wrote them.
	Message proto.Message
	// Type is the header ce_type: the message's full name. Empty when records keep the type they came with.
	Type string
	// Key says what the record key is.
	Key string
	// Writer is the program that writes it.
	Writer string
	Policy Policy
	// Retention is Forever for topics that only compact.
	Retention time.Duration
	// Ledger marks a program's only copy of its state. Its settings are guarded: programs refuse any other.
	Ledger bool
	// AppendTime says that records carry the broker's time (message.timestamp.type=LogAppendTime), not the producer's.
	AppendTime bool
	// MaxMessageBytes is the largest record batch, when the broker's default of 1 MiB is too small; else 0.
	MaxMessageBytes int
	// Follows names a topic that must not have fewer partitions than this one: records of that topic lead to the same
	// partition of this one.
	Follows string
	// Beside names a topic that must have exactly as many partitions: both are read side by side.
	Beside string
}

const day = 24 * time.Hour

// callbackBytes leaves room for the largest accepted callback body (1 MiB) and its headers.
const callbackBytes = 2 << 20

// Table lists every topic, with the sender's under their default names.
func Table() []Spec {
	return append(ForInput(Requested), []Spec{
		event(Sent, &znsv1.Sent{}, "sender", ""),
		event(Failed, &znsv1.Failed{}, "sender", Sent),
		event(Unresolved, &znsv1.Unresolved{}, "sender", Sent),
		{
			Name: Callback, Type: Callback, Key: "notification_id when known, else the event's subject", Writer: "webhook-ingest",
			Policy: Delete, Retention: 7 * day, AppendTime: true, MaxMessageBytes: callbackBytes, Beside: Sent,
		},
		ledger(CallbackLedger, &ledgerv1.Receipt{}, "subject", "webhook-ingest", Callback),
		event(Delivered, &znsv1.Delivered{}, "webhook-ingest", Sent),
		event(Overdue, &znsv1.Overdue{}, "webhook-ingest", Sent),
		event(Feedback, &znsv1.Feedback{}, "webhook-ingest", ""),
		event(Reply, &znsv1.Reply{}, "webhook-ingest", ""),
		typed(Spec{
			Name: Status, Message: &znsv1.Status{}, Key: "notification_id", Writer: "webhook-ingest",
			Policy: CompactDelete, Retention: 90 * day, Beside: Sent,
		}),
		typed(Spec{
			Name: Control, Message: &controlv1.Command{}, Key: "scope, with #command_id for what is done once", Writer: "operators (zns)",
			Policy: Compact, Retention: Forever, AppendTime: true,
		}),
		typed(Spec{
			Name: OAFollow, Message: &oav1.Follow{}, Key: "oa_id/user_id", Writer: "webhook-ingest",
			Policy: Delete, Retention: 7 * day,
		}),
		typed(Spec{
			Name: OAMessage, Message: &oav1.Message{}, Key: "oa_id/user_id", Writer: "webhook-ingest",
			Policy: Delete, Retention: 7 * day,
		}),
		typed(Spec{
			Name: OATemplate, Message: &oav1.Template{}, Key: "oa_id/template_id", Writer: "oa-control, webhook-ingest",
			Policy: Compact, Retention: Forever,
		}),
		typed(Spec{
			Name: OAQuota, Message: &oav1.Quota{}, Key: "oa_id or oa_id/template_id", Writer: "oa-control, webhook-ingest",
			Policy: Compact, Retention: Forever,
		}),
		typed(Spec{
			Name: OAToken, Message: &oav1.Token{}, Key: "oa_id", Writer: "oa-control",
			Policy: Compact, Retention: Forever,
		}),
	}...)
}

// ForInput lists an input topic of requests with its ledger and its dead letter topic: what SENDER_TOPIC adds.
func ForInput(input string) []Spec {
	return []Spec{
		typed(Spec{
			Name: input, Message: &notificationv1.NotificationRequested{}, Key: "ordering_key, else notification_id",
			Writer: "any service", Policy: Delete, Retention: 7 * day,
		}),
		ledger(LedgerOf(input), &ledgerv1.Entry{}, "notification_id; partition = that of the request", "sender", input),
		{
			Name: DLQOf(input), Key: "as the input record's", Writer: "sender",
			Policy: Delete, Retention: 14 * day,
		},
	}
}

// ForSender lists the topics that a sender on the given input topic needs.
func ForSender(input string) []Spec {
	return append(ForInput(input), mustFind(Sent), mustFind(Failed), mustFind(Unresolved), mustFind(Callback), mustFind(Control))
}

// ForIngest lists the topics that webhook-ingest needs.
func ForIngest() []Spec {
	return []Spec{
		mustFind(Callback), mustFind(CallbackLedger), mustFind(Delivered), mustFind(Overdue), mustFind(Status),
		mustFind(Sent), mustFind(Failed), mustFind(Unresolved), mustFind(OATemplate), mustFind(OAQuota),
	}
}

// Find returns the topic of that name in Table.
func Find(name string) (Spec, bool) {
	for _, s := range Table() {
		if s.Name == name {
			return s, true
		}
	}
	return Spec{}, false
}

func mustFind(name string) Spec {
	s, ok := Find(name)
	if !ok {
		panic("topic: the table lacks " + name)
	}
	return s
}

func event(name string, message proto.Message, writer, beside string) Spec {
	return typed(Spec{
		Name: name, Message: message, Key: "notification_id", Writer: writer,
		Policy: Delete, Retention: 14 * day, Beside: beside,
	})
}

func ledger(name string, message proto.Message, key, writer, input string) Spec {
	return typed(Spec{
		Name: name, Message: message, Key: key, Writer: writer,
		Policy: Compact, Retention: Forever, Ledger: true, AppendTime: true, Follows: input,
	})
}

func typed(s Spec) Spec {
	s.Type = string(s.Message.ProtoReflect().Descriptor().FullName())
	return s
}
