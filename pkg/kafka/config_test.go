package kafka_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/znshub/znshub/pkg/kafka"
)

func certificate(t *testing.T) (certPEM, keyPEM string, pair tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	keyPEM = string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
	if pair, err = tls.X509KeyPair([]byte(certPEM), []byte(keyPEM)); err != nil {
		t.Fatal(err)
	}
	return certPEM, keyPEM, pair
}

// TestTLSAndSASLReachABroker connects in every way that the variables allow, and in ways that must be refused.
func TestTLSAndSASLReachABroker(t *testing.T) {
	cert, key, pair := certificate(t)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(cert))
	users := []kfake.Opt{
		kfake.NumBrokers(1), kfake.EnableSASL(),
		kfake.Superuser("PLAIN", "u", "p"), kfake.Superuser("SCRAM-SHA-256", "u", "p"), kfake.Superuser("SCRAM-SHA-512", "u", "p"),
	}
	broker := func(opts ...kfake.Opt) []string {
		c, err := kfake.NewCluster(opts...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c.ListenAddrs()
	}
	plaintext := broker(users...)
	encrypted := broker(kfake.NumBrokers(1), kfake.TLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS12,
	}))
	mutual := broker(kfake.NumBrokers(1), kfake.TLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}))
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte(cert), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		config kafka.Config
		ok     bool
	}{
		"plain by default":     {kafka.Config{Brokers: plaintext, SASLUsername: "u", SASLPassword: "p"}, true},
		"scram 256":            {kafka.Config{Brokers: plaintext, SASLMechanism: "scram-sha-256", SASLUsername: "u", SASLPassword: "p"}, true},
		"scram 512":            {kafka.Config{Brokers: plaintext, SASLMechanism: "SCRAM_SHA_512", SASLUsername: "u", SASLPassword: "p"}, true},
		"wrong password":       {kafka.Config{Brokers: plaintext, SASLMechanism: "SCRAM-SHA-512", SASLUsername: "u", SASLPassword: "x"}, false},
		"own CA as text":       {kafka.Config{Brokers: encrypted, TLS: true, TLSCA: cert}, true},
		"own CA as file":       {kafka.Config{Brokers: encrypted, TLS: true, TLSCA: file}, true},
		"unverified":           {kafka.Config{Brokers: encrypted, TLS: true, TLSInsecure: true}, true},
		"unknown CA":           {kafka.Config{Brokers: encrypted, TLS: true}, false},
		"another server name":  {kafka.Config{Brokers: encrypted, TLS: true, TLSCA: cert, TLSServerName: "kafka.example"}, false},
		"client certificate":   {kafka.Config{Brokers: mutual, TLS: true, TLSCA: cert, TLSCert: cert, TLSKey: key}, true},
		"no client cert given": {kafka.Config{Brokers: mutual, TLS: true, TLSCA: cert}, false},
	} {
		t.Run(name, func(t *testing.T) {
			opts, err := c.config.Options()
			if err != nil {
				t.Fatal(err)
			}
			client, err := kgo.NewClient(append(opts, kgo.RetryTimeout(time.Second))...)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if err := client.Ping(ctx); (err == nil) != c.ok {
				t.Errorf("ping: %v, want success %v", err, c.ok)
			}
		})
	}
}

func TestBadConfigNamesEveryVariable(t *testing.T) {
	_, err := kafka.Config{
		Brokers: []string{"a:b:c"}, TLS: true, TLSCA: "/does/not/exist", TLSCert: "x",
		SASLMechanism: "GSSAPI", SASLUsername: "u", SASLPassword: "hunter2",
	}.Options()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"KAFKA_BROKERS", "KAFKA_TLS_CA", "KAFKA_TLS_KEY", "KAFKA_SASL_MECHANISM"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
	for name, c := range map[string]kafka.Config{
		"TLS off":     {Brokers: []string{"b"}, TLSCA: "ca.pem"},
		"no password": {Brokers: []string{"b"}, SASLUsername: "u"},
		"no broker":   {},
	} {
		if _, err := c.Options(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	bad := "-----BEGIN EC PRIVATE KEY-----\nhunter2\n-----END EC PRIVATE KEY-----"
	_, err = kafka.Config{Brokers: []string{"b"}, TLS: true, TLSCert: bad, TLSKey: bad}.Options()
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error %v: want one that does not repeat the key", err)
	}
}

func TestBrokersAreHostAndPort(t *testing.T) {
	for broker, good := range map[string]bool{
		"kafka-1": true, "kafka-1:9092": true, "[::1]:9092": true, "kafka-1:port": false, "kafka-1:": false, "kafka-1:70000": false, "kafka-1:-1": false,
	} {
		_, err := kafka.Config{Brokers: []string{"kafka-2:9092", broker}}.Options()
		if good != (err == nil) || err != nil && !strings.Contains(err.Error(), fmt.Sprintf("KAFKA_BROKERS: %q is not host:port; for example", broker)) {
			t.Errorf("%s: %v", broker, err)
		}
	}
}

func TestIsTopicName(t *testing.T) {
	for name, want := range map[string]bool{
		"notification.requested": true, "a_B-9": true, strings.Repeat("x", 249): true,
		"": false, ".": false, "..": false, "a b": false, "a/b": false, "đơn": false, strings.Repeat("x", 250): false,
	} {
		if got := kafka.IsTopicName(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}
