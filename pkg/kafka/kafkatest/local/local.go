// Package local runs an Apache Kafka broker on this machine for tests, benchmarks and development. The jars come from
// Maven Central, once, into a cache folder; pom.xml beside this file is the one place that names their version
// (deploy/kafka links to it).
//
// A Broker listens on free ports of 127.0.0.1, keeps its data in a temporary folder of its own, and ends with the
// program that started it, also when that program is killed with -9: a watchdog process holds one end of a pipe and
// ends the broker and removes the folder when the other end closes. A Broker's methods may be called from any
// goroutine, one at a time.
package local

import (
	"cmp"
	"context"
	"crypto/rand"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

//go:embed pom.xml server.properties log4j2.properties
var files embed.FS

// Version is the version of Apache Kafka that pom.xml names.
var Version = func() string {
	pom, _ := files.ReadFile("pom.xml")
	m := regexp.MustCompile(`<kafka\.version>([^<]+)<`).FindSubmatch(pom)
	if m == nil {
		panic("pom.xml has no kafka.version")
	}
	return string(m[1])
}()

// startTimeout bounds one start. It takes 3 s on an idle two-core machine; after kill -9 the broker waits for
// broker.session.timeout.ms as well.
const startTimeout = 90 * time.Second

// Options change what Start starts. The zero value is good for tests.
type Options struct {
	Heap       string            // of the JVM, as -Xmx takes it; default 512m
	Properties map[string]string // broker settings that replace those of server.properties
	// QuickStart makes the JVM compile little: the start takes half the processor time, and load is carried less well.
	QuickStart bool
	// Controller runs the controller as a process of its own, which Kill leaves alone, as in a cluster. Without it a broker
	// that was killed comes back to the controller of before the kill: that fences its old registration while it writes
	// the markers of transactions, and Kafka 4.3.1 then drops the markers of those that were being committed.
	Controller bool
	// Advertise adds a listener for each of these addresses. Who comes in through it is told that the broker is at that
	// address, so that all its connections go through what listens there, such as a proxy. See [Broker.ListensFor].
	Advertise []string
	// Beside makes it a further broker of that one's cluster. That one must live longer.
	Beside *Broker
	// Data is an existing folder for the broker's log, for example on a small file system; Stop leaves it. Empty: a
	// temporary one.
	Data string
}

// Broker is one Kafka process, broker and controller unless Options say otherwise.
type Broker struct {
	addr    string
	dir     string
	jars    string
	opts    Options
	process *process // nil while it is down

	node       int32
	nodes      *atomic.Int32 // the greatest node of the cluster
	cluster    string        // its id
	voters     string        // the controller, as controller.quorum.voters takes it
	controller *process      // nil: the broker is its own, or another's is used

	listeners map[string]string // by advertised address
}

// Start fetches the jars when they are not here yet, formats a new data folder and starts a broker on it. It returns
// when the broker answers, and an error that tells the end of the broker's log when it does not.
func Start(ctx context.Context, opts Options) (*Broker, error) {
	jars, err := Jars(ctx)
	if err != nil {
		return nil, err
	}
	// Between finding a free port and listening on it another process may take it.
	for attempt := 1; ; attempt++ {
		b, err := create(ctx, jars, opts)
		if err == nil {
			return b, nil
		}
		if attempt == 3 || ctx.Err() != nil || !errors.Is(err, errPortTaken) {
			return nil, err
		}
	}
}

func create(ctx context.Context, jars string, opts Options) (*Broker, error) {
	dir, err := os.MkdirTemp("", "znshub-kafka-")
	if err != nil {
		return nil, fmt.Errorf("make the broker's folder: %w", err)
	}
	if opts.Heap == "" {
		opts.Heap = "512m"
	}
	b := &Broker{dir: dir, jars: jars, opts: opts, nodes: new(atomic.Int32), cluster: newClusterID()}
	if first := opts.Beside; first != nil {
		b.nodes, b.cluster, b.voters = first.nodes, first.cluster, first.voters
	}
	b.node = b.nodes.Add(1)
	ports, err := FreePorts(2 + len(opts.Advertise))
	if err == nil {
		b.addr = ports[0]
		b.listeners = map[string]string{}
		for i, advertised := range opts.Advertise {
			b.listeners[advertised] = ports[2+i]
		}
		err = b.configure(ports[1])
	}
	if err == nil {
		err = b.format(ctx)
	}
	if err == nil && opts.Controller && opts.Beside == nil {
		err = b.startController()
	}
	if err == nil {
		err = b.start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, b.Stop())
	}
	return b, nil
}

