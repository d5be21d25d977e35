package control

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	controlv1 "github.com/znshub/znshub/proto/control/v1"
	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	"github.com/znshub/znshub/services/sender/limit"
)

// Position is how far zns.control was read, or obeyed.
type Position struct {
	TopicID [16]byte
	Next    []int64 // by partition: everything below was
}

// Reached reports whether the record at offset of partition lies below p.
func (p Position) Reached(partition int32, offset int64) bool {
	return int(partition) < len(p.Next) && offset < p.Next[partition]
}

// Equal reports whether p and o are the same place in the same topic.
func (p Position) Equal(o Position) bool {
	return p.TopicID == o.TopicID && slices.Equal(p.Next, o.Next)
}

// View is what zns.control said at a moment. It never changes.
type View struct {
	version  uint64
	known    bool
	position Position
	commands map[string]*Command // by record key: the latest rule of each scope, and what is done once

	// Taken from commands, for quick answers.
	all       *Command // HOLD; nil: none
	campaigns map[string]*Command
	templates map[string]*Command
	oas       map[string]*Command
	ids       map[uuid.UUID]*Command
	cancels   map[Scope][]*Command
	forgotten map[uuid.UUID]forgotten
}

// forgotten is the tombstone of a rule for one notification.
type forgotten struct {
	partition int32
	offset    int64
}

// Known reports whether everything was read that the topic held when reading began. Until then every flow is closed.
func (v *View) Known() bool { return v.known }

// Position is how far the topic was read for this view.
func (v *View) Position() Position { return v.position }

// Version changes whenever a rule does.
func (v *View) Version() uint64 { return v.version }

// Closed reports whether a standing rule holds the flow. Rules for single notifications are not looked at.
func (v *View) Closed(now time.Time, f limit.Flow) (limit.Hold, bool) {
	if !v.known {
		return limit.Hold{Reason: ledgerv1.HoldReason_HOLD_REASON_OPERATOR}, true
	}
	h := hold{now: now}
	h.by(v.all)
	if len(v.campaigns) > 0 {
		h.by(v.campaigns[f.Campaign])
	}
	if len(v.templates) > 0 {
		h.by(v.templates[f.Template])
	}
	if len(v.oas) > 0 {
		h.by(v.oas[f.OA])
	}
	return h.result()
}

// ForID reports whether a standing rule holds this one notification by its id.
func (v *View) ForID(now time.Time, id uuid.UUID) (limit.Hold, bool) {
	if len(v.ids) == 0 {
		return limit.Hold{}, false
	}
	h := hold{now: now}
	h.by(v.ids[id])
	return h.result()
}

// hold gathers the rules that hold something: one without end goes before all, else the latest end counts.
type hold struct {
	now   time.Time
	found bool
	until time.Time
}

func (h *hold) by(c *Command) {
	if c == nil || c.Expired(h.now) {
		return
	}
	switch {
	case !h.found:
		h.found, h.until = true, c.Expires
	case c.Expires.IsZero() || h.until.IsZero():
		h.until = time.Time{}
	case c.Expires.After(h.until):
		h.until = c.Expires
	}
}

func (h *hold) result() (limit.Hold, bool) {
	if !h.found {
		return limit.Hold{}, false
	}
	return limit.Hold{Reason: ledgerv1.HoldReason_HOLD_REASON_OPERATOR, Until: h.until}, true
}

// Cancelled returns the CANCEL that speaks to a notification which was requested at the given time; nil: none. A
// notification that was requested after the command is not meant, and none that was given before the command with the id
// after, as far as that still stands there; [uuid.Nil] is none.
func (v *View) Cancelled(now, requested time.Time, id uuid.UUID, f limit.Flow, after uuid.UUID) *Command {
	if len(v.cancels) == 0 {
		return nil
	}
	since := v.given(after)
	for _, s := range [...]Scope{All(), OA(f.OA), Template(f.Template), Campaign(f.Campaign), ID(id)} {
		for _, c := range v.cancels[s] {
			if !requested.After(c.At) && !c.Expired(now) && (since == nil || inOrder(since, c) < 0) {
				return c
			}
		}
	}
	return nil
}

// given returns the command with an id; nil: it does not stand in the topic.
func (v *View) given(id uuid.UUID) *Command {
	if id == uuid.Nil {
		return nil
	}
	for _, c := range v.commands {
		if c.ID == id {
			return c
		}
	}
	return nil
}

// inOrder compares commands by when they were given.
func inOrder(a, b *Command) int {
	return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
}

