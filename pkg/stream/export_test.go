package stream

import "time"

// WatchInput sets how often a test's engine looks at the end of the input, and for how long a transaction may hold it
// back before that is told.
func WatchInput(cfg *Config, every, held time.Duration) {
	cfg.inputEvery, cfg.inputHeldFor = every, held
}
