// Package harness runs the whole system as an operator would run it, every program in a process of its own, and checks
// from outside what it promises.
//
// A System is a Kafka that somebody else started, the Zalo simulator, webhook-ingest and any number of senders. The
// programs are built by Build, get their settings from the environment, write one log file each, and can be killed,
// paused, terminated and started again. Load publishes requests as any service of a company would, a Collector reads the
// result topics as any read-committed consumer would, and the simulator's audit tells what each phone really got.
// Observation.Check puts the three together: what it asserts is written as equations over ids, so that a loss or a
// second copy is a list of ids and not an opinion.
//
// Nothing here imports a sender or an ingest: only what a stranger could see is looked at.
package harness
