// Package status folds every event about a notification into its latest snapshot, zns.status: one record under each
// notification's id, with a revision that grows.
//
//	zns.unresolved  zns.failed  zns.sent  zns.delivered  zns.overdue
//	        └────────────┴─────────┬─┴─────────┴─────────────┘
//	                             Facts          one reader for each topic, of the partitions that are owned
//	                               │
//	       table ◄─────────────► Folder ──► zns.status, and in the same transaction how far each topic was read
//	  id → offset, newest        (one for
//	  snapshots; others are      each tick)
//	  read again
//
// # Promises
//
// The status of a notification is a function of the set of its events: [Merge] does not depend on their order nor on
// how often one is seen. So a restart, a takeover or reading all events again from their beginning writes nothing new,
// never lowers a revision and never takes a state back.
//
// Each event is folded once into zns.status for a read-committed reader: a transaction that writes snapshots holds the
// positions in the event topics up to which zns.status is complete, in the ledger partition that its owner is fenced
// by. Every snapshot that an earlier owner committed is known before the first one is written.
//
// No snapshot holds a phone in clear, whatever the events do.
//
// # Bounds
//
// Memory holds id → offset, some 50 bytes, for each notification whose snapshot was written in the last Window
// (14 days, as long as events are kept), the newest snapshots up to CacheBytes, and events that wait to be folded up to
// QueueBytes. Events that were written longer than Window ago when they are read are counted and not folded: what
// zns.status said of their notification is out of memory. Events that are not in the partition of their key's murmur2
// hash are counted and not folded: another process owns their notification.
//
// The topics must have as many partitions as the ledger.
package status
