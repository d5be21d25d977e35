package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// FileVariable is the variable that names the YAML file.
const FileVariable = "ZNS_CONFIG"

// Origin says where a value came from.
type Origin string

// The origins, weakest first.
const (
	Default     Origin = "default"
	ConfigFile  Origin = "file"        // the YAML file
	SecretFile  Origin = "secret file" // NAME_FILE
	Environment Origin = "env"
)

// Setting is one variable and its value.
type Setting struct {
	Name    string
	Value   string // as written; of a secret "********" when it is set
	Default string
	Origin  Origin
	Secret  bool
	Help    string
	Example string // a valid value
}

// Loaded is what Load found.
type Loaded struct {
	Settings []Setting // in the order of the structs' fields
	Warnings []string  // variables that nothing reads
}

// Problem is one thing that is wrong with the settings.
type Problem struct {
	Name    string // the variable, or the YAML file's path
	Message string // what is wrong and a valid example; no secret
}

// Error has every problem that Load found.
type Error struct{ Problems []Problem }

func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = strings.TrimPrefix(p.Name+": "+p.Message, ": ")
	}
	return strings.Join(lines, "\n")
}

// Load fills the structs that the targets point to from the process's environment. See LoadFrom.
func Load(targets ...any) (*Loaded, error) { return LoadFrom(os.Environ(), targets...) }

// LoadFrom fills the structs that the targets point to from the variables in environ, in the form of os.Environ; of a
// variable that stands twice the last one counts. The error is an *Error; Loaded is complete then too, as far as values
// could be read, so that they can be shown beside the problems. Targets that are not pointers to structs panic.
func LoadFrom(environ []string, targets ...any) (*Loaded, error) {
	l := loader{env: env.ToMap(environ), seen: map[string]bool{}, loaded: &Loaded{}}
	if path := l.env[FileVariable]; path != "" {
		variables, err := readFile(path)
		for _, err := range flatten(err) {
			l.problem(path, err.Error())
		}
		l.file = variables
	}
	l.seen[FileVariable] = true
	for _, target := range targets {
		v := reflect.ValueOf(target)
		if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
			panic(fmt.Sprintf("config: %T is not a pointer to a struct", target))
		}
		l.load(v.Elem())
	}
	l.loaded.Warnings = append(l.loaded.Warnings, unknownVariables(slices.Sorted(maps.Keys(l.env)), l.seen)...)
	for _, name := range slices.Sorted(maps.Keys(l.file)) {
		if !l.seen[name] && !known(name) && ours(name, l.seen) {
			l.loaded.Warnings = append(l.loaded.Warnings, l.env[FileVariable]+": "+unknown(name, l.seen))
		}
	}
	if len(l.problems) > 0 {
		return l.loaded, &Error{l.problems}
	}
	return l.loaded, nil
}

// Describe returns the settings of the targets with their defaults, for documentation. It does not change the targets.
func Describe(targets ...any) []Setting {
	fresh := make([]any, len(targets))
	for i, target := range targets {
		fresh[i] = reflect.New(reflect.TypeOf(target).Elem()).Interface()
	}
	loaded, _ := LoadFrom(nil, fresh...) // what is required is missing, of course
	return loaded.Settings
}

type loader struct {
	env      map[string]string
	file     map[string]string
	seen     map[string]bool // variables that some field reads
	problems []Problem
	loaded   *Loaded
}

func (l *loader) problem(name, message string) {
	l.problems = append(l.problems, Problem{name, message})
}

// load fills the fields of a struct, then asks its Validate. Of what that says, complaints about fields that could not
// be read are left out: the default stands in them.
func (l *loader) load(v reflect.Value) {
	before := len(l.problems)
	for i := range v.NumField() {
		field := v.Type().Field(i)
		switch name := variable(field); {
		case !field.IsExported() || name == "-":
		case name != "":
			l.set(v.Field(i), field, name)
		case field.Type.Kind() == reflect.Struct:
			l.load(v.Field(i))
		}
	}
	if validator, ok := reflect.TypeAssert[interface{ Validate() error }](v.Addr()); ok {
		bad := l.problems[before:]
		for _, err := range flatten(validator.Validate()) {
			if !slices.ContainsFunc(bad, func(p Problem) bool { return names(err.Error(), p.Name) }) {
				l.problem("", err.Error())
			}
		}
	}
}

