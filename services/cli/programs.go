package cli

import (
	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/service"
	"github.com/znshub/znshub/services/ingest"
	"github.com/znshub/znshub/services/sender"
	"github.com/znshub/znshub/services/sim"
)

// program is one of the hub's programs and the structs that hold its settings.
type program struct {
	name     string
	settings []any
	kafka    *kafka.Config // among the settings; nil: it uses no Kafka
}

// programs are those that can be run.
func programs() []program {
	var s sender.Config
	var in ingest.Config
	return []program{
		{"sender", []any{&service.Config{}, &s}, &s.Kafka},
		{"webhook-ingest", []any{&service.Config{}, &in}, &in.Kafka},
		{"zalo-sim", []any{&service.Config{}, &sim.Config{}}, nil},
	}
}
