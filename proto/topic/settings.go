package topic

import (
	"strconv"
	"time"
)

// Rule says how strictly a setting is checked on a topic that exists.
type Rule int

const (
	// Created: the topic is created with it; an operator may change it.
	Created Rule = iota
	// Exact: programs refuse any other value.
	Exact
	// AtLeast: programs refuse a smaller number.
	AtLeast
)

// Setting is one topic configuration of Kafka.
type Setting struct {
	Key   string
	Value string
	Rule  Rule
}

// Settings lists what the topic is created with and how each is checked afterwards. Replication factor and
// min.insync.replicas depend on the cluster and are not among them.
func (s Spec) Settings() []Setting {
	settings := []Setting{{"cleanup.policy", string(s.Policy), Exact}}
	retention := Created
	if s.Ledger {
		retention = Exact
	}
	settings = append(settings, Setting{"retention.ms", milliseconds(s.Retention), retention})
	if s.AppendTime {
		settings = append(settings, Setting{"message.timestamp.type", "LogAppendTime", Exact})
	}
	if s.MaxMessageBytes > 0 {
		settings = append(settings, Setting{"max.message.bytes", strconv.Itoa(s.MaxMessageBytes), AtLeast})
	}
	if s.Ledger {
		settings = append(settings, ledgerSettings...)
	}
	return settings
}

// ledgerSettings keep a ledger short, which bounds the time to restore it, and complete.
var ledgerSettings = []Setting{
	// The active segment is never compacted: it must roll by time and by size.
	{"segment.ms", milliseconds(time.Hour), Exact},
	{"segment.bytes", strconv.Itoa(64 << 20), Exact},
	{"min.cleanable.dirty.ratio", "0.1", Exact},
	// Tombstoned personal data leaves the disk within a day.
	{"max.compaction.lag.ms", milliseconds(24 * time.Hour), Exact},
	// A replica that lacks committed records must never become the leader: a lost intent is a second message.
	{"unclean.leader.election.enable", "false", Exact},
}

func milliseconds(d time.Duration) string {
	if d == Forever {
		return "-1"
	}
	return strconv.FormatInt(d.Milliseconds(), 10)
}
