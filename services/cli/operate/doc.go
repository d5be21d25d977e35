// Package operate is the operator's hand: it gives commands to the senders, waits until every partition of the ledger
// has obeyed them, counts from the ledger what they came to, and brings failed notifications and dead letters back.
//
// The ledger is read as it is, from its oldest record to where it ends: nothing is asked of the senders, and what is
// told is what is committed.
package operate