// names reports whether text has the variable's name in it, and not only as a part of a longer one.
func names(text, variable string) bool {
	return slices.Contains(strings.FieldsFunc(text, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z')
	}), variable)
}

func variable(field reflect.StructField) string {
	name, _, _ := strings.Cut(field.Tag.Get("env"), ",")
	return name
}

// set fills one field. env parses it in a struct of its own, because env's errors name fields, not variables.
func (l *loader) set(v reflect.Value, field reflect.StructField, name string) {
	s := Setting{
		Name: name, Default: field.Tag.Get("envDefault"), Origin: Default,
		Secret: field.Tag.Get("secret") == "true", Help: field.Tag.Get("help"), Example: example(field),
	}
	l.seen[name] = true
	if s.Secret {
		l.seen[name+"_FILE"] = true
	}
	value, origin, err := l.lookup(name, s.Secret)
	if err != nil {
		l.problem(name, err.Error())
	}
	if value != "" {
		s.Origin = origin
	}
	s.Value = value
	if value == "" {
		s.Value = s.Default
	}

	alone := reflect.New(reflect.StructOf([]reflect.StructField{{Name: "Value", Type: field.Type, Tag: field.Tag}}))
	alone.Elem().Field(0).Set(v) // what the program set stays when nothing else is
	parse := func(environment map[string]string) error {
		err := env.ParseWithOptions(alone.Interface(), env.Options{Environment: environment, FuncMap: map[reflect.Type]env.ParserFunc{
			reflect.TypeFor[time.Duration](): func(s string) (any, error) { return ParseDuration(s) },
		}})
		if err == nil {
			v.Set(alone.Elem().Field(0))
		}
		return err
	}
	environment := map[string]string{}
	if value != "" {
		environment[name] = value
	}
	if err := parse(environment); err != nil {
		l.problem(name, complaint(err, s)+"; for example "+name+"="+s.Example)
		_ = parse(map[string]string{}) // the default, for Validate; there may be none
	}
	if s.Secret && s.Value != "" {
		s.Value = "********"
	}
	l.loaded.Settings = append(l.loaded.Settings, s)
}

// lookup returns the value that wins and where it stands.
func (l *loader) lookup(name string, secret bool) (value string, origin Origin, err error) {
	path := ""
	if secret {
		path = l.env[name+"_FILE"]
	}
	switch {
	case l.env[name] != "" && path != "":
		return "", "", fmt.Errorf("set, and %s_FILE too: set one of them", name)
	case l.env[name] != "":
		return l.env[name], Environment, nil
	case path != "":
		value, err = readSecret(path)
		if err != nil {
			return "", "", fmt.Errorf("%s_FILE: %w", name, err)
		}
		return value, SecretFile, nil
	}
	return l.file[name], ConfigFile, nil
}

// readSecret reads a file with one secret in it. Editors and shells end it with a line break that is none of it.
func readSecret(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	value := strings.TrimRight(string(b), "\r\n")
	if value == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return value, nil
}

// complaint says what is wrong with a value; of a secret it does not repeat what the parser said.
func complaint(err error, s Setting) string {
	var missing env.VarIsNotSetError
	var empty env.EmptyVarError
	var parse env.ParseError
	switch {
	case errors.As(err, &missing), errors.As(err, &empty):
		return "missing"
	case s.Secret:
		return "not valid"
	case errors.As(err, &parse):
		return fmt.Sprintf("%q is not valid: %v", s.Value, parse.Err)
	}
	return fmt.Sprintf("%q is not valid: %v", s.Value, err)
}

// example returns a valid value for a field.
func example(field reflect.StructField) string {
	if e := field.Tag.Get("example"); e != "" {
		return e
	}
	if d := field.Tag.Get("envDefault"); d != "" {
		return d
	}
	switch field.Type {
	case reflect.TypeFor[time.Duration]():
		return "10s"
	case reflect.TypeFor[Bytes]():
		return "512MiB"
	}
	switch field.Type.Kind() {
	case reflect.Bool:
		return "true"
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint32, reflect.Uint64, reflect.Float64:
		return "100"
	}
	return "..."
}

// flatten returns the errors that errors.Join joined.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}