// startController starts the controller. The broker waits for it.
func (b *Broker) startController() error {
	log, err := os.OpenFile(filepath.Join(b.dir, "controller.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	if b.controller, err = startProcess(b.java(true, "kafka.Kafka", filepath.Join(b.dir, controllerFile)), b.dir, log); err != nil {
		return fmt.Errorf("start kafka's controller: %w", err)
	}
	return nil
}

// The settings of the two processes.
const (
	brokerFile     = "server.properties"
	controllerFile = "controller.properties"
)

// Node is the broker's id in its cluster.
func (b *Broker) Node() int32 { return b.node }

// Addr is the broker's host:port; it stays the same over Kill and Restart.
func (b *Broker) Addr() string { return b.addr }

// ListensFor is where the broker listens for those who are told that it is at the given address, one of
// Options.Advertise.
func (b *Broker) ListensFor(advertised string) string { return b.listeners[advertised] }

// Pid is the process id of the running broker, 0 while it is down.
func (b *Broker) Pid() int {
	if b.process == nil {
		return 0
	}
	return b.process.pid()
}

// Running reports whether the broker's process lives: without being asked it ends when its disk fails.
func (b *Broker) Running() bool {
	if b.process == nil {
		return false
	}
	select {
	case <-b.process.ended:
		return false
	default:
		return true
	}
}

// LogFile is where the broker's log goes. It is removed with the broker's data.
func (b *Broker) LogFile() string { return filepath.Join(b.dir, "broker.log") }

// Kill ends the process with SIGKILL, as a crash of the machine's process would, and waits until it is gone. What the
// broker had handed to the operating system survives.
func (b *Broker) Kill() error { return b.end(syscall.SIGKILL) }

// Terminate ends the process with SIGTERM and waits until it has shut down cleanly.
func (b *Broker) Terminate() error { return b.end(syscall.SIGTERM) }

// Restart starts a broker that was killed or terminated on the same ports and data; one that runs is killed first. It
// returns when the broker answers.
func (b *Broker) Restart(ctx context.Context) error {
	if err := b.Kill(); err != nil {
		return err
	}
	return b.start(ctx)
}

// Pause stops the process with SIGSTOP: connections stay open and, once its threads have stopped, which takes a moment
// on a busy machine, nothing answers. Resume continues it.
func (b *Broker) Pause() error { return b.signal(sigStop) }

// Resume continues a paused broker.
func (b *Broker) Resume() error { return b.signal(sigCont) }

// Stop ends the broker for good and removes its data.
func (b *Broker) Stop() error {
	err := b.Kill()
	if b.controller != nil {
		err = errors.Join(err, b.controller.end(syscall.SIGKILL))
		b.controller = nil
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

func (b *Broker) configure(controller string) error {
	listeners, advertised, protocols := "PLAINTEXT://"+b.addr, "PLAINTEXT://"+b.addr, "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
	for i, address := range b.opts.Advertise {
		name := fmt.Sprintf("CLIENT%d", i)
		listeners += "," + name + "://" + b.listeners[address]
		advertised += "," + name + "://" + address
		protocols += "," + name + ":PLAINTEXT"
	}
	set := map[string]string{
		"node.id":                        strconv.Itoa(int(b.node)),
		"advertised.listeners":           advertised,
		"listener.security.protocol.map": protocols,
		"log.dirs":                       cmp.Or(b.opts.Data, filepath.Join(b.dir, "data")),
	}
	switch {
	case b.opts.Beside != nil:
		set["process.roles"] = "broker"
	case b.opts.Controller:
		set["process.roles"] = "broker"
		b.voters = "100@" + controller
		if err := b.writeSettings(controllerFile, map[string]string{
			"process.roles":            "controller",
			"node.id":                  "100",
			"listeners":                "CONTROLLER://" + controller,
			"controller.quorum.voters": b.voters,
			"log.dirs":                 filepath.Join(b.dir, "controller"),
		}); err != nil {
			return err
		}
	default:
		b.voters = "1@" + controller
		listeners += ",CONTROLLER://" + controller
	}
	set["listeners"], set["controller.quorum.voters"] = listeners, b.voters
	if err := b.writeSettings(brokerFile, set); err != nil {
		return err
	}
	log4j, err := files.ReadFile("log4j2.properties")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.dir, "log4j2.properties"), log4j, 0o600)
}

// writeSettings writes server.properties with what set and the caller's options replace.
func (b *Broker) writeSettings(name string, set map[string]string) error {
	base, err := files.ReadFile("server.properties")
	if err != nil {
		return err
	}
	maps.Copy(set, b.opts.Properties)
	var text strings.Builder
	text.Write(base)
	// In a properties file the last of several equal keys counts.
	for _, k := range slices.Sorted(maps.Keys(set)) {
		fmt.Fprintf(&text, "%s=%s\n", k, set[k])
	}
	return os.WriteFile(filepath.Join(b.dir, name), []byte(text.String()), 0o600)
}

// java is the command line of one of Kafka's programs.
func (b *Broker) java(quick bool, args ...string) []string {
	command := []string{"java"}
	if quick {
		command = append(command, "-XX:TieredStopAtLevel=1")
	}
	command = append(command,
		"-Xms64m", "-Xmx"+b.opts.Heap, "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true",
		"-Dlog4j2.configurationFile="+filepath.Join(b.dir, "log4j2.properties"),
		"-cp", filepath.Join(b.jars, "*"))
	return append(command, args...)
}

func newClusterID() string {
	var id [16]byte
	_, _ = rand.Read(id[:])
	id[0] &= 0x7f // Kafka refuses an id whose text begins with '-'
	return base64.RawURLEncoding.EncodeToString(id[:])
}

func (b *Broker) format(ctx context.Context) error {
	names := []string{brokerFile}
	if b.opts.Controller && b.opts.Beside == nil {
		names = append(names, controllerFile)
	}
	for _, name := range names {
		args := b.java(true, "kafka.tools.StorageTool", "format", "--ignore-formatted",
			"--cluster-id", b.cluster, "--config", filepath.Join(b.dir, name))
		out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("format the storage of %s: %w\n%s", name, err, tail(string(out), 10))
		}
	}
	return nil
}

