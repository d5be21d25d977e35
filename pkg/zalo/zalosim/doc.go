// Package zalosim is a fake Zalo: there is no sandbox. It takes template messages by phone, checks them in Zalo's
// order, "delivers" them, posts signed callbacks with Zalo's headers and resends, fails on demand in every way that the
// network or Zalo can fail, and remembers what each phone got. It is the tests' source of truth.
//
// # Promises
//
//   - A repeated POST is a second message, delivered and billed, as at Zalo: nothing is deduplicated.
//   - A message counts as accepted at the moment that its answer is decided, also when the answer is then lost. The
//     audit is complete: every accepted message is in it, once, in order of acceptance.
//   - With the same seed, the same requests meet the same faults and delays, in whatever order they arrive: chance
//     hangs on the seed, the fault and the request's phone and tracking_id. The msg_id also hangs on the order.
//   - Time comes from package time alone and connections from Config.Dial and the caller's listener, so that a Sim runs
//     in a synctest bubble over a virtual network.
//   - The state's mutex is never held over I/O. Close waits for every goroutine that the Sim started.
//   - Memory per message is bounded: template data is not kept, except the parameters named in Config.AuditParams.
//
// # Not simulated
//
// Messages by user id, RSA, journeys, OAuth. Hours and limits per person are off unless Config says otherwise. Where
// Zalo's behaviour is not documented (the order of checks, the reset of quotas at midnight in Vietnam) this is a guess.
package zalosim
