// Package notification reads, checks and identifies requests: records of notification.requested.
//
// A program that takes requests does, in this order:
//
//	req, err := notification.Decode(record)              // any of the accepted forms; *Error says what is wrong
//	violations := notification.Validate(req, record.Time) // every broken rule at once
//	notification.Normalise(req)                          // one spelling for what has several
//	id, _ := notification.ID(req)                        // after Validate found nothing there always is one
//	hash := notification.PayloadHash(req)
//	key := notification.PartitionKey(req)
//
// # Accepted forms
//
// The value of a record is the message in bare protobuf, its JSON form (first byte '{', also after white space or a
// byte order mark), or either of them behind a schema-registry frame (0x00, four bytes of schema id and, for protobuf,
// the message index). No header is needed; a header ce_type that names another type is an error, so that a record which
// went to the wrong topic is never taken for a request. Unknown protobuf fields are kept.
//
// In JSON, names are snake_case or camelCase, enum values go with or without their prefix in any case, and a number in
// template_data, labels or fallback is taken exactly as written: 1.50 stays "1.50". An unknown or repeated JSON field is
// a violation and not ignored: an expiry that is dropped because it is misspelt would let a late message out.
//
// # Personal data
//
// No error and no violation contains a value of the request, only the field's path and the value's shape ("9 characters:
// 8 digits, 1 letter"). Names of unknown JSON fields are told when they look like names.
//
// # Limits
//
// A value may have 256 KiB; JSON may nest 16 levels deep. All functions return quickly for any input, keep nothing, and
// are safe for concurrent use on different requests.
package notification
