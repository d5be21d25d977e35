package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// fetchTimeout bounds the download of about 45 jars (100 MB).
const fetchTimeout = 5 * time.Minute

// Available says why Start cannot work on this machine; nil when nothing speaks against it. It starts nothing.
func Available() error {
	if err := supported(); err != nil {
		return err
	}
	if _, err := exec.LookPath("java"); err != nil {
		return errors.New("no java in PATH (Kafka needs Java 17 or newer)")
	}
	dir, err := cached()
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if _, err := exec.LookPath("mvn"); err != nil {
		return errors.New("no mvn in PATH to fetch Kafka with")
	}
	return nil
}

// Jars returns the folder with Kafka's jars, after fetching them with Maven when they are not there yet. Several
// programs may call it at once: one fetches, the others wait.
func Jars(ctx context.Context) (string, error) {
	if err := Available(); err != nil {
		return "", err
	}
	dir, err := cached()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return "", fmt.Errorf("make the cache folder: %w", err)
	}
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return "", fmt.Errorf("lock the cache: %w", err)
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	return dir, fetch(ctx, dir)
}

// fetch lets Maven copy the jars beside dir and renames them into place: dir is complete or absent.
func fetch(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "fetch-")
	if err != nil {
		return fmt.Errorf("make a folder for the jars: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	pom, err := files.ReadFile("pom.xml")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "pom.xml"), pom, 0o600); err != nil {
		return err
	}
	jars := filepath.Join(tmp, "jars")
	cmd := exec.CommandContext(ctx, "mvn", "--quiet", "--batch-mode", "--file", filepath.Join(tmp, "pom.xml"),
		"dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+jars)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("fetch Kafka %s with Maven: %w\n%s", Version, err, tail(string(out), 10))
	}
	if err := os.Rename(jars, dir); err != nil {
		return fmt.Errorf("keep the jars: %w", err)
	}
	return nil
}

// cached is where the jars of this pom.xml are kept: another pom, another folder.
func cached() (string, error) {
	base := os.Getenv("XDG_CACHE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find a cache folder: %w", err)
		}
		base = filepath.Join(home, ".cache")
	}
	pom, err := files.ReadFile("pom.xml")
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(pom)
	return filepath.Join(base, "znshub", "kafka-"+Version+"-"+hex.EncodeToString(sum[:4])), nil
}
