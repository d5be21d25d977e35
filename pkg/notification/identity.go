package notification

import (
	"cmp"
	"crypto/sha256"
	"strings"
	"time"

	"github.com/google/uuid"

	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// Namespace is the UUID namespace in which ids are derived from natural keys.
var Namespace = uuid.MustParse("7b0c4d1e-6a4f-5f63-9d4b-0f6f0a6b7c11")

// HashSize is the length of a PayloadHash in bytes.
const HashSize = 16

// ID returns the identity of the notification: the notification_id, or UUIDv5(Namespace, source + "\n" +
// idempotency_key). It reports false when the request has neither, or one that breaks the rules of these three fields.
// A valid notification_id goes before a key, so that the violation of giving both can be reported under an id.
func ID(req *notificationv1.NotificationRequested) (uuid.UUID, bool) {
	if req.GetNotificationId() != "" {
		return parseUUID(req.GetNotificationId())
	}
	source, key := req.GetSource(), req.GetIdempotencyKey()
	if source == "" || key == "" || len(source) > MaxSourceBytes || len(key) > MaxKeyBytes || strings.ContainsAny(source, "\r\n") {
		return uuid.Nil, false
	}
	return DeriveID(source, key), true
}

// DeriveID returns the id of a notification with a natural key. Golden vectors stand in proto/testdata/ids.json.
func DeriveID(source, idempotencyKey string) uuid.UUID {
	return uuid.NewSHA1(Namespace, []byte(source+"\n"+idempotencyKey))
}

// parseUUID takes the canonical form only; uuid.Parse alone takes several.
func parseUUID(s string) (uuid.UUID, bool) {
	if len(s) != 36 {
		return uuid.Nil, false
	}
	id, err := uuid.Parse(s)
	return id, err == nil && id != uuid.Nil
}

// PartitionKey returns what decides a request's partition: the ordering_key, else the id in text form. It is empty when
// the request has neither.
func PartitionKey(req *notificationv1.NotificationRequested) string {
	if req.GetOrderingKey() != "" {
		return req.GetOrderingKey()
	}
	if id, ok := ID(req); ok {
		return id.String()
	}
	return ""
}

// Normalise gives one spelling to what has several: notification_id and phone_sha256 in lower case, phone in E.164.
// What breaks the rules stays as it is. Normalise after Normalise changes nothing.
func Normalise(req *notificationv1.NotificationRequested) {
	if id, ok := parseUUID(req.GetNotificationId()); ok {
		req.NotificationId = id.String()
	}
	if phone, ok := ParsePhone(req.GetRecipient().GetPhone()); ok {
		req.Recipient.Phone = phone
	}
	if hash := req.GetRecipient().GetPhoneSha256(); hash != "" {
		req.Recipient.PhoneSha256 = strings.ToLower(hash)
	}
}

// Category returns the request's category, TRANSACTION when it has none.
func Category(req *notificationv1.NotificationRequested) notificationv1.Category {
	return cmp.Or(req.GetCategory(), notificationv1.Category_CATEGORY_TRANSACTION)
}

// Expiry returns the last moment at which a call may start: the earlier of expire_time and ttl, and defaultTTL of the
// category when the request has neither. Lives count from arrival, the record's time, or from a later not_before.
func Expiry(req *notificationv1.NotificationRequested, arrival time.Time, defaultTTL func(notificationv1.Category) time.Duration) time.Time {
	start := arrival
	if req.GetNotBefore() != nil && req.NotBefore.AsTime().After(start) {
		start = req.NotBefore.AsTime()
	}
	switch {
	case req.GetTtl() == nil && req.GetExpireTime() == nil:
		return start.Add(defaultTTL(Category(req)))
	case req.GetTtl() == nil:
		return req.ExpireTime.AsTime()
	}
	end := start.Add(req.Ttl.AsDuration())
	if req.GetExpireTime() != nil && req.ExpireTime.AsTime().Before(end) {
		return req.ExpireTime.AsTime()
	}
	return end
}

// PayloadHash returns a hash of the request's content, which tells a repeated request from another one with its id.
//
// It is the first 16 bytes of the SHA-256 of a canonical protobuf encoding of the normalised request: fields in the
// order of their numbers, map entries in the order of their keys' bytes, fields at their default left out, unknown
// fields in the order of their numbers behind the known ones. So the JSON form, a schema-registry frame, the order of
// fields and the spelling of a phone number make no difference. Libraries' own deterministic encodings are not promised
// to stay as they are, and the hash is kept in the ledger for days.
//
// The request is left as it is, and need not be normalised.
func PayloadHash(req *notificationv1.NotificationRequested) [HashSize]byte {
	var buf [1024]byte
	sum := sha256.Sum256(appendCanonical(buf[:0], req))
	return [HashSize]byte(sum[:HashSize])
}
