// Package config loads a program's settings from its environment and a file.
//
// A setting is a field of a struct:
//
//	type Config struct {
//		MaxInFlight int          `env:"SENDER_MAX_IN_FLIGHT" envDefault:"256" help:"calls to Zalo under way at a time"`
//		Memory      config.Bytes `env:"SENDER_MEMORY" envDefault:"512MiB" help:"..."`
//		Token       string       `env:"ZALO_ACCESS_TOKEN" secret:"true" example:"2893352839501541173=eyJ..." help:"..."`
//	}
//
// The tags are those of github.com/caarlos0/env (env with its options required and notEmpty, envDefault, envSeparator,
// envKeyValSeparator) and help, example and secret. Structs in the struct are settings too. A struct with a method
// Validate() error is asked once its fields are set.
//
// # Where a value comes from
//
// The first of these that is set and not empty wins:
//
//  1. the environment variable NAME
//  2. for a secret the file that the environment variable NAME_FILE names, without trailing line breaks
//  3. the YAML file that ZNS_CONFIG names, see [File]
//  4. envDefault
//
// Beside Go's units a duration may have days ("7d", "1d12h"). Load reports every problem at once, each with the name of
// the variable and a valid example, and never shows the value of a secret. Nothing is kept between calls.
package config
