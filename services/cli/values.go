package cli

import (
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/alecthomas/kong"

	"github.com/znshub/znshub/pkg/config"
)

// durations are read on the command line as in the settings, with days too.
func durations() kong.Option {
	return kong.TypeMapper(reflect.TypeFor[time.Duration](), read(config.ParseDuration))
}

// times are read with their zone.
func times() kong.Option {
	return kong.TypeMapper(reflect.TypeFor[time.Time](), read(func(s string) (time.Time, error) {
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return t, errors.New("not a time with its zone such as 2026-12-01T06:00:00+07:00")
		}
		return t, nil
	}))
}

// read makes a mapper of a function that reads a value.
func read[T any](parse func(string) (T, error)) kong.Mapper {
	return kong.MapperFunc(func(c *kong.DecodeContext, target reflect.Value) error {
		var text string
		if err := c.Scan.PopValueInto("value", &text); err != nil {
			return err
		}
		v, err := parse(text)
		if err != nil {
			return fmt.Errorf("%q is %w", text, err)
		}
		target.Set(reflect.ValueOf(v))
		return nil
	})
}
