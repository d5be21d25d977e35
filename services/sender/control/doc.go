// Package control is what operators told the senders: the standing rules and the commands of topic zns.control, read
// from its start and followed.
//
// # Promises
//
//   - Nothing is known until everything was read that the topic held when reading began, open transactions included.
//     Until then [View.Closed] holds every flow: a sender that starts obeys a rule before its first call.
//   - What is appended to the topic is in the next [Rules.View] within milliseconds, and wake is called.
//   - A [View] never changes. What it knows of the topic, [View.Position], belongs to the rules in it.
//   - A record that cannot be read, or whose key is not that of its scope, is skipped, logged and counted; what stood
//     under that key before stays.
//   - No method blocks but [Rules.Run], which waits for brokers that are away, for ever. All may be called from any
//     goroutine.
//
// # Standing and once
//
// HOLD and RELEASE are standing: the latest under a scope's key counts, for ever or until its expire_time. The other
// actions are done once in each partition of the ledger; the partition's owner remembers there up to which offsets of
// zns.control it has done them ([View.Pending]). CANCEL also speaks to what was requested before it and is accepted
// later ([View.Cancelled]).
package control
