// Package zalo is Zalo's wire contract: sending template messages by phone, the table of error codes, and the signed
// callbacks. Nothing outside this package and the simulator beside it knows Zalo's JSON.
//
// # Promises
//
//   - [Client.Send] ends in exactly one of four outcomes and never repeats a call by itself once a byte of it may have
//     left. NotSent is proved by counting the bytes that the request wrote on its connection, Accepted needs error 0
//     and a msg_id, Rejected needs a code of Zalo (or one of a few HTTP statuses that refuse a request before it is
//     read), and whatever is left is Unknown with a cause.
//   - [VerifySignature] looks at the bytes as they arrived and compares in constant time.
//   - [ParseCallback] never loses a digit of an id, never fails on a field of an unexpected type, and keeps events that
//     it does not know.
//   - No error, and nothing that an error wraps, holds a phone number, template data, a token or a secret.
//   - Everything here is safe for concurrent use.
//
// # Sources
//
// Zalo's documentation and what was observed on the wire, as of November 2026. What may change (codes and their
// classes) stands in errors.json, not in code. Zalo renamed ZNS to "ZBS Template Message" in 2026; the wire protocol
// by phone is the old one.
package zalo
