package doctor

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/proto/topic"
)

// What the takeover from a dead member is measured with.
const (
	wantSession   = 6 * time.Second
	wantHeartbeat = time.Second
)

// sessions compares what brokers say of sessions with what a quick takeover needs. With the classic protocol the
// member asks and the broker sets bounds; with that of KIP-848 the broker decides, for all groups or for one.
func (x *examination) sessions(ctx context.Context) []Finding {
	settings, err := x.Admin.BrokerSettings(ctx)
	if err != nil {
		return unasked(err)
	}
	var findings []Finding
	tell := func(f Finding) { // the same of each broker is said once
		if !slices.Contains(findings, f) {
			findings = append(findings, f)
		}
	}
	for _, broker := range settings {
		least, most := milliseconds(broker["group.min.session.timeout.ms"]), milliseconds(broker["group.max.session.timeout.ms"])
		if least > wantSession || most > 0 && most < wantSession {
			tell(Finding{
				Level: Problem, What: fmt.Sprintf("classic groups may ask for sessions of %s to %s, the programs ask for %s", least, most, wantSession),
				Why:  "members are refused with INVALID_SESSION_TIMEOUT",
				Mend: "group.min.session.timeout.ms=6000 in every broker's server.properties",
			})
		}
	}
	for _, name := range []string{x.SenderGroup, x.IngestGroup} {
		session, heartbeat, told, err := x.nextSession(ctx, name, settings)
		switch {
		case err != nil:
			return append(findings, unasked(err)...)
		case !told:
			tell(skipped("the brokers do not tell the session timeout of KIP-848 groups", ""))
		case session > wantSession || heartbeat > wantHeartbeat:
			f := Finding{
				Level: Warning,
				What:  fmt.Sprintf("group %s: with the group protocol of KIP-848 a session lasts %s with a heartbeat every %s, want %s and %s", name, session, heartbeat, wantSession, wantHeartbeat),
				Why:   fmt.Sprintf("a killed process is noticed after %s only: so long nobody works on its partitions", session),
				Mend: x.Admin.Command("kafka-configs.sh", fmt.Sprintf("--alter --entity-type groups --entity-name %s --add-config consumer.session.timeout.ms=%d,consumer.heartbeat.interval.ms=%d",
					name, wantSession.Milliseconds(), wantHeartbeat.Milliseconds())),
			}
			if bound := bounds(settings); bound != "" {
				f.Mend = bound + " in every broker's server.properties, then " + f.Mend
			}
			if g, err := x.group(ctx, name); err == nil && !g.Next {
				// It matters from the day on which the group changes its protocol.
				f.Why = "not yet: the group runs the classic protocol, where the member chooses. After a change a killed process would be noticed after " + session.String() + " only"
			}
			tell(f)
		default:
			tell(good(fmt.Sprintf("group %s: a dead process is noticed after %s", name, session)))
		}
	}
	return findings
}

// nextSession is what a group gets under KIP-848: its own setting, else the brokers' greatest.
func (x *examination) nextSession(ctx context.Context, group string, brokers map[int32]map[string]string) (session, heartbeat time.Duration, told bool, err error) {
	own, err := x.Admin.GroupSettings(ctx, group)
	if err != nil {
		return 0, 0, false, err
	}
	session, heartbeat = milliseconds(own["consumer.session.timeout.ms"]), milliseconds(own["consumer.heartbeat.interval.ms"])
	if session > 0 && heartbeat > 0 {
		return session, heartbeat, true, nil
	}
	for _, b := range brokers {
		session = max(session, milliseconds(b["group.consumer.session.timeout.ms"]))
		heartbeat = max(heartbeat, milliseconds(b["group.consumer.heartbeat.interval.ms"]))
	}
	return session, heartbeat, session > 0 && heartbeat > 0, nil
}

// bounds lists the brokers' lower bounds that forbid what is wanted: they are read at a broker's start only.
func bounds(brokers map[int32]map[string]string) string {
	var settings []string
	for _, b := range brokers {
		for _, bound := range []struct {
			name string
			want time.Duration
		}{{"group.consumer.min.session.timeout.ms", wantSession}, {"group.consumer.min.heartbeat.interval.ms", wantHeartbeat}} {
			text := fmt.Sprintf("%s=%d", bound.name, bound.want.Milliseconds())
			if milliseconds(b[bound.name]) > bound.want && !slices.Contains(settings, text) {
				settings = append(settings, text)
			}
		}
	}
	return strings.Join(settings, " and ")
}

func milliseconds(text string) time.Duration {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Millisecond
}

