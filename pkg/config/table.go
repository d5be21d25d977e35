package config

import (
	"fmt"
	"strings"
)

// Markdown returns the settings as a table for documentation: variable, default, meaning.
func Markdown(settings []Setting) string {
	var b strings.Builder
	b.WriteString("| Variable | Default | Meaning |\n|---|---|---|\n")
	for _, s := range settings {
		name, def := "`"+s.Name+"`", ""
		if s.Secret {
			name += ", `" + s.Name + "_FILE`"
		}
		if s.Default != "" {
			def = "`" + s.Default + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, def, strings.ReplaceAll(s.Help, "|", `\|`))
	}
	return b.String()
}
