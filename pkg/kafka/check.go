package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/znshub/znshub/proto/topic"
)

// Problem is one way in which a topic is not as it must be.
type Problem struct {
	Topic   string
	What    string // "cleanup.policy is delete, want compact"
	Command string // what mends it, for a shell
	// Warning says that programs work all the same.
	Warning bool
}

func (p Problem) String() string {
	return fmt.Sprintf("topic %s: %s; run: %s", p.Topic, p.What, p.Command)
}

// Check compares the topics of specs with the table, in its order: whether they exist, their guarded settings, their
// partition counts beside each other's, and how many copies of the ledgers there are. An error means that the cluster
// could not be asked. Settings that a broker does not tell, as kfake does with some, are not checked.
func (a *Admin) Check(ctx context.Context, specs []topic.Spec) ([]Problem, error) {
	names := make([]string, 0, 2*len(specs))
	for _, s := range specs {
		names = append(names, s.Name)
		for _, other := range []string{s.Follows, s.Beside} {
			if other != "" {
				names = append(names, other)
			}
		}
	}
	topics, err := a.Topics(ctx, names...)
	if err != nil {
		return nil, err
	}
	brokers, err := a.admin.ListBrokers(ctx)
	if err != nil {
		return nil, fmt.Errorf("count the brokers: %w", err)
	}
	settings, err := a.settings(ctx, specs, topics)
	if err != nil {
		return nil, err
	}
	var problems []Problem
	for _, s := range specs {
		info, ok := topics[s.Name]
		if !ok {
			problems = append(problems, Problem{Topic: s.Name, What: "it does not exist", Command: "zns topics ensure"})
			continue
		}
		problems = append(problems, a.checkSettings(s, settings[s.Name])...)
		problems = append(problems, a.checkPartitions(s, info, topics)...)
		if s.Ledger {
			problems = append(problems, a.checkCopies(s, info, len(brokers), settings[s.Name])...)
		}
	}
	return problems, nil
}

// settings asks for the settings of those specs that exist.
func (a *Admin) settings(ctx context.Context, specs []topic.Spec, topics map[string]TopicInfo) (map[string]map[string]string, error) {
	var names []string
	for _, s := range specs {
		if _, ok := topics[s.Name]; ok {
			names = append(names, s.Name)
		}
	}
	found := make(map[string]map[string]string, len(names))
	if len(names) == 0 {
		return found, nil
	}
	answers, err := a.configs(ctx, names...)
	if err != nil {
		return nil, err
	}
	for _, answer := range answers {
		if answer.Err != nil {
			return nil, fmt.Errorf("ask for the settings of topic %s: %w", answer.Name, answer.Err)
		}
		found[answer.Name] = make(map[string]string, len(answer.Configs))
		for _, c := range answer.Configs {
			if c.Value != nil {
				found[answer.Name][c.Key] = *c.Value
			}
		}
	}
	return found, nil
}

// configs asks for the settings of topics that exist. Brokers that may not tell one tell none.
func (a *Admin) configs(ctx context.Context, names ...string) (kadm.ResourceConfigs, error) {
	answers, err := a.admin.DescribeTopicConfigs(ctx, names...)
	if errors.Is(err, kerr.TopicAuthorizationFailed) {
		err = fmt.Errorf("this user needs DESCRIBE_CONFIGS on %s; docs/operations.md lists all rights: %w", strings.Join(names, ", "), err)
	}
	if err != nil {
		return nil, fmt.Errorf("ask for topic settings: %w", err)
	}
	return answers, nil
}

func (a *Admin) checkSettings(s topic.Spec, found map[string]string) (problems []Problem) {
	for _, want := range s.Settings() {
		got, told := found[want.Key]
		if !told || fits(want, got) {
			continue
		}
		what := fmt.Sprintf("%s is %s, want %s", want.Key, got, want.Value)
		if want.Rule == topic.AtLeast {
			what = fmt.Sprintf("%s is %s, want at least %s", want.Key, got, want.Value)
		}
		problems = append(problems, Problem{Topic: s.Name, What: what, Command: a.alter(s.Name, want.Key, want.Value)})
	}
	return problems
}

