package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// Config says how to reach the cluster. The zero value with Brokers set is a plaintext connection.
type Config struct {
	Brokers  []string `env:"KAFKA_BROKERS" envDefault:"localhost:9092" envSeparator:"," help:"brokers to begin with, host:port with commas"`
	ClientID string   `env:"KAFKA_CLIENT_ID" help:"client id in the brokers' logs and quotas; default: the program's name. Members of the group keep theirs, <group>-<instance>: a process that is started again recognises its dead predecessor by it"`

	TLS           bool   `env:"KAFKA_TLS" help:"connect with TLS"`
	TLSCA         string `env:"KAFKA_TLS_CA" secret:"true" help:"certificates that sign the brokers', PEM text or a file's path; default: the system's"`
	TLSCert       string `env:"KAFKA_TLS_CERT" secret:"true" help:"client certificate for mutual TLS, PEM text or a file's path"`
	TLSKey        string `env:"KAFKA_TLS_KEY" secret:"true" help:"key of the client certificate, PEM text or a file's path"`
	TLSServerName string `env:"KAFKA_TLS_SERVER_NAME" help:"name in the brokers' certificates, when it is not their host name"`
	TLSInsecure   bool   `env:"KAFKA_TLS_INSECURE" help:"do not verify the brokers' certificates; for tests only"`

	SASLMechanism string `env:"KAFKA_SASL_MECHANISM" help:"PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; default: PLAIN when a user is set"`
	SASLUsername  string `env:"KAFKA_SASL_USERNAME" help:"user for SASL"`
	SASLPassword  string `env:"KAFKA_SASL_PASSWORD" secret:"true" help:"password for SASL"`
}

// Options returns the connection options for a franz-go client. It reads certificate files and reaches no broker. An
// error tells every problem at once, each with the variable's name.
func (c Config) Options() ([]kgo.Opt, error) {
	var problems []error
	if err := c.checkBrokers(); err != nil {
		problems = append(problems, err)
	}
	opts := []kgo.Opt{kgo.SeedBrokers(c.Brokers...)}
	if c.ClientID != "" {
		opts = append(opts, kgo.ClientID(c.ClientID))
	}
	if c.TLS {
		config, err := c.tlsConfig()
		if err != nil {
			problems = append(problems, err)
		}
		opts = append(opts, kgo.DialTLSConfig(config))
	} else if c.TLSCA != "" || c.TLSCert != "" || c.TLSKey != "" || c.TLSServerName != "" || c.TLSInsecure {
		problems = append(problems, errors.New("KAFKA_TLS: other KAFKA_TLS_ variables are set but TLS is off; set KAFKA_TLS=true"))
	}
	auth, err := c.sasl()
	if err != nil {
		problems = append(problems, err)
	} else if auth != nil {
		opts = append(opts, auth)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return opts, nil
}

func (c Config) checkBrokers() error {
	if len(c.Brokers) == 0 {
		return errors.New("KAFKA_BROKERS: empty; for example kafka-1:9092,kafka-2:9092")
	}
	for _, b := range c.Brokers {
		// franz-go adds port 9092 where none is given.
		_, port, err := net.SplitHostPort(b)
		good := err != nil && strings.Contains(err.Error(), "missing port")
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
			good = err == nil
		}
		if b == "" || !good {
			return fmt.Errorf("KAFKA_BROKERS: %q is not host:port; for example kafka-1:9092,kafka-2:9092", b)
		}
	}
	return nil
}

func (c Config) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         c.TLSServerName,
		InsecureSkipVerify: c.TLSInsecure, //nolint:gosec // the operator's explicit choice
	}
	var problems []error
	if c.TLSCA != "" {
		pem, err := pemText("KAFKA_TLS_CA", c.TLSCA)
		if err != nil {
			problems = append(problems, err)
		} else if config.RootCAs = x509.NewCertPool(); !config.RootCAs.AppendCertsFromPEM(pem) {
			problems = append(problems, errors.New("KAFKA_TLS_CA: no certificate in it"))
		}
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		problems = append(problems, errors.New("KAFKA_TLS_CERT, KAFKA_TLS_KEY: set both or none"))
	} else if c.TLSCert != "" {
		cert, certErr := pemText("KAFKA_TLS_CERT", c.TLSCert)
		key, keyErr := pemText("KAFKA_TLS_KEY", c.TLSKey)
		if err := errors.Join(certErr, keyErr); err != nil {
			problems = append(problems, err)
		} else if pair, err := tls.X509KeyPair(cert, key); err != nil {
			problems = append(problems, fmt.Errorf("KAFKA_TLS_CERT, KAFKA_TLS_KEY: %w", err))
		} else {
			config.Certificates = []tls.Certificate{pair}
		}
	}
	return config, errors.Join(problems...)
}

// pemText returns value itself when it is PEM, else the content of the file that it names.
func pemText(name, value string) ([]byte, error) {
	if strings.Contains(value, "-----BEGIN ") {
		return []byte(value), nil
	}
	text, err := os.ReadFile(value)
	if err != nil {
		// The value may be a mangled key: it is not repeated.
		return nil, fmt.Errorf("%s: neither PEM text nor a readable file", name)
	}
	return text, nil
}

// Mechanisms that KAFKA_SASL_MECHANISM takes.
var mechanisms = []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}

func (c Config) sasl() (kgo.Opt, error) {
	if c.SASLUsername == "" && c.SASLPassword == "" && c.SASLMechanism == "" {
		return nil, nil
	}
	mechanism := strings.ToUpper(strings.ReplaceAll(c.SASLMechanism, "_", "-"))
	if mechanism == "" {
		mechanism = "PLAIN"
	}
	if !slices.Contains(mechanisms, mechanism) {
		return nil, fmt.Errorf("KAFKA_SASL_MECHANISM: %q is not one of %s", c.SASLMechanism, strings.Join(mechanisms, ", "))
	}
	if c.SASLUsername == "" || c.SASLPassword == "" {
		return nil, errors.New("KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD: set both for SASL")
	}
	auth := scram.Auth{User: c.SASLUsername, Pass: c.SASLPassword}
	switch mechanism {
	case "SCRAM-SHA-256":
		return kgo.SASL(auth.AsSha256Mechanism()), nil
	case "SCRAM-SHA-512":
		return kgo.SASL(auth.AsSha512Mechanism()), nil
	default:
		return kgo.SASL(plain.Auth{User: c.SASLUsername, Pass: c.SASLPassword}.AsMechanism()), nil
	}
}

// IsTopicName reports whether Kafka takes name as a topic's: at most 249 letters, digits, '.', '_' and '-', and neither
// "." nor "..".
func IsTopicName(name string) bool {
	return name != "" && len(name) <= 249 && name != "." && name != ".." &&
		strings.IndexFunc(name, func(r rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", r)
		}) < 0
}
