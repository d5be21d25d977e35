// Package simtest simulates weeks of the sender in virtual time: several senders, a fake Kafka and the Zalo simulator on
// a network in memory, inside one testing/synctest bubble. A seed says what is published, what goes wrong and when. It
// passes in seconds, and at the end the sums are done.
//
// What a seed replays: every request, every event with its time to the nanosecond, and every decision of the simulator.
// Not the order in which the Go scheduler runs goroutines that are ready at the same moment: a seed whose failure hangs
// on that fails again with the chance that a race has.
//
// What the fake Kafka cannot show is left to deploy/e2e/chaos: brokers that die, markers that are late, compaction. A
// process that is killed is one whose connections end for good; kfake has then either taken a request whole or not at
// all.
package simtest
