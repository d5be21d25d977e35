// Package chaos runs the whole system on a real Kafka while everything around it goes wrong, and then does the sums.
//
// A Plan says what goes wrong and when; it hangs on the seed and the length alone. The Stage is a broker, webhook-ingest,
// the simulator and one to three senders as processes of their own, with a proxy on every way between them. Traffic
// publishes what the services of a company would: all categories, several OAs, ordering keys, repetitions, not_before,
// short lives, every policy, and bad input. When the time is over everything is healed, what can end is waited for, and
// Verdict checks the equations.
//
// A single broker that is killed and loses its disk now and then breaks something of its own that it does not mend: a
// group that it cannot load any more, a transaction that it forgets to end. An attendant follows the broker's log and then
// does what docs/operations.md tells an operator to do. What it did stands in happened.txt and, counted, in the table; every
// equation must hold all the same.
//
// What a seed replays: the events with their order and times, and all of the traffic but for its clock times. Not how
// the machine interleaves them: a failing seed fails again with the chance that a race has. The artefacts of a failed
// run are therefore kept: plan, actual times, every program's log, and the verdict.
package chaos