// fits reports whether a setting obeys its rule. Numbers are compared as numbers: brokers write 0.1 in several ways;
// lists are compared without spaces and order.
func fits(want topic.Setting, got string) bool {
	if want.Rule == topic.Created || got == want.Value {
		return true
	}
	w, wErr := strconv.ParseFloat(want.Value, 64)
	g, gErr := strconv.ParseFloat(got, 64)
	if wErr == nil && gErr == nil {
		return g == w || want.Rule == topic.AtLeast && g > w
	}
	return sameList(want.Value, got)
}

func sameList(a, b string) bool {
	count := make(map[string]int)
	for part := range strings.SplitSeq(a, ",") {
		count[strings.TrimSpace(part)]++
	}
	for part := range strings.SplitSeq(b, ",") {
		count[strings.TrimSpace(part)]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

func (a *Admin) checkPartitions(s topic.Spec, info TopicInfo, topics map[string]TopicInfo) (problems []Problem) {
	if input, ok := topics[s.Follows]; ok && input.Partitions < info.Partitions {
		problems = append(problems, Problem{
			Topic: input.Name,
			What: fmt.Sprintf("it has %d partitions and %s has %d; state belongs to partitions of the ledger, want at least as many",
				input.Partitions, s.Name, info.Partitions),
			Command: a.grow(input.Name, info.Partitions),
		})
	}
	if other, ok := topics[s.Beside]; ok && other.Partitions != info.Partitions {
		small, large := info, other
		if small.Partitions > large.Partitions {
			small, large = large, small
		}
		problems = append(problems, Problem{
			Topic: s.Name,
			What: fmt.Sprintf("it has %d partitions and %s has %d; they are read side by side, want as many",
				info.Partitions, other.Name, other.Partitions),
			Command: a.grow(small.Name, large.Partitions),
		})
	}
	return problems
}

// checkCopies looks at replicas of a ledger: state that only one disk holds is a warning where the cluster is small, an
// error where it could do better.
func (a *Admin) checkCopies(s topic.Spec, info TopicInfo, brokers int, found map[string]string) (problems []Problem) {
	if brokers < 3 {
		return []Problem{{
			Topic: s.Name, Warning: true,
			What:    fmt.Sprintf("brokers in the cluster: %d; state needs 3 to survive the loss of one", brokers),
			Command: "kafka-reassign-partitions.sh, once there are 3 brokers",
		}}
	}
	if info.Replication < 3 {
		problems = append(problems, Problem{
			Topic: s.Name,
			What:  fmt.Sprintf("it has %d replicas, want 3", info.Replication),
			Command: a.command("kafka-reassign-partitions.sh",
				"--reassignment-json-file FILE --execute (FILE gives every partition 3 replicas)"),
		})
	}
	if isr, err := strconv.Atoi(found["min.insync.replicas"]); err == nil && isr < 2 {
		problems = append(problems, Problem{
			Topic: s.Name, What: fmt.Sprintf("min.insync.replicas is %d, want 2", isr), Command: a.alter(s.Name, "min.insync.replicas", "2"),
		})
	}
	return problems
}

func (a *Admin) alter(name, key, value string) string {
	if strings.Contains(value, ",") {
		value = "[" + value + "]" // kafka-configs.sh separates settings by commas
	}
	return a.command("kafka-configs.sh", fmt.Sprintf("--alter --entity-type topics --entity-name %s --add-config %s=%s", name, key, value))
}

func (a *Admin) grow(name string, partitions int32) string {
	return a.command("kafka-topics.sh", fmt.Sprintf("--alter --topic %s --partitions %d", name, partitions))
}