var errPortTaken = errors.New("another process took the port")

func (b *Broker) start(ctx context.Context) error {
	log, err := os.OpenFile(b.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	begin, _ := log.Seek(0, 2)
	p, err := startProcess(b.java(b.opts.QuickStart, "kafka.Kafka", filepath.Join(b.dir, brokerFile)), b.dir, log)
	if err != nil {
		return fmt.Errorf("start kafka: %w", err)
	}
	b.process = p
	if err := b.waitReady(ctx); err != nil {
		text, _ := os.ReadFile(b.LogFile())
		said := string(text[min(begin, int64(len(text))):])
		if strings.Contains(said, "Address already in use") {
			err = errors.Join(errPortTaken, err)
		}
		return errors.Join(fmt.Errorf("%w\n%s", err, tail(said, 10)), b.Kill())
	}
	return nil
}

func (b *Broker) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.addr), kgo.RetryTimeout(time.Second), kgo.DialTimeout(time.Second))
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		attempt, done := context.WithTimeout(ctx, 2*time.Second)
		err := client.Ping(attempt)
		done()
		if err == nil {
			return nil
		}
		select {
		case <-b.process.ended:
			return errors.New("kafka ended while it started")
		case <-ctx.Done():
			return fmt.Errorf("kafka does not answer on %s: %w", b.addr, errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (b *Broker) end(sig syscall.Signal) error {
	if b.process == nil {
		return nil
	}
	p := b.process
	b.process = nil
	return p.end(sig)
}

func (b *Broker) signal(sig syscall.Signal) error {
	if b.process == nil {
		return errors.New("the broker is not running")
	}
	return b.process.signal(sig)
}

// Ports that FreePorts tries: none of those that an operating system gives to outgoing connections (from 32768 on
// Linux, 49152 elsewhere), because such a port may be somebody's when a program that was ended wants it again.
const firstPort, behindPorts = 10000, 30000

// nextPort is where FreePorts goes on, from a random beginning: two processes hardly meet.
var nextPort = func() *atomic.Uint32 {
	n := new(atomic.Uint32)
	n.Store(mathrand.Uint32N(behindPorts - firstPort))
	return n
}()

// FreePorts returns n addresses of 127.0.0.1 on which nothing listens. It returns none twice before it has tried some
// twenty thousand others.
func FreePorts(n int) ([]string, error) {
	const refusals = 100 // more means that it is not for one port
	var addrs []string
	for refused := 0; len(addrs) < n; {
		port := firstPort + nextPort.Add(1)%(behindPorts-firstPort)
		//nolint:noctx // nothing to cancel on loopback
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			if refused++; refused == refusals {
				return nil, fmt.Errorf("find a free port of 127.0.0.1 from %d to %d: %w", firstPort, behindPorts-1, err)
			}
			continue
		}
		l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

// tail returns the last lines of text without Java's stack frames.
func tail(text string, lines int) string {
	all := slices.DeleteFunc(strings.Split(strings.TrimSpace(text), "\n"), func(line string) bool {
		return strings.HasPrefix(line, "\tat ") || strings.HasPrefix(line, "\t... ")
	})
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