// Expired reports whether the command no longer counts. It stands in the topic until another replaces it.
func (c *Command) Expired(now time.Time) bool { return !c.Expires.IsZero() && !now.Before(c.Expires) }

// Pending returns what a partition that has obeyed everything below done still has to do, in the order in which it was
// given: commands that are done once, and changes of rules for single notifications. What has expired is left out.
func (v *View) Pending(now time.Time, done Position) []*Command {
	var out []*Command
	for _, c := range v.commands {
		_, single := c.Scope.ID()
		if v.done(done, c.Partition, c.Offset) || c.Standing() && !single || !c.Standing() && c.Expired(now) {
			continue
		}
		out = append(out, c)
	}
	for id, f := range v.forgotten {
		if !v.done(done, f.partition, f.offset) && v.commands[ID(id).String()] == nil {
			out = append(out, &Command{Action: controlv1.Action_ACTION_RELEASE, Scope: ID(id), Partition: f.partition, Offset: f.offset})
		}
	}
	slices.SortFunc(out, inOrder)
	return out
}

func (v *View) done(done Position, partition int32, offset int64) bool {
	return done.TopicID == v.position.TopicID && done.Reached(partition, offset)
}

// Rules lists the standing HOLDs, oldest first.
func (v *View) Rules() []*Command {
	var out []*Command
	for _, c := range v.commands {
		if c.Action == controlv1.Action_ACTION_HOLD {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b *Command) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Scope.String(), b.Scope.String()))
	})
	return out
}

// Holding are the Rules that hold something now.
func (v *View) Holding(now time.Time) []*Command {
	return slices.DeleteFunc(v.Rules(), func(c *Command) bool { return c.Expired(now) })
}

// Stale lists the keys of what was to be done once and expired longer than age ago. Whoever may write to the topic may
// write tombstones for them: each key was used by one command only, so that none can take back a newer one.
func (v *View) Stale(now time.Time, age time.Duration) []string {
	var out []string
	for key, c := range v.commands {
		if !c.Standing() && !c.Expires.IsZero() && now.Sub(c.Expires) > age {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

// maxForgotten bounds the tombstones that are remembered; what is beyond is found by the next restore of a partition.
const maxForgotten = 10_000

// with returns the view after the given changes: by record key, nil takes a command back.
func (v *View) with(position Position, known bool, changes map[string]change) *View {
	next := *v
	next.position, next.known = position, known
	if len(changes) > 0 {
		next.commands = maps.Clone(v.commands)
		next.forgotten = maps.Clone(v.forgotten)
		for key, ch := range changes {
			next.apply(key, ch)
		}
		next.index()
	}
	if len(changes) > 0 || known != v.known {
		next.version = v.version + 1
	}
	return &next
}

// apply does what a record says to the commands. Only a view that nobody else has yet may be changed.
func (v *View) apply(key string, ch change) {
	if ch.command != nil {
		v.commands[key] = ch.command
		return
	}
	if old := v.commands[key]; old != nil && old.Standing() && len(v.forgotten) < maxForgotten {
		if id, single := old.Scope.ID(); single {
			v.forgotten[id] = forgotten{ch.partition, ch.offset}
		}
	}
	delete(v.commands, key)
}

// change is what a record does to its key.
type change struct {
	command   *Command // nil: a tombstone
	partition int32
	offset    int64
}

// index fills what gives quick answers.
func (v *View) index() {
	v.all = nil
	v.campaigns, v.templates, v.oas = map[string]*Command{}, map[string]*Command{}, map[string]*Command{}
	v.ids, v.cancels = map[uuid.UUID]*Command{}, map[Scope][]*Command{}
	for _, c := range v.commands {
		switch c.Action {
		case controlv1.Action_ACTION_CANCEL:
			v.cancels[c.Scope] = append(v.cancels[c.Scope], c)
		case controlv1.Action_ACTION_HOLD:
			v.holds(c)
		}
	}
}

func (v *View) holds(c *Command) {
	switch c.Scope.kind {
	case scopeAll:
		v.all = c
	case scopeCampaign:
		v.campaigns[c.Scope.value] = c
	case scopeTemplate:
		v.templates[c.Scope.value] = c
	case scopeOA:
		v.oas[c.Scope.value] = c
	case scopeID:
		if id, ok := c.Scope.ID(); ok {
			v.ids[id] = c
		}
	}
}

func emptyView() *View {
	v := &View{commands: map[string]*Command{}, forgotten: map[uuid.UUID]forgotten{}}
	v.index()
	return v
}
