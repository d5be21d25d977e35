package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
)

// File is the YAML file that ZNS_CONFIG names. It holds what is structured, and may hold any variable:
//
//	app:
//	  id: "2912345678901234567"
//	  secret_file: /run/secrets/zalo-app
//	oas:
//	  - id: "2893352839501541173"
//	    secret_file: /run/secrets/zalo-oa        # signs the callbacks
//	    access_token_file: /run/secrets/zalo-token
//	variables:
//	  SENDER_RATE: 50
//
// The app and the OAs are another way to write ZALO_APP_ID, ZALO_APP_SECRET, ZALO_OA_ID (of a single OA),
// ZALO_OA_SECRET and ZALO_ACCESS_TOKEN; each of these variables, set in the environment, wins over the file as a whole.
// Relative paths start at the file's directory. A name that is not known, or stands twice, is an error.
type File struct {
	App       App               `yaml:"app"`
	OAs       []OA              `yaml:"oas"`
	Variables map[string]scalar `yaml:"variables"`
}

// App is the application at Zalo.
type App struct {
	ID         string `yaml:"id"`
	Secret     string `yaml:"secret"`
	SecretFile string `yaml:"secret_file"`
}

// OA is an Official Account.
type OA struct {
	ID              string `yaml:"id"`
	Secret          string `yaml:"secret"`
	SecretFile      string `yaml:"secret_file"`
	AccessToken     string `yaml:"access_token"`
	AccessTokenFile string `yaml:"access_token_file"`
}

// scalar is a value of any scalar type, as written.
type scalar string

// UnmarshalYAML keeps the text: 1.50 is not to become 1.5.
func (s *scalar) UnmarshalYAML(text []byte) error {
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		return err
	}
	switch v := v.(type) {
	case map[string]any, []any:
		return errors.New("a variable wants a single value, in quotes when it has special characters")
	case string:
		*s = scalar(v)
	case nil:
		*s = ""
	default:
		*s = scalar(bytes.TrimSpace(text))
	}
	return nil
}

// readFile returns the variables that a file sets.
func readFile(path string) (map[string]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", FileVariable, err)
	}
	var f File
	if err := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict()).Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.New(strings.TrimSpace(yaml.FormatError(err, false, false))) // without the source: it may hold secrets
	}
	return f.variables(filepath.Dir(path))
}

func (f *File) variables(dir string) (map[string]string, error) {
	var problems []error
	vars := map[string]string{}
	for name, value := range f.Variables {
		vars[name] = string(value)
	}
	set := func(name, value, section string) {
		if value == "" {
			return
		}
		if vars[name] != "" {
			problems = append(problems, fmt.Errorf("%s and variables.%s say the same thing: give one of them", section, name))
		}
		vars[name] = value
	}
	secret := func(field, value, path string) string {
		switch {
		case value != "" && path != "":
			problems = append(problems, fmt.Errorf("%s and %s_file are both set: give one of them", field, field))
		case path != "":
			if !filepath.IsAbs(path) {
				path = filepath.Join(dir, path)
			}
			var err error
			if value, err = readSecret(path); err != nil {
				problems = append(problems, fmt.Errorf("%s_file: %w", field, err))
			}
		}
		return value
	}

	set("ZALO_APP_ID", f.App.ID, "app.id")
	set("ZALO_APP_SECRET", secret("app.secret", f.App.Secret, f.App.SecretFile), "app.secret")
	var secrets, tokens []string
	seen := map[string]bool{}
	for i, oa := range f.OAs {
		field := fmt.Sprintf("oas[%d]", i)
		if oa.ID == "" || strings.Trim(oa.ID, "0123456789") != "" {
			problems = append(problems, fmt.Errorf("%s.id: not an OA id, which has digits only; for example id: \"2893352839501541173\"", field))
		}
		if seen[oa.ID] {
			problems = append(problems, fmt.Errorf("%s.id: stands twice", field))
		}
		seen[oa.ID] = true
		if s := secret(field+".secret", oa.Secret, oa.SecretFile); s != "" {
			secrets = append(secrets, oa.ID+"="+s)
		}
		if s := secret(field+".access_token", oa.AccessToken, oa.AccessTokenFile); s != "" {
			tokens = append(tokens, oa.ID+"="+s)
		}
	}
	if len(f.OAs) == 1 {
		set("ZALO_OA_ID", f.OAs[0].ID, "oas")
	}
	set("ZALO_OA_SECRET", strings.Join(secrets, ","), "oas")
	set("ZALO_ACCESS_TOKEN", strings.Join(tokens, ","), "oas")
	return vars, errors.Join(problems...)
}