func (x *examination) group(ctx context.Context, name string) (kafka.Group, error) {
	if g, ok := x.groups[name]; ok {
		return g, nil
	}
	g, err := x.Admin.Group(ctx, name)
	if err == nil {
		x.groups[name] = g
	}
	return g, err
}

func (x *examination) senderGroup(ctx context.Context) []Finding {
	return x.members(ctx, x.SenderGroup, x.Topic, "sender", "requests are not even taken in, and none is sent")
}

func (x *examination) ingestGroup(ctx context.Context) []Finding {
	return x.members(ctx, x.IngestGroup, topic.Callback, "webhook-ingest", "callbacks are kept and not told: no zns.delivered, no zns.status")
}

// lagAllowed is how many records a group may be behind: both programs take their input in at once.
const lagAllowed = 10_000

// members looks at a group: does somebody work on every partition, does each have a name of its own?
func (x *examination) members(ctx context.Context, group, input, program, without string) []Finding {
	if !x.exists(ctx, input) {
		return []Finding{skipped(input+" does not exist", "zns topics ensure")}
	}
	g, err := x.group(ctx, group)
	if err != nil {
		return unasked(err)
	}
	if len(g.Members) == 0 {
		return []Finding{{
			Level: Warning, What: fmt.Sprintf("nobody is in the group %s: no %s runs", group, program), Why: without,
			Mend: "start " + program + " with the same KAFKA_BROKERS; its /readyz tells what it waits for",
		}}
	}
	var findings []Finding
	findings = append(findings, duplicates(group, g.Members)...)
	if g.State == "Stable" { // in a rebalance partitions are between owners
		var free []int32
		for p := range x.found[input].Partitions {
			if !slices.ContainsFunc(g.Members, func(m kafka.Member) bool { return slices.Contains(m.Partitions[input], p) }) {
				free = append(free, p)
			}
		}
		if len(free) > 0 {
			findings = append(findings, Finding{
				Level: Problem, What: fmt.Sprintf("nobody in the group %s has partitions %s of %s", group, list(free), input), Why: without,
				Mend: fmt.Sprintf("does every member of the group read %s (SENDER_TOPIC)? Else restart %s", input, program),
			})
		}
	}
	lag, err := x.lag(ctx, g, input)
	if err != nil {
		return append(findings, unasked(err)...)
	}
	if lag > lagAllowed {
		findings = append(findings, Finding{
			Level: Warning, What: fmt.Sprintf("the group %s is %d records behind on %s", group, lag, input),
			Why:  "requests wait in the ledger and not on the topic, so that lag is near zero: something keeps records from being taken in",
			Mend: "look at /readyz and the log of " + program + ", and at the finding about transactions",
		})
	}
	if len(findings) == 0 {
		protocol := "classic protocol"
		if g.Next {
			protocol = "protocol of KIP-848"
		}
		who := fmt.Sprintf("%d members share", len(g.Members))
		if len(g.Members) == 1 {
			who = "1 member has"
		}
		return []Finding{good(fmt.Sprintf("%s: %s %d partitions, %s, lag %d", group, who, x.found[input].Partitions, protocol, lag))}
	}
	return findings
}

func (x *examination) lag(ctx context.Context, g kafka.Group, input string) (int64, error) {
	ends, err := x.Admin.EndOffsets(ctx, input)
	if err != nil {
		return 0, err
	}
	lag := int64(0)
	for p, end := range ends {
		if at, ok := g.Committed[input][p]; ok {
			lag += max(0, end-at)
		}
	}
	return lag, nil
}

// duplicates finds members of one INSTANCE_ID: the programs name themselves GROUP-INSTANCE_ID. Under a KAFKA_CLIENT_ID
// that an operator chose they have no such name, and nothing is said.
func duplicates(group string, members []kafka.Member) []Finding {
	hosts := map[string][]string{}
	for _, m := range members {
		if strings.HasPrefix(m.ClientID, group+"-") {
			hosts[m.ClientID] = append(hosts[m.ClientID], strings.TrimPrefix(m.Host, "/"))
		}
	}
	var findings []Finding
	for client, at := range hosts {
		if len(at) > 1 {
			slices.Sort(at)
			findings = append(findings, Finding{
				Level: Problem,
				What:  fmt.Sprintf("%d members of the group call themselves %s, on %s", len(at), strings.TrimPrefix(client, group+"-"), strings.Join(at, " and ")),
				Why:   "they fence each other at every transaction; one of them ends with an error. For a session after a kill -9 this is the dead one's place",
				Mend:  "give each process an INSTANCE_ID of its own: the pod's name, or INSTANCE_ID=hostname in containers",
			})
		}
	}
	slices.SortFunc(findings, func(a, b Finding) int { return strings.Compare(a.What, b.What) })
	return findings
}
