package stream

import "time"

// WatchInput sets how often a test's engine looks at the end of the input, and for how long a transaction may hold it
// back before that is told.
func WatchInput(cfg *Config, every, held time.Duration) {
	cfg.inputEvery, cfg.inputHeldFor = every, held
}

// HeldUpFor sets how long a partition of a test's engine may be kept from being restored before that is told.
func HeldUpFor(cfg *Config, d time.Duration) { cfg.heldUpFor = d }
