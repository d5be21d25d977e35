// Package stream is the partition engine: it consumes one Kafka topic as a member of a consumer group, keeps state per
// partition in a compacted topic of the same partitioning (the ledger), and lets an application, the [Handler],
// change that state, publish results and progress in the input in one Kafka transaction per tick.
//
// # What it promises
//
//   - Everything that a [Unit] writes, and the input offset for what was accepted, is committed together or not at all.
//   - OnCommit runs only when the commit is confirmed; when the answer to the commit is lost the engine finds out what
//     happened before it does anything else. So a Handler that starts a call in OnCommit starts it once, and not
//     before its intent is in the ledger.
//   - OnAbort runs for everything that was not committed, the latest change first; input is accepted again in order.
//   - A partition takes part in ticks only when its ledger was read to the end: to the high watermark taken after the
//     group's offsets were stable, so that it holds everything that an earlier owner committed. Input goes on at the
//     greater of the group's offset and the ledger's own position; a group whose offsets are gone repeats nothing.
//   - A partition that is revoked, or all at a stop, is given up only after its calls under way have ended and their
//     outcomes are committed, at most DrainTimeout later; the member keeps heartbeating meanwhile. One that was lost is
//     dropped without a commit.
//   - Where the brokers are fit for it the group's protocol is that of KIP-848, else the classic one; what is promised
//     here holds with both. A process that is started again evicts the member that its dead predecessor was, if that
//     is surely dead.
//   - A process that was stopped, cut off or replaced cannot commit: its offset commit carries the group's generation,
//     and every transaction that touches a partition has one.
//   - A record that the broker refuses for its own sake is found by bisection and handed back through Unit.Poison; the
//     rest goes on.
//   - A broker that is away is waited for, for ever. Nobody restarts anything.
//   - What would lose state is refused with the topic, the setting, what was found and what is wanted: a broker without
//     transaction.version 2, a ledger with another cleanup policy, one that was made anew or cut, an input topic with
//     fewer partitions than its ledger.
//
// # What blocks, and what is bounded
//
// [Engine.Run] blocks until its context ends and everything is given up. [Engine.Wake] and [Engine.Status] never
// block. [Engine.Do] waits for the tick under way. [Engine.ReadLedger] waits for brokers, never for a tick. Each call to a broker under the tick lock has a deadline of five
// seconds, so that a tick on a hung broker ends within half a minute. A partition's queue holds at most one fetch more
// than a thousand records or 4 MiB; above that, and while Handler.Full says so, its fetching pauses: nothing is
// dropped. At most eight partitions are restored at the same time.
//
// # Locks
//
// mu, the tick lock, spans a whole tick: choosing, producing, reading the group's generation, committing offsets,
// ending the transaction, callbacks. The assign, revoke and lost callbacks and the end of a restore take it. qmu
// guards the queues of fetched records and the pause states; it is taken after mu, never the other way round, and
// never held over a call to a broker. The poller takes qmu only, so that handing over records never waits for a
// transaction, and rebalances never wait for the poller. forget waits for the restore's goroutine before it takes mu,
// because that goroutine takes mu at its end.
//
// # Not obvious
//
//   - The broker checks the generation of an offset commit, not who owns the partition: with the present generation it
//     takes an offset for a partition that was given away. The fence is the generation and the lock together.
//   - Without a member id it checks nothing at all: the engine never commits between two memberships.
//   - A transaction of offsets only is not ended by the client: such offsets wait for a record to go with.
//   - An error of EndTxn does not mean that nothing was committed. The group's offset carries "<incarnation>/<tick>"
//     in its metadata; after InitProducerID has answered, it tells.
//   - A read-committed consumer does not see that it has passed markers, aborted transactions, or batches that
//     compaction has emptied: the restore works on fetch responses, where their offsets are visible.
//   - The brokers answer EndTxn before they have written the markers, and make the next transaction of the same
//     transactional id wait for them, 20 ms at a time. So two ids take turns. Their transactions do not overlap: the
//     next begins when the one before is confirmed.
//   - A dead owner's open transaction holds its successor up. Once its producer has been silent for
//     2.5 s, or the successor has waited for 1.5 s, it is fenced by one InitProducerID with its transactional id. A second
//     one could fence a living process, so there is none.
//   - Brokers drop the markers of a transaction for partitions that have no leader when it ends. It then stays open there,
//     and the next of the same producer decides about both. So the engine looks for open transactions of its own before it
//     writes, where brokers may have been away, and ends what hangs as the coordinator's log says (docs/decisions/015).
//   - A client that could not abort still holds records of the transaction, and sends them when the broker is back:
//     nobody would end that. It is closed at once, and its successor asks for a producer id before anything else.
//   - A broker that is away ends no session; the coordinator begins them anew. The client must not give up its
//     membership by itself, or the outcomes of calls that end meanwhile are lost with it.
//   - A JoinGroup that comes after the session has ended gives the client a new member id without the lost callback:
//     partitions remember under which membership they are owned.
//   - Two living processes with one InstanceID would fence each other for ever: on one machine the one that came
//     later ends with an error after five to seven fences in a row, of two machines one after ten to twenty-one.
package stream
