package cli

import "github.com/znshub/znshub/services/sender"

// program is one of the hub's programs and the structs that hold its settings.
type program struct {
	name     string
	settings []any
}

// programs are those that an installation runs.
func programs() []program {
	return []program{
		{"sender", []any{&sender.Config{}}},
	}
}
