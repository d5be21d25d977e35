// Package limit decides when a call to Zalo may start: pace, concurrency, circuit breakers, quotas, hours, and the
// holds that follow from a refused token, an unapproved template or an account that may not send.
//
// It is policy alone: no Kafka, no HTTP, no clock. Time is passed in, so that days pass in a test's microseconds.
package limit
